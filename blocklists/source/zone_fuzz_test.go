package source

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// FuzzZone: a primary may say anything; what is taken is a zone that begins with
// its SOA, and what is not is an error.
func FuzzZone(f *testing.F) {
	for _, text := range []string{"SOA 9; b CNAME .; SOA 9", "SOA 9; SOA 7; a CNAME .; SOA 9; b CNAME .; SOA 9", "SOA 9"} {
		m := new(dns.Msg).SetQuestion("feed.example.", dns.TypeAXFR)
		m.Response = true
		for _, r := range strings.Split(text, "; ") {
			m.Answer = append(m.Answer, record(r))
		}
		wire, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire, wire)
	}
	copied := zoneText("SOA 7; a CNAME .; c CNAME .")
	f.Fuzz(func(t *testing.T, soa, zone []byte) {
		if len(soa) < 2 || len(zone) < 2 || len(soa)+len(zone) > 60_000 {
			return
		}
		answers := [][]byte{soa, zone, zone}
		dial := func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			answer := answers[0]
			answers = answers[1:]
			go func() {
				defer func() { _ = theirs.Close() }()
				var head [4]byte // length and ID
				if _, err := io.ReadFull(theirs, head[:]); err != nil {
					return
				}
				if _, err := io.CopyN(io.Discard, theirs, int64(binary.BigEndian.Uint16(head[:]))-2); err != nil {
					return
				}
				out := binary.BigEndian.AppendUint16(nil, uint16(len(answer)))
				out = append(append(out, head[2:]...), answer[2:]...)
				_, _ = theirs.Write(out) // the asker may have gone
			}()
			return ours, nil
		}
		z := &Zone{URL: "rpz://192.0.2.1/feed.example", Dial: dial, ZoneLimits: ZoneLimits{Idle: time.Second}}
		var out bytes.Buffer
		u, err := z.Fetch(context.Background(), strings.NewReader(copied), &out)
		if err != nil || u.Newest {
			return
		}
		if st, err := CopiedState(bytes.NewReader(out.Bytes())); err != nil || st.Serial != u.Serial || !serialNewer(st.Serial, 7) {
			t.Errorf("taken: %q, %+v, %v", out.String(), st, err)
		}
	})
}

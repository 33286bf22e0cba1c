package dnsserver

import (
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Every question over each transport that has connections, padded and not: what
// is answered on the spot is what the other road would have said, counted and
// recorded.
func TestSpotEqualsSlow(t *testing.T) {
	w := newRoads(t)
	for _, w.over = range []transport{tcp, dot, doh} {
		var answered, left, padded int
		for _, name := range slices.Concat(warm, cold) {
			for _, typ := range []uint16{dns.TypeA, dns.TypeHTTPS, dns.TypeTXT, dns.TypeANY, dns.TypeAXFR} {
				for _, p := range append(variants(t, name, typ), optioned(t, name, typ)...) {
					for _, from := range allDevices[:2] {
						if !w.same(t, p, from) {
							left++
							continue
						}
						answered++
						if reply := w.fast(p, from).reply; len(reply) > 0 && len(reply)%padBlock == 0 {
							padded++
						}
					}
					if t.Failed() {
						t.Fatalf("%s %s over %s", name, dns.Type(typ), transportNames[w.over])
					}
				}
			}
		}
		if answered < 2_000 || left < 1_000 || (padded > 100) != w.over.encrypted() {
			t.Errorf("%s: %d answered, %d of them padded, and %d left", transportNames[w.over], answered, padded, left)
		}
		for _, p := range append(seeds(t), nil, plainQuery(), plainQuery()[:11], wire12(), append(plainQuery(), 0)) {
			for cut := range len(p) + 1 {
				w.same(t, p[:cut], anyDevice)
			}
		}
	}
}

// optioned are questions with the options that mean something on connections.
func optioned(tb testing.TB, name string, qtype uint16) (out [][]byte) {
	tb.Helper()
	for _, options := range [][]dns.EDNS0{
		{&dns.EDNS0_PADDING{Padding: make([]byte, 30)}},
		{&dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE}},
		{&dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE}, &dns.EDNS0_PADDING{}},
	} {
		q := edns(query(name, qtype), 1232)
		q.IsEdns0().Option = options
		out = append(out, pack(tb, q))
	}
	return out
}

// A burst of questions gets each its reply, whatever the cuts between reads:
// blocked, cached, forwarded, none at all, and one that is longer than the buffer.
func TestBurst(t *testing.T) {
	r, ca := startDoT(t, zones, Options{})
	large := edns(query("wechat.com", dns.TypeA), 1232)
	large.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{Padding: make([]byte, 3*burstSize)}}
	var all []byte
	want := map[uint16]int{}
	for i := range 300 {
		q := query([]string{"wechat.com", "good.example", fmt.Sprintf("n%d.wechat.com", i), "nx.example", "m-drop.example"}[i%5], dns.TypeA)
		if i%97 == 96 {
			q = large
		}
		q.Id = uint16(i)
		if i%5 != 4 || q == large {
			want[q.Id] = []int{dns.RcodeNameError, dns.RcodeSuccess, dns.RcodeNameError, dns.RcodeNameError, dns.RcodeNameError}[i%5]
		}
		if q == large {
			want[q.Id] = dns.RcodeNameError
		}
		all = append(all, frame(pack(t, q))...)
	}
	for name, dial := range map[string]func() net.Conn{
		"tcp": func() net.Conn { return r.dial(t, "tcp") },
		"dot": func() net.Conn { return dialTLS(t, r.DoTAddrs()[0].String(), ca.client("dot")) },
	} {
		for _, piece := range []int{len(all), 5000, 1023, 97} {
			c, sent := dial(), make(chan struct{})
			go func() {
				defer close(sent)
				for at := 0; at < len(all); at += piece {
					_, _ = c.Write(all[at:min(at+piece, len(all))])
				}
			}()
			got := map[uint16]int{}
			for range want {
				m := readFrame(t, c, secs(30))
				if m == nil {
					t.Fatalf("%s in pieces of %d: %d replies, want %d", name, piece, len(got), len(want))
				}
				got[m.Id] = m.Rcode
			}
			for id, rcode := range want {
				if got[id] != rcode {
					t.Errorf("%s in pieces of %d: question %d: rcode %d, want %d", name, piece, id, got[id], rcode)
				}
			}
			<-sent // the last question gets no reply
			_ = c.Close()
		}
	}
	eventually(t, "1200 are received over each", func() bool { st := r.Stats(); return st.DoT == 1200 && st.TCP == 1200 })
	records := 0
	eventually(t, "a record of each", func() bool { records += len(r.audit.take()); return records >= 2400 })
	if records != 2400 {
		t.Errorf("%d records, want one for each of 2400 questions", records)
	}
}

// What is said at once comes back at once: in one record of TLS.
func TestBurstIsOneWrite(t *testing.T) {
	r, ca := startDoT(t, zones, Options{})
	c := dialTLS(t, r.DoTAddrs()[0].String(), ca.client("dot"))
	var all []byte
	for range 20 {
		all = append(all, frame(pack(t, query("wechat.com", dns.TypeA)))...)
	}
	if _, err := c.Write(all); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	_ = c.SetReadDeadline(time.Now().Add(secs(30)))
	n, err := c.Read(buf) // of TLS: a record at most
	replies := 0
	for at := 0; at+2 <= n; replies++ {
		at += 2 + int(binary.BigEndian.Uint16(buf[at:]))
	}
	if err != nil || replies != 20 {
		t.Errorf("%d replies in the first record, %v, want 20", replies, err)
	}
}

// A client that begins a message and does not go on is not waited for.
func TestBurstThatStalls(t *testing.T) {
	r, ca := startDoT(t, zones, Options{ReadTimeout: 200 * time.Millisecond})
	c := dialTLS(t, r.DoTAddrs()[0].String(), ca.client("dot"))
	p := frame(pack(t, query("wechat.com", dns.TypeA)))
	if _, err := c.Write(slices.Concat(p, p[:7])); err != nil {
		t.Fatal(err)
	}
	if m := readFrame(t, c, secs(30)); m == nil || m.Rcode != dns.RcodeNameError {
		t.Errorf("got %v, want NXDOMAIN for the question that is whole", m)
	}
	if !closedWithin(c, secs(30)) {
		t.Error("the connection stays open")
	}
	dropped := ""
	for why, n := range r.Stats().Dropped {
		if n > 0 {
			dropped += why + " "
		}
	}
	if !strings.Contains(dropped, "slow") {
		t.Errorf("dropped: %q, want a slow one counted", dropped)
	}
}

package dnsserver

import (
	"slices"
	"testing"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/gateway/wire"
)

// plainQuery is a query for wechat.com A, in bytes.
func plainQuery() []byte {
	return []byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06wechat\x03com\x00\x00\x01\x00\x01")
}

// wire12 is the header of plainQuery.
func wire12() []byte { return plainQuery()[:wire.HeaderLen] }

// What passes the look at its bytes but not Unpack, and what lies in its counts.
func TestMalformed(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, "", Options{portable: portable})
		opt := "\x00\x00\x29\x04\xd0\x00\x00\x00\x00"
		for label, tail := range map[string]string{
			"additional record missing":   "",
			"additional record cut":       "\x00\x00\x29\x04",
			"OPT with a length that lies": opt + "\x00\x09",
			"option with such a length":   opt + "\x00\x04\x00\x0a\x00\x09",
			"OPT not at the root":         "\x01a" + opt + "\x00\x00",
		} {
			p := append(plainQuery(), tail...)
			p[11] = 1
			for _, network := range transports {
				c := r.dial(t, network)
				msg := p
				if network == "tcp" {
					msg = frame(p)
				}
				if _, err := c.Write(msg); err != nil {
					t.Fatal(err)
				}
				var m *dns.Msg
				if network == "tcp" {
					m = readFrame(t, c, secs(30))
				} else {
					m = readPacket(t, c)
				}
				if m == nil || m.Rcode != dns.RcodeFormatError || m.Id != 0x1234 || len(m.Question) != 0 {
					t.Errorf("%s over %s: %v, want FORMERR and a header only", label, network, m)
				}
			}
		}
		if st := r.Stats(); st.Rejected != 10 || st.Rcodes["FORMERR"] != 10 || len(r.audit.take()) != 0 {
			t.Errorf("stats %+v, want 10 rejected and none on the record", st)
		}
		if got := r.Stats().Dropped; len(got) != int(drops) || slices.Contains(dropNames[:], "") {
			t.Errorf("drop reasons %v, want %d with names", got, drops)
		}
	})
}

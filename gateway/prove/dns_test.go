package prove

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestResolvesTellsRepliesApart: what cannot be read is not what says no, and
// neither is silence.
func TestResolvesTellsRepliesApart(t *testing.T) {
	for what, c := range map[string]struct {
		reply func(q *dns.Msg) []byte
		want  Outcome
	}{
		"a block": {func(q *dns.Msg) []byte {
			b, _ := new(dns.Msg).SetRcode(q, dns.RcodeNameError).Pack()
			return b
		}, Closed},
		"silence": {func(*dns.Msg) []byte { return nil }, Closed},
		"an answer": {func(q *dns.Msg) []byte {
			m := new(dns.Msg).SetReply(q)
			rr, _ := dns.NewRR(q.Question[0].Name + " 60 IN A 192.0.2.1")
			m.Answer = []dns.RR{rr}
			b, _ := m.Pack()
			return b
		}, Open},
		// An owner that points into the middle of a label.
		"a bad pointer": {func(q *dns.Msg) []byte {
			m := new(dns.Msg).SetRcode(q, dns.RcodeNameError)
			b, _ := m.Pack()
			b[9] = 1 // one record of authority
			return append(b, 0xc0, 0x1f, 0, 6, 0, 1, 0, 0, 0, 60, 0, 0)
		}, Broken},
	} {
		at, wait := answering(t, c.reply), time.Minute
		if what == "silence" {
			wait = time.Second
		}
		d := &device{Options: Options{DNS: at}, wait: wait}
		if got := d.resolves(context.Background(), "udp", at, "www-wechat-com.translate.goog", dns.TypeA); got.Outcome != c.want {
			t.Errorf("%s: %+v, want %s", what, got, c.want)
		}
	}
}

// answering is a server that answers each question with these bytes.
func answering(t *testing.T, reply func(*dns.Msg) []byte) netip.AddrPort {
	t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	go func() {
		for b := make([]byte, 4096); ; {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			q := new(dns.Msg)
			if q.Unpack(b[:n]) == nil {
				if out := reply(q); out != nil {
					_, _ = c.WriteToUDPAddrPort(out, from)
				}
			}
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

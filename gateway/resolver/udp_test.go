package resolver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestLostDatagramIsSentAgain(t *testing.T) {
	z := records(t, wwwA)
	inner := z.answer
	z.answer = func(q *dns.Msg) *dns.Msg {
		if z.queries.Load() == 1 {
			return nil
		}
		return inner(q)
	}
	r := open(t, Options{Upstreams: udp(t, listen(t, z)), Timeout: time.Second})
	resolve(t, r, "www.example", dns.TypeA)
}

// raw starts a UDP server that sends datagrams made from the query.
func raw(t testing.TB, datagrams func(q *dns.Msg) [][]byte) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	go func() {
		buf := make([]byte, maxMsg)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			q := new(dns.Msg)
			if q.Unpack(buf[:n]) != nil {
				continue
			}
			for _, b := range datagrams(q) {
				_, _ = pc.WriteTo(b, from)
			}
		}
	}()
	return netip.MustParseAddrPort(pc.LocalAddr().String())
}

func pack(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Error(err)
	}
	return b
}

// TestForgeries: what does not answer our query is ignored, and the response
// that does is still taken.
func TestForgeries(t *testing.T) {
	poison := "www.example. 300 IN A 192.0.2.66"
	forge := func(q *dns.Msg, change func(m *dns.Msg)) []byte {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{rr(t, poison)}
		change(m)
		return pack(t, m)
	}
	addr := raw(t, func(q *dns.Msg) [][]byte {
		out := [][]byte{
			{}, {1, 2, 3}, make([]byte, headerLen), make([]byte, 4096),
			forge(q, func(m *dns.Msg) { m.Response = false }),
			forge(q, func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }),
			forge(q, func(m *dns.Msg) { m.Question = nil }),
			forge(q, func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }),
			forge(q, func(m *dns.Msg) { m.Question[0].Name = "other.example." }),
			forge(q, func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA }),
			forge(q, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }),
			forge(q, func(m *dns.Msg) { m.Question, m.Answer, m.Rcode = nil, nil, dns.RcodeNameError }),
		}
		for i := range 200 {
			out = append(out, forge(q, func(m *dns.Msg) { m.Id += uint16(i + 1) }))
		}
		good := new(dns.Msg).SetReply(q)
		good.Answer = []dns.RR{rr(t, wwwA)}
		return append(out, pack(t, good))
	})
	r := open(t, Options{Upstreams: udp(t, addr)})
	a := resolve(t, r, "www.example", dns.TypeA)
	wantTexts(t, "answer", a.Reply(question("www.example", dns.TypeA)).Answer, wwwA)
	if n := r.Stats().Mismatched; n != 212 {
		t.Errorf("%d mismatched responses were counted, want 212", n)
	}
}

// TestForgeriesOnly: forgeries end with the time of the question, not earlier
// and not later.
func TestForgeriesOnly(t *testing.T) {
	addr := raw(t, func(q *dns.Msg) [][]byte {
		m := new(dns.Msg).SetReply(q)
		m.Id++
		m.Answer = []dns.RR{rr(t, wwwA)}
		return [][]byte{pack(t, m)}
	})
	r := open(t, Options{Upstreams: udp(t, addr), Timeout: 300 * time.Millisecond})
	start := time.Now()
	_, err := r.Resolve(t.Context(), question("www.example", dns.TypeA))
	wantErr(t, err, context.DeadlineExceeded)
	if d := time.Since(start); d < 150*time.Millisecond || d > leisurely {
		t.Errorf("it took %v", d)
	}
}

// TestOtherSource: a response from elsewhere does not reach the connected
// socket.
func TestOtherSource(t *testing.T) {
	other, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pc.Close() }()
	go func() {
		buf := make([]byte, 4096)
		n, from, err := pc.ReadFrom(buf)
		q := new(dns.Msg)
		if err != nil || q.Unpack(buf[:n]) != nil {
			return
		}
		for _, a := range []string{"192.0.2.66", "192.0.2.1"} {
			m := new(dns.Msg).SetReply(q)
			m.Answer = []dns.RR{rr(t, "www.example. 300 IN A "+a)}
			c := pc
			if a == "192.0.2.66" {
				c = other
			}
			_, _ = c.WriteTo(pack(t, m), from)
			time.Sleep(20 * time.Millisecond)
		}
	}()
	r := open(t, Options{Upstreams: udp(t, netip.MustParseAddrPort(pc.LocalAddr().String()))})
	a := resolve(t, r, "www.example", dns.TypeA)
	wantTexts(t, "answer", a.Reply(question("www.example", dns.TypeA)).Answer, wwwA)
}

func TestTruncated(t *testing.T) {
	var lines []string
	for i := range 200 {
		lines = append(lines, fmt.Sprintf("www.example. 300 IN A 192.0.2.%d", i))
	}
	z := records(t, lines...)
	var overUDP, overTCP atomic.Int64
	h := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := z.answer(q)
		if w.RemoteAddr().Network() == "udp" {
			overUDP.Add(1)
			m.Truncate(udpSize)
		} else {
			overTCP.Add(1)
		}
		_ = w.WriteMsg(m)
	})
	r := open(t, Options{Upstreams: udp(t, listen(t, h)), CacheEntries: 10})
	a := resolve(t, r, "www.example", dns.TypeA)
	m := a.Reply(question("www.example", dns.TypeA))
	if len(m.Answer) != len(lines) || m.Truncated {
		t.Errorf("%d records, truncated %v", len(m.Answer), m.Truncated)
	}
	if overUDP.Load() != 1 || overTCP.Load() != 1 || r.Stats().Truncated != 1 {
		t.Errorf("%d queries over UDP, %d over TCP, %d counted", overUDP.Load(), overTCP.Load(), r.Stats().Truncated)
	}
}

// TestWithoutEDNS: what an upstream says about OPT is not taken for what it
// says about the name.
func TestWithoutEDNS(t *testing.T) {
	good := func(q *dns.Msg) []byte {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{rr(t, wwwA)}
		return pack(t, m)
	}
	for name, old := range map[string]func(q *dns.Msg) []byte{
		"FORMERR": func(q *dns.Msg) []byte { return pack(t, new(dns.Msg).SetRcode(q, dns.RcodeFormatError)) },
		"FORMERR without question": func(q *dns.Msg) []byte {
			m := new(dns.Msg).SetRcode(q, dns.RcodeFormatError)
			m.Question = nil
			return pack(t, m)
		},
		"NOTIMP": func(q *dns.Msg) []byte { return pack(t, new(dns.Msg).SetRcode(q, dns.RcodeNotImplemented)) },
		"BADVERS": func(q *dns.Msg) []byte {
			m := new(dns.Msg).SetRcode(q, dns.RcodeBadVers)
			m.SetEdns0(1232, false)
			return pack(t, m)
		},
		"ends early":       func(q *dns.Msg) []byte { b := good(q); return b[:len(b)-3] },
		"ends at a record": func(q *dns.Msg) []byte { b := good(q); return b[:len(b)-16] },
		"counts lie":       func(q *dns.Msg) []byte { b := good(q); b[11] = 9; return b },
	} {
		t.Run(name, func(t *testing.T) {
			addr := raw(t, func(q *dns.Msg) [][]byte {
				if q.IsEdns0() != nil {
					return [][]byte{old(q)}
				}
				return [][]byte{good(q)}
			})
			r := open(t, Options{Upstreams: udp(t, addr)})
			a := resolve(t, r, "www.example", dns.TypeA)
			wantTexts(t, "answer", a.Reply(question("www.example", dns.TypeA)).Answer, wwwA)
		})
	}
	t.Run("always malformed", func(t *testing.T) {
		bad := raw(t, func(q *dns.Msg) [][]byte { b := good(q); return [][]byte{b[:len(b)-3]} })
		r := open(t, Options{Upstreams: udp(t, bad, listen(t, records(t, wwwA)))})
		resolve(t, r, "www.example", dns.TypeA)
		if n := r.Stats().Malformed; n != 2 {
			t.Errorf("%d malformed responses were counted, want 2", n)
		}
	})
}

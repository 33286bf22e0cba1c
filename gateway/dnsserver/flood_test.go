//go:build !race

// A measurement: the race detector changes what it is about.

package dnsserver

import (
	"bytes"
	"crypto/tls"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// A device that floods hurts only itself: at ten times its limit, another one
// still gets every answer, about as fast as before.
func TestFloodUnderLoad(t *testing.T) {
	const rate = 1000
	r := start(t, zones, Options{Limits: Limits{Device: Rate{rate, rate / 10}, Slip: 2}})
	r.ask(t, "udp", query("good.example", dns.TypeA))
	var alone, beside time.Duration
	for range 15 { // other programs on the machine are in both figures, not always alike
		alone = p99(t, askUDP(t, r))
		before := r.Stats()
		stop := flood(t, r, 10*rate)
		beside = p99(t, askUDP(t, r))
		sent, took := stop()
		st := r.Stats()
		held := st.Slipped - before.Slipped + st.Dropped["rate_device"] - before.Dropped["rate_device"]
		if most := uint64(rate*took.Seconds()) + rate/10 + 50; sent > held+most {
			t.Errorf("%d of %d passed in %v, want at most %d", sent-held, sent, took, most)
		}
		if beside <= 2*alone+time.Millisecond {
			t.Logf("p99 %v alone, %v beside a flood of %d questions", alone, beside, sent)
			return
		}
	}
	t.Errorf("p99 %v alone and %v beside a flood, want at most twice as long", alone, beside)
}

// p99 asks 400 questions, one after the other, each of which must be answered.
func p99(t *testing.T, ask func()) time.Duration {
	t.Helper()
	took := make([]time.Duration, 0, 400)
	for range cap(took) {
		begin := time.Now()
		ask()
		took = append(took, time.Since(begin))
		time.Sleep(2 * time.Millisecond) // 400 a second at the most, within the limit
	}
	slices.Sort(took)
	return took[len(took)*99/100]
}

func askUDP(t *testing.T, r *rig) func() {
	c, p := dialFrom(t, "udp", "127.0.0.3", r.addr), pack(t, query("good.example", dns.TypeA))
	return func() {
		if _, err := c.Write(p); err != nil {
			t.Fatal(err)
		}
		if m := readPacket(t, c); m == nil || m.Rcode != dns.RcodeSuccess || m.Truncated {
			t.Fatalf("%v, want the answer", m)
		}
	}
}

// The same over connections, which are read as slowly as the limit says.
func TestFloodOnConnections(t *testing.T) {
	const rate = 1000
	r, ca := startAll(t, zones, Options{Limits: Limits{Device: Rate{rate, rate / 10}}})
	p := pack(t, query("good.example", dns.TypeA))
	r.ask(t, "udp", query("good.example", dns.TypeA))
	from := func(ip, addr, protocol string) *tls.Conn {
		c := tls.Client(dialFrom(t, "tcp", ip, addr), ca.client(protocol))
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		return c
	}
	web := func(ip string) *rawH2 {
		c := newRawH2(t, from(ip, r.DoHAddrs()[0].String(), "h2"))
		c.must(c.WriteWindowUpdate(0, 1<<30)) // for all the answers of all rounds
		return c
	}
	overTLS, overHTTPS, stream := from("127.0.0.3", r.DoTAddrs()[0].String(), "dot"), web("127.0.0.3"), uint32(1)
	for label, tc := range map[string]struct {
		ask   func()
		flood func(stop <-chan struct{}) (sent int)
	}{
		"dot": {func() {
			if _, err := overTLS.Write(frame(p)); err != nil {
				t.Fatal(err)
			}
			if m := readFrame(t, overTLS, secs(30)); m == nil || m.Rcode != dns.RcodeSuccess {
				t.Fatalf("%v, want the answer", m)
			}
		}, func(stop <-chan struct{}) (sent int) {
			batch := bytes.Repeat(frame(p), 10)
			for c := from("127.0.0.2", r.DoTAddrs()[0].String(), "dot"); ; sent += 10 {
				if !next(stop) {
					_ = c.Close()
					return sent
				}
				_ = c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond)) // it is held up
				if _, err := c.Write(batch); err != nil {
					_ = c.Close()
					c = from("127.0.0.2", r.DoTAddrs()[0].String(), "dot")
				}
				drain(c)
			}
		}},
		"doh": {func() {
			if err := overHTTPS.ask(stream, p); err != nil {
				t.Fatal(err)
			}
			overHTTPS.answers(1)
			stream += 2
		}, func(stop <-chan struct{}) (sent int) {
			for c := web("127.0.0.2"); ; sent += 10 {
				if !next(stop) {
					_ = c.conn.Close()
					return sent
				}
				_ = c.conn.SetWriteDeadline(time.Now().Add(10 * time.Millisecond)) // it is held up
				if err := many(10, func(i int) error { return c.ask(uint32(2*(sent+i)+1), p) }); err != nil {
					_ = c.conn.Close()
					c = web("127.0.0.2")
				}
				drain(c.conn)
			}
		}},
	} {
		t.Run(label, func(t *testing.T) {
			var alone, beside time.Duration
			for range 15 { // other programs on the machine are in both figures, not always alike
				alone = p99(t, tc.ask)
				before := r.Stats()
				stop, done := make(chan struct{}), make(chan int)
				go func() { done <- tc.flood(stop) }()
				beside = p99(t, tc.ask)
				close(stop)
				sent, st := <-done, r.Stats()
				if st.Dropped["rate_device"]+st.Paced == before.Dropped["rate_device"]+before.Paced {
					t.Fatalf("%d questions, none was held up", sent)
				}
				if beside <= 2*alone+time.Millisecond {
					t.Logf("p99 %v alone, %v beside a flood of %d questions, %d refused, %d held up", alone, beside, sent,
						st.Dropped["rate_device"]-before.Dropped["rate_device"], st.Paced-before.Paced)
					return
				}
			}
			t.Errorf("p99 %v alone and %v beside a flood, want at most twice as long", alone, beside)
		})
	}
}

// next waits for the next millisecond of a flood of 10 questions in each; it is
// false at the end.
func next(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return false
	case <-time.After(time.Millisecond):
		return true
	}
}

// drain reads what is there.
func drain(c net.Conn) {
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Microsecond))
	_, _ = c.Read(make([]byte, 1<<16))
}

// flood asks that many questions a second until it is stopped.
func flood(t *testing.T, r *rig, rate int) (stop func() (sent uint64, took time.Duration)) {
	t.Helper()
	c := dialFrom(t, "udp", "127.0.0.2", r.addr)
	p := pack(t, query("good.example", dns.TypeA))
	quit, done := make(chan struct{}), make(chan uint64)
	begin := time.Now()
	go func() {
		var n uint64
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				done <- n
				return
			case <-tick.C:
				for due := uint64(time.Since(begin).Seconds() * float64(rate)); n < due; n++ {
					if _, err := c.Write(p); err != nil {
						break
					}
				}
			}
		}
	}()
	return func() (uint64, time.Duration) {
		close(quit)
		n := <-done
		before := uint64(0)
		for st := r.Stats(); st.UDP != before; st = r.Stats() { // until what was sent has been read
			before = st.UDP
			time.Sleep(20 * time.Millisecond)
		}
		return n, time.Since(begin)
	}
}

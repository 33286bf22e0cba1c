//go:build !race

// A measurement: the race detector changes what it is about.

package dnsserver

import (
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
	for range 5 {
		alone = p99(t, r)
		before := r.Stats()
		stop := flood(t, r, 10*rate)
		beside = p99(t, r)
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
func p99(t *testing.T, r *rig) time.Duration {
	t.Helper()
	c := dialFrom(t, "udp", "127.0.0.3", r.addr)
	p := pack(t, query("good.example", dns.TypeA))
	took := make([]time.Duration, 0, 400)
	for range cap(took) {
		begin := time.Now()
		if _, err := c.Write(p); err != nil {
			t.Fatal(err)
		}
		if m := readPacket(t, c); m == nil || m.Rcode != dns.RcodeSuccess || m.Truncated {
			t.Fatalf("%v, want the answer", m)
		}
		took = append(took, time.Since(begin))
		time.Sleep(2 * time.Millisecond) // 400 a second at the most, within the limit
	}
	slices.Sort(took)
	return took[len(took)*99/100]
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

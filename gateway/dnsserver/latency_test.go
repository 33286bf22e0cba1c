package dnsserver

import (
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestLatencyBuckets(t *testing.T) {
	var l latencies
	for _, d := range []time.Duration{-time.Second, 0, 100 * time.Microsecond, 100*time.Microsecond + 1, time.Millisecond, 5 * time.Second, 5*time.Second + 1, time.Hour} {
		l.took(tcp, fateFailed, d)
	}
	l.took(tcp, fateNone, time.Second)
	h := &l[tcp][fateFailed]
	for i, want := range map[int]uint64{0: 3, 1: 1, 3: 1, len(latencyBounds) - 1: 1, len(latencyBounds): 2} {
		if got := h.buckets[i].Load(); got != want {
			t.Errorf("bucket %d: %d, want %d", i, got, want)
		}
	}
	if sum := time.Duration(h.sum.Load()); sum < time.Hour || sum > time.Hour+11*time.Second {
		t.Errorf("sum %v", sum)
	}
	for i := 1; i < len(latencyBounds); i++ {
		if latencyBounds[i] <= latencyBounds[i-1] {
			t.Errorf("bound %d is not above the one before", i)
		}
	}
}

// Every question that was decided is in one histogram, on either road.
func TestLatency(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, zones, Options{portable: portable})
		for _, network := range transports {
			for _, name := range []string{"wechat.com", "good.example", "good.example", "cloak.example"} {
				r.ask(t, network, query(name, dns.TypeA))
			}
			r.ask(t, network, query("good.example", dns.TypeANY))
		}
		go func() {
			for r.Stats().Inflight == 0 {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(300 * time.Millisecond)
			close(r.up.gate)
		}()
		r.ask(t, "udp", query("a.slow.example", dns.TypeA))
		var total uint64
		seen := map[string]uint64{}
		for _, l := range r.Latency() {
			n := uint64(0)
			for _, b := range l.Buckets {
				n += b
			}
			total += n
			seen[l.Transport+" "+l.Outcome] = n
			if l.Transport == "udp" && l.Outcome == "upstream" && l.Sum < 200*time.Millisecond {
				t.Errorf("questions that were asked upstream took %v", l.Sum)
			}
		}
		st := r.Stats()
		if want := st.Blocked + st.Allowed + st.Reported; total != want || total != 11 {
			t.Errorf("%d are timed, %d were decided, 11 asked", total, want)
		}
		for of, want := range map[string]uint64{"udp blocked": 2, "tcp blocked": 2, "udp synthesized": 1, "tcp synthesized": 1, "tcp cache": 2} {
			if seen[of] != want {
				t.Errorf("%s: %d, want %d; all: %v", of, seen[of], want, seen)
			}
		}
	})
}

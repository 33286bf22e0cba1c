//go:build !race

// The race detector changes what is allocated.

package dnsserver

import (
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/miekg/dns"
)

// TestBatchAllocations: 10,000 questions through a real socket, and nothing is
// allocated for them anywhere in the program, from the read to the write.
func TestBatchAllocations(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "0.0.0.0:0"} {
		r := startQuiet(t, Options{Readers: 1, Listen: addrPorts(listen)})
		for _, tc := range []struct {
			label     string
			questions [][]byte
		}{
			{"blocked", [][]byte{pack(t, query("wechat.com", dns.TypeA)), pack(t, edns(query("x.kaspersky.com", dns.TypeHTTPS), 1232)), pack(t, query("m-null.example", dns.TypeAAAA))}},
			{"cached", [][]byte{pack(t, query("good.example", dns.TypeA)), pack(t, edns(query("GOOD.example", dns.TypeA), 1232))}},
			{"mixed, and rejected", [][]byte{pack(t, query("good.example", dns.TypeA)), pack(t, query("wechat.com", dns.TypeA)), wire12()}},
		} {
			b := newBlaster(t, atLoopback(r.Addrs()[0]), tc.questions...)
			b.ask(100, 10) // what is made once
			const questions = 10_000
			least := ^uint64(0)
			before := r.Stats()
			for range 3 { // the runtime's own goroutines allocate now and then
				least = min(least, allocated(func() {
					if got := b.ask(questions, 128); got != questions {
						t.Errorf("%s: %d of %d answered", tc.label, got, questions)
					}
				}))
			}
			if least != 0 {
				t.Errorf("%s at %s: %d allocations for %d questions, want none", tc.label, listen, least, questions)
			}
			st := r.Stats()
			if n := st.Blocked + st.Cached + st.Rejected - before.Blocked - before.Cached - before.Rejected; n != 3*questions || st.Forwarded != before.Forwarded {
				t.Errorf("%s: %d answered on the spot, want %d; stats %+v", tc.label, n, 3*questions, st)
			}
		}
	}
}

// allocated returns how many objects the program allocates meanwhile.
func allocated(f func()) uint64 {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.Mallocs - before.Mallocs
}

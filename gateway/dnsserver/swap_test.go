package dnsserver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/bench/corpus"
	"github.com/weir-gateway/weir/gateway/policy"
	"github.com/weir-gateway/weir/gateway/resolver"
)

// swapping swaps snapshots until stop: in those of even generation flip.example
// and the target of alias.example are banned, in odd ones they are not.
type swapping struct {
	store  *policy.Store
	begun  atomic.Uint64 // the generation of the last Swap that has begun
	active atomic.Uint64 // that of the last one that has returned
}

func (s *swapping) swap(tb testing.TB, generation uint64) {
	list := bans()
	if generation%2 == 0 {
		list[0].rules = append(list[0].rules, suffix("flip.example")...)
	}
	next := snapshot(tb, generation, list)
	s.begun.Store(generation)
	s.store.Swap(next)
	s.active.Store(generation)
}

// A reply to a question asked after a Swap is never made under an older
// generation, and no question is lost: blocked, forwarded, cached and by link.
func TestSwapUnderLoad(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, "alias.example. 300 IN CNAME x.flip.example.\nx.flip.example. 300 IN A 192.0.2.3\n", Options{portable: portable})
		sw := &swapping{store: r.store}
		sw.swap(t, 2)
		var wg sync.WaitGroup
		var asked atomic.Int64
		stop := make(chan struct{})
		for i := range 8 {
			wg.Go(func() { ask(t, r, sw, i, stop, &asked) })
		}
		end := time.Now().Add(time.Minute)
		for g := uint64(3); (g < 20 || asked.Load() < 200) && time.Now().Before(end); g++ {
			time.Sleep(50 * time.Millisecond)
			sw.swap(t, g)
		}
		close(stop)
		wg.Wait()
		st := r.Stats()
		t.Logf("%d questions, %d judged again, %d generations", asked.Load(), st.Rejudged, sw.active.Load())
		if asked.Load() < 200 || st.Blocked == 0 || st.Cached == 0 || st.Forwarded == 0 {
			t.Errorf("stats %+v: not the load that was meant", st)
		}
		if got := len(r.audit.take()); int64(got) != asked.Load() {
			t.Errorf("%d audit records of %d questions", got, asked.Load())
		}
	})
}

// ask is one client: it asks until it is stopped and checks every reply.
func ask(t *testing.T, r *rig, sw *swapping, client int, stop <-chan struct{}, asked *atomic.Int64) {
	conn, err := dns.Dial(transports[client%2], r.addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = conn.Close() }()
	var last uint64
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		name := []string{"flip.example.", "alias.example.", fmt.Sprintf("n%d-%d.flip.example.", client, i), "wechat.com."}[i%4]
		q := query(name, dns.TypeA)
		before := sw.active.Load()
		_ = conn.SetDeadline(time.Now().Add(secs(30)))
		if err := conn.WriteMsg(q); err != nil {
			t.Error(err)
			return
		}
		m, err := conn.ReadMsg()
		if err != nil {
			t.Errorf("%s lost: %v", name, err)
			return
		}
		asked.Add(1)
		if m.Id != q.Id || m.Rcode != dns.RcodeNameError && m.Rcode != dns.RcodeSuccess {
			t.Errorf("%s: %v", name, m)
			return
		}
		if m.Rcode == dns.RcodeNameError {
			g := uint64(m.Ns[0].(*dns.SOA).Serial)
			if g < before || g < last {
				t.Errorf("%s: answered under generation %d, %d was in force and %d seen", name, g, before, last)
			}
			if name != "wechat.com." && g%2 != 0 {
				t.Errorf("%s: blocked under generation %d", name, g)
			}
			last = g
		} else if before%2 == 0 && sw.begun.Load() == before {
			t.Errorf("%s: allowed while generation %d held it back", name, before)
		}
	}
}

// The policy changes while the upstream is being asked: what was allowed is
// held back, what came back is judged anew, and a name that is released while
// its blocked reply waits is resolved.
func TestSwapWhileResolving(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, "a.slow.example. 300 IN A 192.0.2.3\n", Options{portable: portable})
		done := make(chan *dns.Msg)
		go func() { done <- r.ask(t, "udp", query("a.slow.example", dns.TypeA)) }()
		eventually(t, "upstream is asked", func() bool { return r.up.count("a.slow.example") > 0 })
		list := bans()
		list[1].rules = prefixes("192.0.2.3/32")
		r.store.Swap(snapshot(t, 5, list))
		close(r.up.gate)
		m := <-done
		if m.Rcode != dns.RcodeNameError || m.Ns[0].(*dns.SOA).Serial != 5 {
			t.Errorf("got %v, want NXDOMAIN of generation 5", m)
		}
	})
}

// The snapshot changes between judgement and writing: the reply is made again.
func TestRejudgedBeforeWriting(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		up := startUpstream(t, "")
		var store policy.Store
		allowed, banned := snapshot(t, 1, nil), snapshot(t, 2, bans())
		store.Swap(allowed)
		real := up.resolver(t)
		if _, err := real.Resolve(t.Context(), query("x.wechat.com", dns.TypeA)); err != nil {
			t.Fatal(err)
		}
		hook := &swapOnce{Resolver: real, do: func() { store.Swap(banned) }}
		r := start(t, "", Options{portable: portable, Policy: &store, Resolver: hook})
		m := r.ask(t, "udp", query("x.wechat.com", dns.TypeA))
		recs := r.audit.take()
		if m.Rcode != dns.RcodeNameError || r.Stats().Rejudged != 1 || len(recs) != 1 || recs[0].Generation != 2 {
			t.Errorf("got %v, rejudged %d, audit %+v; want NXDOMAIN under generation 2, once on the record", m, r.Stats().Rejudged, recs)
		}
	})
}

// swapOnce does something while the first question is being judged.
type swapOnce struct {
	*resolver.Resolver
	once sync.Once
	do   func()
}

func (s *swapOnce) Cached(q *dns.Msg) *resolver.Answer {
	s.once.Do(s.do)
	return s.Resolver.Cached(q)
}

func TestDrain(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, "", Options{portable: portable, Drain: time.Minute})
		tc, uc := r.dial(t, "tcp"), r.dial(t, "udp")
		p := pack(t, query("a.slow.example", dns.TypeA))
		if _, err := uc.Write(p); err != nil {
			t.Fatal(err)
		}
		if _, err := tc.Write(append(frame(p), 0, 50, 1)); err != nil { // and the start of another
			t.Fatal(err)
		}
		idle := r.dial(t, "tcp")
		eventually(t, "both are in flight and all are connected", func() bool { return r.Stats().Inflight == 2 && r.Stats().Conns == 2 })
		r.end()
		eventually(t, "new connections are refused", func() bool {
			c, err := net.Dial("tcp", r.addr)
			if err == nil {
				_ = c.Close()
			}
			return err != nil
		})
		if !closedWithin(idle, secs(30)) {
			t.Error("an idle connection is kept")
		}
		close(r.up.gate)
		if m := readPacket(t, uc); m == nil || m.Rcode != dns.RcodeSuccess {
			t.Errorf("in flight over UDP: %v, want its answer", m)
		}
		if m := readFrame(t, tc, secs(30)); m == nil || m.Rcode != dns.RcodeSuccess {
			t.Errorf("in flight over TCP: %v, want its answer", m)
		}
		begin := time.Now()
		r.stop(t)
		if d := time.Since(begin); d > 20*time.Second {
			t.Errorf("Serve returned %v after the last answer", d)
		}
		if !closedWithin(tc, secs(30)) {
			t.Error("the connection is open after Serve")
		}
	})
}

// What does not end in the time to drain is answered SERVFAIL.
func TestDrainIsBounded(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		for range 10 {
			if boundedDrain(t, portable) {
				return
			}
		}
		t.Error("this machine has nothing written in time")
	})
}

// boundedDrain is false where even the time to write the SERVFAIL was over.
func boundedDrain(t *testing.T, portable bool) bool {
	const drain = 200 * time.Millisecond
	r := start(t, "", Options{portable: portable, Drain: drain, Timeout: time.Minute})
	defer close(r.up.gate)
	tc, uc := r.dial(t, "tcp"), r.dial(t, "udp")
	p := pack(t, query("a.slow.example", dns.TypeA))
	if _, err := uc.Write(p); err != nil {
		t.Fatal(err)
	}
	if _, err := tc.Write(frame(p)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both are in flight", func() bool { return r.Stats().Inflight == 2 })
	begin := time.Now()
	r.stop(t)
	switch d := time.Since(begin); {
	case d < drain || d > 30*time.Second:
		t.Errorf("Serve took %v, want about %v", d, drain)
	case d >= drain+killGrace:
		return false
	}
	if m := readPacket(t, uc); m == nil || m.Rcode != dns.RcodeServerFailure {
		t.Errorf("over UDP: %v, want SERVFAIL", m)
	}
	if m := readFrame(t, tc, secs(30)); m == nil || m.Rcode != dns.RcodeServerFailure {
		t.Errorf("over TCP: %v, want SERVFAIL", m)
	}
	return true
}

// Even a resolver that ignores its context does not keep Serve.
func TestDrainOfStuckResolver(t *testing.T) {
	stuck := make(chan struct{})
	hook := &hooked{resolve: func(context.Context, *dns.Msg) (*resolver.Answer, error) {
		<-stuck
		return nil, resolver.ErrNoUpstream
	}}
	r := start(t, "", Options{Resolver: hook, Drain: 50 * time.Millisecond})
	p := pack(t, query("good.example", dns.TypeA))
	if _, err := r.dial(t, "tcp").Write(frame(p)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.dial(t, "udp").Write(p); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both are in flight", func() bool { return r.Stats().Inflight == 2 })
	begin := time.Now()
	r.stop(t)
	if d := time.Since(begin); d > 20*time.Second {
		t.Errorf("Serve took %v", d)
	}
	close(stuck)
	eventually(t, "both replies are dropped: their sockets have gone", func() bool { return r.Stats().Dropped["write_error"] == 2 })
}

// Nothing runs and nothing is bound after Serve.
func TestNothingIsLeft(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		up := startUpstream(t, "")
		res := up.resolver(t)
		if _, err := res.Resolve(t.Context(), query("good.example", dns.TypeA)); err != nil {
			t.Fatal(err)
		}
		before := runtime.NumGoroutine()
		for range 3 {
			// A port that the system gives to nobody else meanwhile.
			r := start(t, "", Options{portable: portable, Resolver: res, Listen: []netip.AddrPort{corpus.Port(t)}})
			for _, network := range transports {
				r.ask(t, network, query("wechat.com", dns.TypeA))
				r.ask(t, network, query("good.example", dns.TypeA))
			}
			r.stop(t)
			c, err := net.ListenPacket("udp4", r.addr)
			if err != nil {
				t.Errorf("the port after Serve: %v", err)
				continue
			}
			_ = c.Close()
		}
		const upstreams = 3 * 2 // two goroutines of each rig's own upstream
		eventually(t, "goroutines are back to their number", func() bool { return runtime.NumGoroutine() <= before+upstreams+1 })
	})
}

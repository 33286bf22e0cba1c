package dnsserver

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/gateway/policy"
	"github.com/weir-gateway/weir/gateway/resolver"
	"github.com/weir-gateway/weir/gateway/wire"
)

// A reader is a resolver that counts who comes which way: Current is the hot
// path's, the others are the slow path's.
type reader struct {
	res                       *resolver.Resolver
	current, cached, resolved atomic.Int64
	before                    atomic.Pointer[func()] // what happens while the hot path answers a question; once
}

func (r *reader) Current() *resolver.Resolver {
	r.current.Add(1)
	if f := r.before.Swap(nil); f != nil {
		(*f)()
	}
	return r.res
}

func (r *reader) Cached(q *dns.Msg) *resolver.Answer {
	r.cached.Add(1)
	return r.res.Cached(q)
}

func (r *reader) Resolve(ctx context.Context, q *dns.Msg) (*resolver.Answer, error) {
	r.resolved.Add(1)
	return r.res.Resolve(ctx, q)
}

// startCounting runs a server of which is known how often it asked its resolver.
func startCounting(tb testing.TB, zone string, opts Options) (*rig, *reader) {
	tb.Helper()
	up := startUpstream(tb, zone)
	res := &reader{res: up.resolver(tb)}
	opts.Resolver = res
	r := start(tb, "", opts)
	r.up = up
	return r, res
}

var _ hotResolver = (*reader)(nil)

// Which way a question went, over a real socket: a blocked or cached question
// of the common shape never reaches the slow path, whatever is left does.
func TestWhichPath(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		up := startUpstream(t, zones)
		res := &reader{res: up.resolver(t)}
		r := start(t, zones, Options{portable: portable, Resolver: res})
		r.ask(t, "udp", query("good.example", dns.TypeA))
		if res.resolved.Load() != 1 || res.cached.Load() != 1 || r.Stats().Forwarded != 1 {
			t.Fatalf("%d resolved, %d looked up, stats %+v; want one forwarded", res.resolved.Load(), res.cached.Load(), r.Stats())
		}
		for range 50 {
			r.ask(t, "udp", query("GOOD.example", dns.TypeA))
			r.ask(t, "udp", edns(query("good.example", dns.TypeA), 1232))
			r.ask(t, "udp", query("wechat.com", dns.TypeHTTPS))
		}
		if st := r.Stats(); res.resolved.Load() != 1 || res.cached.Load() != 1 || st.Cached != 100 || st.Blocked != 50 || st.Forwarded != 1 {
			t.Errorf("%d resolved, %d looked up, stats %+v; want 100 cached and 50 blocked on the hot path", res.resolved.Load(), res.cached.Load(), st)
		}
		if got := res.current.Load(); got != 151 {
			t.Errorf("the hot path looked for the resolver %d times, want 151", got)
		}
		for i, q := range []*dns.Msg{query(`go\.od.example`, dns.TypeA), query("cloak.example", dns.TypeA)} {
			r.ask(t, "udp", q) // forwarded
			r.ask(t, "udp", q) // cached, and not for the hot path
			if got := res.cached.Load(); got != int64(3+2*i) {
				t.Errorf("%s: %d lookups on the slow path, want %d", q.Question[0].Name, got, 3+2*i)
			}
		}
		r.ask(t, "udp", query("wechat.com", dns.TypeANY))
		if st := r.Stats(); st.Blocked != 53 || st.Inflight != 0 {
			t.Errorf("stats %+v, want 53 blocked and none in flight", st)
		}
	})
}

// The policy changes while the hot path answers: it answers again, under the
// policy in force, and what it counted and recorded before is forgotten.
func TestSwapOnTheHotPath(t *testing.T) {
	for _, tc := range []struct {
		label       string
		before      []testBan
		after       []testBan
		rcode       int
		action      string
		atOnce      bool // the second time too, on the hot path
		generation2 uint64
	}{
		{"banned meanwhile", nil, bans(), dns.RcodeNameError, "block", true, 2},
		{"still allowed", nil, bans()[1:], dns.RcodeSuccess, "allow", true, 2},
		{"reported from now on", nil, reportOnly(), dns.RcodeSuccess, "report", false, 2},
	} {
		t.Run(tc.label, func(t *testing.T) {
			onEngines(t, func(t *testing.T, portable bool) {
				up := startUpstream(t, "")
				res := &reader{res: up.resolver(t)}
				r := start(t, "", Options{portable: portable, Resolver: res, Readers: 1})
				r.store.Swap(snapshot(t, 1, tc.before))
				q := edns(query("x.wechat.com", dns.TypeA), 1232)
				r.ask(t, "udp", q)
				r.audit.take()
				was := r.Stats()
				slow := res.cached.Load()
				next := snapshot(t, 2, tc.after)
				swap := func() { r.store.Swap(next) }
				res.before.Store(&swap)
				m := r.ask(t, "udp", q)
				recs := r.audit.take()
				if m.Rcode != tc.rcode || len(recs) != 1 || recs[0].Generation != tc.generation2 || recs[0].Action != tc.action {
					t.Errorf("got %v, audit %+v; want %s under generation 2, once on the record", m, recs, tc.action)
				}
				st := r.Stats()
				if d := st.Blocked + st.Allowed + st.Reported - was.Blocked - was.Allowed - was.Reported; d != 1 || st.Rejudged != 1 || st.UDP != 2 ||
					st.Rcodes["NOERROR"]+st.Rcodes["NXDOMAIN"] != 2 {
					t.Errorf("stats %+v, want one question more, judged again once", st)
				}
				if left := res.cached.Load() != slow; left == tc.atOnce {
					t.Errorf("answered by the exit: %v", left)
				}
			})
		})
	}
}

func reportOnly() []testBan {
	list := bans()[:1]
	list[0].Effective = bans()[5].Effective
	return list
}

// A name that is released while it is being blocked goes to the resolver.
func TestReleasedOnTheHotPath(t *testing.T) {
	w := newRoads(t)
	var swapped bool
	p := pack(t, query("wechat.com", dns.TypeA))
	var counted counters
	var left bool
	w.stats = counters{}
	w.hot.judge(func(snap *policy.Snapshot) {
		if _, left = w.hot.answer(make([]byte, 0, replySize), p, anyDevice, snap, time.Now()); !swapped {
			if left {
				t.Error("a banned name left")
			}
			swapped = true
			w.policy.Swap(snapshot(t, 9, nil))
		}
	})
	w.hot.commit(&counted)
	if recs := w.records.take(); !left || len(recs) != 0 || counted.actions[policy.Block].Load() != 0 || w.stats.rejudged.Load() != 1 {
		t.Errorf("left %v, records %+v, %d blocked; want it left and forgotten", left, recs, counted.actions[policy.Block].Load())
	}
}

// With no room at all behind the exit, the readers still answer what policy and
// the cache know, of every shape, and say SERVFAIL to the rest.
func TestNoExit(t *testing.T) {
	w := newRoads(t)
	for _, tc := range []struct {
		q      *dns.Msg
		rcode  byte
		counts func(c *counters) uint64
	}{
		{query("wechat.com", dns.TypeANY), dns.RcodeNameError, func(c *counters) uint64 { return c.actions[policy.Block].Load() }},
		{query("cloak.example", dns.TypeA), dns.RcodeNameError, func(c *counters) uint64 { return c.actions[policy.Block].Load() }},
		{query("big.example", dns.TypeA), dns.RcodeSuccess, func(c *counters) uint64 { return c.cached.Load() }},
		{query("cold.example", dns.TypeA), dns.RcodeServerFailure, func(c *counters) uint64 { return c.overloaded.Load() }},
		{query("good.example", dns.TypeAXFR), dns.RcodeRefused, func(c *counters) uint64 { return c.synthesized.Load() }},
	} {
		w.stats = counters{}
		p := pack(t, tc.q)
		if reply, leave := w.hot.answer(nil, p, anyDevice, w.policy.Load(), time.Now()); !leave || reply != nil {
			t.Errorf("%s: answered on the hot path", tc.q.Question[0].String())
		}
		reply := w.leave(make([]byte, 0, replySize), &datagram{msg: p, from: anyDevice, arrived: time.Now()})
		if len(reply) < wire.HeaderLen || reply[3]&0xF != tc.rcode || tc.counts(&w.stats) != 1 || w.stats.inflight.Load() != 0 {
			t.Errorf("%s: reply %x, want rcode %d, counted once", tc.q.Question[0].String(), reply, tc.rcode)
		}
		if recs := w.records.take(); len(recs) != 1 {
			t.Errorf("%s: %d records, want 1", tc.q.Question[0].String(), len(recs))
		}
	}
}

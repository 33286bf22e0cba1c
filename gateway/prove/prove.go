// Package prove tries, from a device's side, every known way around a ban, and
// what must go on working beside it.
//
// A catalogue names the ways: each is tried over real sockets against each ban,
// and judged by one thing alone, whether anything came back from the far side.
// So a way counts as closed only where the same attempt would have shown an open
// one. What no gateway can close without opening TLS is listed as such and never
// as passed. The result is a table, a signed JSON document, and a page.
//
// It knows nothing of the gateway's inside, changes nothing anywhere, and sends
// to nothing but what the plan names. It proves what was tried at that time from
// that device, not that there is no other way.
package prove

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// An Outcome is what came of an attempt.
type Outcome string

const (
	Closed     Outcome = "closed"
	Open       Outcome = "OPEN"
	Works      Outcome = "works"
	Broken     Outcome = "BROKEN"
	Unclosable Outcome = "cannot be closed"
	NotTried   Outcome = "not tried"
)

// A Target is what of a ban is tried: one of its names, and one address of each
// family that it holds back by itself, invalid for none.
type Target struct {
	Ban   string       `json:"ban"`
	Title string       `json:"title"`
	Name  string       `json:"name"`
	Addrs []netip.Addr `json:"addresses,omitempty"`
}

// Options are what is tried, and from where.
type Options struct {
	DNS       netip.AddrPort   // the gateway's resolver
	Proxy     netip.AddrPort   // its explicit proxy; invalid for none
	Resolvers []netip.AddrPort // of others, which must not be reachable
	Allowed   string           // a site that must work
	Targets   []Target
	Only      string        // one route; empty for all
	Timeout   time.Duration // of an attempt; 0: 3 s
}

// A Result is one attempt.
type Result struct {
	Route   string        `json:"route"`
	Ban     string        `json:"ban,omitempty"`
	Tried   string        `json:"tried"`
	Outcome Outcome       `json:"outcome"`
	Detail  string        `json:"detail,omitempty"`
	Took    time.Duration `json:"took_ns"`
}

// Failed reports whether it is not as it should be.
func (r *Result) Failed() bool { return r.Outcome == Open || r.Outcome == Broken }

// A Report is all that was tried.
type Report struct {
	Version    string    `json:"version"`
	Began      time.Time `json:"began"`
	Ended      time.Time `json:"ended"`
	Gateway    string    `json:"gateway"`
	Generation uint32    `json:"generation"` // of the policy that answered; 0: it did not say
	Targets    []Target  `json:"targets"`
	Results    []Result  `json:"results"`
}

// OK reports whether every way is closed and everything else works.
func (r *Report) OK() bool {
	for i := range r.Results {
		if r.Results[i].Failed() {
			return false
		}
	}
	return len(r.Results) > 0
}

// atOnce bounds the attempts under way.
const atOnce = 16

// A job is one attempt of the plan.
type job struct {
	result Result
	try    func(context.Context) (bool, string) // whether the far side was reached
	must   bool                                 // it is to be reached
}

// Plan returns what Run would try, without trying it.
func Plan(o Options) []Result {
	var all []Result
	for _, j := range plan(newProber(o)) {
		all = append(all, j.result)
	}
	return all
}

// Run tries all of the catalogue.
func Run(ctx context.Context, version string, o Options) *Report {
	p := newProber(o)
	r := &Report{Version: version, Began: time.Now().UTC(), Gateway: o.DNS.String(), Targets: o.Targets}
	r.Generation = p.generation(ctx)
	p.locate(ctx)
	jobs := plan(p)
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i := range jobs {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			jobs[i].run(ctx, p.timeout)
		})
	}
	wg.Wait()
	for _, j := range jobs {
		r.Results = append(r.Results, j.result)
	}
	r.Ended = time.Now().UTC()
	return r
}

func (j *job) run(ctx context.Context, timeout time.Duration) {
	if j.try == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	began := time.Now()
	reached, detail := j.try(ctx)
	j.result.Took, j.result.Detail = time.Since(began).Round(time.Millisecond), detail
	switch {
	case j.must && reached:
		j.result.Outcome = Works
	case j.must:
		j.result.Outcome = Broken
	case reached:
		j.result.Outcome = Open
	default:
		j.result.Outcome = Closed
	}
}

// generation is the serial of a blocked answer, which is the policy's number.
func (p *prober) generation(ctx context.Context) uint32 {
	for _, t := range p.Targets {
		ctx, cancel := context.WithTimeout(ctx, p.timeout)
		m, err := p.ask(ctx, "udp", p.DNS, t.Name, dns.TypeA)
		cancel()
		if err != nil {
			continue
		}
		for _, rr := range m.Ns {
			if soa, ok := rr.(*dns.SOA); ok && soa.Ns == "weir.invalid." {
				return soa.Serial
			}
		}
	}
	return 0
}

// Package prove tries, from a device, every known way around the bans, and what
// must keep working, and reports what it saw.
//
// The ways are rows of a catalogue. A row says what is tried, how one sees that
// the way is closed and how that it is open. A way that was not tried, and one
// that no gateway can close without decryption, is listed as such and never
// counts as closed. Silence counts as closed only where somebody is known to
// answer.
//
// The package sends only to what the catalogue and the lists of the bans name,
// each attempt has a deadline, and there are never more than a few at a time. It
// knows nothing of the gateway's inside: it sees what a device sees.
package prove

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/weir-gateway/weir/blocklists"
)

// An Outcome is what became of an attempt, a row, or all of them. The zero
// Outcome is none of these and never a good one.
type Outcome string

const (
	Closed   Outcome = "closed"
	Open     Outcome = "OPEN"
	Works    Outcome = "works"
	Broken   Outcome = "BROKEN"
	Beyond   Outcome = "cannot be closed" // without decryption
	NotTried Outcome = "not tried"
)

// severity orders outcomes: the worst of a row's attempts is the row's.
var severity = map[Outcome]int{Closed: 1, Works: 1, NotTried: 2, Beyond: 3, Broken: 4, Open: 5}

func worse(a, b Outcome) Outcome {
	if severity[b] > severity[a] {
		return b
	}
	return a
}

// A Finding is the outcome of one attempt and what was seen.
type Finding struct {
	Outcome Outcome `json:"outcome"`
	Seen    string  `json:"seen"`
}

// Options say what to try and from where.
type Options struct {
	Gateway netip.Addr     // of the gateway as devices see it
	DNS     netip.AddrPort // invalid: port 53 of Gateway
	Proxy   netip.AddrPort // invalid: port 3128 of Gateway
	Admin   []uint16       // ports that devices must not reach on Gateway
	Targets []Target       // what is banned
	Fixed   Fixtures
	Only    []string      // routes by id; empty: all
	Wait    time.Duration // of one attempt; 0: DefaultWait
	Workers int           // attempts at a time; 0: DefaultWorkers
	Version string
}

// Defaults and bounds of Options.
const (
	DefaultWait    = 3 * time.Second
	DefaultWorkers = 16
	maxTime        = 10 * time.Minute
	maxAttempts    = 10_000
)

// A Target is a ban and a few examples of what it holds back.
type Target struct {
	Ban    string
	Title  blocklists.Text
	Names  []string
	V4, V6 []netip.Addr
}

// An attempt is one probe of a row.
type attempt struct {
	route  *Route
	ban    int // index into Options.Targets, -1 for none
	target string
	probe  func(context.Context, *device) Finding
}

// A device is where the probes start.
type device struct {
	Options
	v6   bool
	site netip.Addr // an address of Fixed.Allowed, as the gateway says
	wait time.Duration
}

// Run carries out the plan. An error means that nothing was tried.
func Run(ctx context.Context, opts Options) (*Report, error) {
	opts = opts.withDefaults()
	ctx, cancel := context.WithTimeout(ctx, maxTime)
	defer cancel()
	d := &device{Options: opts, wait: opts.Wait, v6: routed("udp6", "[2001:4860:4860::8888]:53")}
	r := &Report{Schema: schema, Weir: opts.Version, Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH,
		Started: time.Now().UTC(), Gateway: opts.Gateway.String(), IPv6: d.v6}
	d.site, _ = d.resolve(ctx, opts.Fixed.Allowed)
	r.Generation, r.Evidence = d.evidence(ctx)
	plan := opts.plan()
	results := make([]Attempt, len(plan))
	work := make(chan int)
	var pool sync.WaitGroup
	for range opts.Workers {
		pool.Go(func() {
			for i := range work {
				results[i] = plan[i].carryOut(ctx, d)
			}
		})
	}
	for i := range plan {
		work <- i
	}
	close(work)
	pool.Wait()
	r.fill(opts, plan, results)
	r.Ended = time.Now().UTC()
	return r, ctx.Err()
}

func (o Options) withDefaults() Options {
	if o.Wait <= 0 {
		o.Wait = DefaultWait
	}
	if o.Workers <= 0 {
		o.Workers = DefaultWorkers
	}
	if !o.DNS.IsValid() {
		o.DNS = netip.AddrPortFrom(o.Gateway, 53)
	}
	if !o.Proxy.IsValid() {
		o.Proxy = netip.AddrPortFrom(o.Gateway, 3128)
	}
	o.Fixed = o.Fixed.withDefaults()
	return o
}

// plan lists the attempts of the rows that are wanted.
func (o Options) plan() []attempt {
	var out []attempt
	for i := range Catalogue {
		r := &Catalogue[i]
		if len(o.Only) > 0 && !slices.Contains(o.Only, r.ID) {
			continue
		}
		if r.each == nil {
			out = append(out, attempt{route: r, ban: -1})
			continue
		}
		if !r.PerBan {
			out = append(out, bind(r, -1, r.each(o, Target{}))...)
			continue
		}
		for b, t := range o.Targets {
			out = append(out, bind(r, b, r.each(o, t))...)
		}
	}
	return out[:min(len(out), maxAttempts)]
}

func bind(r *Route, ban int, probes []probe) []attempt {
	var out []attempt
	for _, p := range probes {
		out = append(out, attempt{r, ban, p.target, p.try})
	}
	return out
}

func (a *attempt) carryOut(ctx context.Context, d *device) Attempt {
	start := time.Now()
	out := Attempt{Target: a.target}
	switch {
	case a.probe == nil:
		out.Finding = Finding{a.route.Untried, a.route.Why}
	case ctx.Err() != nil:
		out.Finding = Finding{NotTried, "the time for all attempts was over"}
	default:
		ctx, cancel := context.WithTimeout(ctx, 3*d.wait)
		defer cancel()
		out.Finding = a.probe(ctx, d)
	}
	out.Milliseconds = time.Since(start).Milliseconds()
	return out
}

// routed reports whether this machine has a way to such addresses at all.
func routed(network, addr string) bool {
	c, err := net.Dial(network, addr) // which sends nothing
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// DryRun lists what Run would try, one line an attempt.
func DryRun(opts Options) []string {
	opts = opts.withDefaults()
	var out []string
	for _, a := range opts.plan() {
		ban := "-"
		if a.ban >= 0 {
			ban = opts.Targets[a.ban].Ban
		}
		out = append(out, a.route.ID+"\t"+ban+"\t"+a.target)
	}
	return out
}

package main

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// An arena is everything that runs while traffic is measured: two floors and
// weir on one processor, the load and what is behind it on the other. Servers
// whose turn it is not wait on their sockets and take no time.
type arena struct {
	opts     options
	origin   *origin
	udp, tcp *process
	udpAt    netip.AddrPort
	tcpAt    netip.AddrPort
	weir     *gateway
	list     list
	alone    bool // whether there is one processor for everything
	notes    []string
	noted    map[string]bool
}

// newArena starts the servers. The programs are built before: a compiler beside
// a measurement is noise.
func newArena(ctx context.Context, opts options, self, program, dir string) (*arena, error) {
	a := &arena{opts: opts, list: syntheticList(syntheticNames), noted: make(map[string]bool)}
	var err error
	if opts.list != "" {
		if a.list, err = readList(opts.list); err != nil {
			return nil, err
		}
	}
	cpus, err := twoProcessors()
	if err != nil {
		return nil, err
	}
	a.alone = cpus.server == cpus.load
	if a.alone {
		a.note("There is one processor: servers and load share it, so servers are asked less than they could answer.")
	}
	if err := pinAll(cpus.load); err != nil {
		return nil, err
	}
	n, err := newNursery(cpus.server) // after pinAll, which would move its thread
	if err != nil {
		return nil, err
	}
	err = a.start(n, self, program, dir)
	if err == nil {
		err = a.ready(ctx, cpus.server)
	}
	if err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

func (a *arena) start(n *nursery, self, program, dir string) (err error) {
	if a.origin, err = startOrigin(); err != nil {
		return err
	}
	blocked, all := filepath.Join(dir, "floor-tcp.txt"), filepath.Join(dir, "floor-udp.txt")
	if err := writeNames(blocked, a.list.blocked); err != nil {
		return err
	}
	// The floor of a cached answer is the same lookup with the same reply, so it
	// knows the allowed names too.
	if err := writeNames(all, a.list.blocked, a.list.allowed); err != nil {
		return err
	}
	address := func(at *netip.AddrPort) func([]byte) bool {
		return func(line []byte) (ok bool) {
			var err error
			*at, err = netip.ParseAddrPort(string(line))
			return err == nil
		}
	}
	if a.udp, err = n.start("the UDP floor", false, address(&a.udpAt), self, floorArg, "udp", all); err != nil {
		return err
	}
	if a.tcp, err = n.start("the tunnel floor", false, address(&a.tcpAt), self, floorArg, "tcp", blocked); err != nil {
		return err
	}
	a.weir, err = startWeir(n, program, dir, a.list.blocked, a.origin)
	return err
}

func (a *arena) close() {
	if a.weir != nil {
		a.weir.stop()
	}
	a.udp.stop()
	a.tcp.stop()
	if a.origin != nil {
		a.origin.close()
	}
}

func (a *arena) note(format string, args ...any) {
	if s := fmt.Sprintf(format, args...); !a.noted[s] {
		a.noted[s] = true
		a.notes = append(a.notes, s)
	}
}

// ready makes sure that the servers are where they should be, and has weir's
// cache filled: each allowed name is asked for once.
func (a *arena) ready(ctx context.Context, cpu int) error {
	for _, p := range []*process{a.udp, a.tcp, a.weir.process} {
		if err := p.pinnedTo(cpu); err != nil {
			return err
		}
	}
	return askEach(ctx, a.weir.dns, a.list.allowed)
}

// A traffic is one kind of load on the floor and on weir. Each half returns
// what the server answered.
type traffic struct {
	name        string
	floor, weir func(ctx context.Context, d time.Duration) (tally, error)
	floorServer *process
	udp         bool
}

// traffics are the kinds of traffic in the order of the table.
func (a *arena) traffics() ([]traffic, error) {
	var out []traffic
	for _, kind := range []struct {
		name             string
		allowed, blocked int // of how many questions
	}{{"udp/blocked", 0, 1}, {"udp/cached", 1, 0}, {"udp/mixed", 9, 1}} {
		t := traffic{name: kind.name, floorServer: a.udp, udp: true}
		var err error
		if t.floor, err = a.blast(a.udpAt, kind.allowed, wantZero, kind.blocked, wantZero); err != nil {
			return nil, err
		}
		if t.weir, err = a.blast(a.weir.dns, kind.allowed, wantAddress, kind.blocked, wantNXDomain); err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	for _, kind := range []struct {
		name string
		do   step
	}{{"connect/blocked", refused}, {"connect/set-up", setUp}, {"http/get", get}} {
		out = append(out, traffic{name: kind.name, floorServer: a.tcp, floor: a.crowd(a.tcpAt, kind.do), weir: a.crowd(a.weir.proxy, kind.do)})
	}
	return out, nil
}

// blast makes the load of a mix of allowed and blocked questions.
func (a *arena) blast(at netip.AddrPort, allowed int, wantAllowed want, blocked int, wantBlocked want) (func(context.Context, time.Duration) (tally, error), error) {
	var decks []*deck
	for _, part := range []struct {
		names  []string
		want   want
		weight int
	}{{a.list.allowed, wantAllowed, allowed}, {a.list.blocked, wantBlocked, blocked}} {
		if part.weight == 0 {
			continue
		}
		d, err := newDeck(part.names, part.want, part.weight)
		if err != nil {
			return nil, err
		}
		decks = append(decks, d)
	}
	seed := uint64(0)
	return func(ctx context.Context, d time.Duration) (tally, error) {
		seed++
		b, err := newBlaster(at, seed, a.alone)
		if err != nil {
			return tally{}, err
		}
		defer b.close()
		return b.run(ctx, d, decks...)
	}, nil
}

func (a *arena) crowd(at netip.AddrPort, do step) func(context.Context, time.Duration) (tally, error) {
	return func(ctx context.Context, d time.Duration) (tally, error) {
		return runClients(ctx, d, at, a.origin, a.list.blocked, do)
	}
}

// warmUp is the length of the turn of each that is not counted.
const warmUp = 200 * time.Millisecond

// measure alternates turns of the floor and of weir.
func (a *arena) measure(ctx context.Context, t traffic, m *measurement) error {
	m.name = t.name
	for _, half := range []func(context.Context, time.Duration) (tally, error){t.floor, t.weir} {
		if _, err := half(ctx, warmUp); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	before, err := a.weir.calls(ctx)
	if err != nil {
		return err
	}
	var ops uint64
	for range a.opts.rounds {
		runtime.GC() // the load's garbage is collected between the turns
		r, n, err := a.round(ctx, t, m)
		if err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
		m.rounds = append(m.rounds, r)
		ops += n
	}
	after, err := a.weir.calls(ctx)
	if t.udp && ops > 0 {
		m.calls = (after - before) / float64(ops)
	}
	m.ops += ops
	return err
}

// round is a turn of each. It returns how many operations weir completed.
func (a *arena) round(ctx context.Context, t traffic, m *measurement) (r round, ops uint64, err error) {
	f, err := a.turn(ctx, t.floorServer, t.floor, m)
	if err != nil {
		return r, 0, err
	}
	w, err := a.turn(ctx, a.weir.process, t.weir, m)
	return round{f.cost, w.cost}, w.ops, err
}

// A turn is what one half of a round came to.
type turn struct {
	cost float64 // microseconds of processor time per operation
	ops  uint64
}

func (a *arena) turn(ctx context.Context, p *process, load func(context.Context, time.Duration) (tally, error), m *measurement) (turn, error) {
	before, err := p.cpu()
	if err != nil {
		return turn{}, err
	}
	began := time.Now()
	t, err := load(ctx, a.opts.time)
	if err != nil {
		return turn{}, err
	}
	took := time.Since(began)
	after, err := p.cpu()
	if err != nil {
		return turn{}, err
	}
	if err := p.alive(); err != nil {
		return turn{}, err
	}
	m.wrong += t.wrong
	m.lost += t.lost
	if m.detail == "" {
		m.detail = t.detail
	}
	if t.ops == 0 {
		return turn{}, fmt.Errorf("%s completed no operation: %s", p.name, t.detail)
	}
	cost := float64(after-before) / float64(t.ops) / 1e3
	a.opts.debugf("%-16s %-16s %8d operations in %v, processor %3.0f %%, %.2f us each", m.name, strings.TrimPrefix(p.name, "the "), t.ops,
		took.Round(time.Millisecond), 100*float64(after-before)/float64(took), cost)
	return turn{cost, t.ops}, nil
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A measurement is one kind of work.
type measurement struct {
	name  string
	plane plane
	unit  string
	warm  bool // the cache needs filling first
	fresh bool // each round with a process that has done nothing yet
	// args are those of bench/load, without the server's address.
	args func(b *contest) []string
}

// measurements are all of them. Floors answer blocked questions only, so that
// is what they get in every measurement of the resolver.
var measurements = []measurement{
	{name: "blocked", plane: resolver, unit: "query", args: func(b *contest) []string { return []string{"udp", "-names", b.list + ":1:block"} }},
	{name: "cached", plane: resolver, unit: "query", warm: true, args: func(b *contest) []string { return []string{"udp", "-derived", "-names", b.allowed + ":1:allow"} }},
	{name: "mixed", plane: resolver, unit: "query", warm: true, args: func(b *contest) []string {
		return []string{"udp", "-derived", "-names", b.allowed + ":90:allow", "-names", b.list + ":10:block"}
	}},
	{name: reloadName, plane: resolver, unit: "query", warm: true, args: func(b *contest) []string {
		return []string{"udp", "-derived", "-rate", "20000", "-timeout", "3s", "-names", b.allowed + ":90:allow", "-names", b.list + ":10:block"}
	}},
	{name: "dot-blocked", plane: overTLS, unit: "query", args: encrypted("dot", blockedNames)},
	{name: "dot-cached", plane: overTLS, unit: "query", warm: true, args: encrypted("dot", allowedNames)},
	{name: "dot-single", plane: overTLS, unit: "query", args: encrypted("dot", blockedNames, "-flows", "64", "-window", "1")},
	{name: "doh-blocked", plane: overHTTPS, unit: "query", args: encrypted("doh", blockedNames)},
	{name: "doh-cached", plane: overHTTPS, unit: "query", warm: true, args: encrypted("doh", allowedNames)},
	{name: "doh-single", plane: overHTTPS, unit: "query", args: encrypted("doh", blockedNames, "-flows", "64", "-window", "1")},
	{name: "connect", plane: proxy, unit: "tunnel", args: func(b *contest) []string { return []string{"connect", "-origin", b.origin} }},
	{name: "blocked-connect", plane: proxy, unit: "refusal", args: func(b *contest) []string { return []string{"blocked", "-timeout", "10s", "-names", b.list} }},
	{name: "get", plane: proxy, unit: "request", args: func(b *contest) []string { return []string{"get", "-origin", b.origin} }},
	{name: "bulk", plane: proxy, unit: "GB", args: func(b *contest) []string { return []string{"bulk", "-origin", b.origin} }},
	{name: "idle", plane: proxy, unit: "tunnel", fresh: true, args: func(b *contest) []string {
		return []string{"idle", "-conns", "3000", "-timeout", "10s", "-origin", b.origin}
	}},
}

func blockedNames(b *contest) []string { return []string{"-names", b.list + ":1:block"} }

func allowedNames(b *contest) []string {
	return []string{"-derived", "-names", b.allowed + ":1:allow"}
}

// encrypted are the arguments for load over connections with TLS.
func encrypted(transport string, names func(b *contest) []string, more ...string) func(b *contest) []string {
	return func(b *contest) []string {
		return slices.Concat([]string{transport, "-ca", filepath.Join(b.work, certFile)}, names(b), more)
	}
}

func whatNames() []string {
	names := make([]string, 0, len(measurements))
	for _, m := range measurements {
		names = append(names, m.name)
	}
	return names
}

func measurementNamed(name string) measurement {
	for _, m := range measurements {
		if m.name == name {
			return m
		}
	}
	return measurement{}
}

// A contest is the bench for one size of list: the lists, the upstream, the origin
// and the peers that run.
type contest struct {
	*options
	out              io.Writer
	size             int
	list, allowed    string
	names            []string
	upstream, origin string
	running          []*contestant
	serial           int // of reloads
}

// A contestant is a peer that was started, or the reason why it was not.
type contestant struct {
	peer    *peer
	version string
	missing string // why it does not take part
	process *process
	dns     string
	dot     string
	doh     string
	proxy   string
	load    time.Duration
	setting *setting
	rounds  map[string][]round
}

// at is where the contestant speaks DNS.
func (c *contestant) at(p plane) string {
	switch p {
	case overTLS:
		return c.dot
	case overHTTPS:
		return c.doh
	}
	return c.dns
}

// A round is what bench/load reported.
type round struct {
	Answered uint64             `json:"answered"`
	Lost     uint64             `json:"lost"`
	Wrong    uint64             `json:"wrong"`
	Unasked  uint64             `json:"unasked"`
	Errors   uint64             `json:"errors"`
	Rate     float64            `json:"per_second"`
	Others   float64            `json:"other_cores"`
	Bytes    uint64             `json:"bytes"`
	Examples []string           `json:"examples"`
	Latency  map[string]float64 `json:"latency_us"`
	CPU      *struct {
		Each     float64 `json:"us_per_operation"`
		Seconds  float64 `json:"seconds"`
		Cores    float64 `json:"cores"`
		Resident uint64  `json:"resident_bytes"`
		Peak     uint64  `json:"peak_bytes"`
	} `json:"server_cpu"`
	Idle *struct {
		Tunnels int     `json:"tunnels"`
		Alive   int     `json:"alive"`
		Bytes   float64 `json:"bytes_per_tunnel"`
		Files   float64 `json:"descriptors_per_tunnel"`
	} `json:"idle"`
	failed string
	took   time.Duration // of a reload, until the new name was blocked
}

// bench measures everything that was asked for.
func bench(ctx context.Context, o options, out io.Writer) error {
	if o.inside {
		if err := loopbackUp(); err != nil {
			return err
		}
	}
	var failed error
	for _, size := range o.sizes {
		b := &contest{options: &o, out: out, size: size, list: blockedFile(o.work, size), allowed: filepath.Join(o.work, "allowed.txt")}
		if err := b.measure(ctx, func(found []result) {
			failed = errors.Join(failed, publish(&o, out, found))
		}); err != nil {
			return errors.Join(err, failed)
		}
	}
	return failed
}

// measure runs one size: helpers, peers one after the other, then each
// measurement in turns, whose results are made known at once: a run that is ended
// keeps what it has.
func (b *contest) measure(ctx context.Context, known func([]result)) error {
	var err error
	if b.names, err = readNames(b.list); err != nil {
		return err
	}
	helpers, err := b.startHelpers(ctx)
	defer func() {
		for _, h := range helpers {
			h.stop()
		}
		for _, c := range b.running {
			if c.process != nil {
				c.process.stop()
			}
		}
	}()
	if err != nil {
		return err
	}
	for _, name := range b.peers {
		if p := peerNamed(name); b.wanted(p) {
			b.running = append(b.running, b.start(ctx, p))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	for _, what := range b.what {
		m := measurementNamed(what)
		turns := b.turns
		if m.name == reloadName {
			turns = b.reloads
		}
		if err := turns(ctx, m); err != nil {
			return err
		}
		found := b.results(m)
		_, _ = io.WriteString(b.out, table(found))
		known(found)
	}
	return nil
}

// wanted says whether the peer has a part in anything that was asked for.
func (b *contest) wanted(p *peer) bool {
	for _, what := range b.what {
		if measurementNamed(what).plane&p.plane != 0 {
			return true
		}
	}
	return false
}

func (b *contest) startHelpers(ctx context.Context) (helpers []*process, err error) {
	for _, h := range []struct {
		mode string
		at   *string
	}{{"upstream", &b.upstream}, {"origin", &b.origin}} {
		p, err := start(ctx, generatorCPU, filepath.Join(b.work, h.mode), []string{b.bin("load"), h.mode})
		if err != nil {
			return helpers, err
		}
		helpers = append(helpers, p)
		if *h.at, err = p.announced(); err != nil {
			return helpers, fmt.Errorf("%s: %w", h.mode, err)
		}
	}
	zone := filepath.Join(b.work, fmt.Sprintf("rpz-%d.zone", b.size))
	return helpers, writeEach(zone, b.names, fmt.Sprintf(zoneHead, 1), zonePattern, nil)
}

// start starts one peer and waits until it answers rightly.
func (b *contest) start(ctx context.Context, p *peer) *contestant {
	c := &contestant{peer: p, rounds: make(map[string][]round)}
	program := p.find(b.options)
	if program == "" {
		c.missing = "not installed: " + p.install
		return c
	}
	if p.smallOnly && b.size > 100_000 {
		c.missing = "left out above 100,000 names"
		return c
	}
	c.version = p.versionOf(ctx, program)
	began := time.Now()
	if err := b.launch(ctx, c, program, &began); err != nil {
		c.missing = err.Error()
		if c.process != nil {
			c.process.stop()
			c.missing += ": " + c.process.tail()
			c.process = nil
		}
		return c
	}
	c.load = time.Since(began)
	c.process.freeze()
	_, _ = fmt.Fprintf(b.out, "%s %s ready with %d names after %.2f s\n", p.name, c.version, b.size, c.load.Seconds())
	return c
}

func (b *contest) launch(ctx context.Context, c *contestant, program string, began *time.Time) error {
	dir := filepath.Join(b.work, fmt.Sprintf("%s-%d", c.peer.name, b.size))
	s := &setting{Dir: dir, Upstream: b.upstream, List: b.list, Zone: filepath.Join(b.work, fmt.Sprintf("rpz-%d.zone", b.size)), program: program, names: b.names}
	for _, a := range []*string{&c.dns, &c.proxy, &c.dot, &c.doh} {
		var err error
		if *a, err = freeAddress(); err != nil {
			return err
		}
	}
	s.Proxy, s.DoT, s.DoH, c.setting = c.proxy, c.dot, c.doh, s
	s.Cert, s.Key = filepath.Join(b.work, certFile), filepath.Join(b.work, keyFile)
	listen := c.dns
	if c.peer.plane == proxy {
		listen = c.proxy
	}
	var err error
	s.UpstreamHost, s.UpstreamPort, err = net.SplitHostPort(b.upstream)
	_, s.OriginPort, _ = net.SplitHostPort(b.origin)
	_, s.DoTPort, _ = net.SplitHostPort(s.DoT)
	_, s.DoHPort, _ = net.SplitHostPort(s.DoH)
	if err := errors.Join(err, s.setAddress(listen)); err != nil {
		return err
	}
	argv, err := c.peer.configure(s)
	if err != nil {
		return err
	}
	*began = time.Now()
	if c.process, err = start(ctx, serverCPU, dir, argv); err != nil {
		return err
	}
	c.process.program = program
	if c.peer.announces {
		a, err := c.process.announced()
		if err != nil {
			return err
		}
		c.dns, c.proxy = a, a
	}
	return b.await(ctx, c)
}

// blockedWarm is how long a peer answers blocked questions before it counts.
const blockedWarm = 2 * time.Second

// turns runs the measurement for every peer, A B C A B C, the floor included.
func (b *contest) turns(ctx context.Context, m measurement) error {
	b.warm(ctx, m)
	for range b.rounds {
		for _, c := range b.running {
			if c.process == nil || c.peer.plane&m.plane == 0 {
				continue
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if m.fresh {
				b.renew(ctx, c)
			}
			if c.process != nil {
				c.process.thaw()
				c.rounds[m.name] = append(c.rounds[m.name], b.round(ctx, c, m))
				c.process.freeze()
			}
		}
	}
	return ctx.Err() // what is half done does not count
}

// warm fills the caches of all peers before a measurement.
func (b *contest) warm(ctx context.Context, m measurement) {
	for _, c := range b.running {
		if c.process == nil || c.peer.plane&m.plane == 0 {
			continue
		}
		c.process.thaw()
		if m.warm && c.peer.name != "floor" {
			for range 2 { // what is lost in the first pass comes with the second
				_, _ = b.load(ctx, c, "udp", "-once", "-flows", "4", "-window", "8", "-time", "60s", "-server", c.dns, "-names", b.allowed+":1:allow")
			}
		}
		if strings.HasSuffix(m.name, "blocked") { // some put refusals into a cache, too
			_, _ = b.load(ctx, c, append(m.args(b), "-time", blockedWarm.String(), "-server", c.at(m.plane))...)
		}
		if m.warm && m.plane != resolver { // a cache may be one transport's own
			_, _ = b.load(ctx, c, append(m.args(b), "-time", blockedWarm.String(), "-server", c.at(m.plane))...)
		}
		c.process.freeze()
	}
}

// renew starts the peer anew, so that memory it has kept from other work does
// not hide what this work takes; some of it is taken by the first few tunnels.
func (b *contest) renew(ctx context.Context, c *contestant) {
	c.process.stop()
	began := time.Now()
	if err := b.launch(ctx, c, c.process.program, &began); err != nil {
		c.missing = "did not start again: " + err.Error()
		if c.process != nil {
			c.process.stop()
		}
		c.process = nil
		return
	}
	_, _ = b.load(ctx, c, "connect", "-time", "300ms", "-conns", "8", "-proxy", c.proxy, "-origin", b.origin)
}

func (b *contest) round(ctx context.Context, c *contestant, m measurement) round {
	args := m.args(b)
	if c.peer.name == "floor" {
		args = measurementNamed("blocked").args(b)
	}
	if m.plane == proxy {
		args = append(args, "-proxy", c.proxy)
	} else {
		args = append(args, "-server", c.at(m.plane))
	}
	if m.name != "idle" {
		args = append(args, "-warm", "200ms")
	}
	r, err := b.load(ctx, c, append(args, "-time", b.time.String(), "-pid", strconv.Itoa(c.process.pid()))...)
	if err != nil {
		r.failed = err.Error()
	}
	return r
}

// load runs the generator. Wrong answers are in its report; only a run without a
// report is an error.
func (b *contest) load(ctx context.Context, c *contestant, args ...string) (r round, err error) {
	if c.process.ended() {
		return r, errors.New("it has ended: " + c.process.tail())
	}
	argv := slices.Concat(pinned(generatorCPU), []string{b.bin("load")}, args, []string{"-json"})
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var errOut strings.Builder
	cmd.Stderr = &errOut
	text, err := cmd.Output()
	if json.Unmarshal(text, &r) == nil {
		return r, nil
	}
	return r, fmt.Errorf("%w: %s", err, errOut.String())
}

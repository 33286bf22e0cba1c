package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// proxyOptions is what a run against a proxy was asked to do.
type proxyOptions struct {
	options
	mode   string
	origin netip.AddrPort
	direct bool // no proxy: what the origin and the generator cost alone
	status int  // of a blocked CONNECT
	conns  int
}

// A phase is what a client waits for.
type phase uint8

const (
	connecting phase = iota
	head             // the proxy's answer to CONNECT
	echo             // the ping back
	response         // to a GET
	pouring
	idling
)

// A client is one connection. It is owned by the one goroutine of the run.
type client struct {
	at     int // its place among the clients
	fd     int // -1: none, the sweep makes a new one
	phase  phase
	begun  time.Duration // the operation
	got    int
	bytes  uint64 // of the bulk stream
	served int    // responses on this connection
	buf    []byte
}

// A proxyLoad is one run: as many clients as were asked for, each beginning its
// next operation when the last is done.
type proxyLoad struct {
	proxyOptions
	clients []client
	epoll   int
	rng     *rand.PCG
	start   time.Time
	bulkBuf []byte
	request []byte // of a GET
	list    int    // and name: what is asked for next, to be refused
	name    uint32
	meter   *meter

	stats tally // sent: begun; received: done
	setup histogram
	errs  uint64
	bytes uint64
	alive int // idle: tunnels established
}

var ping = []byte("ping 0123456789 0123456789 0123456789 0123456789 0123456789 -64\n")

func proxyCommand(mode string) command {
	return func(ctx context.Context, args []string, out io.Writer) error {
		o, err := parseProxyOptions(mode, args)
		if err != nil {
			return err
		}
		r, err := runProxy(ctx, o)
		if err != nil {
			return err
		}
		return errors.Join(r.write(out, o.json), r.verdict())
	}
}

func parseProxyOptions(mode string, args []string) (proxyOptions, error) {
	o := proxyOptions{mode: mode}
	o.window = 1
	fs := flag.NewFlagSet(mode, flag.ContinueOnError)
	proxy := fs.String("proxy", "127.0.0.1:3128", "address and port; empty: straight to the origin")
	originAt := fs.String("origin", "", "address and port of load origin")
	fs.IntVar(&o.conns, "conns", 64, "connections at the same time")
	if mode == "blocked" {
		fs.Var(namesFlag{&o.names}, "names", "FILE[:WEIGHT] of names that must be blocked, may be repeated")
		fs.IntVar(&o.status, "status", 403, "status that a blocked CONNECT must have")
	}
	pids := o.common(fs)
	if err := parse(fs, args); err != nil {
		return o, err
	}
	o.direct = *proxy == ""
	at := map[bool]string{true: *originAt, false: *proxy}[o.direct]
	var err error
	if o.server, err = parseServer(at); err != nil {
		return o, err
	}
	if mode == "blocked" {
		if len(o.names) == 0 || o.direct {
			return o, errors.New("blocked needs -proxy and -names")
		}
		for _, l := range o.names {
			if err := l.load(typeA, false); err != nil {
				return o, err
			}
		}
	} else if o.origin, err = parseServer(*originAt); err != nil {
		return o, fmt.Errorf("origin: %w", err)
	}
	if o.conns < 1 || o.conns > maxConns || mode != "idle" && o.conns > maxFlows {
		return o, fmt.Errorf("conns %d: want 1 to %d, idle to %d", o.conns, maxFlows, maxConns)
	}
	o.flows = min(o.conns, maxFlows)
	if err := o.finish(*pids); err != nil {
		return o, err
	}
	o.flows = o.conns
	return o, nil
}

func runProxy(ctx context.Context, o proxyOptions) (*report, error) {
	p := &proxyLoad{proxyOptions: o, rng: rand.NewPCG(o.seed, 1), start: time.Now(), bulkBuf: make([]byte, 1<<18)}
	p.stats = tally{lists: o.names}
	p.request = fmt.Appendf(nil, "GET http://%s/ HTTP/1.1\r\nHost: %s\r\n\r\n", o.origin, o.origin)
	if o.direct {
		p.request = fmt.Appendf(nil, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", o.origin)
	}
	size := 4096
	if o.mode == "idle" {
		size = 256
	}
	p.clients = make([]client, o.conns)
	for i := range p.clients {
		p.clients[i] = client{at: i, fd: -1, buf: make([]byte, size)}
	}
	var err error
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	defer p.close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if o.mode == "idle" {
		return p.idle(ctx)
	}
	return p.run(ctx)
}

func (p *proxyLoad) close() {
	for i := range p.clients {
		p.drop(&p.clients[i])
	}
	_ = unix.Close(p.epoll)
}

func (p *proxyLoad) now() time.Duration { return time.Since(p.start) }

func (p *proxyLoad) run(ctx context.Context) (*report, error) {
	if err := p.until(ctx, p.now()+p.warm); err != nil {
		return nil, err
	}
	p.stats.reset()
	p.setup.reset()
	p.errs, p.bytes = 0, 0
	var err error
	if p.meter, err = startMeter(p.pids); err != nil {
		return nil, err
	}
	p.meter.interval(p.every, &p.stats)
	if err := p.until(ctx, p.now()+p.length); err != nil {
		return nil, err
	}
	r := p.newReport(p.mode)
	if err := p.meter.stop(r, p.stats.received, &p.stats); err != nil {
		return nil, err
	}
	p.fill(r)
	return r, nil
}

func (p *proxyLoad) fill(r *report) {
	r.fill(&p.stats)
	r.Classes, r.Errors, r.Bytes = nil, p.errs, p.bytes
	if p.setup.n > 0 {
		l := p.setup.report()
		r.Setup = &l
	}
}

func (p *proxyLoad) until(ctx context.Context, end time.Duration) error {
	swept := -time.Second
	for now := p.now(); now < end; now = p.now() {
		if now-swept > 20*time.Millisecond {
			swept = now
			p.sweep(now)
			p.meter.tick(&p.stats)
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		if err := p.poll(5); err != nil {
			return err
		}
	}
	return nil
}

func (p *proxyLoad) poll(wait int) error {
	var events [256]unix.EpollEvent
	n, err := unix.EpollWait(p.epoll, events[:], wait)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return err
	}
	for _, ev := range events[:max(n, 0)] {
		p.on(&p.clients[ev.Fd], ev.Events)
	}
	return nil
}

// sweep ends what takes too long and replaces connections that failed.
func (p *proxyLoad) sweep(now time.Duration) {
	for i := range p.clients {
		c := &p.clients[i]
		if c.fd >= 0 && c.phase < pouring && now-c.begun > p.timeout {
			p.stats.lost++
			p.drop(c)
		}
		if c.fd < 0 {
			p.begin(i)
		}
	}
}

func (p *proxyLoad) drop(c *client) {
	if c.fd >= 0 {
		_ = unix.Close(c.fd)
		c.fd = -1
	}
}

func (p *proxyLoad) fail(c *client, format string, args ...any) {
	p.errs++
	p.stats.example(format, args...)
	p.drop(c)
}

// begin opens the client's connection; one that fails at once is tried again by
// the next sweep.
func (p *proxyLoad) begin(i int) {
	c := &p.clients[i]
	fd, err := dialTCP(p.server, true)
	if err != nil {
		p.fail(c, "connect: %v", err)
		return
	}
	*c = client{at: i, fd: fd, begun: p.now(), buf: c.buf}
	p.stats.sent++
	if err := p.watch(unix.EPOLL_CTL_ADD, i, unix.EPOLLOUT|unix.EPOLLIN); err != nil {
		p.fail(c, "epoll: %v", err)
	}
}

func (p *proxyLoad) watch(op, i int, events uint32) error {
	return unix.EpollCtl(p.epoll, op, p.clients[i].fd, &unix.EpollEvent{Events: events, Fd: int32(i)})
}

func (p *proxyLoad) write(c *client, b []byte) {
	if n, err := unix.Write(c.fd, b); n != len(b) {
		p.fail(c, "write: %d of %d bytes, %v", n, len(b), err)
	}
}

// connected sends the first thing that a client says.
func (p *proxyLoad) connected(c *client) {
	switch {
	case p.mode == "get":
		p.get(c)
	case p.direct:
		p.payload(c)
	default:
		if p.mode == "blocked" {
			p.list = p.names.draw(p.rng)
			p.name = uint32(below(p.rng, uint64(p.names[p.list].count())))
		}
		c.buf = append(p.appendTarget(append(c.buf[:0], "CONNECT "...)), " HTTP/1.1\r\nHost: "...)
		c.buf = append(p.appendTarget(c.buf), "\r\n\r\n"...)
		c.phase = head
		request := c.buf
		c.buf = c.buf[:cap(c.buf)]
		p.write(c, request)
	}
}

// appendTarget appends what the client asks a tunnel to: the origin, or the
// name that was drawn.
func (p *proxyLoad) appendTarget(b []byte) []byte {
	if p.mode != "blocked" {
		return p.origin.AppendTo(b)
	}
	return append(appendName(b, p.names[p.list].query(p.name)), ":443"...)
}

func (p *proxyLoad) get(c *client) {
	c.phase, c.got, c.begun = response, 0, p.now()
	p.write(c, p.request)
}

// payload sends the first thing that goes through a tunnel.
func (p *proxyLoad) payload(c *client) {
	c.got = 0
	if p.mode == "bulk" {
		c.phase = pouring
		p.write(c, []byte("BULK\n"))
		return
	}
	c.phase = echo
	p.write(c, ping)
}

// statusOf reads the status of an HTTP/1 head, RFC 9112 section 4, 0 if it is none.
func statusOf(b []byte) int {
	if len(b) < 12 || string(b[:7]) != "HTTP/1." || b[8] != ' ' {
		return 0
	}
	status := 0
	for _, c := range b[9:12] {
		if c < '0' || c > '9' {
			return 0
		}
		status = status*10 + int(c-'0')
	}
	return status
}

var endOfHead = []byte("\r\n\r\n")

func headEnd(b []byte) int {
	i := bytes.Index(b, endOfHead)
	if i < 0 {
		return 0
	}
	return i + len(endOfHead)
}

package main

import (
	"bytes"
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// maxPending is how many tunnels an idle run opens at the same time.
const maxPending = 100

// on goes on with a client whose socket is ready.
func (p *proxyLoad) on(c *client, events uint32) {
	if c.fd < 0 {
		return
	}
	if c.phase == connecting {
		if err := connectError(c.fd); err != nil {
			p.fail(c, "connect: %v", err)
			return
		}
		if events&unix.EPOLLOUT == 0 {
			return
		}
		if err := p.watch(unix.EPOLL_CTL_MOD, c.at, unix.EPOLLIN); err != nil {
			p.fail(c, "epoll: %v", err)
			return
		}
		p.connected(c)
		return
	}
	if c.phase == pouring {
		p.pour(c)
		return
	}
	n, err := unix.Read(c.fd, c.buf[c.got:])
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return
	}
	if err == nil && n == 0 && c.phase == response && c.got == 0 && c.served > 0 {
		p.again(c) // closed while idle: the request goes out again, RFC 9112 section 9.3.1
		return
	}
	if err != nil || n <= 0 {
		p.fail(c, "closed in phase %d after %d bytes, %v", c.phase, c.got, err)
		return
	}
	c.got += n
	p.progress(c)
}

func (p *proxyLoad) progress(c *client) {
	switch c.phase {
	case head:
		p.onHead(c)
	case echo:
		p.onEcho(c)
	case response:
		p.onResponse(c)
	case idling:
		p.wrong(c, "%d bytes nobody asked for", c.got)
	case connecting, pouring:
	}
}

// wrong counts an answer that is not right, and ends the connection.
func (p *proxyLoad) wrong(c *client, format string, args ...any) {
	p.stats.wrong++
	p.stats.example(format, args...)
	p.drop(c)
}

func (p *proxyLoad) onHead(c *client) {
	end := headEnd(c.buf[:c.got])
	if end == 0 {
		if c.got == len(c.buf) {
			p.wrong(c, "a head of more than %d bytes", c.got)
		}
		return
	}
	now, status := p.now(), statusOf(c.buf[:c.got])
	p.setup.add(now - c.begun)
	if p.mode == "blocked" {
		if status != p.status {
			p.wrong(c, "a blocked CONNECT has status %d, want %d: %.60q", status, p.status, c.buf[:c.got])
			return
		}
		p.finished(c, now)
		return
	}
	if status != 200 || c.got != end {
		p.wrong(c, "CONNECT: %.80q", c.buf[:c.got])
		return
	}
	p.payload(c)
}

func (p *proxyLoad) onEcho(c *client) {
	if c.got < len(ping) {
		return
	}
	if !bytes.Equal(c.buf[:c.got], ping) {
		p.wrong(c, "the echo is %.80q", c.buf[:c.got])
		return
	}
	if p.mode == "idle" {
		c.phase, c.got = idling, 0
		p.alive++
		return
	}
	p.finished(c, p.now())
}

// finished counts an operation and begins the next on a connection of its own.
func (p *proxyLoad) finished(c *client, now time.Duration) {
	p.count(c, now)
	p.drop(c)
	p.begin(c.at)
}

func (p *proxyLoad) count(c *client, now time.Duration) {
	p.stats.received++
	p.stats.latency.add(now - c.begun)
	p.stats.longest = max(p.stats.longest, now-c.begun)
}

// onResponse takes the answer to a GET, which the origin gives a length.
func (p *proxyLoad) onResponse(c *client) {
	end := headEnd(c.buf[:c.got])
	if end == 0 || c.got < end+bodySize {
		if c.got == len(c.buf) {
			p.wrong(c, "a response of more than %d bytes", c.got)
		}
		return
	}
	if statusOf(c.buf) != 200 || !bytes.Equal(c.buf[end:c.got], body) {
		p.wrong(c, "GET: %.80q", c.buf[:c.got])
		return
	}
	p.count(c, p.now())
	if c.served++; closes(c.buf[:end]) {
		p.again(c)
		return
	}
	p.stats.sent++
	p.get(c)
}

// again goes on with a new connection, because the proxy does not keep the old.
func (p *proxyLoad) again(c *client) {
	p.stats.reconnects++
	p.drop(c)
	p.begin(c.at)
}

// closes says whether whoever sent the head ends the connection, RFC 9112 section 9.6.
func closes(head []byte) bool {
	return bytes.Contains(bytes.ToLower(head), []byte("\r\nconnection: close"))
}

// pour reads the bulk stream and checks a sample of it.
func (p *proxyLoad) pour(c *client) {
	for range 4 {
		n, err := unix.Read(c.fd, p.bulkBuf)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			return
		}
		if err != nil || n <= 0 {
			p.fail(c, "the bulk stream ended after %d bytes, %v", c.bytes, err)
			return
		}
		for i := 0; i < n; i += 509 {
			if p.bulkBuf[i] != bulkByte(c.bytes+uint64(i)) {
				p.wrong(c, "the bulk stream is broken at %d", c.bytes+uint64(i))
				return
			}
		}
		c.bytes += uint64(n)
		p.bytes += uint64(n)
	}
}

// idle opens all tunnels, each proved by an echo, leaves them alone for the
// measured time, and asks each whether it is still there.
func (p *proxyLoad) idle(ctx context.Context) (*report, error) {
	var before usage
	var err error
	if len(p.pids) > 0 {
		if before, err = measure(p.pids); err != nil {
			return nil, err
		}
	}
	files := descriptors(p.pids)
	if p.meter, err = startMeter(p.pids); err != nil {
		return nil, err
	}
	if err := p.ramp(ctx); err != nil {
		return nil, err
	}
	opened := p.alive
	if err := p.hold(ctx, p.length); err != nil {
		return nil, err
	}
	r := p.newReport(p.mode)
	p.stats.received = uint64(opened)
	if err := p.meter.stop(r, p.stats.received, nil); err != nil {
		return nil, err
	}
	r.Idle = &idleReport{Tunnels: opened}
	if len(p.pids) > 0 && opened > 0 {
		after, err := measure(p.pids)
		if err != nil {
			return nil, err
		}
		was, _ := before.memory()
		is, _ := after.memory()
		r.Idle.BytesPerTunnel = (float64(is) - float64(was)) / float64(opened)
		r.Idle.FilesPerTunnel = float64(descriptors(p.pids)-files) / float64(opened)
	}
	if r.Idle.Alive, err = p.revive(ctx); err != nil {
		return nil, err
	}
	p.fill(r)
	return r, ctx.Err()
}

// ramp opens the tunnels, a bounded number at a time, until all are open or one
// in ten has failed.
func (p *proxyLoad) ramp(ctx context.Context) error {
	next := 0
	for end := p.now() + time.Minute; p.now() < end && ctx.Err() == nil; {
		failed := int(p.errs + p.stats.wrong)
		ended := p.alive + failed
		if ended >= len(p.clients) || failed > len(p.clients)/10 {
			break
		}
		for ; next < len(p.clients) && next-ended < maxPending; next++ {
			p.begin(next)
		}
		if err := p.poll(10); err != nil {
			return err
		}
	}
	return nil
}

func (p *proxyLoad) hold(ctx context.Context, d time.Duration) error {
	for end := p.now() + d; p.now() < end && ctx.Err() == nil; {
		if err := p.poll(20); err != nil {
			return err
		}
	}
	return nil
}

// revive sends a ping through every tunnel and counts those that echo.
func (p *proxyLoad) revive(ctx context.Context) (int, error) {
	p.alive = 0
	asked := 0
	end := p.now() + p.timeout + 10*time.Second
	for i := range p.clients {
		c := &p.clients[i]
		if c.fd < 0 || c.phase != idling {
			continue
		}
		c.phase, c.got = echo, 0
		p.write(c, ping)
		if asked++; asked%maxPending == 0 {
			if err := p.poll(1); err != nil {
				return 0, err
			}
		}
	}
	for p.alive < asked && p.now() < end && ctx.Err() == nil {
		if err := p.poll(10); err != nil {
			return 0, err
		}
		if p.errs+p.stats.wrong > 0 && p.alive+int(p.errs+p.stats.wrong) >= asked {
			break
		}
	}
	return p.alive, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// loadLimit is how long a peer may take to be ready.
const loadLimit = 2 * time.Minute

// samples is how many blocked names, from all parts of the list, must be blocked
// before a peer counts as ready: some apply a list bit by bit.
const samples = 50

// await waits until the peer answers a sample of questions rightly.
func (b *contest) await(ctx context.Context, c *contestant) error {
	var last error
	for deadline := time.Now().Add(loadLimit); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if c.process.ended() {
			return errors.New("it ended")
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if last = b.probe(c); last == nil {
			return nil
		}
	}
	return fmt.Errorf("not ready after %v: %w", loadLimit, last)
}

func (b *contest) probe(c *contestant) error {
	ask := b.probeTunnel
	if c.peer.plane&resolver != 0 {
		ask = b.probeName
	}
	step := max(len(b.names)/samples, 1)
	for i := len(b.names) - 1; i >= 0; i -= step {
		if err := ask(c, b.names[i], true); err != nil {
			return err
		}
	}
	if c.peer.name == "floor" {
		return nil // it knows nothing else
	}
	return ask(c, "allowed.peers.example.ca", false)
}

// probeName asks for one name over UDP.
func (b *contest) probeName(c *contestant, name string, blocked bool) error {
	q := new(dns.Msg)
	q.SetQuestion(name+".", dns.TypeA)
	r, _, err := (&dns.Client{Timeout: 300 * time.Millisecond}).Exchange(q, c.dns)
	if err != nil {
		return err
	}
	real := false
	for _, rr := range r.Answer {
		a, ok := rr.(*dns.A)
		real = real || ok && !a.A.IsUnspecified()
	}
	switch {
	case !blocked && (r.Rcode != dns.RcodeSuccess || !real):
		return fmt.Errorf("%s: %s with %d records, want an address", name, dns.RcodeToString[r.Rcode], len(r.Answer))
	case blocked && (real || r.Rcode == dns.RcodeServerFailure):
		return fmt.Errorf("%s: %s with %d records, want it blocked", name, dns.RcodeToString[r.Rcode], len(r.Answer))
	}
	return nil
}

// probeTunnel asks for a tunnel: to the origin, or to a name that is blocked.
func (b *contest) probeTunnel(c *contestant, name string, blocked bool) error {
	target, want := b.origin, " 200"
	if blocked {
		target, want = name+":443", " 403"
	}
	conn, err := net.DialTimeout("tcp", c.proxy, time.Second)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target); err != nil {
		return err
	}
	head := make([]byte, 12)
	n, err := conn.Read(head)
	if err != nil {
		return err
	}
	if got := string(head[:n]); !strings.HasSuffix(got, want) {
		return fmt.Errorf("CONNECT %s: %q, want%s", target, got, want)
	}
	return nil
}

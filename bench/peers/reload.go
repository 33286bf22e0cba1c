package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
)

const (
	reloadName = "reload"
	// reloadAfter is when the list changes.
	reloadAfter = 2 * time.Second
)

// reloads changes the list of each peer that can read it again while it answers
// 20,000 questions a second, once: the same names and one more. The load is an
// open loop, so a server that stalls is late for all that was due meanwhile.
func (b *contest) reloads(ctx context.Context, m measurement) error {
	b.warm(ctx, m)
	for _, c := range b.running {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if c.process == nil || c.peer.plane&m.plane == 0 || c.peer.name == "floor" {
			continue
		}
		r := round{failed: "reads its list only when it starts"}
		if c.peer.reload != nil {
			c.process.thaw()
			r = b.reloadUnderLoad(ctx, c, m)
			c.process.freeze()
		}
		c.rounds[m.name] = append(c.rounds[m.name], r)
	}
	return nil
}

func (b *contest) reloadUnderLoad(ctx context.Context, c *contestant, m measurement) round {
	type outcome struct {
		took time.Duration
		err  error
	}
	changed := make(chan outcome, 1)
	go func() {
		took, err := b.change(ctx, c)
		changed <- outcome{took, err}
	}()
	args := append(m.args(b), "-server", c.dns, "-time", b.reloadTime.String(), "-pid", strconv.Itoa(c.process.pid()))
	r, err := b.load(ctx, c, args...)
	o := <-changed
	r.took = o.took
	// The files are as they were for whoever comes next; some peers notice.
	err = errors.Join(err, o.err, b.rewriteLists(c.peer, c.setting))
	if err != nil {
		r.failed = err.Error()
	}
	return r
}

// change adds a name to the list, tells the peer, and returns how long it took
// from then until the name was blocked.
func (b *contest) change(ctx context.Context, c *contestant) (time.Duration, error) {
	time.Sleep(reloadAfter)
	extra := fmt.Sprintf("reload-of-%s.peers.ca", c.peer.name)
	s := *c.setting
	s.names = append(b.names[:len(b.names):len(b.names)], extra)
	if err := b.rewriteLists(c.peer, &s); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := c.peer.reload(ctx, c); err != nil {
		return 0, err
	}
	for deadline := began.Add(b.reloadTime); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if b.probeName(c, extra, true) == nil {
			return time.Since(began), nil
		}
	}
	return 0, fmt.Errorf("%s is not blocked %v after the list changed", extra, b.reloadTime)
}

// rewriteLists writes what the peer reads again, each file whole at once.
func (b *contest) rewriteLists(p *peer, s *setting) error {
	replace := func(file string, write func(file string) error) error {
		if err := write(file + ".new"); err != nil {
			return err
		}
		return os.Rename(file+".new", file)
	}
	err := replace(s.List, func(file string) error { return writeLines(file, s.names) })
	b.serial++
	err = errors.Join(err, replace(s.Zone, func(file string) error {
		return writeEach(file, s.names, fmt.Sprintf(zoneHead, 1+b.serial), zonePattern, nil)
	}))
	if p.lists != nil {
		err = errors.Join(err, p.lists(s))
	}
	return err
}

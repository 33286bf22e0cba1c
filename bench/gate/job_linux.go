package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// runFloor is this program as a floor.
func runFloor(kind, file string) error {
	switch kind {
	case "udp":
		return floorUDP(file)
	case "tcp":
		return floorTCP(file)
	}
	return fmt.Errorf("no floor %q", kind)
}

// sockets measures traffic. What misses its limit by cost is measured once
// more, and judged by all rounds together: a disturbance of some seconds is
// outvoted, a regression is not.
func (j *job) sockets(ctx context.Context) error {
	if !slices.ContainsFunc(slices.Collect(maps.Keys(limits)), j.opts.wants) {
		return nil
	}
	program := j.opts.weir
	if program == "" {
		program = filepath.Join(j.dir, "weir")
		if _, err := goTool(ctx, j.root, "build", "-o", program, "./cmd/weir"); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	a, err := newArena(ctx, j.opts, self, program, j.dir)
	if err != nil {
		return err
	}
	defer a.close()
	traffics, err := a.traffics()
	if err != nil {
		return err
	}
	for _, t := range traffics {
		if !j.opts.wants(t.name) {
			continue
		}
		m := new(measurement)
		l := limits[t.name]
		v := verdict{again: true}
		for try := 0; try < 2 && v.again; try++ {
			if err := a.measure(ctx, t, m); err != nil {
				return err
			}
			v = judge(m, l)
		}
		j.rows = append(j.rows, rowOf(m, l, v))
	}
	j.notes = append(j.notes, a.notes...)
	j.note("%d names blocked, %d in the cache; UDP: %d flows, %d in flight each; TCP: %d clients; %d turns of %v each.",
		len(a.list.blocked), len(a.list.allowed), flows, inFlight, clients, j.opts.rounds, j.opts.time)
	return nil
}

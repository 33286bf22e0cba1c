package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// A meter measures what a run costs, from start to stop. It is used by the one
// goroutine of the run; a nil meter (during the warm-up) measures nothing.
type meter struct {
	pids      []int
	began     time.Time
	before    usage
	generator time.Duration
	machine   time.Duration

	every     time.Duration
	intervals []interval // at most maxIntervals
	last      time.Time
	lastTally struct{ received, lost, wrong uint64 }
}

func startMeter(pids []int) (*meter, error) {
	m := &meter{pids: pids, generator: ownTime(), machine: machineTime()}
	var err error
	if len(pids) > 0 {
		if m.before, err = measure(pids); err != nil {
			return nil, err
		}
	}
	m.began = time.Now()
	return m, nil
}

// stop enters into the report what was spent on that many operations.
func (m *meter) stop(r *report, operations uint64, t *tally) error {
	over := time.Since(m.began)
	r.Seconds = over.Seconds()
	r.PerSecond = float64(operations) / over.Seconds()
	r.Generator = (ownTime() - m.generator).Seconds() / over.Seconds()
	if t != nil && m.every > 0 {
		m.enter(t, time.Now())
	}
	r.Intervals = m.intervals
	if len(m.pids) == 0 {
		return nil
	}
	machine := machineTime() - m.machine
	after, err := measure(m.pids)
	if err != nil {
		return err
	}
	r.charge(m.before, after, operations, over)
	r.Others = max(machine.Seconds()/over.Seconds()-r.Generator-r.CPU.Cores, 0)
	return nil
}

func (m *meter) interval(every time.Duration, t *tally) {
	if m.every = every; every > 0 {
		m.last, t.longest = m.began, 0
		m.lastTally.wrong = t.wrong + t.unasked
	}
}

// tick closes an interval when it is over.
func (m *meter) tick(t *tally) {
	if m == nil || m.every == 0 {
		return
	}
	if now := time.Now(); now.Sub(m.last) >= m.every && len(m.intervals) < maxIntervals {
		m.enter(t, now)
	}
}

func (m *meter) enter(t *tally, now time.Time) {
	over := now.Sub(m.last).Seconds()
	if over <= 0 {
		return
	}
	m.intervals = append(m.intervals, interval{
		At: now.Sub(m.began).Seconds(), PerSecond: float64(t.received-m.lastTally.received) / over,
		Lost: t.lost - m.lastTally.lost, Wrong: t.wrong + t.unasked - m.lastTally.wrong, MaxUS: micros(t.longest),
	})
	m.last, t.longest = now, 0
	m.lastTally.received, m.lastTally.lost, m.lastTally.wrong = t.received, t.lost, t.wrong+t.unasked
}

// charge enters what the server spent on that many operations.
func (r *report) charge(before, after usage, operations uint64, over time.Duration) {
	s := after.since(before)
	c := &cpuReport{Seconds: s.time.Seconds(), Cores: s.time.Seconds() / over.Seconds(), Source: s.source}
	if operations > 0 {
		c.PerOperation = micros(s.time) / float64(operations)
	}
	c.Resident, c.Peak = after.memory()
	r.CPU = c
}

// ownTime is the CPU time of this program.
func ownTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // fails for a bad pointer only
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

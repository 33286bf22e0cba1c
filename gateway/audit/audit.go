// Package audit writes the record of decisions: one canonical JSON line for
// each, with one schema for both planes.
//
// What records say of a device can be less than is known (Privacy), and files can
// be put away and removed when their time has come (Rotate).
//
// Put never blocks and never fails: records go through a bounded buffer to one
// writer, and what does not fit is counted, not waited for. Deciding is not
// done here, and messages to the operator are log/slog's.
package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-gateway/weir/gateway/policy"
)

// A Record is one decision. Its JSON form is stable: fields are added, never
// renamed or removed.
type Record struct {
	Time       time.Time  `json:"time"`
	Plane      string     `json:"plane"`              // dns or proxy
	Transport  string     `json:"transport"`          // udp, tcp; http, connect; tproxy, redirect: how a transparent connection came
	Protocol   string     `json:"protocol,omitempty"` // of a transparent connection: tls, http, unknown
	Address    netip.Addr `json:"address,omitzero"`   // where the device had sent a transparent connection
	Device     netip.Addr `json:"device"`
	DeviceID   string     `json:"device_id,omitempty"` // the device's key on the VPN, where it is known
	Group      string     `json:"group,omitempty"`
	Name       string     `json:"name"`              // the question's name or the host asked for
	Type       string     `json:"type,omitempty"`    // the question's type
	Port       uint16     `json:"port,omitempty"`    // the port asked for
	Path       string     `json:"path,omitempty"`    // the path of a request that a URL rule blocked
	Action     string     `json:"action"`            // allow, report, block, undecided
	Reason     string     `json:"reason"`            // which step of the order of precedence decided
	Via        string     `json:"via,omitempty"`     // the link of an answer that decided, e.g. "CNAME banned.example"
	Removed    string     `json:"removed,omitempty"` // what was taken out of the answer: private addresses
	Ban        string     `json:"ban,omitempty"`     // id of the ban whose rule decided
	Authority  string     `json:"authority,omitempty"`
	Reference  string     `json:"reference,omitempty"`
	List       string     `json:"list,omitempty"`
	Line       int        `json:"line,omitempty"`
	Rule       string     `json:"rule,omitempty"`
	RuleID     string     `json:"rule_id,omitempty"` // list:line, the same on both planes
	Policy     string     `json:"policy,omitempty"`  // trigger and action of a policy zone's rule: "qname nodata"
	Exemption  string     `json:"exemption,omitempty"`
	Signal     string     `json:"signal,omitempty"`
	Generation uint64     `json:"generation"`
	Result     string     `json:"result,omitempty"` // rcode or HTTP status sent
	// Of a tunnel, at its close:
	Event    string        `json:"event,omitempty"` // open, close
	BytesIn  int64         `json:"bytes_in,omitempty"`
	BytesOut int64         `json:"bytes_out,omitempty"`
	Duration time.Duration `json:"duration_ns,omitempty"`
}

// SetVerdict fills in what the verdict says. It is the one place where
// verdicts become records.
func (r *Record) SetVerdict(v *policy.Verdict) {
	r.Action, r.Reason = v.Action.String(), v.Reason.String()
	r.Group, r.Generation, r.Signal = v.Group, v.Generation, string(v.Signal)
	if v.Ban != nil {
		r.Ban, r.Authority, r.Reference = v.Ban.ID, v.Ban.Authority.EN, v.Ban.Reference
	}
	if v.List != "" {
		r.List, r.Line, r.Rule, r.RuleID = v.List, v.Rule.Line, v.Rule.String(), v.RuleID()
		r.Policy = v.Rule.Policy()
	}
	if v.Exemption != nil {
		r.Exemption = v.Exemption.ID
	}
}

// A Sink takes records. It must not block.
type Sink interface {
	Put(Record)
}

// Discard is a Sink that keeps nothing.
type Discard struct{}

// Put implements Sink.
func (Discard) Put(Record) {}

// buffer is how many records wait for the writer at the most.
const buffer = 8192

// A Log is a Sink that appends to a file. Close it to write what is buffered.
type Log struct {
	path    string
	records chan Record
	reopen  chan chan error
	quit    chan struct{}
	done    chan struct{}
	once    sync.Once
	log     *slog.Logger
	written atomic.Uint64
	dropped atomic.Uint64
	failed  atomic.Uint64
	key     atomic.Pointer[func(netip.Addr) string]
	observe atomic.Pointer[func(*Record)]
	opts    Options
	veil    *veil
	// Of the writer: when files were last looked at, and since when the one in use
	// cannot be put away.
	looked, stuck time.Time
}

// Options are what a Log does beside writing.
type Options struct {
	Privacy Privacy
	Rotate  Rotate
}

// Observe makes the writer show each record to the function, which must not
// block and must not keep it.
func (l *Log) Observe(f func(*Record)) { l.observe.Store(&f) }

// Identify makes the writer fill in DeviceID by what the function says of the
// device's address, empty for unknown. It must not block.
func (l *Log) Identify(key func(netip.Addr) string) { l.key.Store(&key) }

// Open returns a Log that appends to the file, which is made if need be,
// readable by its owner only.
func Open(path string, opts Options, log *slog.Logger) (*Log, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	return start(path, f, opts, log), nil
}

func start(path string, f io.WriteCloser, opts Options, log *slog.Logger) *Log {
	l := &Log{
		path: path, log: log, opts: opts, veil: newVeil(opts.Privacy),
		records: make(chan Record, buffer),
		reopen:  make(chan chan error),
		quit:    make(chan struct{}),
		done:    make(chan struct{}),
	}
	first := &file{f: f}
	if opts.Rotate.on() {
		first.since = firstRecord(path, time.Now())
		if st, err := os.Stat(path); err == nil {
			first.size = st.Size()
		}
	}
	go l.write(first)
	return l
}

func openFile(path string) (io.WriteCloser, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("audit file: %w", err)
	}
	return f, nil
}

// Put hands the record to the writer, or counts it as dropped.
func (l *Log) Put(r Record) {
	select {
	case <-l.quit:
		l.dropped.Add(1)
		return
	default:
	}
	select {
	case l.records <- r:
	default:
		l.dropped.Add(1)
	}
}

// Stats are the counters of a Log.
type Stats struct {
	Written uint64 // records written
	Dropped uint64 // records that did not fit into the buffer, or came after Close
	Failed  uint64 // records that the file did not take
}

// Stats returns the counters since Open. Records still on their way are in
// none of them.
func (l *Log) Stats() Stats {
	s := Stats{l.written.Load(), l.dropped.Load(), l.failed.Load()}
	select {
	case <-l.done:
		s.Dropped += uint64(len(l.records)) // put while Close was at its end
	default:
	}
	return s
}

// Reopen opens the file by its name again, for log rotation. On an error the
// old file stays in use.
func (l *Log) Reopen() error {
	reply := make(chan error, 1)
	select {
	case l.reopen <- reply:
		return <-reply
	case <-l.done:
		return os.ErrClosed
	}
}

// Close writes what is buffered and closes the file. Records put afterwards
// are dropped.
func (l *Log) Close() error {
	l.once.Do(func() { close(l.quit) })
	<-l.done
	return nil
}

// flushEvery bounds how long a record waits in the writer's buffer, and
// flushSize how much does.
const (
	flushEvery = 200 * time.Millisecond
	flushSize  = 64 << 10
)

// A file is the open file and the lines that wait for it. Only the writer's
// goroutine uses it.
type file struct {
	f       io.WriteCloser
	lines   []byte
	waiting uint64 // records in lines
	torn    bool   // the file ends within a line
	size    int64
	since   time.Time // when its first record was made
}

// write owns the file until Close.
func (l *Log) write(f *file) {
	defer close(l.done)
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case r := <-l.records:
			l.encode(f, r)
		case <-tick.C:
			l.flush(f)
			l.turn(f, time.Now())
		case reply := <-l.reopen:
			next, err := openFile(l.path)
			if err == nil {
				l.close(f)
				*f = file{f: next, lines: f.lines[:0], since: firstRecord(l.path, time.Now())}
				if st, err := os.Stat(l.path); err == nil {
					f.size = st.Size()
				}
			}
			reply <- err
		case <-l.quit:
			for len(l.records) > 0 {
				l.encode(f, <-l.records)
			}
			l.close(f)
			return
		}
	}
}

// lookEvery is how often files are looked at that may be past their time, and one
// that cannot be put away is tried again.
const lookEvery = time.Minute

// turn puts the file away when it is time, and removes old ones.
func (l *Log) turn(f *file, now time.Time) {
	if !l.opts.Rotate.on() {
		return
	}
	if l.opts.Rotate.due(f, now) && (l.stuck.IsZero() || now.Sub(l.stuck) >= lookEvery) {
		l.rotate(f, now)
	}
	if now.Sub(l.looked) >= lookEvery {
		l.looked = now
		l.expire(now)
	}
}

func (l *Log) encode(f *file, r Record) {
	if key := l.key.Load(); key != nil && r.DeviceID == "" {
		r.DeviceID = (*key)(r.Device)
	}
	if f := l.observe.Load(); f != nil {
		(*f)(&r)
	}
	l.veil.draw(&r)
	b, err := json.Marshal(r)
	if err != nil {
		l.fail(1, err)
		return
	}
	f.lines = append(append(f.lines, b...), '\n')
	f.waiting++
	if len(f.lines) >= flushSize {
		l.flush(f)
	}
}

// flush writes the waiting lines. What the file does not take is counted and
// given up: keeping it would only fill memory while a disk is full.
func (l *Log) flush(f *file) {
	if f.waiting == 0 {
		return
	}
	n, err := f.f.Write(f.lines)
	f.size += int64(n)
	if err == nil {
		l.written.Add(f.waiting)
		f.torn = false
	} else {
		whole := uint64(bytes.Count(f.lines[:n], []byte{'\n'}))
		if f.torn && whole > 0 {
			whole-- // the end of the torn line
		}
		l.written.Add(whole)
		l.fail(f.waiting-whole, err)
		if n > 0 {
			f.torn = f.lines[n-1] != '\n'
		}
	}
	f.lines, f.waiting = f.lines[:0], 0
	if f.torn {
		f.lines = append(f.lines, '\n') // the next record begins a line of its own
	}
}

func (l *Log) close(f *file) {
	l.flush(f)
	if err := f.f.Close(); err != nil {
		l.log.Warn("audit file did not close cleanly", "file", l.path, "error", err)
	}
}

// fail counts records, and tells the operator of the first failure.
func (l *Log) fail(records uint64, err error) {
	if l.failed.Add(records) == records {
		l.log.Error("audit record is not being written", "file", l.path, "error", err)
	}
}

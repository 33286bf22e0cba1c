package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// A report is the result of one run, as -json prints it. Times are microseconds
// and sizes bytes.
type report struct {
	Mode    string   `json:"mode"`
	Server  string   `json:"server"`
	Names   []string `json:"names,omitempty"`
	Flows   int      `json:"flows"`          // sockets or connections
	Window  int      `json:"window"`         // questions in flight on each; 0: open loop
	Rate    float64  `json:"rate,omitempty"` // asked for, per second
	Send    string   `json:"send,omitempty"` // how questions left
	Seconds float64  `json:"seconds"`        // measured

	Sent       uint64            `json:"sent"`
	Answered   uint64            `json:"answered"` // or completed, right or wrong
	PerSecond  float64           `json:"per_second"`
	Lost       uint64            `json:"lost"`
	Late       uint64            `json:"late"`
	Wrong      uint64            `json:"wrong"`   // another class than expected
	Unasked    uint64            `json:"unasked"` // answers that nothing waited for
	Unsent     uint64            `json:"unsent"`
	Reconnects uint64            `json:"reconnects,omitempty"`
	Errors     uint64            `json:"errors,omitempty"`
	Skipped    int               `json:"skipped_names,omitempty"`
	Classes    map[string]uint64 `json:"classes,omitempty"`
	Examples   []string          `json:"examples,omitempty"`

	QuestionSize float64     `json:"question_bytes,omitempty"` // mean
	AnswerSize   float64     `json:"answer_bytes,omitempty"`
	Latency      latency     `json:"latency_us"`
	Setup        *latency    `json:"setup_us,omitempty"` // until the proxy's 200
	Intervals    []interval  `json:"intervals,omitempty"`
	Bytes        uint64      `json:"bytes,omitempty"` // bulk
	Idle         *idleReport `json:"idle,omitempty"`
	CPU          *cpuReport  `json:"server_cpu,omitempty"`
	Generator    float64     `json:"generator_cores"`     // CPU seconds of this program a second
	Behind       float64     `json:"behind_us,omitempty"` // open loop: how late this program was at the most
	Others       float64     `json:"other_cores"`         // of all programs but this one and the server, if -pid said which
}

type latency struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99.9"`
	Max  float64 `json:"max"`
}

type cpuReport struct {
	PerOperation float64 `json:"us_per_operation"`
	Seconds      float64 `json:"seconds"`
	Cores        float64 `json:"cores"`
	Source       string  `json:"source"`
	Resident     uint64  `json:"resident_bytes"` // after the run
	Peak         uint64  `json:"peak_bytes"`
}

// maxIntervals bounds how many intervals a report holds.
const maxIntervals = 3600

type interval struct {
	At        float64 `json:"at"` // seconds since the start
	PerSecond float64 `json:"per_second"`
	Lost      uint64  `json:"lost"`
	Wrong     uint64  `json:"wrong"`
	MaxUS     float64 `json:"max_us"`
}

type idleReport struct {
	Tunnels        int     `json:"tunnels"`
	Alive          int     `json:"alive"` // still echo at the end
	BytesPerTunnel float64 `json:"bytes_per_tunnel"`
	FilesPerTunnel float64 `json:"descriptors_per_tunnel"`
}

func micros(d time.Duration) float64 { return float64(d) / 1e3 }

func (h *histogram) report() latency {
	return latency{
		P50: micros(h.quantile(0.5)), P90: micros(h.quantile(0.9)), P99: micros(h.quantile(0.99)),
		P999: micros(h.quantile(0.999)), Max: micros(h.max),
	}
}

func (r *report) fill(t *tally) {
	r.Sent, r.Answered, r.Lost, r.Late = t.sent, t.received, t.lost, t.late
	r.Wrong, r.Unasked, r.Unsent, r.Reconnects = t.wrong, t.unasked, t.unsent, t.reconnects
	r.Examples, r.Latency, r.Behind = t.examples, t.latency.report(), micros(t.behind)
	r.Classes = make(map[string]uint64)
	for c, n := range t.class {
		if n > 0 {
			r.Classes[class(c).String()] = n
		}
	}
	for _, l := range t.lists {
		r.Names = append(r.Names, fmt.Sprintf("%s (%d names)", l, l.count()))
		r.Skipped += l.skipped
	}
	if t.sent > 0 {
		r.QuestionSize = float64(t.bytesOut) / float64(t.sent)
	}
	if t.received > 0 {
		r.AnswerSize = float64(t.bytes) / float64(t.received)
	}
}

// verdict is the error that the run ends with: a wrong answer is one, and so is
// no answer at all. What was lost is for the reader to judge.
func (r *report) verdict() error {
	if r.Wrong+r.Unasked > 0 {
		return fmt.Errorf("%w: %d, first %q", errWrong, r.Wrong+r.Unasked, r.Examples)
	}
	if r.Answered == 0 && r.Bytes == 0 {
		return fmt.Errorf("no answers from %s (%d sent, %d lost, %d errors)", r.Server, r.Sent, r.Lost, r.Errors)
	}
	return nil
}

// write prints the report, for people or for programs.
func (r *report) write(out io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	_, err := io.WriteString(out, r.String())
	return err
}

func (r *report) String() string {
	var b strings.Builder
	loop := fmt.Sprintf("window %d", r.Window)
	if r.Rate > 0 {
		loop = fmt.Sprintf("rate %.0f/s", r.Rate)
	}
	fmt.Fprintf(&b, "%s %s: %d flows, %s, %.2f s, %s\n", r.Mode, r.Server, r.Flows, loop, r.Seconds, strings.Join(r.Names, ", "))
	fmt.Fprintf(&b, "  %.0f/s  answered %d  lost %d  late %d  wrong %d  unasked %d  errors %d", r.PerSecond, r.Answered, r.Lost, r.Late, r.Wrong, r.Unasked, r.Errors)
	if r.Unsent+r.Reconnects > 0 {
		fmt.Fprintf(&b, "  unsent %d  reconnects %d", r.Unsent, r.Reconnects)
	}
	fmt.Fprintf(&b, "\n  latency us: p50 %.0f  p90 %.0f  p99 %.0f  p99.9 %.0f  max %.0f\n", r.Latency.P50, r.Latency.P90, r.Latency.P99, r.Latency.P999, r.Latency.Max)
	for _, i := range r.Intervals {
		fmt.Fprintf(&b, "  at %.2f s: %.0f/s  lost %d  wrong %d  max %.0f us\n", i.At, i.PerSecond, i.Lost, i.Wrong, i.MaxUS)
	}
	if r.Setup != nil {
		fmt.Fprintf(&b, "  set-up us:  p50 %.0f  p90 %.0f  p99 %.0f  p99.9 %.0f  max %.0f\n", r.Setup.P50, r.Setup.P90, r.Setup.P99, r.Setup.P999, r.Setup.Max)
	}
	if r.Bytes > 0 {
		fmt.Fprintf(&b, "  %.3f GB/s", float64(r.Bytes)/r.Seconds/1e9)
		if r.CPU != nil && r.CPU.Seconds > 0 {
			fmt.Fprintf(&b, ", %.3f GB a CPU second of the server", float64(r.Bytes)/r.CPU.Seconds/1e9)
		}
		b.WriteByte('\n')
	}
	if r.Idle != nil {
		fmt.Fprintf(&b, "  tunnels %d  alive %d  %.1f KiB and %.1f descriptors each\n", r.Idle.Tunnels, r.Idle.Alive, r.Idle.BytesPerTunnel/1024, r.Idle.FilesPerTunnel)
	}
	if r.QuestionSize > 0 {
		fmt.Fprintf(&b, "  sizes: question %.1f, answer %.1f bytes; sent by %s; classes %v\n", r.QuestionSize, r.AnswerSize, r.Send, r.Classes)
	}
	if r.CPU != nil {
		if r.Answered > 0 {
			fmt.Fprintf(&b, "  server: %.3f us each\n", r.CPU.PerOperation)
		}
		fmt.Fprintf(&b, "  server: %.2f cores (%s), resident %.1f MB, peak %.1f MB\n", r.CPU.Cores, r.CPU.Source, float64(r.CPU.Resident)/1e6, float64(r.CPU.Peak)/1e6)
	}
	fmt.Fprintf(&b, "  generator: %.2f cores", r.Generator)
	if r.Rate > 0 {
		fmt.Fprintf(&b, ", up to %.0f us behind", r.Behind)
	}
	fmt.Fprintf(&b, "; other programs on this machine: %.2f\n", r.Others)
	return b.String()
}

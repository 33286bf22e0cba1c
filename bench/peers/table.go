package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// A result is one line of a table: a peer at a measurement with a size of list.
// Costs are microseconds of CPU; for bulk, gigabytes in a CPU second; for idle,
// bytes a tunnel.
type result struct {
	What    string  `json:"what"`
	Size    int     `json:"names"`
	Peer    string  `json:"peer"`
	Version string  `json:"version,omitempty"`
	Notes   string  `json:"notes,omitempty"`
	Missing string  `json:"missing,omitempty"`
	Rounds  int     `json:"rounds"`
	Cost    float64 `json:"cost"` // median
	Least   float64 `json:"least"`
	Most    float64 `json:"most"`
	ToFloor float64 `json:"to_floor,omitempty"` // median of the ratios in each round
	ToWeir  float64 `json:"to_weir,omitempty"`
	Rate    float64 `json:"per_second"`
	Cores   float64 `json:"cores"`
	Others  float64 `json:"other_cores"` // that other programs used meanwhile
	P99     float64 `json:"p99_us"`
	Lost    uint64  `json:"lost"`
	Wrong   uint64  `json:"wrong"`
	Errors  uint64  `json:"errors"`
	Load    float64 `json:"load_seconds"`
	// Of the peer's processes after the last round, in bytes.
	Resident uint64   `json:"resident"`
	Peak     uint64   `json:"peak"`
	Files    float64  `json:"descriptors_per_tunnel,omitempty"`
	P999     float64  `json:"p99.9_us,omitempty"` // of a reload, with the longest answer and how long it took
	Longest  float64  `json:"max_us,omitempty"`
	Took     float64  `json:"took_seconds,omitempty"`
	Examples []string `json:"examples,omitempty"`
}

// cost is what the round is compared by.
func (r *round) cost(what string) float64 {
	switch {
	case what == "idle" && r.Idle != nil:
		return r.Idle.Bytes
	case r.CPU == nil || r.CPU.Seconds == 0:
		return 0
	case what == "bulk":
		return float64(r.Bytes) / r.CPU.Seconds / 1e9
	}
	return r.CPU.Each
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// results turns the rounds of a measurement into lines, in the order of the
// peers.
func (b *contest) results(m measurement) []result {
	var out []result
	for _, c := range b.running {
		if c.peer.plane&m.plane == 0 || m.name == reloadName && c.peer.name == "floor" {
			continue
		}
		r := summarize(m.name, c.rounds[m.name])
		r.Size, r.Peer, r.Version, r.Notes, r.Load = b.size, c.peer.name, c.version, c.peer.notes, c.load.Seconds()
		r.Missing = cmp.Or(c.missing, r.Missing)
		for reference, to := range map[string]*float64{"floor": &r.ToFloor, "floor-tunnel": &r.ToFloor, "weir": &r.ToWeir} {
			for _, of := range b.running {
				if of.peer.name == reference && of.peer.plane&m.plane != 0 {
					*to = ratio(m.name, c.rounds[m.name], of.rounds[m.name])
				}
			}
		}
		out = append(out, r)
	}
	return out
}

// ratio is the median of the ratios of rounds that were next to each other.
func ratio(what string, of, to []round) float64 {
	var v []float64
	for i := range min(len(of), len(to)) {
		if a, b := of[i].cost(what), to[i].cost(what); a > 0 && b > 0 {
			v = append(v, a/b)
		}
	}
	return median(v)
}

func summarize(what string, rounds []round) result {
	r := result{What: what, Rounds: len(rounds)}
	var costs, rates, cores, others, p99 []float64
	for _, x := range rounds {
		if x.failed != "" {
			r.Missing = x.failed
			continue
		}
		if v := x.cost(what); v > 0 {
			costs = append(costs, v)
		}
		rates, p99, others = append(rates, x.Rate), append(p99, x.Latency["p99"]), append(others, x.Others)
		r.Lost, r.Wrong, r.Errors = r.Lost+x.Lost, r.Wrong+x.Wrong+x.Unasked, r.Errors+x.Errors
		if len(r.Examples) == 0 {
			r.Examples = x.Examples
		}
		if what == reloadName {
			r.P999, r.Longest, r.Took = x.Latency["p99.9"], x.Latency["max"], x.took.Seconds()
		}
		if x.CPU != nil {
			cores = append(cores, x.CPU.Cores)
			r.Resident, r.Peak = x.CPU.Resident, x.CPU.Peak
		}
		if x.Idle != nil {
			r.Files = x.Idle.Files
			r.Errors += uint64(x.Idle.Tunnels - x.Idle.Alive)
		}
	}
	r.Cost, r.Rate, r.Cores, r.P99 = median(costs), median(rates), median(cores), median(p99)
	r.Others = median(others)
	if len(costs) > 0 {
		r.Least, r.Most = slices.Min(costs), slices.Max(costs)
	}
	return r
}

// columns are the cost's name and unit of each measurement.
func columns(what string) (cost string, scale float64) {
	switch what {
	case "bulk":
		return "GB a CPU second", 1
	case "idle":
		return "KiB a tunnel", 1.0 / 1024
	}
	return "CPU us a " + measurementNamed(what).unit, 1
}

// table is the lines of one measurement and size, as Markdown.
func table(results []result) string {
	if len(results) == 0 {
		return ""
	}
	if results[0].What == reloadName {
		return reloadTable(results)
	}
	head, scale := columns(results[0].What)
	var t strings.Builder
	fmt.Fprintf(&t, "\n%s, %d names\n\n", results[0].What, results[0].Size)
	fmt.Fprintf(&t, "| | %s [least..most] | to floor | to weir | a second | cores (others) | p99 us | wrong | lost | errors | load s | resident MB (peak) |\n", head)
	t.WriteString("|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range results {
		if r.Missing != "" {
			fmt.Fprintf(&t, "| %s %s | %s |\n", r.Peer, r.Version, oneLine(r.Missing))
			continue
		}
		fmt.Fprintf(&t, "| %s %s | %.2f [%.2f..%.2f] | %s | %s | %.0f | %.2f (%.2f) | %.0f | %d | %d | %d | %.2f | %.0f (%.0f) |\n",
			r.Peer, r.Version, r.Cost*scale, r.Least*scale, r.Most*scale, times(r.ToFloor), times(r.ToWeir), r.Rate, r.Cores, r.Others, r.P99,
			r.Wrong, r.Lost, r.Errors, r.Load, float64(r.Resident)/1e6, float64(r.Peak)/1e6)
	}
	for _, r := range results {
		if r.Wrong > 0 && len(r.Examples) > 0 {
			fmt.Fprintf(&t, "\n%s, wrong: %s\n", r.Peer, oneLine(r.Examples[0]))
		}
	}
	return t.String()
}

// reloadTable is the lines of a reload under load.
func reloadTable(results []result) string {
	var t strings.Builder
	fmt.Fprintf(&t, "\nreload of %d names and one more, under 20,000 questions a second (9 of 10 allowed)\n\n", results[0].Size)
	t.WriteString("| | lost | wrong | p99.9 ms | longest ms | in force after s | resident MB (peak) |\n|---|---|---|---|---|---|---|\n")
	for _, r := range results {
		if r.Missing != "" {
			fmt.Fprintf(&t, "| %s %s | %s |\n", r.Peer, r.Version, oneLine(r.Missing))
			continue
		}
		fmt.Fprintf(&t, "| %s %s | %d | %d | %.1f | %.1f | %.2f | %.0f (%.0f) |\n", r.Peer, r.Version, r.Lost, r.Wrong, r.P999/1e3, r.Longest/1e3, r.Took, float64(r.Resident)/1e6, float64(r.Peak)/1e6)
	}
	return t.String()
}

func times(v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", v)
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	return strings.ReplaceAll(s[:min(len(s), 300)], "|", "/")
}

// publish merges the results into the JSON file and puts the tables into the
// report, where that was asked for. A wrong answer of Weir is an error; those of
// others stand in the table.
func publish(o *options, out io.Writer, results []result) error {
	var failed error
	for _, r := range results {
		if r.Peer == "weir" && r.Wrong > 0 {
			failed = fmt.Errorf("weir gave %d wrong answers at %s: %q", r.Wrong, r.What, r.Examples)
		}
	}
	if o.json != "" {
		merged, err := merge(o.json, results)
		if err != nil {
			return errors.Join(failed, err)
		}
		results = merged
	}
	if o.write != "" {
		if err := rewrite(o.write, results); err != nil {
			return errors.Join(failed, err)
		}
		_, _ = fmt.Fprintf(out, "tables written to %s\n", o.write)
	}
	return failed
}

// tablesCommand makes the tables anew and measures nothing.
func tablesCommand(args []string, out io.Writer) error {
	var o options
	fs := flag.NewFlagSet("tables", flag.ContinueOnError)
	fs.StringVar(&o.json, "json", "", "file of results")
	fs.StringVar(&o.write, "write", "", "file whose tables are made anew")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if !fileExists(o.json) || o.write == "" {
		return errors.New("tables: want -json FILE, which is there, and -write FILE")
	}
	return publish(&o, out, nil)
}

func (r *result) key() string { return fmt.Sprintf("%s %d %s", r.What, r.Size, r.Peer) }

// merge replaces what the file has of the same peer, measurement and size.
func merge(file string, results []result) ([]result, error) {
	fresh := make(map[string]bool)
	for _, r := range results {
		fresh[r.key()] = true
	}
	var old []result
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &old)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for _, r := range old {
		if !fresh[r.key()] {
			results = append(results, r)
		}
	}
	order := func(r result) int {
		return slices.Index(whatNames(), r.What)*1000 + slices.Index(peerNames(), r.Peer)
	}
	slices.SortStableFunc(results, func(a, b result) int {
		return cmp.Or(cmp.Compare(a.Size, b.Size), cmp.Compare(order(a), order(b)))
	})
	text, err := json.MarshalIndent(results, "", " ")
	if err != nil {
		return nil, err
	}
	return results, os.WriteFile(file, append(text, '\n'), 0o644)
}

const (
	beginMark = "<!-- peers: begin -->\n"
	endMark   = "<!-- peers: end -->\n"
)

// rewrite replaces what stands between the markers of the report.
func rewrite(file string, results []result) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(b), beginMark)
	_, after, ok2 := strings.Cut(rest, endMark)
	if !ok || !ok2 {
		return fmt.Errorf("%s: no lines %q and %q", file, strings.TrimSpace(beginMark), strings.TrimSpace(endMark))
	}
	var t strings.Builder
	for i := 0; i < len(results); {
		j := i
		for j < len(results) && results[j].What == results[i].What && results[j].Size == results[i].Size {
			j++
		}
		t.WriteString(table(results[i:j]))
		i = j
	}
	t.WriteString("\n" + notes(results) + "\n")
	return os.WriteFile(file, []byte(before+beginMark+t.String()+endMark+after), 0o644)
}

// notes says how each peer was set up.
func notes(results []result) string {
	var t strings.Builder
	t.WriteString("Settings:\n\n")
	seen := make(map[string]bool)
	for _, r := range results {
		if !seen[r.Peer] {
			seen[r.Peer] = true
			fmt.Fprintf(&t, "- %s %s: %s\n", r.Peer, r.Version, r.Notes)
		}
	}
	return t.String()
}

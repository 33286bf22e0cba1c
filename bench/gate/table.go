package main

import (
	"fmt"
	"io"
	"math"
	"text/tabwriter"
)

// A row is a line of the table.
type row struct {
	name, floor, weir, ratio, spread, limit, more string
	verdict                                       verdict
}

// rowOf renders a measurement and its judgement.
func rowOf(m *measurement, l limit, v verdict) row {
	r := m.ratios()
	f, w := m.costs()
	out := row{
		name: m.name, floor: fmt.Sprintf("%.2f us", f.median), weir: fmt.Sprintf("%.2f us", w.median),
		ratio: fmt.Sprintf("%.3f", r.median), spread: fmt.Sprintf("%.3f..%.3f", r.least, r.most),
		limit: fmt.Sprintf("%.3g +%.0f %%", l.ratio, 100*l.noise), verdict: v,
	}
	if l.calls > 0 {
		out.more = callsText(m.calls)
	}
	return out
}

func callsText(n float64) string {
	if math.IsNaN(n) {
		return "system calls not counted"
	}
	return fmt.Sprintf("%.3f calls", n)
}

// printTable writes the table; columns that have nothing to say are empty.
func printTable(w io.Writer, rows []row) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "name\tfloor\tweir\tratio\tspread\tlimit\talso\tverdict") // reported by Flush
	for _, r := range rows {
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.name, r.floor, r.weir, r.ratio, r.spread, r.limit, r.more, r.verdict.text)
	}
	_ = t.Flush() // nobody is left to tell
}

package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/weir-gateway/weir/gateway"
	"github.com/weir-gateway/weir/gateway/generation"
)

// generationCommands are those of lists that are about what was in force when.
// All of them ask the running gateway.
func generationCommands() []*cli.Command {
	why := &cli.StringFlag{Name: "why", Usage: "note `REASON` with the change"}
	return []*cli.Command{
		{
			Name:   "history",
			Usage:  "show the generations of the policy that are kept: since when, by whom and why",
			Flags:  adminFlags(),
			Before: noArgs,
			Action: listsHistory,
		},
		{
			Name:      "diff",
			Usage:     "show what differs between two generations",
			ArgsUsage: "[FROM [TO]]",
			Description: "Without TO it is the newest generation, without FROM the one before it. Rules that\n" +
				"only stand on other lines do not differ.",
			Flags: adminFlags(
				&cli.IntFlag{Name: "limit", Usage: "show at most `N` rules; all are counted", Value: 100},
				&cli.StringFlag{Name: "name", Usage: "say what both say about `NAME`"},
				&cli.DurationFlag{Name: "seen", Usage: "of the names that devices have asked for within `TIME` (24h), say which would be blocked or no more, for how many"},
			),
			Action: listsDiff,
		},
		{
			Name:      "rollback",
			Usage:     "put an earlier generation in force again, and hold it",
			ArgsUsage: "[GENERATION]",
			Description: "Without a number it is the one before. What was rolled back to is a new generation;\n" +
				"changes of files are not taken until lists update. Exemptions stay as they are now.",
			Flags:  adminFlags(why),
			Action: listsRollback,
		},
		pinCommand("pin", "keep a generation however many there are", true),
		pinCommand("unpin", "let a pinned generation go with its age", false),
	}
}

// generationArg reads a number of a generation, 0 where there is none.
func generationArg(c *cli.Context, i int) (uint64, error) {
	s := c.Args().Get(i)
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not the number of a generation; weir lists history shows them", s)
	}
	return n, nil
}

func listsHistory(c *cli.Context) error {
	cl, err := newClient(c)
	if err != nil {
		return err
	}
	var gs gateway.Generations
	if _, err := cl.get(c.Context, "/v1/generations", &gs); err != nil {
		return err
	}
	return printGenerations(c, &gs)
}

func printGenerations(c *cli.Context, gs *gateway.Generations) error {
	if c.Bool("json") {
		return printJSON(c.App.Writer, gs)
	}
	t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "GENERATION\tTIME\tRULES\tCHANGE\tBY\tWHY") // t.Flush reports
	for i := range gs.Generations {
		h := &gs.Generations[i]
		_, _ = fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%s\n", mark(h, gs.InForce), h.Time.Format(time.RFC3339), h.Rules, changeOf(h), h.Who, dash(h.Why))
	}
	return t.Flush()
}

// mark is the number with what is special about the generation.
func mark(h *generation.Header, inForce uint64) string {
	s := strconv.FormatUint(h.Number, 10)
	if h.Number == inForce {
		s += " in force"
	}
	if h.Pinned {
		s += " pinned"
	}
	return s
}

func changeOf(h *generation.Header) string {
	switch {
	case h.Kind == "rollback":
		return fmt.Sprintf("rollback to %d", h.Of)
	case h.Canary != "":
		return fmt.Sprintf("%s, group %s ahead", h.Kind, h.Canary)
	}
	return h.Kind
}

func listsDiff(c *cli.Context) error {
	if c.NArg() > 2 {
		return errors.New("lists diff takes at most two generations")
	}
	q := url.Values{"limit": {strconv.Itoa(max(c.Int("limit"), 0))}}
	for i, name := range []string{"from", "to"} {
		n, err := generationArg(c, i)
		if err != nil {
			return err
		}
		if n > 0 {
			q.Set(name, strconv.FormatUint(n, 10))
		}
	}
	if name := c.String("name"); name != "" {
		q.Set("name", name)
	}
	if seen := c.Duration("seen"); seen > 0 {
		q.Set("seen", seen.String())
	}
	cl, err := newClient(c)
	if err != nil {
		return err
	}
	var d gateway.GenerationDiff
	if _, err := cl.get(c.Context, "/v1/generations/diff?"+q.Encode(), &d); err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, d)
	}
	return printDiff(c.App.Writer, &d)
}

func printDiff(w io.Writer, d *gateway.GenerationDiff) error {
	_, err := fmt.Fprintf(w, "from generation %d to %d: %d rules added, %d removed\n", d.From, d.To, d.Added, d.Removed)
	for _, r := range d.Rules {
		sign := map[string]string{"added": "+", "removed": "-"}[r.Change]
		_, err = fmt.Fprintf(w, "%s %s/%s:%d: %s\n", sign, dash(r.Ban), r.List, r.Line, r.Rule)
	}
	if d.More > 0 {
		_, err = fmt.Fprintf(w, "and %d more; --limit shows more of them\n", d.More)
	}
	for _, o := range d.Others {
		_, err = fmt.Fprintf(w, "the %s differ\n", o)
	}
	if v := d.Verdict; v != nil {
		_, err = fmt.Fprintf(w, "%s: %s, then %s\n", v.Name, v.From, v.To)
	}
	if d.Seen == nil {
		return err
	}
	_, err = fmt.Fprintf(w, "of %d names that %d devices have asked for since %s, %d would be judged otherwise\n",
		d.Seen.Names, d.Seen.Devices, d.Seen.Since.Format(time.RFC3339), d.Seen.Changed)
	for _, c := range d.Seen.Changes {
		_, err = fmt.Fprintf(w, "%s: %s, then %s, for %d devices\n", c.Name, c.From, c.To, c.Devices)
	}
	return err
}

func listsRollback(c *cli.Context) error {
	if c.NArg() > 1 {
		return errors.New("lists rollback takes at most one generation")
	}
	n, err := generationArg(c, 0)
	if err != nil {
		return err
	}
	return changePolicy(c, "/v1/rollback", gateway.RollbackRequest{Generation: n, Why: c.String("why")})
}

// changePolicy asks for a change of the policy, and shows what is in force then.
func changePolicy(c *cli.Context, path string, in any) error {
	cl, err := newClient(c)
	if err != nil {
		return err
	}
	var st gateway.Status
	if err := cl.change(c.Context, http.MethodPost, path, "", in, &st); err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, st)
	}
	return printInForce(c.App.Writer, &st)
}

func printInForce(w io.Writer, st *gateway.Status) error {
	_, err := fmt.Fprintf(w, "running: generation %d since %s, %d rules\n", st.Generation, st.Since.Format(time.RFC3339), st.Rules)
	if err == nil && st.Held != 0 {
		_, err = fmt.Fprintf(w, "held as generation %d was; weir lists update takes files again\n", st.Held)
	}
	if err == nil {
		err = printCanary(w, st.Canary)
	}
	return err
}

func pinCommand(name, usage string, pin bool) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, ArgsUsage: "GENERATION", Flags: adminFlags(),
		Action: func(c *cli.Context) error {
			n, err := generationArg(c, 0)
			if err != nil {
				return err
			}
			if n == 0 || c.NArg() > 1 {
				return fmt.Errorf("lists %s takes one generation; weir lists history shows them", name)
			}
			cl, err := newClient(c)
			if err != nil {
				return err
			}
			var gs gateway.Generations
			if err := cl.change(c.Context, http.MethodPost, fmt.Sprintf("/v1/generations/%d/pin", n), "", gateway.PinRequest{Pinned: pin}, &gs); err != nil {
				return err
			}
			return printGenerations(c, &gs)
		},
	}
}

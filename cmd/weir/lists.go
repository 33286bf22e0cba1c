package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/blocklists/parse"
	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway"
)

func listsCommand() *cli.Command {
	return &cli.Command{
		Name:   "lists",
		Usage:  "look at lists, update them, and go back to what was in force before",
		Action: noSuchCommand,
		Subcommands: append([]*cli.Command{
			{
				Name:  "status",
				Usage: "show the lists of a configuration, and what a running gateway has in force",
				Flags: []cli.Flag{configFlag(), jsonFlag()},
				Description: "Compiles the configuration's lists, and asks the gateway at admin.listen, if one\n" +
					"runs there, for the generation that it has in force.",
				Before: noArgs,
				Action: listsStatus,
			},
			{
				Name:      "lint",
				Usage:     "read list files and say what would be used of them and what not",
				ArgsUsage: "FILE...",
				Description: "Exits with 1 if a file is no list at all or gives no rule. Without --format the\n" +
					"format is detected and named; a file whose format is not clear is an error.",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "format", Usage: "read the files as `FORMAT`: " + formatNames()},
					&cli.BoolFlag{Name: "examples", Aliases: []string{"v"}, Usage: "show the first skipped lines of each reason"},
					jsonFlag(),
				},
				Action: listsLint,
			},
		}, slices.Concat(feedCommands(), generationCommands(), canaryCommands())...),
	}
}

func formatNames() string {
	var names []string
	for _, f := range parse.Formats() {
		names = append(names, string(f))
	}
	return strings.Join(names, ", ")
}

// A lint is the result for one file.
type lint struct {
	File     string        `json:"file"`
	Detected bool          `json:"detected"` // the format was not given
	Error    string        `json:"error,omitempty"`
	Report   *parse.Report `json:"report,omitempty"`
	Distinct int           `json:"distinct_rules"` // rules without repetitions
}

func listsLint(c *cli.Context) error {
	if !c.Args().Present() {
		return errors.New("lists lint takes list files; see weir lists lint --help")
	}
	var format parse.Format
	if s := c.String("format"); s != "" {
		var err error
		if format, err = parse.ParseFormat(s); err != nil {
			return err
		}
	}
	var results []lint
	var errs []error
	for _, file := range c.Args().Slice() {
		l := lintFile(file, format)
		results = append(results, l)
		if l.Error != "" {
			errs = append(errs, fmt.Errorf("%s: %s", file, l.Error))
		}
		if !c.Bool("json") && l.Report != nil {
			if err := printLint(c.App.Writer, l, c.Bool("examples")); err != nil {
				return err
			}
		}
	}
	if c.Bool("json") {
		if err := printJSON(c.App.Writer, results); err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

// sample is how much of a file is looked at to detect its format.
const sample = 64 << 10

func lintFile(file string, format parse.Format) lint {
	l := lint{File: file, Detected: format == ""}
	f, err := os.Open(file)
	if err != nil {
		l.Error = err.Error()
		return l
	}
	defer func() { _ = f.Close() }()
	var in io.Reader = f
	if l.Detected {
		head, err := io.ReadAll(io.LimitReader(f, sample))
		if err == nil {
			format, err = parse.Detect(head)
		}
		if errors.Is(err, parse.ErrUnknownFormat) {
			err = fmt.Errorf("%w; name it with --format", err)
		}
		if err != nil {
			l.Error = err.Error()
			return l
		}
		in = io.MultiReader(bytes.NewReader(head), f)
	}
	var b blocklists.Builder
	report, err := parse.Load(format, in, parse.Limits{}, func(r blocklists.Rule) error { return b.Add(0, r) })
	l.Report, l.Distinct = &report, b.Build().Rules()
	switch {
	case err != nil:
		l.Error = err.Error()
	case report.Rules == 0:
		l.Error = noRules(&report, l.Detected)
	}
	return l
}

// noRules says why there is not one rule.
func noRules(r *parse.Report, detected bool) string {
	skipped := r.Skipped()
	for reason, n := range r.Skips {
		if n*20 >= skipped*19 && skipped > 0 {
			return fmt.Sprintf("no rules as %s: %d of %d entries are skipped as %s", r.Format, n, skipped, reason)
		}
	}
	if detected {
		return fmt.Sprintf("no rules as %s; name the right format with --format", r.Format)
	}
	return fmt.Sprintf("no rules as %s; is that the right format?", r.Format)
}

func printLint(w io.Writer, l lint, examples bool) error {
	r := l.Report
	detected := ""
	if l.Detected {
		detected = " (detected; --format says it for sure)"
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintf(w, "%s: %s%s: %d rules, %d distinct, of %d lines\n", l.File, r.Format, detected, r.Rules, l.Distinct, r.Lines)
	row := func(n int, what string) {
		if n > 0 {
			_, _ = fmt.Fprintf(t, "%d\t %s\n", n, what) // t.Flush reports
		}
	}
	row(r.Comments, "comments and headers")
	row(r.Blank, "blank")
	row(r.Allow, "allow rules")
	reasons := make([]parse.Skip, 0, len(r.Skips))
	for s := range r.Skips {
		reasons = append(reasons, s)
	}
	slices.Sort(reasons)
	for _, s := range reasons {
		row(r.Skips[s], "skipped: "+string(s))
	}
	if err := t.Flush(); err != nil || !examples {
		return err
	}
	for i := range r.Examples {
		if _, err := fmt.Fprintf(w, "  %v\n", &r.Examples[i]); err != nil {
			return err
		}
	}
	return nil
}

// A listsState is the JSON form of lists status.
type listsState struct {
	Config  string               `json:"config"` // empty: the built-in default
	Lists   []gateway.ListStatus `json:"lists"`
	Running *gateway.Status      `json:"running"` // null: no gateway answers
	Note    string               `json:"note,omitempty"`
}

func listsStatus(c *cli.Context) error {
	cfg, err := loadConfig(c)
	if err != nil {
		return err
	}
	st := listsState{Config: cfg.File}
	if st.Running, err = askRunning(c, cfg); err != nil {
		st.Note = err.Error()
	}
	// Where the lists cannot be loaded any more, it matters most what is in force.
	switch e, err := gateway.NewExplainer(cfg); {
	case err == nil:
		st.Lists = e.Lists()
	case st.Running == nil:
		return err
	default:
		st.Lists = st.Running.Lists
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, st)
	}
	t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "LIST\tBAN\tTIER\tRULES\tSKIPPED\tFORMAT\tSOURCE") // t.Flush reports
	for _, l := range st.Lists {
		rules, skipped := fmt.Sprint(l.Rules), "0"
		if !l.Enabled {
			rules, skipped = "off", "-"
		} else if l.Missing {
			rules, skipped = "missing", "-"
		} else if l.Report != nil {
			skipped = fmt.Sprint(l.Report.Skipped())
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.Name, dash(l.Ban), dash(string(l.Tier)), rules, skipped, dash(string(l.Format)), l.Source)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if st.Running == nil {
		_, err = fmt.Fprintf(c.App.Writer, "no running gateway: %s\n", st.Note)
		return err
	}
	r := st.Running
	_, err = fmt.Fprintf(c.App.Writer, "running: generation %d since %s, %d rules\n", r.Generation, r.Since.Format(time.RFC3339), r.Rules)
	if err == nil && r.Held != 0 {
		_, err = fmt.Fprintf(c.App.Writer, "held as generation %d was, since a rollback or the end of a canary; weir lists update takes files again\n", r.Held)
	}
	if err == nil {
		err = printCanary(c.App.Writer, r.Canary)
	}
	if err == nil && r.LastError != "" {
		_, err = fmt.Fprintf(c.App.Writer, "the latest reload was rejected, whole or in part: %s\n", r.LastError)
	}
	return errors.Join(err, printFeeds(c.App.Writer, r.Lists))
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// askRunning asks the gateway of that configuration for its status: where
// everybody may ask, and over the socket where there is no such place.
func askRunning(c *cli.Context, cfg *config.Config) (*gateway.Status, error) {
	if cfg.Admin.Listen.IsValid() && cfg.Admin.TLS.Cert == "" {
		return running(c.Context, cfg.Admin.Listen)
	}
	cl, err := newClient(c)
	if err != nil {
		return nil, err
	}
	st := new(gateway.Status)
	if _, err := cl.get(c.Context, "/v1/status", st); err != nil {
		return nil, err
	}
	return st, nil
}

// statusPatience is how long a gateway may take to say how it is doing, before it is
// said that there is none: one that a large list keeps busy is there.
const statusPatience = 10 * time.Second

// running asks the gateway on that admin listener for its status.
func running(ctx context.Context, admin netip.AddrPort) (*gateway.Status, error) {
	if admin.Addr().IsUnspecified() {
		loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if admin.Addr().Is6() {
			loopback = netip.IPv6Loopback()
		}
		admin = netip.AddrPortFrom(loopback, admin.Port())
	}
	ctx, cancel := context.WithTimeout(ctx, statusPatience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin.String()+"/status", nil)
	if err != nil {
		return nil, err
	}
	// No proxy from the environment: it could be this very gateway.
	client := http.Client{Transport: &http.Transport{DialContext: new(net.Dialer).DialContext, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("nothing answers at %s", admin)
	}
	defer func() { _ = resp.Body.Close() }()
	var st gateway.Status
	if err := json.NewDecoder(io.LimitReader(resp.Body, 16<<20)).Decode(&st); err != nil || resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("what answers at %s is no gateway", admin)
	}
	return &st, nil
}

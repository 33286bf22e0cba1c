package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/weir-gateway/weir/gateway"
)

func exemptCommand() *cli.Command {
	name := &cli.StringFlag{Name: "name", Usage: "`NAME` of the person who decides; without it that of the credential"}
	why := &cli.StringFlag{Name: "why", Usage: "`REASON` of the decision"}
	return &cli.Command{
		Name:   "exempt",
		Usage:  "request, approve, revoke and look at exemptions of a running gateway",
		Action: noSuchCommand,
		Subcommands: []*cli.Command{
			{
				Name:  "add",
				Usage: "request an exemption, which holds when another person has approved it",
				Flags: adminFlags(
					&cli.StringFlag{Name: "ban", Usage: "`ID` of the ban that it is from"},
					&cli.StringFlag{Name: "name", Usage: "or the `NAME` that it is for: that one and all under it, whatever holds it back; where it leads (aliases, addresses) is judged by itself"},
					&cli.StringFlag{Name: "device", Usage: "`ADDRESS` of the device"},
					&cli.StringFlag{Name: "group", Usage: "`NAME` of the group"},
					&cli.StringFlag{Name: "from", Usage: "`TIME` when it begins; without it, as soon as it is approved"},
					&cli.StringFlag{Name: "until", Required: true, Usage: "`TIME` when it ends: a date (to the end of that day, UTC), RFC 3339, or 90m, 8h, 30d from now"},
					&cli.StringFlag{Name: "ticket", Required: true, Usage: "`TICKET` under which it was asked for"},
					&cli.StringFlag{Name: "reason", Required: true, Usage: "`REASON` for it"},
					&cli.StringFlag{Name: "requested-by", Usage: "`NAME` of the person who asks for it; without it that of the credential"},
				),
				Before: noArgs,
				Action: exemptAdd,
			},
			{
				Name: "approve", Usage: "approve an exemption that somebody else has requested", ArgsUsage: "ID",
				Flags: adminFlags(name, why), Action: func(c *cli.Context) error { return exemptDecide(c, "approve") },
			},
			{
				Name: "revoke", Usage: "end an exemption now, or refuse one that was requested", ArgsUsage: "ID",
				Flags: adminFlags(name, why), Action: func(c *cli.Context) error { return exemptDecide(c, "revoke") },
			},
			{
				Name: "list", Usage: "show all exemptions, those of the configuration too",
				Flags: adminFlags(), Before: noArgs, Action: exemptList,
			},
			{
				Name: "report", Usage: "show who is exempt now, until when, by whom, and how often it was used",
				Description: "Uses are counted from the audit record (audit.file).",
				Flags:       adminFlags(), Before: noArgs, Action: exemptReport,
			},
		},
	}
}

func exemptAdd(c *cli.Context) error {
	in := gateway.ExemptionRequest{
		Ban: c.String("ban"), Name: c.String("name"), Group: c.String("group"), Ticket: c.String("ticket"), Reason: c.String("reason"), RequestedBy: c.String("requested-by"),
	}
	var err error
	if s := c.String("device"); s != "" {
		if err = in.Device.UnmarshalText([]byte(s)); err != nil {
			return fmt.Errorf("--%w", err)
		}
	}
	now := time.Now()
	if s := c.String("from"); s != "" {
		if in.From, err = parseMoment(s, now, 0); err != nil {
			return fmt.Errorf("--from: %w", err)
		}
	}
	if in.Until, err = parseMoment(c.String("until"), now, 1); err != nil {
		return fmt.Errorf("--until: %w", err)
	}
	cl, err := newClient(c)
	if err != nil {
		return err
	}
	var e gateway.Exemption
	if err := cl.change(c.Context, http.MethodPost, "/v1/exemptions", "", in, &e); err != nil {
		return err
	}
	return sayExemption(c, &e, "; another person approves it with weir exempt approve "+e.ID)
}

// parseMoment reads a date, to which days are added so that an end includes its
// day, a time, or how long from now.
func parseMoment(s string, now time.Time, days int) (time.Time, error) {
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t.AddDate(0, 0, days), nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	hours := s
	if n, ok := strings.CutSuffix(s, "d"); ok {
		var d int
		if _, err := fmt.Sscanf(n+";", "%d;", &d); err == nil && d > 0 && d < 10000 {
			hours = fmt.Sprintf("%dh", 24*d)
		}
	}
	if d, err := time.ParseDuration(hours); err == nil && d > 0 {
		return now.Add(d).UTC().Truncate(time.Second), nil
	}
	return time.Time{}, fmt.Errorf("want a date (2026-12-31), a time (2026-12-31T17:00:00-05:00) or how long from now (8h, 30d), got %q", s)
}

func exemptDecide(c *cli.Context, what string) error {
	if c.NArg() != 1 {
		return fmt.Errorf("exempt %s takes the id of one exemption; see weir exempt list", what)
	}
	cl, err := newClient(c)
	if err != nil {
		return err
	}
	path := "/v1/exemptions/" + url.PathEscape(c.Args().First())
	var e gateway.Exemption
	etag, err := cl.get(c.Context, path, &e)
	if err != nil {
		return err
	}
	in := gateway.ExemptionDecision{Name: c.String("name"), Why: c.String("why")}
	if e.Source == "file" {
		return errors.New("the exemption stands in the configuration; change it there")
	}
	if err := cl.change(c.Context, http.MethodPost, path+"/"+what, etag, in, &e); err != nil {
		return err
	}
	return sayExemption(c, &e, "")
}

func sayExemption(c *cli.Context, e *gateway.Exemption, more string) error {
	if c.Bool("json") {
		return printJSON(c.App.Writer, e)
	}
	_, err := fmt.Fprintf(c.App.Writer, "%s: %s: %s from %s until %s%s\n", e.ID, e.State, whom(e), fromWhat(e), e.Until.Format(time.RFC3339), more)
	return err
}

// whom says who is exempt.
func whom(e *gateway.Exemption) string {
	switch {
	case e.Group != "":
		return "group " + e.Group
	case e.Device.IsSingleIP():
		return "device " + e.Device.Addr().String()
	}
	return "device " + e.Device.String()
}

// fromWhat says what the exemption is from.
func fromWhat(e *gateway.Exemption) string {
	if e.Name != "" {
		return "name " + e.Name
	}
	return "ban " + e.Ban
}

func getExemptions(c *cli.Context) (all gateway.Exemptions, err error) {
	cl, err := newClient(c)
	if err != nil {
		return all, err
	}
	_, err = cl.get(c.Context, "/v1/exemptions", &all)
	return all, err
}

func exemptList(c *cli.Context) error {
	all, err := getExemptions(c)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, all)
	}
	t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "ID\tSTATE\tWHO\tFROM\tUNTIL\tTICKET\tREQUESTED BY\tAPPROVED BY\tSOURCE") // t.Flush reports
	now := time.Now()
	for _, e := range all.Exemptions {
		state := e.State
		switch {
		case e.State == "revoked":
		case !now.Before(e.Until):
			state = "ended"
		case e.State == "approved" && now.Before(e.From):
			state = "to come"
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", e.ID, state, whom(&e.Exemption), fromWhat(&e.Exemption), e.Until.Format(time.RFC3339),
			e.Ticket, dash(e.RequestedBy.Name), dash(e.ApprovedBy.Name), e.Source)
	}
	return t.Flush()
}

func exemptReport(c *cli.Context) error {
	all, err := getExemptions(c)
	if err != nil {
		return err
	}
	live := []gateway.ExemptionReport{}
	for _, e := range all.Exemptions {
		if e.Live {
			live = append(live, e)
		}
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, live)
	}
	t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "WHO\tFROM\tUNTIL\tUSES\tLAST USED\tID\tTICKET\tAPPROVED BY\tREASON") // t.Flush reports
	for _, e := range live {
		last := ""
		if !e.LastUsed.IsZero() {
			last = e.LastUsed.Format(time.RFC3339)
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", whom(&e.Exemption), fromWhat(&e.Exemption), e.Until.Format(time.RFC3339), e.Uses, dash(last),
			e.ID, e.Ticket, dash(e.ApprovedBy.Name), e.Reason)
	}
	return t.Flush()
}

package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/weir-gateway/weir/gateway"
)

func explainCommand() *cli.Command {
	return &cli.Command{
		Name:      "explain",
		Usage:     "say what would happen to a name, URL or address, and why, on both planes",
		ArgsUsage: "NAME|URL|ADDRESS",
		Description: "Exits with 0 if it would pass and with 3 if it would be blocked. A name that passes\n" +
			"is also resolved through the configured upstreams, because an answer may lead to\n" +
			"something banned; --offline leaves that out. The policy is the one that a gateway with\n" +
			"this configuration would start with, with what its state folder holds; --live (or\n" +
			"--admin) asks the running gateway instead, and shows what its cache holds.",
		Flags: adminFlags(
			&cli.StringFlag{Name: "device", Usage: "address of the `DEVICE` that asks; without it a device in no group"},
			&cli.BoolFlag{Name: "offline", Usage: "do not resolve the name"},
			&cli.BoolFlag{Name: "live", Usage: "ask the running gateway"},
			&cli.StringFlag{Name: "between", Usage: "say too what two generations `A,B` say; weir lists history shows them"},
		),
		Action: explain,
	}
}

func explain(c *cli.Context) error {
	if c.Args().Len() != 1 {
		return errors.New("explain takes one name, URL or address; see weir explain --help")
	}
	var device netip.Addr
	if d := c.String("device"); d != "" {
		var err error
		if device, err = netip.ParseAddr(d); err != nil {
			return fmt.Errorf("--device %q is not an IP address; give the device's address on the VPN", d)
		}
	}
	of := explainHere
	if c.Bool("live") || c.String("admin") != "" {
		of = explainLive
	}
	x, err := of(c, device)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		err = printJSON(c.App.Writer, x)
	} else {
		err = printExplanation(c.App.Writer, x)
	}
	if err == nil && x.Blocked {
		return exitCode(exitBlocked)
	}
	return err
}

// explainHere explains without a gateway.
func explainHere(c *cli.Context, device netip.Addr) (*gateway.Explanation, error) {
	cfg, err := loadConfig(c)
	if err != nil {
		return nil, err
	}
	e, err := gateway.NewExplainer(cfg)
	if err != nil {
		return nil, err
	}
	e.Resolve = !c.Bool("offline")
	if s := c.String("between"); s != "" {
		if e.From, e.To, err = gateway.ParseBetween(s); err != nil {
			return nil, fmt.Errorf("--between: %w", err)
		}
	}
	return e.Explain(c.Context, c.Args().First(), device, time.Now())
}

// explainLive asks the running gateway.
func explainLive(c *cli.Context, device netip.Addr) (*gateway.Explanation, error) {
	cl, err := newClient(c)
	if err != nil {
		return nil, err
	}
	q := url.Values{"target": {c.Args().First()}, "resolve": {strconv.FormatBool(!c.Bool("offline"))}}
	if device.IsValid() {
		q.Set("device", device.String())
	}
	if s := c.String("between"); s != "" {
		q.Set("between", s)
	}
	x := new(gateway.Explanation)
	_, err = cl.get(c.Context, "/v1/explain?"+q.Encode(), x)
	return x, err
}

func printExplanation(w io.Writer, x *gateway.Explanation) error {
	word := "allowed"
	if x.Blocked {
		word = "blocked"
	}
	if _, err := fmt.Fprintf(w, "%s: %s\n", x.Target, word); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(key, format string, args ...any) {
		if s := fmt.Sprintf(format, args...); strings.TrimSpace(s) != "" {
			_, _ = fmt.Fprintf(t, "  %s\t%s\n", key, s) // t.Flush reports
		}
	}
	row("canonical", "%s %s", x.Kind, x.Canonical)
	row("dns", "%s: %s", x.DNS.Action, x.DNS.Effect)
	row("proxy", "%s: %s", x.Proxy.Action, x.Proxy.Effect)
	if x.DNS.RuleID == x.Proxy.RuleID && x.DNS.Reason == x.Proxy.Reason {
		printEvidence(row, "", x.DNS)
	} else {
		printEvidence(row, "dns ", x.DNS)
		printEvidence(row, "proxy ", x.Proxy)
	}
	device, group := "any", "none, all bans hold"
	if x.Device.IsValid() {
		device = x.Device.String()
	}
	if x.Group != "" {
		group = x.Group
	}
	row("why", "%s", x.Why)
	for _, v := range x.Voices {
		if id := fmt.Sprintf("%s:%d", v.List, v.Line); id == x.DNS.RuleID && id == x.Proxy.RuleID {
			continue // it decides, and stands above
		}
		row("mentioned", "%s: %s (%s:%d, %s)", v.Says, v.Rule, v.List, v.Line, dash(v.Source))
	}
	row("device", "%s", device)
	row("group", "%s", group)
	printClient(row, &x.Client)
	row("generation", "%d", x.Generation)
	row("policy", "%s", x.Basis)
	if x.Canary != "" {
		row("canary", "group %s goes ahead of all others", x.Canary)
	}
	printBetween(row, x.Between)
	printCache(row, x.Cache)
	switch {
	case x.Answers.Note != "":
		row("answers", "%s", x.Answers.Note)
	case len(x.Answers.Links) == 0:
		row("answers", "none")
	}
	for _, l := range x.Answers.Links {
		row("answer", "%s", l)
	}
	return t.Flush()
}

func printClient(row func(string, string, ...any), c *gateway.Client) {
	row("network", "%s", c.Network)
	row("bans", "%s", dash(strings.Join(c.Bans, ", ")))
	for i := range c.Exemptions {
		e := &c.Exemptions[i]
		state := e.State
		if e.Live {
			state = "live"
		}
		concern := "not about this"
		if e.Concerns {
			concern = "about this"
		}
		row("exempt", "%s: %s, %s: from %s until %s, ticket %s, approved by %s", e.ID, state, concern, fromWhat(&e.Exemption), e.Until.Format(time.RFC3339), e.Ticket, dash(e.ApprovedBy.Name))
	}
}

func printBetween(row func(string, string, ...any), b *gateway.Between) {
	if b == nil {
		return
	}
	for _, s := range []gateway.GenerationSays{b.From, b.To} {
		row(fmt.Sprintf("in %d", s.Generation), "%s (%s, %s by %s)", s.Says, s.Time.Format(time.RFC3339), s.Kind, dash(s.Who))
	}
	for _, r := range b.Rules {
		row(r.Change, "%s (%s:%d)", r.Rule, r.List, r.Line)
	}
}

func printCache(row func(string, string, ...any), c *gateway.Cache) {
	if c == nil {
		return
	}
	if len(c.Answers) == 0 {
		row("cache", "nothing")
	}
	for _, a := range c.Answers {
		state := fmt.Sprintf("%d s left", a.TTL)
		if a.Stale {
			state = fmt.Sprintf("stale for %d s", -a.TTL)
		}
		if a.Failure != "" {
			row("cache", "%s: failed, not asked again for %d s: %s", a.Type, a.TTL, a.Failure)
			continue
		}
		row("cache", "%s: %s, %d records, %s; judged %s", a.Type, a.Rcode, a.Records, state, a.Judged)
	}
}

func printEvidence(row func(string, string, ...any), prefix string, e gateway.Explained) {
	row(prefix+"reason", "%s", e.Reason)
	row(prefix+"via", "%s", e.Via)
	if e.Ban != "" {
		row(prefix+"ban", "%s: %s", e.Ban, e.Title)
		row(prefix+"authority", "%s", e.Authority)
		row(prefix+"reference", "%s", e.Reference)
	}
	if e.Effective != nil {
		row(prefix+"effective", "%s", e.Effective.Format(time.RFC3339))
	}
	if e.List != "" {
		row(prefix+"rule", "%s (%s, %s)", e.Rule, e.RuleID, e.Source)
		row(prefix+"policy", "%s", e.Policy)
		row(prefix+"data", "%s", strings.ReplaceAll(strings.Join(e.Data, "; "), "\t", " "))
	}
	row(prefix+"signal", "%s", e.Signal)
	if e.Exemption == "" {
		row(prefix+"exemption", "none")
		return
	}
	row(prefix+"exemption", "%s until %s", e.Exemption, e.Until.Format(time.RFC3339))
}

package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
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
			"something banned; --offline leaves that out.",
		Flags: []cli.Flag{
			configFlag(),
			&cli.StringFlag{Name: "device", Usage: "address of the `DEVICE` that asks; without it a device in no group"},
			&cli.BoolFlag{Name: "offline", Usage: "do not resolve the name"},
			jsonFlag(),
		},
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
	cfg, err := loadConfig(c)
	if err != nil {
		return err
	}
	e, err := gateway.NewExplainer(cfg)
	if err != nil {
		return err
	}
	e.Resolve = !c.Bool("offline")
	x, err := e.Explain(c.Context, c.Args().First(), device, time.Now())
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
	row("device", "%s", device)
	row("group", "%s", group)
	row("generation", "%d", x.Generation)
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

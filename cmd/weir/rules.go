package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/weir-gateway/weir/gateway"
)

func rulesCommand() *cli.Command {
	ban := &cli.StringFlag{Name: "ban", Usage: "hold the name back under the ban with that `ID`"}
	allow := &cli.BoolFlag{Name: "allow", Usage: "let the name through, for everybody"}
	return &cli.Command{
		Name:   "rules",
		Usage:  "add and remove rules for single names of a running gateway",
		Action: noSuchCommand,
		Subcommands: []*cli.Command{
			{
				Name: "add", Usage: "hold back a name under a ban, or let one through", ArgsUsage: "NAME",
				Description: "NAME covers itself and everything under it, =NAME only itself, *.NAME only what is\n" +
					"under it. The rule is in force on both planes when the command returns, and stays\n" +
					"over restarts. A rule that a ban's vectors do not stand is refused.",
				Flags: adminFlags(ban, allow,
					&cli.StringFlag{Name: "reason", Required: true, Usage: "`REASON` for it"},
					&cli.StringFlag{Name: "ticket", Usage: "`TICKET` under which it was asked for"}),
				Action: rulesAdd,
			},
			{
				Name: "remove", Usage: "remove a rule that was added", ArgsUsage: "NAME",
				Flags: adminFlags(ban, allow), Action: rulesRemove,
			},
			{
				Name: "list", Usage: "show the rules that were added", Flags: adminFlags(), Before: noArgs, Action: rulesList,
			},
		},
	}
}

// rulePath is where the API has the rule of the command line.
func rulePath(c *cli.Context) (string, error) {
	ban := c.String("ban")
	switch {
	case c.NArg() != 1:
		return "", errors.New("rules takes one name; see weir rules --help")
	case (ban != "") == c.Bool("allow"):
		return "", errors.New("say --ban ID to hold the name back under a ban, or --allow to let it through")
	}
	name := url.PathEscape(c.Args().First())
	if ban == "" {
		return "/v1/rules/allow/" + name, nil
	}
	return "/v1/rules/block/" + url.PathEscape(ban) + "/" + name, nil
}

func rulesAdd(c *cli.Context) error {
	path, err := rulePath(c)
	if err != nil {
		return err
	}
	cl, err := newClient(c)
	if err != nil {
		return err
	}
	var r gateway.Rule
	in := gateway.RuleRequest{Reason: c.String("reason"), Ticket: c.String("ticket")}
	if err := cl.change(c.Context, http.MethodPut, path, "", in, &r); err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, r)
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s: %s: in force as rule %d\n", r.Name, ruleDoes(&r), r.Number)
	return err
}

func ruleDoes(r *gateway.Rule) string {
	if r.Ban == "" {
		return "allowed"
	}
	return "blocked under ban " + r.Ban
}

func rulesRemove(c *cli.Context) error {
	path, err := rulePath(c)
	if err != nil {
		return err
	}
	cl, err := newClient(c)
	if err != nil {
		return err
	}
	var r gateway.Rule
	etag, err := cl.get(c.Context, path, &r)
	if err != nil {
		return err
	}
	return cl.change(c.Context, http.MethodDelete, path, etag, nil, nil)
}

func rulesList(c *cli.Context) error {
	cl, err := newClient(c)
	if err != nil {
		return err
	}
	var all gateway.Rules
	if _, err := cl.get(c.Context, "/v1/rules", &all); err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, all)
	}
	t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "RULE\tNAME\tDOES\tADDED\tBY\tTICKET\tREASON") // t.Flush reports
	for _, r := range all.Rules {
		_, _ = fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Number, r.Name, ruleDoes(r), r.At.Format(time.RFC3339), r.By, dash(r.Ticket), r.Reason)
	}
	return t.Flush()
}

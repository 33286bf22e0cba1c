package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/weir-gateway/weir/gateway"
	"github.com/weir-gateway/weir/gateway/admin"
)

// feedCommands are those of lists that are fetched.
func feedCommands() []*cli.Command {
	return []*cli.Command{
		{
			Name:      "update",
			Usage:     "have the gateway take the configuration and all lists again, and look for new versions now",
			ArgsUsage: "[NAME]",
			Description: "Ends the hold of a rollback. With the name of a list that is fetched over the network,\n" +
				"only that one is looked at. Exits with 1 if a list failed: it keeps its old rules, and all\n" +
				"else is in force. What takes long goes on by itself, and weir lists status shows what\n" +
				"became of it.\n\n" +
				"With --canary, from now on what changes of the configuration's bans and lists is in\n" +
				"force for that group first, and all others keep what they have, until lists promote or\n" +
				"lists drop. Exemptions and weir rules are for everybody all the same.",
			Flags: adminFlags(
				&cli.StringFlag{Name: "why", Usage: "note `REASON` with the change"},
				&cli.StringFlag{Name: "canary", Usage: "have `GROUP` go ahead of all others"},
			),
			Action: listsUpdate,
		},
		{
			Name:      "approve",
			Usage:     "put the version of a list in force that waits for approval (hold: true, or a file that was not taken)",
			ArgsUsage: "NAME",
			Description: "It is checked again before it is in force. Where none waits, it is the version that was\n" +
				"discarded, or refused with its canary by lists drop.",
			Flags:  adminFlags(),
			Action: settleHeld("approve"),
		},
		{
			Name:        "discard",
			Usage:       "drop the version of a list that waits for approval",
			ArgsUsage:   "NAME",
			Description: "It does not wait again: the next one does. Until that comes, lists approve takes it after all.",
			Flags:       adminFlags(),
			Action:      settleHeld("discard"),
		},
	}
}

func listsUpdate(c *cli.Context) error {
	if c.IsSet("canary") {
		return beginCanary(c)
	}
	if c.NArg() > 1 {
		return errors.New("lists update takes one list or none; see weir lists update --help")
	}
	cl, err := newClient(c)
	if err != nil {
		return err
	}
	var st *gateway.Status
	var refused error
	if !c.Args().Present() {
		st = new(gateway.Status)
		err := cl.change(c.Context, http.MethodPost, "/v1/update", "", gateway.UpdateRequest{Why: c.String("why")}, st)
		if p, ok := errors.AsType[*admin.Problem](err); ok && p.Status == http.StatusConflict {
			// What the files say is no reason not to look at what others publish.
			refused, st = err, nil
		} else if err != nil {
			return err
		}
	}
	var results []gateway.FeedResult
	if st == nil || slices.ContainsFunc(st.Lists, func(l gateway.ListStatus) bool { return l.Feed != nil }) {
		if err := cl.change(c.Context, http.MethodPost, "/v1/lists/fetch", "", gateway.FetchRequest{List: c.Args().First()}, &results); err != nil {
			return err
		}
		st = new(gateway.Status)
		if _, err := cl.get(c.Context, "/v1/status", st); err != nil {
			return err
		}
	}
	errs := []error{printUpdates(c, st, results), refused}
	for _, r := range results {
		if r.Error != "" {
			errs = append(errs, fmt.Errorf("list %s: %s", r.List, r.Error))
		}
	}
	return errors.Join(errs...)
}

func printUpdates(c *cli.Context, st *gateway.Status, results []gateway.FeedResult) error {
	if c.Bool("json") {
		return printJSON(c.App.Writer, struct {
			*gateway.Status
			Fetched []gateway.FeedResult `json:"fetched,omitempty"`
		}{st, results})
	}
	t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	for _, r := range results {
		about := r.Reason
		if r.Rules > 0 {
			about = fmt.Sprintf("%d rules", r.Rules)
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\n", r.List, r.Outcome, dash(about)) // t.Flush reports
	}
	return errors.Join(t.Flush(), printInForce(c.App.Writer, st))
}

// settleHeld approves or discards the version that waits at this moment.
func settleHeld(verb string) cli.ActionFunc {
	return func(c *cli.Context) error {
		if c.NArg() != 1 {
			return fmt.Errorf("lists %s takes the name of one list; see weir lists %[1]s --help", verb)
		}
		cl, err := newClient(c)
		if err != nil {
			return err
		}
		path := "/v1/lists/" + url.PathEscape(c.Args().First()) + "/"
		var held gateway.FeedVersion
		etag, err := cl.get(c.Context, path+"held", &held)
		if err != nil {
			return err
		}
		var st gateway.Status
		if err := cl.change(c.Context, http.MethodPost, path+verb, etag, nil, &st); err != nil {
			return err
		}
		if c.Bool("json") {
			return printJSON(c.App.Writer, st)
		}
		done := map[string]string{"approve": "approved", "discard": "discarded"}[verb]
		_, err = fmt.Fprintf(c.App.Writer, "%s: %s, %d rules, sha256 %s; generation %d is in force\n", done, c.Args().First(), held.Rules, held.SHA256, st.Generation)
		return err
	}
}

// printFeeds says how the lists that are fetched are doing.
func printFeeds(w io.Writer, lists []gateway.ListStatus) error {
	var errs []error
	say := func(format string, args ...any) {
		_, err := fmt.Fprintf(w, format, args...)
		errs = append(errs, err)
	}
	for _, l := range lists {
		f := l.Feed
		if f == nil {
			continue
		}
		if strings.HasPrefix(l.Source, "file:") { // it is looked at all the time
			say("file %s: %s\n", l.Name, f.State)
		} else {
			say("feed %s: %s, checked %s, fetched %s, next %s\n", l.Name, f.State, moment(f.Checked), moment(f.Fetched), moment(f.Next))
		}
		if f.Error != "" {
			say("  %d failed, the latest at %s: %s: %s\n", f.Failures, moment(f.Failed), f.Reason, f.Error)
		}
		if v := f.Held; v != nil {
			say("  waits for approval: %d rules, sha256 %s, in %s\n", v.Rules, v.SHA256, v.File)
		}
		switch v := f.Refused; {
		case v == nil:
		case f.Error == "": // a person's decision
			say("  in quarantine: %s, sha256 %s, in %s; weir lists approve takes it all the same\n", v.Message, v.SHA256, v.File)
		default:
			say("  in quarantine: %s, sha256 %s, in %s\n", v.Reason, v.SHA256, v.File)
		}
	}
	return errors.Join(errs...)
}

func moment(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.RFC3339)
}

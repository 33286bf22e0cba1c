package main

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/weir-gateway/weir/gateway"
	"github.com/weir-gateway/weir/gateway/ledger"
)

func auditCommand() *cli.Command {
	return &cli.Command{
		Name:   "audit",
		Usage:  "show and check the record of changes",
		Action: noSuchCommand,
		Subcommands: []*cli.Command{{
			Name:  "list",
			Usage: "show the record of changes of a running gateway: who changed what, when and why, and who was denied it",
			Flags: adminFlags(
				&cli.IntFlag{Name: "limit", Value: 50, Usage: "show at most `N` entries, the newest; 1000 at once"},
				&cli.Uint64Flag{Name: "before", Usage: "show only entries before `NUMBER`"},
			),
			Before: noArgs,
			Action: auditList,
		}, {
			Name:      "verify",
			Usage:     "find whether a line of the record of changes was changed, taken out, put in or moved",
			ArgsUsage: "[FILE...]",
			Description: "Without FILE, the record in the configuration's state folder (ledger.jsonl and the\n" +
				"full files before it, oldest first). Each line carries the hash of the one before. What\n" +
				"was cut off at the end shows only against a hash that was noted elsewhere: --head takes\n" +
				"one, and weir_ledger_entries and /v1/status show it.",
			Flags: []cli.Flag{
				configFlag(), jsonFlag(),
				&cli.StringFlag{Name: "head", Usage: "`HASH` that was noted, and must be there"},
			},
			Action: auditVerify,
		}},
	}
}

func auditList(c *cli.Context) error {
	cl, err := newClient(c)
	if err != nil {
		return err
	}
	q := url.Values{"limit": {strconv.Itoa(max(c.Int("limit"), 1))}}
	if n := c.Uint64("before"); n > 0 {
		q.Set("before", strconv.FormatUint(n, 10))
	}
	var page gateway.Changes
	if _, err := cl.get(c.Context, "/v1/audit?"+q.Encode(), &page); err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, page)
	}
	t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "ENTRY\tTIME\tWHO\tWHAT\tOBJECT\tGENERATION\tWHY") // t.Flush reports
	for i := range page.Entries {
		e := &page.Entries[i]
		_, _ = fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%d\t%s\n", e.Seq, e.Time.Format(time.RFC3339), e.Who, e.What, dash(e.Object), e.Generation, dash(e.Why))
	}
	if err := t.Flush(); err != nil || page.Next == 0 {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "older ones: --before %d\n", page.Next)
	return err
}

func auditVerify(c *cli.Context) error {
	files := c.Args().Slice()
	if len(files) == 0 {
		cfg, err := loadConfig(c)
		if err != nil {
			return err
		}
		socket, err := gateway.SocketPath(cfg)
		if err != nil {
			return err
		}
		dir := filepath.Dir(socket)
		if files, err = ledger.Files(dir); err != nil {
			return err
		}
		if len(files) == 0 {
			return fmt.Errorf("there is no record of changes in %s; name the file, or the configuration with --config", dir)
		}
	}
	head, err := ledger.Verify(files, c.String("head"))
	if err != nil {
		return err
	}
	if head.Seq == 0 {
		return errors.New("the record of changes is empty; a gateway that has started has one entry at the least")
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, head)
	}
	_, err = fmt.Fprintf(c.App.Writer, "ok: %d entries, head %s\n", head.Seq, head.Hash)
	return err
}

package main

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/urfave/cli/v2"

	"github.com/weir-gateway/weir/gateway"
)

func cacheCommand() *cli.Command {
	return &cli.Command{
		Name:   "cache",
		Usage:  "look after the answer cache of a running gateway",
		Action: noSuchCommand,
		Subcommands: []*cli.Command{{
			Name:      "flush",
			Usage:     "forget the answers of a name, of all names under one, or all",
			ArgsUsage: "[NAME]",
			Description: "The next question about them is asked upstream. A policy needs no flush: every answer\n" +
				"is judged under the one in force.",
			Flags: adminFlags(
				&cli.StringFlag{Name: "under", Usage: "forget `NAME` and all names under it"},
				&cli.BoolFlag{Name: "all", Usage: "forget everything"},
			),
			Action: cacheFlush,
		}},
	}
}

func cacheFlush(c *cli.Context) error {
	f := gateway.CacheFlush{Name: c.Args().First(), Under: c.String("under"), All: c.Bool("all")}
	given := c.NArg()
	for _, flag := range []string{"under", "all"} {
		if c.IsSet(flag) {
			given++
		}
	}
	if given != 1 {
		return errors.New("give a name, --under NAME or --all; see weir cache flush --help")
	}
	cl, err := newClient(c)
	if err != nil {
		return err
	}
	var done gateway.CacheFlushed
	if _, err := cl.call(c.Context, http.MethodPost, "/v1/cache/flush", "", f, &done); err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, done)
	}
	_, err = fmt.Fprintf(c.App.Writer, "forgot %d answers\n", done.Removed)
	return err
}

package main

import (
	"fmt"
	"net/http"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/weir-gateway/weir/gateway"
)

func reloadCommand() *cli.Command {
	return &cli.Command{
		Name:  "reload",
		Usage: "have a running gateway read its configuration and lists again",
		Description: "Returns when the new policy is in force, or says why it is not and the old one stays.\n" +
			"A list whose file cannot be taken keeps its old rules by itself: all else is in force\n" +
			"then, and the exit code is 1, with an error that names the generation and the file.\n" +
			"A gateway notices changed files by itself, within a second.",
		Flags:  adminFlags(),
		Before: noArgs,
		Action: func(c *cli.Context) error {
			cl, err := newClient(c)
			if err != nil {
				return err
			}
			var st gateway.Status
			if err := cl.change(c.Context, http.MethodPost, "/v1/reload", "", nil, &st); err != nil {
				return err
			}
			if c.Bool("json") {
				return printJSON(c.App.Writer, st)
			}
			_, err = fmt.Fprintf(c.App.Writer, "running: generation %d since %s, %d rules\n", st.Generation, st.Since.Format(time.RFC3339), st.Rules)
			return err
		},
	}
}

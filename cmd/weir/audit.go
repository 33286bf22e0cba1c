package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/weir-gateway/weir/gateway"
	"github.com/weir-gateway/weir/gateway/ledger"
)

func auditCommand() *cli.Command {
	return &cli.Command{
		Name:   "audit",
		Usage:  "check the record of changes",
		Action: noSuchCommand,
		Subcommands: []*cli.Command{{
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

// Command weir is a DNS resolver and HTTP proxy that holds back banned apps on
// a VPN path and lets everything else through.
//
//	weir serve       run the gateway
//	weir check       validate a configuration
//	weir explain     say what would happen to a name, URL or address, and why
//	weir lists       look at lists, and update those that are fetched
//	weir vpn         look at the packet filter of the VPN, and put it in place
//	weir prove       from a device: try every known way around the bans
//	weir exempt      request, approve, revoke and look at exemptions
//	weir rules       add and remove rules for single names
//	weir audit       check the record of changes
//	weir reload      have a running gateway read its files again
//	weir version     print the version
//	weir completion  print a shell completion script
//
// This package reads flags and prints; everything else is in the packages that
// it calls. Errors go to standard error and begin with "weir: ".
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/weir-gateway/weir/blocklists/bans"
	"github.com/weir-gateway/weir/config"
)

func main() {
	os.Exit(run(context.Background(), os.Args, os.Stdout, os.Stderr))
}

// Exit codes of the command line's contract.
const (
	exitOK      = 0
	exitError   = 1
	exitBlocked = 3 // explain: the target would be blocked
)

// An exitCode is an outcome that is no error and prints nothing more.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	app := newApp(stdout, stderr)
	err := app.RunContext(ctx, flagsFirst(app, args))
	var code exitCode
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &code):
		return int(code)
	}
	for line := range strings.Lines(err.Error()) {
		_, _ = fmt.Fprintf(stderr, "weir: %s\n", strings.TrimSuffix(line, "\n"))
	}
	return exitError
}

func newApp(stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:      "weir",
		UsageText: "weir COMMAND [options]",
		Usage:     "hold back banned apps on the VPN path, and let everything else through",
		Description: "Weir answers DNS questions and proxies HTTP under one policy: the bans.\n" +
			"With no configuration file it runs a built-in default that enforces the bans of\n" +
			"WeChat, Kaspersky and TikTok on 127.0.0.1:5353 (DNS) and 127.0.0.1:3128 (proxy).",
		Version:              version(),
		HideVersion:          true,
		EnableBashCompletion: true,
		Suggest:              true,
		Writer:               stdout,
		ErrWriter:            stderr,
		ExitErrHandler:       func(*cli.Context, error) {}, // run reports
		OnUsageError:         usageError,
		Action:               noSuchCommand,
		Commands: []*cli.Command{
			serveCommand(), checkCommand(), explainCommand(), listsCommand(), vpnCommand(), proveCommand(),
			exemptCommand(), rulesCommand(), reloadCommand(), cacheCommand(), auditCommand(), versionCommand(), completionCommand(),
		},
	}
	for _, c := range app.Commands {
		c.OnUsageError = usageError
		for _, sub := range c.Subcommands {
			sub.OnUsageError = usageError
		}
	}
	return app
}

func usageError(c *cli.Context, err error, _ bool) error {
	name := "weir"
	if c.Command != nil && c.Command.HelpName != "" {
		name = c.Command.HelpName // with the command that it belongs to
	}
	err = fmt.Errorf("%w; see %s --help", err, name)
	if c.Command != nil && c.Command.Name == "prove" {
		return unable(c, err)
	}
	return err
}

// noSuchCommand is the action of commands that only have subcommands.
func noSuchCommand(c *cli.Context) error {
	if c.Args().Present() {
		return fmt.Errorf("no command %q; see weir --help", c.Args().First())
	}
	return cli.ShowSubcommandHelp(c)
}

// flagsFirst moves the flags of a command before its arguments, where the flag
// parser looks for them, so that "weir explain NAME --json" works too. What
// stands after "--" stays.
func flagsFirst(app *cli.App, args []string) []string {
	commands, i := app.Commands, 1
	var cmd *cli.Command
	if args[len(args)-1] == completionRequest {
		return args // half a command line: its order is what the shell asks about
	}
	for i < len(args) {
		j := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(args[i]) })
		if j < 0 {
			break
		}
		cmd = commands[j]
		commands = cmd.Subcommands
		i++
	}
	if cmd == nil {
		return args
	}
	head, tail := slices.Clone(args[:i]), []string{}
	for ; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			tail = append(tail, args[i:]...)
			break
		}
		if !strings.HasPrefix(a, "-") || a == "-" {
			tail = append(tail, a)
			continue
		}
		head = append(head, a)
		if takesValue(cmd, a) && i+1 < len(args) {
			i++
			head = append(head, args[i])
		}
	}
	return append(head, tail...)
}

func takesValue(cmd *cli.Command, arg string) bool {
	name := strings.TrimLeft(arg, "-")
	for _, f := range cmd.Flags {
		if _, boolean := f.(*cli.BoolFlag); slices.Contains(f.Names(), name) {
			return !boolean
		}
	}
	return false
}

func configFlag() cli.Flag {
	return &cli.StringFlag{Name: "config", Aliases: []string{"c"}, Usage: "configuration `FILE`; without it the built-in default"}
}

func jsonFlag() cli.Flag {
	return &cli.BoolFlag{Name: "json", Usage: "print JSON"}
}

// loadConfig reads the file that the command line names, or the default.
func loadConfig(c *cli.Context) (*config.Config, error) {
	return config.Load(c.String("config"), bans.FS)
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// noArgs refuses arguments of commands that take none.
func noArgs(c *cli.Context) error {
	if c.Args().Present() {
		return fmt.Errorf("%s takes no argument, got %q; see %s --help", c.Command.Name, c.Args().First(), c.Command.HelpName)
	}
	return nil
}

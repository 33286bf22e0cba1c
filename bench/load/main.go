// Command load puts load on a DNS server or an HTTP proxy over real sockets,
// checks every answer, and says what the server spent on each.
//
//	go run ./bench/load udp -server 127.0.0.1:5353 -names allow.txt:90:allow -names block.txt:10:block -pid PID
//	go run ./bench/load tcp | dot | doh | connect | get | bulk | idle | upstream | origin
//
// The load is a closed loop (a fixed number of flows, each with a fixed number
// of questions in flight) or, with -rate, an open one in which latency counts
// from when a question was due. What the server spends is read from /proc before
// and after, so a figure does not depend on how fast the generator is; it is
// still built to saturate a server: one thread, batches of datagrams, UDP
// segmentation, nothing allocated while it runs.
//
// It is no conformance test: it looks at the question, the response code and
// the first address of an answer, not at every section. It is no model of a
// site's traffic either: names are drawn evenly, over loopback or one link. It
// runs on Linux; elsewhere it says so.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
)

// What the exit code says. Scripts tell a wrong answer from a server that is
// not there.
const (
	exitFailed = 1
	exitUsage  = 2
	exitWrong  = 3
)

// A command runs one subcommand until it is done or the context is.
type command func(ctx context.Context, args []string, out io.Writer) error

var (
	errUsage = errors.New("usage")         // the flag package has said what is wrong
	errWrong = errors.New("wrong answers") // the run was complete, the server was not right
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	commands := commands()
	if len(args) == 0 || commands[args[0]] == nil {
		names := make([]string, 0, len(commands))
		for name := range commands {
			names = append(names, name)
		}
		slices.Sort(names)
		_, _ = fmt.Fprintf(errOut, "usage: load COMMAND [flags], with one of the commands %v; load COMMAND -h lists its flags\n", names)
		return exitUsage
	}
	err := commands[args[0]](ctx, args[1:], out)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return exitUsage
	}
	_, _ = fmt.Fprintf(errOut, "load %s: %v\n", args[0], err)
	if errors.Is(err, errWrong) {
		return exitWrong
	}
	return exitFailed
}

// parse reads a command's flags. A usage error has been printed by then.
func parse(fs *flag.FlagSet, args []string) error {
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected %q after the flags", fs.Arg(0))
	}
	return nil
}

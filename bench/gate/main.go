// Command gate is what keeps the hot path fast: the build fails when a question
// or a tunnel costs more than it may. It prints a table with one line for each
// thing that is measured, what it is held to, and the verdict.
//
//	go run ./bench/gate              measure, judge, exit with 1 on a regression
//	go run ./bench/gate -list FILE   the same with a list of real names
//	go run ./bench/gate -update      put what was measured in baseline.json
//
// It judges no absolute time, because those drift by half from hour to hour.
// Traffic over sockets is compared with floors, the least programs that could
// serve it, in turns of one run; code from bytes to bytes with what it took
// when baseline.json was written, in instructions and allocations, which do not
// drift, and in time relative to a reference in the same process. It is not a
// benchmark of the machine, and it compares with no other product (bench/peers
// does): a floor enforces nothing, so nobody could use one.
//
// It speaks to the gateway over loopback sockets only, and asks nobody else.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	list    string        // file with one blocked name in each line; empty: a synthetic list
	weir    string        // program to measure; empty: built from the module
	rounds  int           // turns of each server
	time    time.Duration // length of a turn
	only    string        // what the names of the measurements begin with; empty: all
	update  bool
	verbose bool
	log     io.Writer
}

// wants says whether the measurement is to be made.
func (o *options) wants(name string) bool { return strings.HasPrefix(name, o.only) }

func (o *options) debugf(format string, args ...any) {
	if o.verbose {
		_, _ = fmt.Fprintf(o.log, format+"\n", args...)
	}
}

// errRegression is a table with a failure in it.
var errRegression = errors.New("the hot path is not what it was")

// floorArg, as the first argument, makes this program one of its own floors. It
// is no flag, because nobody but this program uses it.
const floorArg = "floor"

func main() {
	if len(os.Args) == 4 && os.Args[1] == floorArg {
		fail(runFloor(os.Args[2], os.Args[3]))
		return
	}
	opts, err := parseFlags(os.Args[1:])
	if err != nil {
		os.Exit(2) // flag has said why
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err = run(ctx, opts, os.Stdout)
	stop()
	fail(err)
}

func fail(err error) {
	if err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "gate: %v\n", err)
		os.Exit(1)
	}
}

func parseFlags(args []string) (options, error) {
	o := options{log: os.Stderr}
	f := flag.NewFlagSet("gate", flag.ContinueOnError)
	f.StringVar(&o.list, "list", "", "`file` with one name to block in each line (default: 100,000 synthetic names)")
	f.StringVar(&o.weir, "weir", "", "weir `program` to measure (default: built from this module)")
	f.IntVar(&o.rounds, "rounds", 7, "turns of the floor and of weir, at least 5")
	f.DurationVar(&o.time, "time", 700*time.Millisecond, "length of a turn")
	f.StringVar(&o.only, "only", "", "measure only what begins with that `name`: udp, connect, http, code")
	f.BoolVar(&o.update, "update", false, "rewrite baseline.json with what the code takes now")
	f.BoolVar(&o.verbose, "v", false, "print every turn")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	err := o.check(f.NArg())
	if err != nil {
		_, _ = fmt.Fprintf(o.log, "gate: %v\n", err)
	}
	return o, err
}

func (o *options) check(rest int) error {
	switch {
	case rest > 0:
		return errors.New("there are flags only")
	case o.rounds < fewestRounds || o.rounds > 1000:
		return fmt.Errorf("-rounds %d: want 5 to 1000", o.rounds)
	case o.time < 50*time.Millisecond || o.time > time.Minute:
		return fmt.Errorf("-time %v: want 50ms to 1m", o.time)
	case o.update && !strings.HasPrefix("code/", o.only):
		return fmt.Errorf("-update with -only %s would lose the rest of the baseline", o.only)
	}
	return nil
}

// run measures and prints. It returns errRegression if a verdict is against
// weir, and any other error if there is no verdict.
func run(ctx context.Context, opts options, out io.Writer) error {
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "weir-gate")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	j := &job{opts: opts, root: root, dir: dir}
	if err := j.code(ctx); err != nil {
		return err
	}
	if err := j.sockets(ctx); err != nil {
		return err
	}
	if len(j.rows) == 0 {
		return fmt.Errorf("nothing is measured whose name begins with %q", opts.only)
	}
	printTable(out, j.rows)
	for _, n := range j.notes {
		_, _ = fmt.Fprintln(out, n)
	}
	for _, r := range j.rows {
		if r.verdict.failed {
			return errRegression
		}
	}
	return nil
}

// A job is one run of the gate: where it works and what it has found.
type job struct {
	opts  options
	root  string // of the module
	dir   string // for programs and files of this run
	rows  []row
	notes []string
}

func (j *job) note(format string, args ...any) {
	j.notes = append(j.notes, fmt.Sprintf(format, args...))
}

// Command peers runs Weir and other DNS servers and proxies on the same work,
// one core each, in turns, and prints what an operation costs every one of them.
//
//	go run ./bench/peers -what all -json bench/peers/results.json -write bench/RESULTS.md
//	go run ./bench/peers -what blocked -sizes 100000 -peers floor,weir,unbound
//	go run ./bench/peers -what dot,doh -peers weir,unbound-local,dnsdist
//	go run ./bench/peers names -dir DIR -sizes 100000,1000000
//	go run ./bench/peers tables -json bench/peers/results.json -write bench/RESULTS.md
//
// Every peer gets a configuration made from one list of blocked names, one list
// of allowed ones, and one upstream or origin (bench/load); it runs with one
// worker, pinned to CPU 0, without logs, and generator and upstream run on CPU
// 1. The peers are those of Debian and of the Go module proxy. One that is not
// installed stands in the table as missing. As root everything runs in a network
// namespace with nothing but loopback.
//
// It does not say which program is better: they do different things, and each
// is configured for this one job. It measures no network card, no clients with
// manners of their own, and no second core.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// options is what was asked for.
type options struct {
	peers  []string
	what   []string
	sizes  []int
	rounds int
	time   time.Duration
	// reloadTime is how long the load lasts in which a list is read again.
	reloadTime time.Duration
	list       string // blocked names, instead of drawn ones
	data       string // folder of the real data
	work       string
	json       string // results are merged into this file
	write      string // and the tables of this one are made anew
	floor      string // program of bench/gate, built unless given
	weir       string // program of weir, built unless given
	inside     bool   // this process has its own network namespace
}

// insideFlag marks the process that the program starts in a namespace.
const insideFlag = "-inside"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "peers: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 {
		switch args[0] {
		case "names":
			return namesCommand(args[1:], out)
		case "tables":
			return tablesCommand(args[1:], out)
		}
	}
	o, err := parseOptions(args)
	if err != nil {
		return err
	}
	if o.work == "" {
		if o.work, err = os.MkdirTemp("", "weir-peers-"); err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(o.work) }()
	}
	if o.work, err = filepath.Abs(o.work); err != nil {
		return err
	}
	if !o.inside {
		if err := prepare(ctx, &o, out); err != nil {
			return err
		}
		entered, err := enterNamespace(ctx, append(slices.Clone(args), "-work", o.work, "-sizes", joinInts(o.sizes), insideFlag))
		if entered || err != nil {
			return err
		}
		_, _ = fmt.Fprintln(out, "not root: no network namespace of its own; the peers' configurations alone keep them on loopback")
	}
	return bench(ctx, o, out)
}

func parseOptions(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("peers", flag.ContinueOnError)
	names := fs.String("peers", "all", "which, separated by commas: "+strings.Join(peerNames(), ", "))
	what := fs.String("what", "blocked", "all, or some of "+strings.Join(whatNames(), ", ")+"; dot and doh are all of each")
	sizes := fs.String("sizes", "100000", "how many names are blocked, separated by commas")
	fs.IntVar(&o.rounds, "rounds", 5, "turns of each peer")
	fs.DurationVar(&o.time, "time", 1500*time.Millisecond, "length of a turn")
	fs.DurationVar(&o.reloadTime, "reload-time", 16*time.Second, "how long the load of a reload lasts")
	fs.StringVar(&o.list, "list", "", "file of blocked names, instead of drawn ones, -sizes is then of no interest")
	fs.StringVar(&o.data, "data", dataFolder(), "folder of the real data")
	fs.StringVar(&o.work, "work", "", "folder for programs, lists and configurations; kept. Empty: a temporary one")
	fs.StringVar(&o.json, "json", "", "merge the results into this file")
	fs.StringVar(&o.write, "write", "", "put the tables into this file, between its markers")
	fs.StringVar(&o.floor, "floor", "", "the built bench/gate, whose floors are run; empty: build it")
	fs.StringVar(&o.weir, "weir", "", "the built weir; empty: build it")
	fs.BoolVar(&o.inside, strings.TrimPrefix(insideFlag, "-"), false, "internal: the namespace has been entered")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected %q after the flags", fs.Arg(0))
	}
	var err error
	if o.peers, err = choose("peer", *names, peerNames()); err != nil {
		return o, err
	}
	if o.what, err = choose("measurement", expand(*what), whatNames()); err != nil {
		return o, err
	}
	for s := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1000 || n > 2_000_000 {
			return o, fmt.Errorf("sizes %q: want numbers from 1000 to 2000000", *sizes)
		}
		o.sizes = append(o.sizes, n)
	}
	if o.rounds < 1 || o.rounds > 100 || o.time < 100*time.Millisecond || o.time > time.Minute {
		return o, errors.New("want 1 to 100 rounds of 100ms to 1m")
	}
	if o.reloadTime < 2*reloadAfter || o.reloadTime > 10*time.Minute {
		return o, fmt.Errorf("want a reload-time of %v to 10m", 2*reloadAfter)
	}
	return o, nil
}

// expand has dot and doh mean all measurements of those.
func expand(what string) string {
	var out []string
	for w := range strings.SplitSeq(what, ",") {
		switch w {
		case "dot", "doh":
			out = append(out, w+"-blocked", w+"-cached", w+"-single")
		default:
			out = append(out, w)
		}
	}
	return strings.Join(out, ",")
}

// choose reads a list of names, each one known.
func choose(kind, s string, known []string) ([]string, error) {
	if s == "all" {
		return known, nil
	}
	chosen := strings.Split(s, ",")
	for _, c := range chosen {
		if !slices.Contains(known, c) {
			return nil, fmt.Errorf("no %s %q; there are %s", kind, c, strings.Join(known, ", "))
		}
	}
	return chosen, nil
}

func joinInts(v []int) string { return strings.Trim(strings.ReplaceAll(fmt.Sprint(v), " ", ","), "[]") }

// dataFolder is $WEIR_DATA, or shared/data beside the module.
func dataFolder() string {
	if dir := os.Getenv("WEIR_DATA"); dir != "" {
		return dir
	}
	return filepath.Join("..", "shared", "data")
}

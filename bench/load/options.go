package main

import (
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// Bounds of what may be asked for: a typing error must not take the machine down.
const (
	maxFlows  = 1024
	maxWindow = 4096
	maxConns  = 50_000
	maxLength = time.Hour
	maxRate   = 10_000_000
)

// options is what a run was asked to do, checked.
type options struct {
	server  netip.AddrPort
	names   lists
	flows   int
	window  int
	rate    float64
	length  time.Duration
	warm    time.Duration
	timeout time.Duration
	every   time.Duration
	seed    uint64
	once    bool
	gso     bool
	derived bool
	json    bool
	pids    []int
	perConn int
	roots   *x509.CertPool // nil: the system's
	how     string         // questions leave
}

// newReport is what is known of a run whatever it did.
func (o *options) newReport(mode string) *report {
	r := &report{Mode: mode, Server: o.server.String(), Flows: o.flows, Window: o.window, Rate: o.rate, Send: o.how}
	if o.rate > 0 {
		r.Window = 0
	}
	return r
}

// parseServer reads an address; a name is not resolved, this is no client.
func parseServer(s string) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return a, fmt.Errorf("server %q: want an IP address and a port", s)
	}
	return a, nil
}

// namesFlag collects -names.
type namesFlag struct{ lists *lists }

func (f namesFlag) String() string { return "" }

func (f namesFlag) Set(s string) error {
	l, err := parseSpec(s)
	if err != nil {
		return err
	}
	if len(*f.lists) == 16 {
		return errors.New("more than 16 lists")
	}
	*f.lists = append(*f.lists, l)
	return nil
}

// common are the flags that every load has.
func (o *options) common(fs *flag.FlagSet) (pids *string) {
	fs.DurationVar(&o.length, "time", 5*time.Second, "how long to measure")
	fs.DurationVar(&o.warm, "warm", 0, "how long to load before measuring")
	fs.DurationVar(&o.timeout, "timeout", time.Second, "after how long an answer is lost")
	fs.DurationVar(&o.every, "interval", 0, "report each such interval, too")
	fs.BoolVar(&o.json, "json", false, "print the report as JSON")
	return fs.String("pid", "", "server's process ids, separated by commas: measure CPU and memory, descendants included")
}

func parseDNSOptions(mode string, args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet(mode, flag.ContinueOnError)
	server := fs.String("server", "127.0.0.1:5353", "address and port")
	fs.Var(namesFlag{&o.names}, "names", "FILE[:WEIGHT[:CLASS]], may be repeated; class allow, block, any, nxdomain, nodata, null or refused")
	qtype := fs.String("type", "A", "type of the questions")
	edns := fs.Bool("edns", false, "send an OPT record")
	fs.Float64Var(&o.rate, "rate", 0, "open loop: questions per second; 0 is a closed loop")
	fs.Uint64Var(&o.seed, "seed", 1, "of the drawing of names")
	fs.BoolVar(&o.derived, "derived", false, "addresses must be those of load upstream")
	pids := o.common(fs)
	ca := new(string)
	if mode == "dot" || mode == "doh" {
		ca = fs.String("ca", "", "PEM file of the authority of the server's certificate; empty: the system's")
	}
	if mode == "udp" {
		fs.IntVar(&o.flows, "flows", 16, "sockets")
		fs.IntVar(&o.window, "window", 12, "questions in flight on each, closed loop")
		fs.BoolVar(&o.gso, "gso", true, "send with UDP segmentation where the kernel can")
		fs.BoolVar(&o.once, "once", false, "each name once, in order, then stop (to warm a cache)")
	} else {
		fs.IntVar(&o.flows, "flows", 16, "connections")
		fs.IntVar(&o.window, "window", 12, "questions in flight on each, pipelined")
		if mode == "tcp" {
			fs.IntVar(&o.perConn, "per-conn", 0, "questions on a connection before it is closed; 0: no limit")
		}
	}
	if err := parse(fs, args); err != nil {
		return o, err
	}
	t, ok := qtypes[strings.ToUpper(*qtype)]
	if !ok {
		return o, fmt.Errorf("type %q: not one of A, AAAA, CNAME, HTTPS, MX, NS, TXT", *qtype)
	}
	if len(o.names) == 0 {
		return o, errors.New("no -names")
	}
	for _, l := range o.names {
		if err := l.load(t, *edns); err != nil {
			return o, err
		}
	}
	var err error
	if o.server, err = parseServer(*server); err != nil {
		return o, err
	}
	if o.roots, err = readRoots(*ca); err != nil {
		return o, err
	}
	return o, o.finish(*pids)
}

// readRoots reads certificates of authorities; without a file they are nil.
func readRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s: no certificate", file)
	}
	return roots, nil
}

// finish checks the bounds.
func (o *options) finish(pids string) (err error) {
	if o.pids, err = parsePIDs(pids); err != nil {
		return err
	}
	for _, b := range []struct {
		name      string
		got, most float64
	}{
		{"flows", float64(o.flows), maxFlows},
		{"window", float64(o.window), maxWindow},
		{"time", o.length.Seconds(), maxLength.Seconds()},
		{"timeout", o.timeout.Seconds(), 60},
	} {
		if b.got <= 0 || b.got > b.most {
			return fmt.Errorf("%s %v: want more than 0 and at most %v", b.name, b.got, b.most)
		}
	}
	if o.rate < 0 || o.rate > maxRate || o.warm < 0 || o.warm > maxLength || o.perConn < 0 {
		return errors.New("rate, warm or per-conn out of bounds")
	}
	if o.rate > 0 && o.once {
		return errors.New("once sends as fast as the answers come: it takes no rate")
	}
	if o.every != 0 && (o.every < 10*time.Millisecond || o.length/o.every > maxIntervals) {
		return fmt.Errorf("interval %v: want at least 10ms and at most %d of them", o.every, maxIntervals)
	}
	return nil
}

// parsePIDs reads the -pid flag.
func parsePIDs(s string) ([]int, error) {
	var pids []int
	for f := range strings.SplitSeq(s, ",") {
		if f == "" {
			continue
		}
		pid, err := strconv.Atoi(f)
		if err != nil || pid < 1 {
			return nil, fmt.Errorf("pid %q: not a process id", f)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

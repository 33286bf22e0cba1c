package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
)

// zoneHead begins a response policy zone. Each name follows twice, so that what
// is beneath it is covered, too, as it is with the peers that match suffixes.
const zoneHead = "$ORIGIN rpz.peers.\n$TTL 3600\n@ SOA localhost. root.localhost. %d 3600 600 86400 3600\n@ NS localhost.\n"

const zonePattern = "@ CNAME .\n*.@ CNAME ."

// peers are the programs that are compared, floors first. Each gives the answer
// to a blocked question that its own documentation shows first.
var peers = []*peer{
	{
		name: "floor", plane: resolver, program: "gate", install: "go build ./bench/gate",
		notes: "the raw loop of bench/gate: one recvmmsg and one sendmmsg for 32 datagrams, a hash set, 0.0.0.0; it always gets blocked questions",
		argv:  func(s *setting) []string { return []string{"floor", "udp", s.List} }, announces: true,
	},
	{
		name: "weir", plane: everyDNS | proxy, program: "weir", install: "go build ./cmd/weir",
		config: "weir.yml", notes: "defaults, cache 200,000 entries; NXDOMAIN with SOA and EDE; covers subdomains",
		argv: func(s *setting) []string { return []string{"serve", "--config", s.Config} }, reload: hangup,
	},
	{
		name: "unbound", plane: everyDNS, program: "unbound", install: debian("unbound"), version: []string{"-V"},
		config: "unbound.conf", notes: "RPZ, names and wildcards, NXDOMAIN; respip and iterator, 1 thread, 128 MB of messages",
		lists: func(s *setting) error { s.RPZ = true; return nil },
		argv:  func(s *setting) []string { return []string{"-d", "-c", s.Config} }, reload: hangup,
	},
	{
		name: "unbound-local", plane: everyDNS, program: "unbound", install: debian("unbound"), version: []string{"-V"},
		config: "unbound.conf", notes: "local-zone always_nxdomain, covers subdomains; iterator alone, 1 thread",
		lists: func(s *setting) error {
			return writeEach(filepath.Join(s.Dir, "zones.conf"), s.names, "server:\n", "local-zone: \"@\" always_nxdomain", nil)
		},
		argv: func(s *setting) []string { return []string{"-d", "-c", s.Config} }, reload: hangup,
	},
	{
		name: "dnsdist", plane: everyDNS, program: "dnsdist", install: debian("dnsdist"), version: []string{"--version"},
		config: "dnsdist.conf", notes: "SuffixMatchNode, RCodeAction(NXDOMAIN), packet cache of 200,000; one listener, recvmmsg off as by default",
		lists: func(s *setting) error { s.Batch = 1; return nil },
		argv:  dnsdistCommand,
	},
	{
		name: "dnsdist-mmsg", plane: resolver, program: "dnsdist", install: debian("dnsdist"), version: []string{"--version"},
		config: "dnsdist.conf", notes: "the same with setUDPMultipleMessagesVectorSize(32)",
		lists: func(s *setting) error { s.Batch = 32; return nil },
		argv:  dnsdistCommand,
	},
	{
		name: "dnsmasq", plane: resolver, program: "dnsmasq", install: debian("dnsmasq-base"), version: []string{"--version"},
		config: "dnsmasq.conf", notes: "local=/name/: NXDOMAIN, covers subdomains; cache of 100,000",
		lists: func(s *setting) error {
			return writeEach(filepath.Join(s.Dir, "names.conf"), s.names, "", "local=/@/", nil)
		},
		argv: func(s *setting) []string { return []string{"--keep-in-foreground", "--conf-file=" + s.Config} },
	},
	{
		name: "recursor", plane: resolver, program: "pdns_recursor", install: debian("pdns-recursor"), version: []string{"--version"},
		config: "recursor.conf", notes: "RPZ, names and wildcards, NXDOMAIN; 1 thread, packet cache of 500,000",
		lists: func(s *setting) error {
			return writeEach(filepath.Join(s.Dir, "rpz.lua"), []string{s.Zone}, "", `rpzFile("@", {policyName="peers"})`, nil)
		},
		argv: func(s *setting) []string { return []string{"--config-dir=" + s.Dir} },
		reload: func(ctx context.Context, c *contestant) error {
			cmd := exec.CommandContext(ctx, "rec_control", "--config-dir="+c.setting.Dir, "--socket-dir="+c.setting.Dir, "reload-lua-config")
			text, err := cmd.CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, text)
			}
			return nil
		},
	},
	{
		name: "named", plane: resolver, program: "named", install: debian("bind9"), version: []string{"-v"},
		config: "named.conf", notes: "RPZ, names and wildcards, NXDOMAIN, qname-wait-recurse no; -n 1",
		argv: func(s *setting) []string { return []string{"-f", "-n", "1", "-c", s.Config} }, reload: hangup,
	},
	{
		name: "kresd", plane: everyDNS, program: "kresd", install: debian("knot-resolver"), version: []string{"--version"},
		config: "kresd.conf", notes: "policy.rpz(policy.DENY): NXDOMAIN; cache of 200 MB, one process",
		argv: func(s *setting) []string { return []string{"-n", "-q", "-c", s.Config, s.Dir} },
	},
	{
		name: "coredns", plane: everyDNS, program: "coredns", install: "go install github.com/coredns/coredns@" + corednsVersion, version: []string{"-version"},
		config: "Corefile", notes: "hosts with fallthrough: 0.0.0.0, the exact names only; cache of 200,000",
		lists: func(s *setting) error {
			return writeEach(filepath.Join(s.Dir, "hosts"), s.names, "", "0.0.0.0 @", nil)
		},
		argv: func(s *setting) []string { return []string{"-quiet", "-conf", s.Config} },
	},
	{
		name: "floor-tunnel", plane: proxy, program: "gate", install: "go build ./bench/gate",
		notes: "the tunnel of bench/gate: a head read by hand, net.Dial, two io.Copy",
		argv:  func(s *setting) []string { return []string{"floor", "tcp", s.List} }, announces: true,
	},
	{
		name: "goproxy", plane: proxy, program: "goproxy", install: "built by this program from the module proxy", module: "github.com/elazarl/goproxy",
		notes: "defaults, a hash set, refused with a response written by hand; a module of its own",
		argv:  func(s *setting) []string { return []string{s.List} }, announces: true,
	},
	{
		name: "squid", plane: proxy, program: "squid", install: debian("squid"), version: []string{"-v"},
		config: "squid.conf", notes: "acl dstdomain, no cache, no logs, one worker",
		lists: func(s *setting) error {
			return writeEach(filepath.Join(s.Dir, "names"), s.names, "", ".@", uncovered(s.names))
		},
		argv: func(s *setting) []string { return []string{"-N", "-f", s.Config} },
	},
	{
		name: "tinyproxy", plane: proxy, program: "tinyproxy", install: debian("tinyproxy-bin"), version: []string{"-v"},
		config: "tinyproxy.conf", notes: "Filter of type fnmatch, a pattern `*name` for each name, the cheapest that covers subdomains; it keeps no connection to a client that sends GETs",
		lists: func(s *setting) error {
			return writeEach(filepath.Join(s.Dir, "filter"), s.names, "", "*@", nil)
		},
		argv: func(s *setting) []string { return []string{"-d", "-c", s.Config} }, smallOnly: true,
	},
}

// hangup is how most are told to read their files again.
func hangup(_ context.Context, c *contestant) error {
	return c.process.cmd.Process.Signal(syscall.SIGHUP)
}

func dnsdistCommand(s *setting) []string {
	return []string{"--supervised", "--disable-syslog", "-C", s.Config, "-u", "root", "-g", "root"}
}

package main

import (
	"context"
	"debug/buildinfo"
	"embed"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/template"
)

//go:embed configs
var configs embed.FS

// A plane is what a peer is: a resolver, over which transports, or a proxy.
type plane uint8

const (
	resolver plane = 1 << iota
	proxy
	overTLS
	overHTTPS // HTTP/2

	everyDNS = resolver | overTLS | overHTTPS
)

// A peer is a program and how it is run for the comparison. The table of peers
// never changes.
type peer struct {
	name    string
	plane   plane
	program string   // found in the path, or among what prepare has built
	install string   // how to get it, for the table
	version []string // arguments that make it print its version
	module  string   // whose release is its version, if it is built here
	config  string   // template in configs
	notes   string   // settings that matter, for the table
	// lists writes what the configuration includes; nil: nothing.
	lists func(s *setting) error
	// argv is the command line; the configuration is in s.Config.
	argv func(s *setting) []string
	// reload makes the running program read its list again; nil: it would have to
	// be started anew.
	reload func(ctx context.Context, c *contestant) error
	// announces: it picks its port and prints the address first.
	announces bool
	// smallOnly: a list of a million names is not for it.
	smallOnly bool
}

// A setting is what a configuration is made from. Every peer gets the same, but
// for its own address and folder.
type setting struct {
	Dir, Config        string
	Listen, Host, Port string
	Proxy              string // of a program that is both
	DoT, DoTPort       string
	DoH, DoHPort       string
	Cert, Key          string
	Upstream           string
	UpstreamHost       string
	UpstreamPort       string
	OriginPort         string
	List, Zone         string
	RPZ                bool
	Batch              int
	program            string
	names              []string
}

func peerNames() []string {
	names := make([]string, 0, len(peers))
	for _, p := range peers {
		names = append(names, p.name)
	}
	return names
}

func peerNamed(name string) *peer {
	i := slices.IndexFunc(peers, func(p *peer) bool { return p.name == name })
	if i < 0 {
		return nil
	}
	return peers[i]
}

var debian = func(pkg string) string { return "apt-get install --no-install-recommends " + pkg }

// find prefers what prepare has built to what is installed.
func (p *peer) find(o *options) string {
	if built := o.bin(p.program); fileExists(built) {
		return built
	}
	return find(p.program)
}

// versionOf is the first thing that looks like a version in what the program
// prints, or the release of the module that it is built from.
func (p *peer) versionOf(ctx context.Context, program string) string {
	if p.module != "" {
		return moduleVersion(program, p.module)
	}
	if p.version == nil {
		return ""
	}
	text, _ := exec.CommandContext(ctx, program, p.version...).CombinedOutput() // some exit with 1
	return versionPattern.FindString(string(text))
}

var versionPattern = regexp.MustCompile(`\b\d+\.\d+(\.\d+)?`)

func moduleVersion(program, module string) string {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == module {
			return m.Version
		}
	}
	return ""
}

// configure writes the peer's files and returns its command line.
func (p *peer) configure(s *setting) ([]string, error) {
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return nil, err
	}
	if p.lists != nil {
		if err := p.lists(s); err != nil {
			return nil, err
		}
	}
	if p.config != "" {
		t, err := template.ParseFS(configs, "configs/"+p.config)
		if err != nil {
			return nil, err
		}
		s.Config = filepath.Join(s.Dir, p.config)
		f, err := os.Create(s.Config)
		if err != nil {
			return nil, err
		}
		if err := t.Execute(f, s); err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("%s: %w", p.config, err)
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
	return append([]string{s.program}, p.argv(s)...), nil
}

// setAddress enters where the peer is to listen.
func (s *setting) setAddress(a string) (err error) {
	s.Listen = a
	s.Host, s.Port, err = net.SplitHostPort(a)
	return err
}

// uncovered is a filter for peers that do not want a name beneath another one.
func uncovered(names []string) func(string) bool {
	set := make(map[string]struct{}, len(names))
	for _, n := range names {
		set[n] = struct{}{}
	}
	return func(n string) bool {
		_, above, _ := strings.Cut(n, ".")
		return !covers(set, above)
	}
}

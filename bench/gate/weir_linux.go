package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A gateway is a running weir and where it listens.
type gateway struct {
	*process
	dns, proxy, admin netip.AddrPort
}

// weirConfig is the built-in default with free ports, the list, and what the
// load needs to be let through. Answers are those of the default: NXDOMAIN. The
// tunnels carry no TLS.
const weirConfig = `dns: {listen: ["127.0.0.1:0"], upstreams: ["udp://%s"]}
proxy:
  listen: ["127.0.0.1:0"]
  connect_ports: [443, %d]
  http_ports: [%[2]d]
  allow_networks: [127.0.0.0/8]
  sni: {missing: allow, mismatch: allow, ech: allow, not_tls: allow, malformed: allow, timeout: allow}
bans:
  - id: gate
    title: {en: "Names of the benchmark gate", fr: "Noms du banc d'essai"}
    authority: "the benchmark gate"
    reference: "bench/gate"
    lists: [{name: gate, source: "file:%s", format: domains}]
admin: {listen: "127.0.0.1:0"}
log: {format: json}
state: %q
`

// startWeir runs the program on a list, in a folder of its own.
func startWeir(n *nursery, program, dir string, blocked []string, o *origin) (*gateway, error) {
	names := filepath.Join(dir, "blocked.txt")
	if err := writeNames(names, blocked); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "weir.yml")
	text := fmt.Sprintf(weirConfig, o.dnsAddr, o.port, names, filepath.Join(dir, "state"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	g := new(gateway)
	p, err := n.start("weir", true, g.ready, program, "serve", "--config", file)
	g.process = p
	return g, err
}

// ready reads the log line with which weir says where it listens.
func (g *gateway) ready(line []byte) bool {
	var l struct {
		Msg        string
		DNS, Proxy []netip.AddrPort
		Admin      netip.AddrPort
	}
	if json.Unmarshal(line, &l) != nil || l.Msg != "ready" || len(l.DNS) == 0 || len(l.Proxy) == 0 {
		return false
	}
	g.dns, g.proxy, g.admin = l.DNS[0], l.Proxy[0], l.Admin
	return true
}

// callsMetric counts the system calls of the UDP plane.
const callsMetric = "weir_dns_udp_calls_total"

// calls returns how many system calls weir made for reading and writing
// datagrams so far, NaN if it does not count them.
func (g *gateway) calls(ctx context.Context) (float64, error) {
	m, err := scrape(ctx, "http://"+g.admin.String()+"/metrics")
	if err != nil {
		return 0, err
	}
	read, okRead := m[callsMetric+`{direction="read"}`]
	write, okWrite := m[callsMetric+`{direction="write"}`]
	if !okRead || !okWrite {
		return math.NaN(), nil
	}
	return read + write, nil
}

// scrapeTime bounds a look at the metrics.
const scrapeTime = 10 * time.Second

// scrape reads metrics in the Prometheus text format: series and value.
func scrape(ctx context.Context, url string) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, scrapeTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metrics: status %s", resp.Status)
	}
	m := make(map[string]float64)
	s := bufio.NewScanner(resp.Body)
	for s.Scan() {
		series, value, ok := cutLast(s.Text())
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil && !strings.HasPrefix(series, "#") {
			m[series] = v
		}
	}
	return m, s.Err()
}

func cutLast(line string) (before, after string, ok bool) {
	i := strings.LastIndexByte(line, ' ')
	if i < 0 {
		return line, "", false
	}
	return line[:i], line[i+1:], true
}

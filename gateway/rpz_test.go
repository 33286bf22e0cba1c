package gateway

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/bench/corpus"
	"github.com/weir-gateway/weir/gateway/rpz"
)

const zoneSecret = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

// An engine is a resolver that follows the gateway's response policy zone. It is
// configured by files in a folder of its own.
type engine struct {
	name, program string
	files         map[string]string // with ADDRESS, PORT, PRIMARY, UPSTREAM and DIR for what these are
	args          []string
	notified      bool // it takes NOTIFY for such a zone; else it asks by itself

	addr string // where it answers
}

var engines = []engine{{
	name: "named", program: "named", notified: true, args: []string{"-g", "-n", "1", "-c", "DIR/named.conf"},
	files: map[string]string{"named.conf": `
options { directory "DIR"; pid-file none; session-keyfile none; listen-on-v6 { none; }; listen-on port PORT { 127.0.0.1; };
	recursion yes; forward only; forwarders { 127.0.0.1 port UPSTREAM; }; dnssec-validation no; empty-zones-enable no;
	response-policy { zone "policy.weir" min-update-interval 0; } qname-wait-recurse no; };
controls { };
key "xfr.example" { algorithm hmac-sha256; secret "SECRET"; };
zone "policy.weir" { type secondary; file "policy.db"; primaries { 127.0.0.1 port PRIMARY key "xfr.example"; }; };
`},
}, {
	name: "unbound", program: "unbound", notified: true, args: []string{"-d", "-c", "DIR/unbound.conf"},
	files: map[string]string{"unbound.conf": `
server:
	interface: 127.0.0.1@PORT
	directory: "DIR"
	chroot: ""
	username: ""
	pidfile: ""
	use-syslog: no
	do-daemonize: no
	do-ip6: no
	do-not-query-localhost: no
	module-config: "respip iterator"
	num-threads: 1
remote-control:
	control-enable: no
forward-zone:
	name: "."
	forward-addr: 127.0.0.1@UPSTREAM
rpz:
	name: "policy.weir."
	primary: 127.0.0.1@PRIMARY
`},
}, {
	name: "pdns_recursor", program: "pdns_recursor", args: []string{"--config-dir=DIR"},
	files: map[string]string{
		"recursor.conf": `
local-address=127.0.0.1
local-port=PORT
socket-dir=DIR
daemon=no
write-pid=no
threads=1
security-poll-suffix=
dnssec=off
dont-query=
disable-packetcache=yes
forward-zones-recurse=.=127.0.0.1:UPSTREAM
lua-config-file=DIR/rpz.lua
`,
		"rpz.lua": `rpzPrimary("127.0.0.1:PRIMARY", "policy.weir.", {refresh=1, tsigname="xfr.example", tsigalgo="hmac-sha256", tsigsecret="SECRET"})
`,
	},
}}

// start runs the engine until the test ends.
func (e *engine) start(t *testing.T, primary, upstream string) {
	t.Helper()
	program, dir := corpus.Tool(t, e.program), t.TempDir()
	_, port, _ := net.SplitHostPort(e.addr)
	_, up, _ := net.SplitHostPort(upstream)
	_, from, _ := net.SplitHostPort(primary)
	r := strings.NewReplacer("DIR", dir, "PORT", port, "UPSTREAM", up, "PRIMARY", from, "SECRET", zoneSecret)
	for name, text := range e.files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(r.Replace(text)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var args []string
	for _, a := range e.args {
		args = append(args, r.Replace(a))
	}
	corpus.Serve(t, program, args...)
}

// reply is what a server says of a name: its rcode and addresses, or that it
// says nothing.
func reply(server, name string) string {
	c := dns.Client{Timeout: 20 * time.Second}
	r, _, err := c.Exchange(new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA), server)
	if err != nil {
		if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
			return "nothing"
		}
		return err.Error()
	}
	var addrs []string
	for _, rr := range r.Answer {
		if a, ok := rr.(*dns.A); ok {
			addrs = append(addrs, a.A.String())
		}
	}
	slices.Sort(addrs)
	return dns.RcodeToString[r.Rcode] + " " + strings.Join(addrs, " ")
}

// until waits for a condition, for as long as a server needs that was told at an
// unlucky moment.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(90 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 90 s", what)
		}
	}
}

// randomList returns rules for random names, some under others.
func randomList(d *rand.Rand, n int) []string {
	var out []string
	for range n {
		name := fmt.Sprintf("n%d.zone%d.example", d.IntN(n), d.IntN(8))
		for d.IntN(3) == 0 {
			name = fmt.Sprintf("l%d.%s", d.IntN(3), name)
		}
		out = append(out, []string{"", "", "", "=", "*.", "@@"}[d.IntN(6)]+name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// neighbours returns the names that a policy stands at, and those above, below
// and beside them.
func neighbours(g *Gateway) []string {
	var out []string
	for name := range g.store.Load().Names() {
		_, above, _ := strings.Cut(name, ".")
		out = append(out, strings.Clone(name), "x."+name, "x.y."+name, "x"+name)
		if strings.Contains(above, ".") {
			out = append(out, strings.Clone(above), "beside."+above)
		}
	}
	// Names that the upstream gives an address to that is banned itself.
	for _, under := range []string{"n1.zone1.example", "wechat.com", "tiktok.com", "nobody.example", "l0.n3.zone3.example"} {
		out = append(out, "addr."+under)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

const zoneConfig = `
dns: {listen: ["127.0.0.1:0"], upstreams: [UPSTREAM]}
proxy: {listen: []}
admin: {listen: ""}
bans:
  - wechat
  - tiktok
  - {id: a, title: A, authority: A, reason: A, reference: A, effective: 2020-01-01, answer: nodata, lists: [{name: a, source: "file:a.txt", format: domains}]}
  - {id: b, title: B, authority: B, reason: B, reference: B, effective: 2020-01-01, lists: [{name: b, source: "file:b.txt", format: domains}]}
  - {id: c, title: C, authority: C, reason: C, reference: C, effective: 2020-01-01, answer: "null", lists: [{name: c, source: "file:c.txt", format: domains}]}
  - {id: d, title: D, authority: D, reason: D, reference: D, effective: 2020-01-01, answer: {ipv4: 198.51.100.80}, lists: [{name: d, source: "file:d.txt", format: domains}]}
  - {id: e, title: E, authority: E, reason: E, reference: E, effective: 2020-01-01, answer: drop, lists: [{name: e, source: "file:e.txt", format: domains}]}
  - {id: f, title: F, authority: F, reason: F, reference: F, effective: 2190-01-01, lists: [{name: f, source: "file:f.txt", format: domains}]}
allow: ["wechat.com", "n1.zone1.example", "=n2.zone2.example", "*.n3.zone3.example"]
rpz:
  listen: ["127.0.0.1:0"]
  zone: policy.weir
  keys: [{name: xfr.example, algorithm: hmac-sha256, secret_file: xfr.key}]
  allow_transfer: [127.0.0.1]
  unsigned_loopback: true # unbound has no TSIG
`

// TestEnginesFollow: named, unbound and pdns-recursor follow the policy as their
// response policy zone, and agree with the gateway on every name, before and
// after changes.
func TestEnginesFollow(t *testing.T) {
	t.Parallel()
	d := rand.New(rand.NewPCG(11, 12))
	files := map[string]string{"xfr.key": zoneSecret + "\n", "e.txt": "dropped.example\n", "f.txt": text(randomList(d, 20))}
	lists := map[string][]string{}
	for _, name := range []string{"a", "b", "c", "d"} {
		lists[name] = randomList(d, 100)
		files[name+".txt"] = text(lists[name])
	}
	files["b.txt"] += "mark-0.example\n"
	all := slices.Clone(engines)
	var notify []string
	for i := range all {
		all[i].addr = corpus.Port(t).String()
		if all[i].notified {
			notify = append(notify, fmt.Sprintf("%q", all[i].addr))
		}
	}
	files["weir.yml"] = zoneConfig + "  notify: [" + strings.Join(notify, ", ") + "]\n"
	f := newFixture(t, files)
	upstream := strings.TrimPrefix(f.state.Load().cfg.DNS.Upstreams[0].String(), "udp://")
	for i := range all {
		all[i].start(t, f.RPZAddrs()[0].String(), upstream)
	}
	var first rpz.Counts
	asked := 0
	for round := range 3 {
		if round > 0 {
			before := f.zone.Counts()
			for name := range lists {
				lists[name] = append(lists[name][5:], fmt.Sprintf("m%d.zone%d.example", round, d.IntN(8)))
				if name != "b" {
					f.write(name+".txt", text(lists[name]))
				}
			}
			// What has the mark has all else that has changed.
			if err := f.rewrite("b.txt", text(lists["b"])+fmt.Sprintf("mark-%d.example\n", round)); err != nil {
				t.Fatal(err)
			}
			until(t, "a new version", func() bool { return f.zone.Counts().Serial != before.Serial })
		}
		for _, e := range all {
			until(t, fmt.Sprintf("%s in round %d", e.name, round), func() bool {
				return strings.HasPrefix(reply(e.addr, fmt.Sprintf("mark-%d.example", round)), "NXDOMAIN")
			})
		}
		if round == 0 {
			until(t, "the counts of whole transfers", func() bool { return f.zone.Counts().Full >= uint64(len(all)) })
			first = f.zone.Counts()
		}
		names := neighbours(f.Gateway)
		var wg sync.WaitGroup
		for part := range slices.Chunk(names, len(names)/8+1) {
			wg.Go(func() { agree(t, round, f.DNSAddrs()[0].String(), all, part) })
		}
		wg.Wait()
		asked += len(names)
		if t.Failed() {
			break
		}
	}
	for _, e := range all {
		c := dns.Client{Timeout: 2 * time.Second}
		if r, _, err := c.Exchange(new(dns.Msg).SetQuestion("x.dropped.example.", dns.TypeA), e.addr); err == nil {
			t.Errorf("x.dropped.example: %s says %v", e.name, r)
		}
	}
	until(t, "the counts of changes", func() bool { return f.zone.Counts().Changes >= 2*uint64(len(all)) || t.Failed() })
	n := f.zone.Counts()
	t.Logf("%d names, %+v", asked, n)
	// At the start an engine may give a transfer up that takes long, and begin again.
	if n.Full != first.Full || n.Unheard > 0 {
		t.Errorf("want %d transfers of the whole zone, and the rest by changes: %+v", first.Full, n)
	}
}

// agree checks that the engines say of names what Weir says. Who has no answer is
// asked again: the machine may have had no time for the upstream.
func agree(t *testing.T, round int, weir string, engines []engine, names []string) {
	failed := func(said string) bool { return said == "nothing" || strings.HasPrefix(said, "SERVFAIL") }
	for _, name := range names {
		if strings.HasSuffix(name, "dropped.example") {
			continue
		}
		for _, e := range engines {
			want, got := reply(weir, name), reply(e.addr, name)
			for end := time.Now().Add(time.Minute); want != got && (failed(want) || failed(got)) && time.Now().Before(end); {
				time.Sleep(500 * time.Millisecond)
				want, got = reply(weir, name), reply(e.addr, name)
			}
			if got != want {
				t.Errorf("round %d: %s: %s says %q, Weir %q", round, name, e.name, got, want)
			}
		}
	}
}

func TestZoneSerialIsKept(t *testing.T) {
	f := newFixture(t, map[string]string{
		"weir.yml": zoneConfig + "state: state\n", "xfr.key": zoneSecret, "a.txt": "a.example\n", "b.txt": "b.example\n",
		"c.txt": "c.example\n", "d.txt": "d.example\n", "e.txt": "e.example\n", "f.txt": "f.example\n",
	})
	until(t, "the first version", func() bool { return f.zone.Counts().Serial != 0 })
	if got := readSerial(filepath.Join(f.dir, "state", serialFile)); got != f.zone.Counts().Serial {
		t.Errorf("serial %d is kept of %d", got, f.zone.Counts().Serial)
	}
	f.write("none", "x")
	for _, file := range []string{"none", "not there"} {
		if got := readSerial(filepath.Join(f.dir, file)); got != 0 {
			t.Errorf("%s: serial %d", file, got)
		}
	}
}

// TestZoneSecrets: a secret that cannot be used is an error that does not show it.
func TestZoneSecrets(t *testing.T) {
	dir := t.TempDir()
	for name, tc := range map[string]struct{ text, want string }{
		"words": {"not base64!", "does not hold a secret in base64 and nothing else"},
		"short": {base64.StdEncoding.EncodeToString([]byte("0123456789abcde")), "has 15 octets; it needs 16 at the least, and 32 are better"},
		"good":  {zoneSecret + "\n", ""},
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		secret, err := readSecret(file)
		switch {
		case tc.want == "" && (err != nil || string(secret) != "0123456789abcdef0123456789abcdef"):
			t.Errorf("%s: %v", name, err)
		case tc.want != "" && (err == nil || !strings.HasSuffix(err.Error(), tc.want) || strings.Contains(err.Error(), tc.text)):
			t.Errorf("%s: got %v, want %s", name, err, tc.want)
		}
	}
	if _, err := readSecret(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

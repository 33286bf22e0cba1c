package resolver

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/bench/corpus"
)

// start runs a real name server on a free port until the end of the test, and
// waits until it answers. The port may be lost to another process on the way.
func start(t *testing.T, name string, configure func(addr netip.AddrPort) (args []string)) netip.AddrPort {
	t.Helper()
	var log string
	for range 5 {
		addr := corpus.Port(t)
		var ok bool
		if log, ok = run(t, addr, name, configure(addr)); ok {
			return addr
		}
	}
	t.Fatalf("%s does not answer:\n%s", name, log)
	return netip.AddrPort{}
}

func run(t *testing.T, addr netip.AddrPort, name string, args []string) (log string, ok bool) {
	t.Helper()
	s := corpus.Serve(t, name, args...)
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if up(addr, "udp") && up(addr, "tcp") {
			return "", true
		}
		select {
		case <-s.Ended:
			return s.Log(), false
		case <-time.After(50 * time.Millisecond):
		}
	}
	return s.Log(), false
}

// up reports whether a server answers there.
func up(addr netip.AddrPort, network string) bool {
	c := &dns.Client{Net: network, Timeout: 5 * time.Second}
	m, _, err := c.Exchange(question("host.example", dns.TypeA), addr.String())
	return err == nil && m.Rcode == dns.RcodeSuccess
}

// bigSize is how many addresses big.example has: more than fit into 1232 bytes,
// and no more than named takes.
const bigSize = 90

func bigSet() string {
	var b strings.Builder
	for i := range bigSize {
		fmt.Fprintf(&b, "big 60 IN A 192.0.2.%d\n", i)
	}
	return b.String()
}

const namedZone = `$ORIGIN example.
@ 600 IN SOA ns admin 1 2 3 4 300
@ 600 IN NS ns
ns 600 IN A 127.0.0.1
host 60 IN A 192.0.2.1
host 60 IN AAAA 2001:db8::1
alias 60 IN CNAME middle
middle 30 IN CNAME host
tree 60 IN DNAME other
www.other 60 IN A 192.0.2.2
svc 60 IN HTTPS 1 host alpn=h2 ipv4hint=192.0.2.9
loop 60 IN CNAME pool
pool 60 IN CNAME loop
`

func TestNamed(t *testing.T) {
	named := corpus.Tool(t, "named")
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "zone"), namedZone+bigSet())
	addr := start(t, named, func(addr netip.AddrPort) []string {
		writeFile(t, filepath.Join(dir, "named.conf"), fmt.Sprintf(`
options { directory %q; pid-file none; session-keyfile none; recursion no; listen-on-v6 { none; };
	listen-on port %d { 127.0.0.1; }; dnssec-validation no; };
controls { };
zone "example" { type primary; file "zone"; };
`, dir, addr.Port()))
		return []string{"-g", "-n", "1", "-c", filepath.Join(dir, "named.conf")}
	})
	for _, scheme := range []string{"udp", "tcp"} {
		t.Run(scheme, func(t *testing.T) {
			r := open(t, Options{Upstreams: upstreams(t, scheme+"://"+addr.String()), CacheEntries: 100})
			testReal(t, r)
			if n := r.Stats().Truncated; n != map[string]uint64{"udp": 1, "tcp": 0}[scheme] {
				t.Errorf("%d truncated responses", n)
			}
			want(t, r, "www.tree.example", dns.TypeA, 0, 2, "DNAME other.example", "CNAME www.other.example", "A 192.0.2.2")
			want(t, r, "svc.example", dns.TypeHTTPS, 0, 1, "HTTPS host.example", "HTTPS ipv4hint 192.0.2.9")
		})
	}
}

func TestUnbound(t *testing.T) {
	unbound := corpus.Tool(t, "unbound")
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "zone"), namedZone+bigSet())
	addr := start(t, unbound, func(addr netip.AddrPort) []string {
		writeFile(t, filepath.Join(dir, "unbound.conf"), fmt.Sprintf(`
server:
	interface: 127.0.0.1@%d
	directory: %q
	chroot: ""
	username: ""
	pidfile: ""
	use-syslog: no
	do-daemonize: no
	do-ip6: no
	do-not-query-localhost: no
	module-config: "iterator"
	num-threads: 1
remote-control:
	control-enable: no
auth-zone:
	name: "example."
	zonefile: "zone"
	for-downstream: no
	for-upstream: yes
	fallback-enabled: no
`, addr.Port(), dir))
		return []string{"-d", "-p", "-c", filepath.Join(dir, "unbound.conf")}
	})
	for _, scheme := range []string{"udp", "tcp"} {
		t.Run(scheme, func(t *testing.T) {
			r := open(t, Options{Upstreams: upstreams(t, scheme+"://"+addr.String()), CacheEntries: 100})
			testReal(t, r)
			a := resolve(t, r, "loop.example", dns.TypeA)
			if a.Rcode() != dns.RcodeServerFailure || len(a.Links()) != 0 {
				t.Errorf("loop: %s, %v", dns.RcodeToString[a.Rcode()], a.Links())
			}
		})
	}
}

// testReal asks what both servers answer alike.
func testReal(t *testing.T, r *Resolver) {
	want(t, r, "HOST.example", dns.TypeA, 0, 1, "A 192.0.2.1")
	want(t, r, "alias.example", dns.TypeAAAA, 0, 3, "CNAME middle.example", "CNAME host.example", "AAAA 2001:db8::1")
	want(t, r, "gone.example", dns.TypeA, dns.RcodeNameError, 0)
	want(t, r, "host.example", dns.TypeTXT, 0, 0)
	for _, q := range []*dns.Msg{question("gone.example", dns.TypeA), question("host.example", dns.TypeTXT), question("alias.example", dns.TypeAAAA)} {
		if r.Cached(q) == nil {
			t.Errorf("%s is not in the cache", q.Question[0].String())
		}
	}
	m := resolve(t, r, "gone.example", dns.TypeA).Reply(question("gone.example", dns.TypeA))
	if len(m.Ns) != 1 || m.Ns[0].Header().Ttl > 300 {
		t.Errorf("authority: %v", m.Ns)
	}
	if n := len(resolve(t, r, "big.example", dns.TypeA).Links()); n != bigSize {
		t.Errorf("the large answer has %d addresses", n)
	}
	addrs, _, err := r.LookupAddrs(t.Context(), "alias.example")
	if fmt.Sprint(addrs) != "[192.0.2.1 2001:db8::1]" || err != nil {
		t.Errorf("addresses %v, %v", addrs, err)
	}
}

func want(t *testing.T, r *Resolver, name string, qtype uint16, code, least int, links ...string) {
	t.Helper()
	a := resolve(t, r, name, qtype)
	var got []string
	for _, l := range a.Links() {
		got = append(got, l.String())
	}
	m := a.Reply(question(name, qtype))
	if a.Rcode() != code || len(m.Answer) < least || !slices.Equal(got, links) {
		t.Errorf("%s %s: %s, %q, want %s, %q\n%s", name, dns.Type(qtype), dns.RcodeToString[a.Rcode()], got, dns.RcodeToString[code], links, m)
	}
}

package gateway

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/bench/corpus"
)

// The engines that response policy zones are made for, each a forwarder to the
// same world with the same zones.

// An rpzEngine is a server under test.
type rpzEngine struct {
	name string
	addr string
}

// startEngines runs Debian's named, unbound and pdns_recursor with the policy
// zones, whose names are rpz1, rpz2 … and stand in that order.
func startEngines(t *testing.T, world netip.AddrPort, zones []string) []rpzEngine {
	t.Helper()
	dir := t.TempDir()
	for i, z := range zones {
		writeText(t, filepath.Join(dir, zoneFile(i)), z)
	}
	return []rpzEngine{
		startEngine(t, "named", dir, world, len(zones), namedConf, "-g", "-n", "2", "-c"),
		startEngine(t, "unbound", dir, world, len(zones), unboundConf, "-d", "-p", "-c"),
		startEngine(t, "pdns_recursor", dir, world, len(zones), pdnsConf, "--daemon=no", "--config-dir="),
	}
}

func zoneFile(i int) string { return fmt.Sprintf("rpz%d", i+1) }

func namedConf(_, dir string, world, addr netip.AddrPort, zones int) (file, conf string) {
	var policies, primaries strings.Builder
	for i := range zones {
		fmt.Fprintf(&policies, "zone %q; ", zoneFile(i))
		fmt.Fprintf(&primaries, "zone %q { type primary; file %q; allow-query { none; }; };\n", zoneFile(i), zoneFile(i))
	}
	return "named.conf", fmt.Sprintf(`
options { directory %q; pid-file none; session-keyfile none; listen-on-v6 { none; }; listen-on port %d { 127.0.0.1; };
	recursion yes; allow-query { any; }; allow-recursion { any; }; dnssec-validation no; qname-minimization off; empty-zones-enable no;
	forward only; forwarders { 127.0.0.1 port %d; }; recursive-clients 5000; minimal-responses yes; max-cache-ttl 60;
	response-policy { %s } qname-wait-recurse no nsip-enable no nsdname-enable no;
	rate-limit { responses-per-second 0; }; };
controls { };
logging { category default { stderr; }; category rpz { null; }; category lame-servers { null; }; category resolver { null; }; channel stderr { stderr; }; };
%s`, dir, addr.Port(), world.Port(), policies.String(), primaries.String())
}

func unboundConf(_, dir string, world, addr netip.AddrPort, zones int) (file, conf string) {
	var policies strings.Builder
	for i := range zones {
		fmt.Fprintf(&policies, "rpz:\n\tname: %q\n\tzonefile: %q\n", zoneFile(i), zoneFile(i))
	}
	return "unbound.conf", fmt.Sprintf(`
server:
	interface: 127.0.0.1@%d
	access-control: 127.0.0.0/8 allow
	directory: %q
	chroot: ""
	username: ""
	pidfile: ""
	use-syslog: no
	do-daemonize: no
	do-ip6: no
	do-not-query-localhost: no
	module-config: "respip iterator"
	num-threads: 1
	num-queries-per-thread: 4096
	outgoing-range: 8192
	incoming-num-tcp: 200
	qname-minimisation: no
	minimal-responses: yes
	rrset-roundrobin: no
remote-control:
	control-enable: no
forward-zone:
	name: "."
	forward-addr: 127.0.0.1@%d
%s`, addr.Port(), dir, world.Port(), policies.String())
}

func pdnsConf(data, dir string, world, addr netip.AddrPort, zones int) (file, conf string) {
	var lua strings.Builder
	for i := range zones {
		fmt.Fprintf(&lua, "rpzFile(%q, {policyName=%q})\n", filepath.Join(dir, zoneFile(i)), zoneFile(i))
	}
	policies := filepath.Join(data, "rpz.lua")
	if err := os.WriteFile(policies, []byte(lua.String()), 0o600); err != nil {
		panic(err)
	}
	return "recursor.conf", fmt.Sprintf(`local-address=127.0.0.1
local-port=%d
allow-from=127.0.0.0/8
dont-query=
forward-zones-recurse=.=127.0.0.1:%d
dnssec=off
qname-minimization=no
packetcache-ttl=0
disable-packetcache=yes
quiet=yes
loglevel=3
threads=2
max-mthreads=4096
socket-dir=%s
lua-config-file=%s
security-poll-suffix=
hint-file=no
max-tcp-clients=500
max-tcp-per-client=0
`, addr.Port(), world.Port(), data, policies)
}

// startEngine runs one on a free port, which may be lost on the way.
func startEngine(t *testing.T, name, dir string, world netip.AddrPort, zones int, configure func(data, dir string, world, addr netip.AddrPort, zones int) (file, conf string), args ...string) rpzEngine {
	t.Helper()
	program := corpus.Tool(t, name)
	var log string
	for range 3 {
		data := t.TempDir()
		addr := corpus.Port(t)
		file, conf := configure(data, dir, world, addr, zones)
		file = filepath.Join(data, file)
		writeText(t, file, conf)
		all := append([]string(nil), args...)
		if last := len(all) - 1; strings.HasSuffix(all[last], "=") {
			all[last] += data
		} else {
			all = append(all, file)
		}
		var ok bool
		if log, ok = runEngine(t, addr, program, all); ok {
			return rpzEngine{name, addr.String()}
		}
	}
	t.Fatalf("%s does not answer:\n%s", name, log)
	return rpzEngine{}
}

func runEngine(t *testing.T, addr netip.AddrPort, program string, args []string) (log string, ok bool) {
	t.Helper()
	s := corpus.Serve(t, program, args...)
	t.Cleanup(func() {
		select {
		case <-s.Ended:
			if ok {
				t.Errorf("%s ended by itself", program)
			}
		default:
		}
	})
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		if engineUp(addr) {
			return "", true
		}
		select {
		case <-s.Ended:
			deadline = time.Time{}
		case <-time.After(50 * time.Millisecond):
		}
	}
	return s.Log(), false
}

// engineUp reports whether the engine answers from the world, over both.
func engineUp(addr netip.AddrPort) bool {
	for _, network := range []string{"udp", "tcp"} {
		c := &dns.Client{Net: network, Timeout: 5 * time.Second}
		m, _, err := c.Exchange(new(dns.Msg).SetQuestion("up.example.", dns.TypeA), addr.String())
		if err != nil || m.Rcode != dns.RcodeSuccess || len(m.Answer) != 1 {
			return false
		}
	}
	return true
}

func writeText(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A world is a name server that knows its records, follows its aliases and says
// NXDOMAIN of everything else.
type world struct {
	records map[string][]dns.RR // by owner
	nodes   map[string]bool     // owners and what is above them
}

func newWorld(zone string) (*world, error) {
	w := &world{records: map[string][]dns.RR{}, nodes: map[string]bool{}}
	zp := dns.NewZoneParser(strings.NewReader(zone), ".", "")
	zp.SetDefaultTTL(60)
	for rr, ok := zp.Next(); ok; rr, ok = zp.Next() {
		name := rr.Header().Name
		w.records[name] = append(w.records[name], rr)
		for i, end := 0, false; !end; i, end = dns.NextLabel(name, i) {
			w.nodes[name[i:]] = true
		}
	}
	return w, zp.Err()
}

// serve answers on a free port of loopback until the end of the test.
func (w *world) serve(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: w}, {Listener: l, Handler: w}} {
		ready := make(chan struct{})
		s.NotifyStartedFunc = func() { close(ready) }
		go func() { _ = s.ActivateAndServe() }()
		<-ready
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return netip.MustParseAddrPort(l.Addr().String())
}

// ServeDNS implements dns.Handler.
func (w *world) ServeDNS(rw dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	m.Answer, m.Rcode = w.answer(strings.ToLower(q.Question[0].Name), q.Question[0].Qtype)
	if n := len(m.Answer); n == 0 || m.Answer[n-1].Header().Rrtype != q.Question[0].Qtype {
		m.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "example.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60},
			Ns: "ns.example.", Mbox: "host.example.", Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: 60}}
	}
	if q.IsEdns0() != nil {
		m.SetEdns0(1232, false)
	}
	_ = rw.WriteMsg(m)
}

func (w *world) answer(name string, qtype uint16) (rrs []dns.RR, rcode int) {
	for range 8 {
		if !w.nodes[name] {
			return rrs, dns.RcodeNameError
		}
		next := ""
		for _, rr := range w.records[name] {
			if c, ok := rr.(*dns.CNAME); ok && qtype != dns.TypeCNAME {
				rrs, next = append(rrs, rr), c.Target
			} else if rr.Header().Rrtype == qtype {
				rrs = append(rrs, rr)
			}
		}
		if next == "" {
			return rrs, dns.RcodeSuccess
		}
		name = next
	}
	return rrs, dns.RcodeServerFailure
}

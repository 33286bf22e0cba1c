package resolver

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestNameservers(t *testing.T) {
	in := `# comment
; another
domain example
nameserver 192.0.2.1
nameserver	192.0.2.1
  nameserver 2001:db8::1  trailing
nameserver fe80::1%eth0
nameserver ::ffff:192.0.2.2
nameserver not-an-address
nameserver
nameservers 192.0.2.9
#nameserver 192.0.2.8
options ndots:5
`
	got, err := nameservers(strings.NewReader(in), 53)
	want := "[192.0.2.1:53 [2001:db8::1]:53 [fe80::1%eth0]:53 192.0.2.2:53]"
	if fmt.Sprint(got) != want || err != nil {
		t.Errorf("got  %v, %v\nwant %s", got, err, want)
	}
	var many strings.Builder
	for i := range 100 {
		fmt.Fprintf(&many, "nameserver 192.0.2.%d\n", i)
	}
	if got, _ = nameservers(strings.NewReader(many.String()), 53); len(got) != maxNameservers {
		t.Errorf("%d resolvers, want %d", len(got), maxNameservers)
	}
}

func TestSelf(t *testing.T) {
	ours := "192.0.2.1"
	if addrs, err := net.InterfaceAddrs(); err == nil {
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() {
				ours = p.Addr().String()
			}
		}
	}
	for _, tt := range []struct {
		listener, resolver string
		want               bool
	}{
		{"127.0.0.1:53", "127.0.0.1:53", true},
		{"127.0.0.1:53", "127.0.0.1:5353", false},
		{"127.0.0.1:53", "127.0.0.53:53", false},
		{"127.0.0.1:53", "192.0.2.1:53", false},
		{"127.0.0.1:53", "0.0.0.0:53", true}, // Linux takes it for the loopback address
		{"127.0.0.1:53", "[::ffff:127.0.0.1]:53", true},
		{"0.0.0.0:53", "127.0.0.1:53", true},
		{"0.0.0.0:53", "127.0.0.53:53", true},
		{"0.0.0.0:53", "[::1]:53", false},
		{"0.0.0.0:53", "198.51.100.1:53", false},
		{"0.0.0.0:53", "127.0.0.1:54", false},
		{"[::]:53", "127.0.0.1:53", true},
		{"[::]:53", "[::1]:53", true},
		{"[::]:53", "[::]:53", true},
		{"[::]:53", "[2001:db8::1]:53", false},
		{"[::1]:53", "[::1%lo]:53", true},
		{"10.8.0.1:53", "0.0.0.0:53", false},
		{"0.0.0.0:53", ours + ":53", ours != "192.0.2.1"},
	} {
		self := selfCheck([]netip.AddrPort{netip.MustParseAddrPort("203.0.113.9:53"), netip.MustParseAddrPort(tt.listener)})
		if got := self(netip.MustParseAddrPort(tt.resolver)); got != tt.want {
			t.Errorf("listener %s, resolver %s: %v, want %v", tt.listener, tt.resolver, got, tt.want)
		}
	}
	if selfCheck(nil)(netip.MustParseAddrPort("127.0.0.1:53")) {
		t.Error("without listeners, something is ours")
	}
}

func TestLoopRefused(t *testing.T) {
	z := records(t, wwwA)
	self := listen(t, z) // stands for our own listener: it must not be asked
	var log bytes.Buffer
	path := filepath.Join(t.TempDir(), "resolv.conf")
	writeFile(t, path, "nameserver 127.0.0.1\n")
	clk := newClock()
	r := openAt(t, Options{ResolvConf: path, Log: slog.New(slog.NewTextHandler(&log, nil)),
		Self: []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), self.Port())}}, clk.now, self.Port())
	for range 3 {
		_, err := r.Resolve(t.Context(), question("www.example", dns.TypeA))
		wantErr(t, err, ErrNoUpstream)
		if err == nil || !strings.Contains(err.Error(), "our own listener") || !strings.Contains(err.Error(), self.String()) {
			t.Errorf("error does not say why: %v", err)
		}
		clk.move(time.Minute)
	}
	if n := strings.Count(log.String(), "it is our own listener"); n != 1 {
		t.Errorf("the log says so %d times, want once:\n%s", n, log.String())
	}
	if n := z.queries.Load(); n != 0 {
		t.Errorf("our own listener saw %d queries", n)
	}
}

// TestSystemChanges: resolvers that stay keep their state, others go.
func TestSystemChanges(t *testing.T) {
	z := records(t, wwwA)
	addr := listen(t, z)
	path := filepath.Join(t.TempDir(), "resolv.conf")
	writeFile(t, path, "nameserver 127.0.0.1\n")
	clk := newClock()
	r := openAt(t, Options{ResolvConf: path}, clk.now, addr.Port())
	resolve(t, r, "www.example", dns.TypeA)
	clk.move(time.Minute)
	writeFile(t, path, "nameserver 127.0.0.2\nnameserver 127.0.0.1\n")
	resolve(t, r, "www.example", dns.TypeA) // nobody is at 127.0.0.2
	s := r.Stats().Upstreams
	if len(s) != 2 || s[0].Address != fmt.Sprintf("udp://127.0.0.2:%d", addr.Port()) || s[0].Failures != 1 || s[1].Queries != 2 {
		t.Errorf("upstreams: %+v", s)
	}
	clk.move(time.Minute)
	writeFile(t, path, "nameserver 127.0.0.1\n")
	resolve(t, r, "www.example", dns.TypeA)
	if s = r.Stats().Upstreams; len(s) != 1 || s[0].Queries != 3 {
		t.Errorf("upstreams: %+v", s)
	}
	// A file that cannot be read changes nothing.
	clk.move(time.Minute)
	r.main.system.path = filepath.Join(path, "gone")
	resolve(t, r, "www.example", dns.TypeA)
}

// A gateway that has nobody to ask says so when it starts.
func TestNoUpstreamIsToldAtOnce(t *testing.T) {
	dir := t.TempDir()
	loop := filepath.Join(dir, "loop")
	writeFile(t, loop, "nameserver 127.0.0.1\n")
	for path, want := range map[string]string{
		filepath.Join(dir, "missing"): "set dns.upstreams",
		loop:                          "our own listener",
	} {
		var logged bytes.Buffer
		r, err := New(Options{
			ResolvConf: path, Self: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")},
			Log: slog.New(slog.NewTextHandler(&logged, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Close()
		if !strings.Contains(logged.String(), want) {
			t.Errorf("%s: logged %q, want %q", path, logged.String(), want)
		}
	}
}

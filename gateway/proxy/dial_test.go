package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestGuard(t *testing.T) {
	g := newGuard([]netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("::ffff:172.20.0.0/112")},
		[]netip.AddrPort{netip.MustParseAddrPort("10.1.0.1:3128"), netip.MustParseAddrPort("[::]:53")})
	for _, tc := range []struct {
		dst string
		ok  bool
	}{
		{"8.8.8.8:443", true}, {"1.1.1.1:53", true}, {"[2001:4860::1]:443", true}, {"[2606:4700::1111]:443", true},
		{"[64:ff9b::808:808]:443", true}, {"[64:ff9b::a00:1]:443", false}, {"[64:ff9b::a01:1]:443", true}, {"[64:ff9b::a01:1]:3128", false},
		{"10.0.255.255:443", false}, {"10.1.0.0:443", true}, {"10.1.0.1:443", true}, {"10.1.0.1:3128", false}, {"[::ffff:10.1.0.1]:3128", false}, {"10.2.0.0:443", false},
		{"[::ffff:10.1.0.2]:443", true}, {"[::ffff:10.2.0.2]:443", false}, {"172.20.1.1:443", true}, {"172.21.1.1:443", false},
		{"[fd00::1]:443", true}, {"[fc00::1]:443", false}, {"[fd00::1%eth0]:443", false},
		{"127.0.0.1:53", false}, {"[::1]:53", false}, {"[::1]:54", false}, {"0.0.0.0:53", false},
		{"[2002:808:808::1]:443", false}, {"[2001::1]:443", false}, {"[2001:200::1]:443", true}, {"[2001:1ff::1]:443", false},
		{"[2a00:1450::5efe:a00:1]:443", false}, {"[2a00:1450::5efe:808:808]:443", true}, {"[64:ff9b:1::808:808]:443", false},
		{"100.63.255.255:443", true}, {"100.64.0.0:443", false}, {"100.127.255.255:443", false}, {"100.128.0.0:443", true},
		{"172.15.255.255:443", true}, {"172.32.0.0:443", true}, {"198.17.255.255:443", true}, {"198.20.0.0:443", true}, {"223.255.255.255:443", true},
		{"192.0.1.0:443", true}, {"169.253.255.255:443", true}, {"169.255.0.0:443", true}, {"11.0.0.0:443", true}, {"1.0.0.0:443", true},
		{"[1fff::1]:443", false}, {"[2000::1]:443", true}, {"[3ffe::1]:443", true}, {"[4000::1]:443", false},
	} {
		if why := g.prohibits(netip.MustParseAddrPort(tc.dst)); (why == "") != tc.ok {
			t.Errorf("%s: %q, want allowed %v", tc.dst, why, tc.ok)
		}
	}
	var zero guard
	if zero.prohibits(netip.AddrPort{}) == "" || zero.prohibits(netip.MustParseAddrPort("127.0.0.1:1")) == "" {
		t.Error("the zero guard lets through")
	}
}

// Every own listener is out of reach, also where its network is allowed.
func TestSelfIsNoDestination(t *testing.T) {
	other := netip.MustParseAddrPort("127.0.0.5:5353")
	h := start(t, []uint16{5353}, func(o *Options) { o.Self = []netip.AddrPort{other} })
	own := h.s.Addrs()[0].Port()
	h.s.SetRules([]uint16{own, 5353}, []uint16{own}, h.s.opts.AllowNetworks)
	h.names.set("other.example", "127.0.0.5")
	for _, head := range []string{
		fmt.Sprintf("CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n", own),
		fmt.Sprintf("CONNECT self.example:%d HTTP/1.1\r\n\r\n", own),
		"CONNECT other.example:5353 HTTP/1.1\r\n\r\n",
		fmt.Sprintf("GET http://self.example:%[1]d/ HTTP/1.1\r\nHost: self.example:%[1]d\r\n\r\n", own),
	} {
		c := h.dial()
		c.send(head)
		if resp, _ := c.response("GET"); resp.StatusCode != 403 {
			t.Errorf("%q: %s", head, resp.Status)
		}
	}
	if n := h.s.Stats().Accepted; n != 4 {
		t.Errorf("%d connections were accepted", n)
	}
}

// The first answer may be reached, every later one may not: what was checked is
// what is dialled, and the name is asked for once.
func TestRebinding(t *testing.T) {
	o := rawOrigin(t, echo)
	h := start(t, []uint16{o.port}, func(o *Options) { o.AllowNetworks = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")} })
	h.names.set("rebind.example", "127.0.0.1")
	h.names.setHook(func(string) {})
	c := h.connect(fmt.Sprintf("rebind.example:%d", o.port), "x")
	if b, err := c.br.ReadByte(); err != nil || b != 'x' {
		t.Errorf("%q, %v", b, err)
	}
	h.names.mu.Lock()
	n := len(h.names.lookups)
	h.names.mu.Unlock()
	if n != 1 {
		t.Errorf("%d lookups for one tunnel", n)
	}
	h.names.set("rebind.example", "10.0.0.1", "169.254.169.254", "127.0.0.2")
	c = h.dial()
	c.send(fmt.Sprintf("CONNECT rebind.example:%d HTTP/1.1\r\n\r\n", o.port))
	if resp, _ := c.response("CONNECT"); resp.StatusCode != 403 {
		t.Errorf("after rebinding: %s", resp.Status)
	}
	// Among several addresses only those are tried that may be reached.
	h.names.set("rebind.example", "10.0.0.1", "127.0.0.1")
	_ = h.connect(fmt.Sprintf("rebind.example:%d", o.port), "").Close()
}

// The second lock stands also where the first was never asked.
func TestDialLock(t *testing.T) {
	o := listenOrigin(t)
	h := start(t, []uint16{o.port}, func(o *Options) { o.AllowNetworks = nil })
	_, err := h.s.dial(context.Background(), parseAddrs("127.0.0.1"), o.port)
	if !errors.Is(err, errProhibited) {
		t.Errorf("dial: %v", err)
	}
	if err := h.s.lock(netip.MustParseAddrPort("8.8.8.8:443"), "8.8.4.4:443"); !errors.Is(err, errProhibited) {
		t.Errorf("another address than the judged one: %v", err)
	}
	if _, err := h.s.dial(context.Background(), nil, o.port); !errors.Is(err, errProhibited) {
		t.Errorf("no address: %v", err)
	}
	if o.accepted() != 0 {
		t.Error("origin was reached")
	}
}

func TestDialNextAddress(t *testing.T) {
	o := rawOrigin(t, echo) // listens on 127.0.0.1 only
	h := start(t, []uint16{o.port}, nil)
	h.names.set("many.example", "127.0.0.2", "127.0.0.3", "127.0.0.1", "127.0.0.4")
	begin := time.Now()
	_ = h.connect(fmt.Sprintf("many.example:%d", o.port), "").Close()
	if d := time.Since(begin); d > 20*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestDialTimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	h := start(t, []uint16{port}, func(o *Options) { o.DialTimeout = time.Nanosecond })
	c := h.dial()
	c.send(fmt.Sprintf("CONNECT ok.example:%d HTTP/1.1\r\n\r\n", port))
	if resp, _ := c.response("CONNECT"); resp.StatusCode != 504 || resp.Header.Get("Proxy-Status") == "" {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
}

func TestInterleave(t *testing.T) {
	got := interleave(parseAddrs("1.1.1.1", "1.1.1.2", "1.1.1.3", "2606::1", "2606::2"))
	want := parseAddrs("2606::1", "1.1.1.1", "2606::2", "1.1.1.2", "1.1.1.3")
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	many := make([]netip.Addr, 100)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{1, 1, 1, byte(i)})
	}
	if n := len(interleave(many)); n != maxAttempts {
		t.Errorf("%d attempts", n)
	}
}

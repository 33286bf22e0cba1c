package resolver

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func addrLink(a string) Link { return Link{Type: "A", Addr: netip.MustParseAddr(a)} }

func TestHistory(t *testing.T) {
	clk := newClock()
	var h History
	answer := func(name string, life time.Duration, links ...Link) *Answer {
		return &Answer{name: name, life: life, links: links}
	}
	h.add(answer("a.example.", time.Minute, Link{Type: "CNAME", Name: "b.example"}, addrLink("192.0.2.1"), addrLink("192.0.2.2")), clk.now())
	h.add(answer("none.example.", time.Minute), clk.now())
	for _, c := range []struct {
		name, addr string
		want       bool
	}{
		{"a.example", "192.0.2.1", true}, {"b.example", "192.0.2.2", true}, {"a.example", "::ffff:192.0.2.1", true},
		{"a.example", "192.0.2.3", false}, {"c.example", "192.0.2.1", false}, {"none.example", "192.0.2.1", false},
	} {
		if got := h.Gave(c.name, netip.MustParseAddr(c.addr), clk.now()); got != c.want {
			t.Errorf("%s at %s: %t", c.name, c.addr, got)
		}
	}
	later := clk.now().Add(historyStay + time.Minute - time.Second)
	h.add(answer("a.example.", time.Minute, addrLink("192.0.2.9")), later)
	if !h.Gave("a.example", netip.MustParseAddr("192.0.2.1"), later) || !h.Gave("a.example", netip.MustParseAddr("192.0.2.9"), later) {
		t.Error("an address that still counts is gone")
	}
	if h.Gave("a.example", netip.MustParseAddr("192.0.2.1"), later.Add(2*time.Second)) {
		t.Error("an address counts for ever")
	}
	if got := h.Stats(); got.Names != 2 || got.Evicted != 0 {
		t.Errorf("%+v", got)
	}
}

// TestHistoryTargets: an HTTPS record leads to the addresses of its target, which
// the client asks for by themselves.
func TestHistoryTargets(t *testing.T) {
	clk := newClock()
	var h History
	link := func(typ, name string) Link { return Link{Type: typ, Name: name} }
	for _, a := range []*Answer{
		{name: "a.example.", life: time.Minute, links: []Link{link("HTTPS", "svc.example")}},
		{name: "svc.example.", life: time.Hour, links: []Link{link("CNAME", "pool.example"), addrLink("192.0.2.1")}},
		{name: "b.example.", life: time.Minute, links: []Link{link("SVCB", "a.example")}},
		{name: "c.example.", life: time.Minute, links: []Link{link("SVCB", "b.example")}},
		{name: "hint.example.", life: time.Minute, links: []Link{link("HTTPS", "svc.example"), {Type: "HTTPS ipv4hint", Addr: netip.MustParseAddr("192.0.2.7")}}},
		{name: "loop.example.", life: time.Minute, links: []Link{link("HTTPS", "loop.example"), link("HTTPS", "nowhere.example")}},
		{name: "mail.example.", life: time.Minute, links: []Link{link("SRV", "svc.example")}},
	} {
		h.add(a, clk.now())
	}
	for _, c := range []struct {
		name, addr string
		want       bool
	}{
		{"a.example", "192.0.2.1", true}, {"b.example", "192.0.2.1", true}, {"pool.example", "192.0.2.1", true},
		{"c.example", "192.0.2.1", false}, // too far
		{"hint.example", "192.0.2.7", true}, {"hint.example", "192.0.2.1", true}, {"svc.example", "192.0.2.7", false},
		{"loop.example", "192.0.2.1", false}, {"mail.example", "192.0.2.1", false},
	} {
		if got := h.Gave(c.name, netip.MustParseAddr(c.addr), clk.now()); got != c.want {
			t.Errorf("%s at %s: %t", c.name, c.addr, got)
		}
	}
	if h.Gave("a.example", netip.MustParseAddr("192.0.2.1"), clk.now().Add(historyStay+time.Minute)) {
		t.Error("a target counts for ever")
	}
}

// TestHistoryBounds: neither many names, nor many addresses of one, nor many of
// many take more room than there is, and what is counted is what is there.
func TestHistoryBounds(t *testing.T) {
	now := time.Now()
	answer := func(name string, addrs int) *Answer {
		a := &Answer{name: name + "."}
		for i := range addrs {
			a.links = append(a.links, Link{Type: "A", Addr: netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})})
		}
		return a
	}
	var h History
	for i := range historyNames + 10 {
		h.add(answer(fmt.Sprintf("n%d.example", i), 1), now)
	}
	if got, want := h.Stats(), (HistoryStats{historyNames, historyNames, 10}); got != want {
		t.Errorf("many names: %+v, want %+v", got, want)
	}
	h.add(answer("n100.example", 1), now)
	if got := h.Stats(); got.Given != historyNames {
		t.Errorf("the same again: %+v", got)
	}

	h = History{}
	for i := range 3 * historyAddrs {
		h.add(&Answer{name: "many.example.", links: []Link{{Type: "A", Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})}}}, now)
	}
	all := h.known("many.example")
	newest := netip.AddrFrom4([4]byte{192, 0, 2, 3*historyAddrs - 1})
	if len(all) != historyAddrs+historyTargets || !slices.ContainsFunc(all, func(g given) bool { return g.addr == newest }) {
		t.Errorf("%d addresses", len(all))
	}

	h = History{}
	for i := range 2 * historyTotal / historyAddrs {
		h.add(answer(fmt.Sprintf("n%d.example", i), 1000), now)
	}
	sum := 0
	for _, g := range h.names.Values() {
		sum += len(g)
	}
	if got := h.Stats(); got.Given != historyTotal || got.Given != sum || got.Names != historyTotal/historyAddrs || got.Evicted != uint64(got.Names) {
		t.Errorf("many addresses of many names: %+v, %d in all", got, sum)
	}
}

// TestHistoryConcurrent: readers and writers, for the race detector.
func TestHistoryConcurrent(t *testing.T) {
	var h History
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 500 {
				name := fmt.Sprintf("n%d.example", (n+i)%50)
				h.add(&Answer{name: name + ".", links: []Link{addrLink("192.0.2.1")}}, time.Now())
				if !h.Gave(name, netip.MustParseAddr("192.0.2.1"), time.Now()) {
					t.Errorf("%s is forgotten", name)
				}
				h.Stats()
			}
		})
	}
	wg.Wait()
}

// TestHistoryOfResolvers: what comes from upstream is remembered, whatever became
// of the resolver that asked for it.
func TestHistoryOfResolvers(t *testing.T) {
	up := "udp://" + listen(t, records(t, "alias.example. 60 IN CNAME host.example.", "host.example. 60 IN A 192.0.2.1")).String()
	var h History
	r := open(t, Options{Upstreams: upstreams(t, up), CacheEntries: 10, History: &h})
	for range 2 { // the second from the cache
		if _, err := r.Resolve(t.Context(), question("Alias.example", dns.TypeA)); err != nil {
			t.Fatal(err)
		}
	}
	r.Flush()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, Options{Upstreams: upstreams(t, up), History: &h})
	for _, name := range []string{"alias.example", "host.example"} {
		if !h.Gave(name, netip.MustParseAddr("192.0.2.1"), time.Now()) {
			t.Errorf("%s is forgotten", name)
		}
	}
	if h.Gave("other.example", netip.MustParseAddr("192.0.2.1"), time.Now()) {
		t.Error("a name that nobody asked for has an address")
	}
}

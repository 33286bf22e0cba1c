package resolver

import (
	"fmt"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestInspect: what is kept of a name is shown as it is, and looking changes
// nothing of it.
func TestInspect(t *testing.T) {
	clk, z := newClock(), newOutage(t, "www.example. 100 IN CNAME a.cdn.test.", "a.cdn.test. 40 IN A 192.0.2.1", "www.example. 30 IN TXT x")
	r := openAt(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 2, Stale: Stale{Max: time.Hour}}, clk.now, portDNS)
	look := func(name string) map[string]Cached {
		t.Helper()
		all, err := r.Inspect(name)
		if err != nil {
			t.Fatal(err)
		}
		out := make(map[string]Cached)
		for _, c := range all {
			if _, twice := out[c.Type]; twice {
				t.Errorf("%s is there twice", c.Type)
			}
			out[c.Type] = c
		}
		return out
	}
	if got := look("WWW.example"); len(got) != 0 {
		t.Errorf("before any question: %+v", got)
	}
	resolve(t, r, "www.example", dns.TypeA)
	clk.move(10 * time.Second)
	got := look("WWW.example")
	if c := got["A"]; len(got) != 1 || c.TTL != 30 || c.Age != 10 || c.Stale || c.Records != 2 || c.Rcode != "NOERROR" || fmt.Sprint(c.Links) != "[CNAME a.cdn.test A 192.0.2.1]" {
		t.Errorf("an answer: %+v", got)
	}
	z.mode.Store(broken)
	clk.move(50 * time.Second)
	if a := resolve(t, r, "www.example", dns.TypeAAAA); a.Rcode() != dns.RcodeServerFailure {
		t.Fatalf("rcode %d", a.Rcode())
	}
	got = look("www.example")
	if a, f := got["A"], got["AAAA"]; !a.Stale || a.TTL != -20 || f.Failure != "the upstream answered SERVFAIL" || f.TTL < 1 {
		t.Errorf("a stale one and a failure: %+v", got)
	}
	if _, err := r.Inspect("a..b"); err == nil {
		t.Error("what is no name has answers")
	}
}

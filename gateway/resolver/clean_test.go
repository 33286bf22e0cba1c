package resolver

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/policy"
)

func TestClean(t *testing.T) {
	type rule = blocklists.Rule
	prefix := func(s string) rule { return rule{Kind: blocklists.Prefix, Prefix: netip.MustParsePrefix(s)} }
	answer := func(qtype uint16, lines ...string) *Answer {
		return answerOf(t, newClock(), key{name: "www.example.", qtype: qtype, qclass: dns.ClassINET}, 0, lines...)
	}
	for _, tt := range []struct {
		name string
		a    *Answer
		rule rule
		want bool
	}{
		{"nothing to judge", answer(dns.TypeTXT, "www.example. 60 IN TXT banned.test"), rule{Kind: blocklists.Suffix, Name: "test"}, true},
		{"the question's name", answer(dns.TypeA, "www.example. 60 IN A 192.0.2.1"), rule{Kind: blocklists.Suffix, Name: "example"}, true},
		{"alias", answer(dns.TypeA, "www.example. 60 IN CNAME a.banned.test."), rule{Kind: blocklists.Suffix, Name: "banned.test"}, false},
		{"alias beside an exact rule", answer(dns.TypeA, "www.example. 60 IN CNAME a.banned.test."), rule{Kind: blocklists.Exact, Name: "banned.test"}, true},
		{"last of two aliases", answer(dns.TypeA, "www.example. 60 IN CNAME a.test.", "a.test. 60 IN CNAME banned.test."), rule{Kind: blocklists.Exact, Name: "banned.test"}, false},
		{"address", answer(dns.TypeA, "www.example. 60 IN A 192.0.2.1"), prefix("192.0.2.0/24"), false},
		{"other address", answer(dns.TypeA, "www.example. 60 IN A 192.0.2.1"), prefix("198.51.100.0/24"), true},
		{"embedded address", answer(dns.TypeAAAA, "www.example. 60 IN AAAA 64:ff9b::c000:201"), prefix("192.0.2.0/24"), false},
		{"hint", answer(dns.TypeHTTPS, "www.example. 60 IN HTTPS 1 . ipv4hint=192.0.2.1"), prefix("192.0.2.1/32"), false},
		{"target", answer(dns.TypeHTTPS, "www.example. 60 IN HTTPS 1 banned.test."), rule{Kind: blocklists.Suffix, Name: "banned.test"}, false},
		{"rule with a path", answer(dns.TypeA, "www.example. 60 IN CNAME banned.test."), rule{Kind: blocklists.Suffix, Name: "banned.test", Path: "/app"}, true},
	} {
		for _, action := range []blocklists.Action{blocklists.Block, blocklists.Allow} {
			tt.rule.Action = action
			var b blocklists.Builder
			if err := b.Add(0, tt.rule); err != nil {
				t.Fatal(err)
			}
			s, err := policy.NewSnapshot(policy.Spec{Set: b.Build(), Bans: []*blocklists.Ban{{ID: "b"}}, Lists: []policy.List{{Name: "l"}}})
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // found out, and known
				if got := tt.a.Clean(s); got != tt.want {
					t.Errorf("%s, %s: clean is %v, want %v", tt.name, action, got, tt.want)
				}
			}
		}
		if tt.a.Clean(nil) {
			t.Errorf("%s: clean without a policy", tt.name)
		}
	}
}

// TestCleanMeansAllowed: a clean answer may pass for whoever asks, whenever.
func TestCleanMeansAllowed(t *testing.T) {
	d := &mint{rand.New(rand.NewPCG(21, 22)), t, make(map[string]int)}
	s := listSnapshot(t, "cdn.other.test", "net", "mail.other.test")
	for range 2000 {
		k, m := d.response()
		a := newAnswer(k, m, newClock().now)
		v, link, _ := Judge(s, policy.Subject{}, "", a.Links(), time.Now())
		if a.Clean(s) != (v.Action == policy.Allow && v.Reason == policy.ReasonNoRule) {
			t.Fatalf("clean is %v, the verdict is %v (%v) on %s", a.Clean(s), v.Action, v.Reason, link)
		}
		if d.kinds["clean"]++; !a.Clean(s) {
			d.kinds["not clean"]++
		}
	}
	if d.kinds["clean"] < 200 || d.kinds["not clean"] < 200 {
		t.Errorf("too few to tell: %v", d.kinds)
	}
}

// TestCleanUnderSwaps: while some ask under one policy and some under another,
// nobody is told of one what holds for the other.
func TestCleanUnderSwaps(t *testing.T) {
	a := answerOf(t, newClock(), key{name: "www.example.", qtype: dns.TypeA, qclass: dns.ClassINET}, 0, "www.example. 60 IN CNAME banned.test.")
	yes, no := listSnapshot(t, "other.test"), listSnapshot(t, "banned.test")
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 20_000 {
				s, want := yes, true
				if (i/(g+1))%2 == 0 {
					s, want = no, false
				}
				if a.Clean(s) != want {
					t.Errorf("clean is %v", !want)
					return
				}
			}
		})
	}
	wg.Wait()
}

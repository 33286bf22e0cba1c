package gateway

import (
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/blocklists/bans"
	"github.com/weir-gateway/weir/config"
)

const whyConf = `
dns: {listen: ["127.0.0.1:0"], upstreams: ["udp://127.0.0.1:9"]}
max_exemption: 3660d
allow: [free.wechat.com]
protected: [safe.wechat.com]
bans:
- wechat
- {id: later, title: Later, authority: us, reference: "https://example.org/l", effective: 2199-01-01, lists: [{name: later, source: "file:later.txt", format: domains}]}
groups:
- {name: few, devices: [10.1.0.0/16, 10.2.0.0/16], bans: [later]}
exemptions:
- {id: EX-1, device: 10.0.0.7, ban: wechat, from: 2026-01-01, until: 2035-12-31, ticket: T-1, approved_by: "The chief", reason: r}
- {id: EX-2, device: 10.0.0.8, name: web.wechat.com, from: 2026-01-01, until: 2035-12-31, ticket: T-2, approved_by: "The chief", reason: r}
- {id: EX-3, device: 10.0.0.8, ban: later, from: 2026-01-01, until: 2026-01-02, ticket: T-3, approved_by: "The chief", reason: r}
`

// Why something is not held back is said for each reason that there is.
func TestExplainWhyNot(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "weir.yml")
	if err := os.WriteFile(filepath.Join(dir, "later.txt"), []byte("soon.example\n@@not.soon.example\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Parse(file, []byte(whyConf), bans.FS)
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewExplainer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	e.Resolve = false
	now := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct{ target, device, why, voices, exempt string }{
		{"example.net", "", "no list mentions it", "", ""},
		{"web.wechat.com", "", "", "blocks", ""},
		{"web.wechat.com", "10.0.0.7", "exemption EX-1 (ban wechat) lets it through until 2036-01-01T00:00:00Z; approved by The chief, ticket T-1", "exempted", "EX-1 live concerns"},
		{"web.wechat.com", "10.0.0.8", "exemption EX-2 (name web.wechat.com) lets it through until", "exempted", "EX-2 live concerns, EX-3"},
		{"wx.wechat.com", "10.0.0.8", "", "blocks", "EX-2 live, EX-3"},
		{"web.wechat.com", "10.2.0.9", "list wechat mentions it, but ban wechat does not hold for group few", "not for the group", ""},
		{"a.free.wechat.com", "", "a rule of the operator lets it through: @@free.wechat.com", "operator allows, blocks", ""},
		{"safe.wechat.com", "", "it is protected, so that no ban can hold it back", "protected, blocks", ""},
		{"soon.example", "", "the ban later only takes effect on 2199-01-01", "not yet effective", ""},
		{"not.soon.example", "", "an exception of the ban's own list lets it through", "list allows", ""},
		{"qq.com", "", "the list is off: tier vendor", "the list is off: tier vendor", ""},
		{"http://example.net/x", "", "no list mentions it", "", ""},
		{"192.0.2.1", "", "no list mentions it", "", ""},
	} {
		var device netip.Addr
		if tt.device != "" {
			device = netip.MustParseAddr(tt.device)
		}
		x, err := e.Explain(t.Context(), tt.target, device, now)
		if err != nil {
			t.Fatal(err)
		}
		var voices, exempt []string
		for _, v := range x.Voices {
			voices = append(voices, v.Says)
		}
		for _, c := range x.Client.Exemptions {
			s := c.ID
			if c.Live {
				s += " live"
			}
			if c.Concerns {
				s += " concerns"
			}
			exempt = append(exempt, s)
		}
		slices.Sort(voices)
		want := strings.Split(tt.voices, ", ")
		slices.Sort(want)
		if !strings.Contains(x.Why, tt.why) || (x.Why == "") != x.Blocked || strings.Join(voices, ", ") != strings.Join(want, ", ") || strings.Join(exempt, ", ") != tt.exempt {
			t.Errorf("%s for %s: blocked %v, why %q, voices %q, exemptions %q", tt.target, tt.device, x.Blocked, x.Why, voices, exempt)
		}
		if tt.device == "10.2.0.9" && (x.Client.Network != "10.2.0.0/16" || fmt.Sprint(x.Client.Bans) != "[later]" || x.Client.Group != "few") {
			t.Errorf("client: %+v", x.Client)
		}
	}
	e.From, e.To = 1, 2
	if _, err := e.Explain(t.Context(), "example.net", netip.Addr{}, now); err == nil || !strings.Contains(err.Error(), "no generations") {
		t.Errorf("without generations: %v", err)
	}
}

// The running gateway and a look into its state folder say the same: with rules
// and exemptions of the API, of two generations, and after a rollback.
func TestExplainLiveAndFromState(t *testing.T) {
	w := newExemptWorld(t)
	e := w.request("op", time.Now().Add(time.Hour), "")
	if status, text := w.approve("boss", &e, `{}`); status != 200 {
		t.Fatalf("approve: %d %s", status, text)
	}
	if status, text := w.as("op", "PUT", "/v1/rules/block/own/new.example", "", `{"reason":"r"}`, nil); status != 200 {
		t.Fatalf("rule: %d %s", status, text)
	}
	both := func(when string, check func(x *Explanation) bool, target, device string, between ...uint64) {
		t.Helper()
		q := url.Values{"target": {target}, "device": {device}}
		here := w.explainerHere()
		if len(between) == 2 {
			q.Set("between", fmt.Sprintf("%d,%d", between[0], between[1]))
			here.From, here.To = between[0], between[1]
		}
		x, err := here.Explain(t.Context(), target, netip.MustParseAddr(device), time.Now())
		if err != nil || !check(x) {
			t.Errorf("%s, %s from the state: %+v %v", when, target, x, err)
		}
		live := new(Explanation)
		if status, text := w.as("op", "GET", "/v1/explain?"+q.Encode(), "", "", live); status != 200 || !check(live) {
			t.Errorf("%s, %s live: %d %s", when, target, status, text)
		}
	}
	generation := w.Status().Generation
	both("exempt", func(x *Explanation) bool {
		return !x.Blocked && strings.Contains(x.Why, "exemption "+e.ID) && len(x.Client.Exemptions) == 1 && x.Client.Exemptions[0].Live &&
			x.Client.Group == "two" && x.Generation == generation
	}, "banned.example", "127.0.0.2")
	both("rule of the API", func(x *Explanation) bool { return x.Blocked && x.DNS.List == "own+rules" && x.Generation == generation }, "new.example", "127.0.0.1")
	both("two generations", func(x *Explanation) bool {
		b := x.Between
		return b != nil && !b.From.Blocked && b.To.Blocked && b.From.Generation == 1 && b.To.Who == "token:op" && b.To.Kind == string(changeAddRule) &&
			len(b.Rules) == 1 && b.Rules[0].Change == "added" && b.Rules[0].List == "own+rules"
	}, "new.example", "127.0.0.1", 1, generation)
	both("exemption between", func(x *Explanation) bool {
		b := x.Between
		return b != nil && b.From.Blocked && !b.To.Blocked && strings.Contains(b.To.Says, "by exemption "+e.ID) && len(b.Rules) == 0
	}, "banned.example", "127.0.0.2", 1, 2)
	if err := w.Rollback(t.Context(), 1, "test", "too much"); err != nil {
		t.Fatal(err)
	}
	both("rolled back", func(x *Explanation) bool { return !x.Blocked && x.Generation == generation+1 }, "new.example", "127.0.0.1")
	both("exempt after a rollback", func(x *Explanation) bool { return !x.Blocked && x.DNS.Exemption == e.ID }, "banned.example", "127.0.0.2")
	for _, bad := range []string{"", "?target=", "?target=a.example&device=x", "?target=a.example&between=1", "?target=a.example&between=1,99", "?target=a.example&resolve=x"} {
		if status, text := w.as("op", "GET", "/v1/explain"+bad, "", "", nil); status != 400 {
			t.Errorf("%q: %d %s", bad, status, text)
		}
	}
}

// What the cache holds is shown: types, what is left, and under which policy it
// was judged.
func TestExplainCache(t *testing.T) {
	w := newExemptWorld(t)
	look := func() []CachedAnswer {
		t.Helper()
		x := new(Explanation)
		if status, text := w.as("op", "GET", "/v1/explain?target=fine.example", "", "", x); status != 200 || x.Cache == nil {
			t.Fatalf("%d %s", status, text)
		}
		return x.Cache.Answers
	}
	if got := look(); len(got) != 0 {
		t.Errorf("before any question: %+v", got)
	}
	began := time.Now()
	for range 3 { // the second from the cache, which judges it
		if m := w.answer("127.0.0.1", "fine.example."); m.Rcode != dns.RcodeSuccess {
			t.Fatal(m)
		}
	}
	got := look()
	least := 59 - int(time.Since(began).Seconds())
	if len(got) != 1 || got[0].Type != "A" || got[0].Rcode != "NOERROR" || got[0].Records != 1 || got[0].TTL < least || got[0].TTL > 60 || got[0].Stale ||
		fmt.Sprint(got[0].Links) != "[A 127.0.0.1]" || !strings.Contains(got[0].Judged, "under generation 1: no list") {
		t.Errorf("after questions: %+v", got)
	}
	if status, text := w.as("op", "PUT", "/v1/rules/block/own/new.example", "", `{"reason":"r"}`, nil); status != 200 {
		t.Fatalf("rule: %d %s", status, text)
	}
	if got := look(); len(got) != 1 || !strings.Contains(got[0].Judged, "at the next question") {
		t.Errorf("after a change: %+v", got)
	}
	if _, err := w.FlushCache(CacheFlush{Name: "fine.example"}); err != nil {
		t.Fatal(err)
	}
	if got := look(); len(got) != 0 {
		t.Errorf("after a flush: %+v", got)
	}
}

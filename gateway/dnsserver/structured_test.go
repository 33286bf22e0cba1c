package dnsserver

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/resolver"
)

const askOption = 65001

// explained asks for an explanation, in one of the two ways.
func explained(name string, qtype, size uint16, byOption bool) *dns.Msg {
	q := edns(query(name, qtype), size)
	q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{}}
	if byOption {
		q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: askOption}}
	}
	return q
}

// explanationOf reads EXTRA-TEXT as clients do; nil for what is no such object.
func explanationOf(m *dns.Msg) (code uint16, x *explanation) {
	e := edeOf(m)
	if e == nil {
		return 0, nil
	}
	d := json.NewDecoder(strings.NewReader(e.ExtraText))
	d.DisallowUnknownFields()
	x = new(explanation)
	if d.Decode(x) != nil {
		x = nil
	}
	return e.InfoCode, x
}

func explainingBans() []testBan {
	list := bans()
	list[0].Contact = blocklists.Text{EN: "mailto:wechat@example.org", FR: "Centre de services, 613 555-0100"}
	list[0].Title.FR = "WeChat sur les appareils du gouvernement"
	return list
}

// TestStructuredErrors: who asks for it, in either way and over each transport, is
// told by a program's means who blocks, why, and whom to turn to; and who does not
// ask is told in words, as before (draft-ietf-dnsop-structured-dns-error-22,
// sections 4 and 5.2).
func TestStructuredErrors(t *testing.T) {
	desk := []string{"tel:+1-613-555-0100"}
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, zones, Options{portable: portable, Structured: &Structured{Option: askOption, Contact: desk, Organization: "Example & Sons"}})
		r.store.Swap(snapshot(t, 1, explainingBans()))
		for _, network := range transports {
			for _, byOption := range []bool{false, true} {
				for _, c := range []struct {
					name string
					code uint16
					want *explanation
				}{
					{"wechat.com", 15, &explanation{append([]string{"mailto:wechat@example.org"}, desk...), "WeChat on government devices (https://ban.example/wechat)", 5, "Example & Sons", "en"}},
					{"kaspersky.com", 16, &explanation{desk, "Kaspersky", 0, "Example & Sons", "en"}}, // Censored has no sub-error
					{"tiktok.com", 17, &explanation{desk, "TikTok", 0, "Example & Sons", "en"}},
					{"cloak.example", 15, &explanation{append([]string{"mailto:wechat@example.org"}, desk...), "WeChat on government devices (https://ban.example/wechat) through CNAME x.wechat.com", 5, "Example & Sons", "en"}},
					{"quiet.example", 0, nil},
					{"good.example", 0, nil},
				} {
					m := r.ask(t, network, explained(c.name, dns.TypeA, 1232, byOption))
					code, x := explanationOf(m)
					if code != c.code || (x == nil) != (c.want == nil) || x != nil && (x.Justification != c.want.Justification ||
						x.SubError != c.want.SubError || x.Organization != c.want.Organization || x.Language != c.want.Language || !slices.Equal(x.Contact, c.want.Contact)) {
						t.Errorf("%s over %s: %d, %+v, want %d, %+v", c.name, network, code, x, c.code, c.want)
					}
				}
			}
			for _, q := range []*dns.Msg{edns(query("wechat.com", dns.TypeA), 1232), explainedBy(&dns.EDNS0_LOCAL{Code: askOption + 1}), explainedBy(&dns.EDNS0_EDE{InfoCode: 15})} {
				if code, x := explanationOf(r.ask(t, network, q)); code != 15 || x != nil {
					t.Errorf("over %s, who did not ask gets %d, %+v", network, code, x)
				}
			}
			if m := r.ask(t, network, explainedBy(&dns.EDNS0_LOCAL{Code: askOption, Data: []byte("ignored")})); m.IsEdns0() == nil || len(m.IsEdns0().Option) != 1 {
				t.Errorf("over %s: %v, want one option, our own", network, m)
			}
		}
	})
}

func explainedBy(o dns.EDNS0) *dns.Msg {
	q := edns(query("wechat.com", dns.TypeA), 1232)
	q.IsEdns0().Option = []dns.EDNS0{o}
	return q
}

// TestStructuredErrorsOff: without the switch nobody gets an object, and the
// option of local use means nothing.
func TestStructuredErrorsOff(t *testing.T) {
	r := start(t, zones, Options{})
	for _, byOption := range []bool{false, true} {
		if code, x := explanationOf(r.ask(t, "udp", explained("wechat.com", dns.TypeA, 1232, byOption))); code != 15 || x != nil {
			t.Errorf("%d, %+v", code, x)
		}
	}
}

// TestStructuredErrorFits: over UDP the words go first, then all of it, and half an
// object is never sent.
func TestStructuredErrorFits(t *testing.T) {
	long := strings.Repeat("x", 90)
	s := &Structured{Contact: []string{"mailto:" + long + "@a.example", "mailto:" + long + "@b.example"}, Organization: long}
	r := start(t, zones, Options{Structured: s})
	list := explainingBans()
	list[0].Title.EN, list[0].Reference = long, "https://ban.example/"+strings.Repeat("y", 150)
	r.store.Swap(snapshot(t, 2, list))
	label := strings.Repeat("l", 60)
	seen := map[string]bool{}
	for _, c := range []struct {
		name string
		size uint16
	}{{"wechat.com", 1232}, {"wechat.com", 512}, {strings.Join([]string{label, label, label, "wechat.com"}, "."), 512}} {
		m := r.ask(t, "udp", explained(c.name, dns.TypeA, c.size, false))
		e := edeOf(m)
		if m.Truncated || e == nil || e.InfoCode != 15 || m.Len() > int(c.size) {
			t.Fatalf("%s: %v", c.name, m)
		}
		_, x := explanationOf(m)
		switch {
		case e.ExtraText == "":
			seen["nothing"] = true
		case x == nil:
			t.Errorf("half an object: %q", e.ExtraText)
		case x.Justification != "" && x.Organization == long && x.Language == "en":
			seen["all"] = true
		case x.Justification+x.Organization+x.Language == "" && len(x.Contact) == 3 && x.SubError == networkPolicy:
			seen["short"] = true
		default:
			t.Errorf("%+v", x)
		}
	}
	if len(seen) != 3 {
		t.Errorf("seen: %v, want an object that is whole, one that is short, and none", seen)
	}
}

// TestStructuredInFrench: the words are of one language, and say which.
func TestStructuredInFrench(t *testing.T) {
	r := start(t, zones, Options{Structured: &Structured{French: true}})
	r.store.Swap(snapshot(t, 1, explainingBans()))
	for name, want := range map[string]explanation{
		"wechat.com":    {nil, "WeChat sur les appareils du gouvernement (https://ban.example/wechat)", 5, "", "fr"}, // its contact is no URI
		"kaspersky.com": {nil, "Kaspersky", 0, "", "en"},
	} {
		if _, x := explanationOf(r.ask(t, "udp", explained(name, dns.TypeA, 1232, false))); x == nil || x.Justification != want.Justification || x.Language != want.Language || x.SubError != want.SubError || len(x.Contact) != 0 {
			t.Errorf("%s: %+v, want %+v", name, x, want)
		}
	}
}

// What explains itself without a ban, and what is left of an object that is too
// long.
func TestExplain(t *testing.T) {
	e := ede(dns.ExtendedErrorCodeBlocked, "")
	(&Structured{}).explain(e, &decision{})
	if e.ExtraText != `{"s":5}` {
		t.Errorf("a block without a ban: %q", e.ExtraText)
	}
	for text, want := range map[string]string{"no object": "", `{"j":"x"}`: "", `{"c":["tel:1"],"j":"x","o":"y","l":"en"}`: `{"c":["tel:1"]}`, `{"c":["tel:1"]}`: ""} {
		if e := ede(15, text); e.ExtraText == text {
			shorten(e)
			if e.ExtraText != want {
				t.Errorf("%s becomes %q, want %q", text, e.ExtraText, want)
			}
		}
	}
}

// An upstream's words are its own, and go on as they are; who can read explanations
// is not told of a forged answer (section 5.2 of the draft).
func TestStructuredFromUpstream(t *testing.T) {
	for upstreams, want := range map[uint16]uint16{dns.ExtendedErrorCodeForgedAnswer: dns.ExtendedErrorCodeOther, dns.ExtendedErrorCodeBlocked: dns.ExtendedErrorCodeBlocked} {
		res, err := resolver.New(resolver.Options{Upstreams: upstreamThat(t, func(q *dns.Msg) *dns.Msg {
			m := new(dns.Msg).SetRcode(q, dns.RcodeNameError)
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: upstreams, ExtraText: "upstream's"}}
			return m
		})})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = res.Close() })
		r := start(t, "", Options{Resolver: res, Structured: new(Structured)})
		if e := edeOf(r.ask(t, "udp", explained("far.example", dns.TypeA, 1232, false))); e == nil || e.InfoCode != want || e.ExtraText != "upstream's" {
			t.Errorf("the upstream says %d: %v", upstreams, e)
		}
		if e := edeOf(r.ask(t, "udp", edns(query("far.example", dns.TypeA), 1232))); e == nil || e.InfoCode != upstreams {
			t.Errorf("the upstream says %d, and who did not ask gets %v", upstreams, e)
		}
	}
}

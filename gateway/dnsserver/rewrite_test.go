package dnsserver

import (
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/blocklists/parse"
	"github.com/weir-gateway/weir/gateway/audit"
)

// A policy zone with each action, behind a ban.
const policyZone = `$ORIGIN rpz.example.
@ 300 IN SOA a. b. 1 2 3 4 5
nx.example             CNAME .
nodata.example         CNAME *.
drop.example           CNAME rpz-drop.
pass.drop.example      CNAME rpz-passthru.
*.drop.example         CNAME rpz-drop.
tcp.example            CNAME rpz-tcp-only.
local.example      30  A     198.51.100.1
local.example      900 A     198.51.100.2
local.example          AAAA  2001:db8::1
local.example          TXT   "walled; garden" "two"
local.example          MX    10 mail
to.example             CNAME good.example.
*.to.example           CNAME *.walled.example.
lost.example           CNAME nx.nowhere.example.
bad.example            CNAME wechat.com.
self.example           CNAME tcp.example.
32.10.2.0.192.rpz-ip   A     198.51.100.3
32.11.2.0.192.rpz-ip   CNAME good.example.
32.12.2.0.192.rpz-ip   CNAME rpz-tcp-only.
`

const policyWorld = zones + `
x.to.example.walled.example. 60 IN A 192.0.2.77
nx.example. 60 IN A 192.0.2.78
nodata.example. 60 IN A 192.0.2.79
tcp.example. 60 IN A 192.0.2.80
pass.drop.example. 60 IN A 192.0.2.81
ip11.example. 60 IN A 192.0.2.11
ip12.example. 60 IN A 192.0.2.12
`

func zoneRules(tb testing.TB, zone string) (rules []blocklists.Rule) {
	tb.Helper()
	for r, err := range parse.Rules(parse.RPZ, strings.NewReader(zone), parse.Limits{}) {
		if err != nil {
			tb.Fatal(err)
		}
		rules = append(rules, r)
	}
	return rules
}

// startZone runs a server whose bans have the policy zone among them.
func startZone(tb testing.TB, opts Options) *rig {
	tb.Helper()
	r := start(tb, policyWorld, opts)
	r.store.Swap(snapshot(tb, 2, append(bans(), testBan{blocklists.Ban{ID: "zone", Title: blocklists.Text{EN: "Zone"}, EDE: 15}, zoneRules(tb, policyZone)})))
	return r
}

func TestLocalData(t *testing.T) {
	for _, portable := range []bool{false, true} {
		r := startZone(t, Options{portable: portable})
		for _, tc := range []struct {
			name  string
			qtype uint16
			rcode int
			want  string // the answer section: type and data
			ede   string // in EXTRA-TEXT
		}{
			{"nx.example.", dns.TypeA, dns.RcodeNameError, "", "policy zone: qname nxdomain"},
			{"nodata.example.", dns.TypeA, dns.RcodeSuccess, "", "policy zone: qname nodata"},
			{"pass.drop.example.", dns.TypeA, dns.RcodeSuccess, "A 192.0.2.81", ""},
			{"LOCAL.example.", dns.TypeA, dns.RcodeSuccess, "A 198.51.100.1, A 198.51.100.2", "policy zone: qname local-data"},
			{"local.example.", dns.TypeAAAA, dns.RcodeSuccess, "AAAA 2001:db8::1", ""},
			{"local.example.", dns.TypeTXT, dns.RcodeSuccess, `TXT "walled; garden" "two"`, ""},
			{"local.example.", dns.TypeMX, dns.RcodeSuccess, "MX 10 mail.rpz.example.", ""},
			{"local.example.", dns.TypeSRV, dns.RcodeSuccess, "", ""},
			{"sub.local.example.", dns.TypeA, dns.RcodeSuccess, "A 192.0.2.1", ""},
			{"to.example.", dns.TypeA, dns.RcodeSuccess, "CNAME good.example., A 192.0.2.10", "policy zone: qname local-data"},
			{"to.example.", dns.TypeCNAME, dns.RcodeSuccess, "CNAME good.example.", ""},
			{"x.to.example.", dns.TypeA, dns.RcodeSuccess, "CNAME x.to.example.walled.example., A 192.0.2.77", ""},
			{"y.to.example.", dns.TypeA, dns.RcodeSuccess, "CNAME y.to.example.walled.example., A 192.0.2.1", ""},
			{strings.Repeat(strings.Repeat("x", 60)+".", 4)[:236] + ".to.example.", dns.TypeA, dns.RcodeNameError, "", ""},
			{"lost.example.", dns.TypeA, dns.RcodeNameError, "CNAME nx.nowhere.example.", ""},
			// Another ban's list holds for where an alias leads, but the zone's own rules do not.
			{"bad.example.", dns.TypeA, dns.RcodeNameError, "", "WeChat"},
			{"self.example.", dns.TypeA, dns.RcodeSuccess, "CNAME tcp.example., A 192.0.2.80", ""},
			// An address in the answer is a trigger, and the question's name the owner.
			{"good.example.", dns.TypeA, dns.RcodeSuccess, "A 198.51.100.3", "response-ip local-data through A 192.0.2.10"},
			{"ip11.example.", dns.TypeA, dns.RcodeSuccess, "CNAME good.example., A 192.0.2.10", ""},
		} {
			t.Run(tc.name+dns.TypeToString[tc.qtype], func(t *testing.T) {
				for _, network := range []string{"udp", "tcp"} {
					m := exchangeEDNS(t, r, network, tc.name, tc.qtype)
					if got := answers(m); m.Rcode != tc.rcode || got != tc.want || m.Truncated {
						t.Errorf("%s: got %s %q, want %s %q", network, dns.RcodeToString[m.Rcode], got, dns.RcodeToString[tc.rcode], tc.want)
					}
					for _, rr := range m.Answer {
						if h := rr.Header(); h.Ttl > 60 && strings.Contains(tc.ede, "local-data") && strings.EqualFold(h.Name, tc.name) {
							t.Errorf("%s: TTL of %s", network, rr)
						}
					}
					if text := extraText(m); !strings.Contains(text, tc.ede) {
						t.Errorf("%s: EDE %q, want %q", network, text, tc.ede)
					}
				}
			})
		}
	}
}

// A rule that asks for TCP truncates over UDP, with nothing in the answer, and
// lets it through over TCP.
func TestTCPOnly(t *testing.T) {
	r := startZone(t, Options{})
	for name, want := range map[string]string{"tcp.example.": "A 192.0.2.80", "ip12.example.": "A 192.0.2.12"} {
		for range 2 { // from the upstream, and from the cache
			m := exchangeEDNS(t, r, "udp", name, dns.TypeA)
			if !m.Truncated || m.Rcode != dns.RcodeSuccess || len(m.Answer) != 0 {
				t.Errorf("%s over UDP:\n%s", name, m)
			}
			m = exchangeEDNS(t, r, "tcp", name, dns.TypeA)
			if m.Truncated || answers(m) != want {
				t.Errorf("%s over TCP:\n%s", name, m)
			}
		}
	}
	for _, rec := range r.audit.take() {
		if rec.Action != "allow" || (rec.Transport == "udp" && rec.Reason != "tcp only") || (rec.Name == "tcp.example" && rec.Policy != "qname tcp-only") {
			t.Errorf("record %+v", rec)
		}
	}
}

func TestPolicyOnRecord(t *testing.T) {
	r := startZone(t, Options{})
	exchangeEDNS(t, r, "udp", "local.example.", dns.TypeA)
	exchangeEDNS(t, r, "udp", "good.example.", dns.TypeA)
	recs := r.audit.take()
	if len(recs) != 2 || recs[0].Policy != "qname local-data" || recs[0].Action != "block" || recs[0].RuleID != "zone:9" ||
		recs[1].Policy != "response-ip local-data" || recs[1].Via != "A 192.0.2.10" {
		t.Errorf("%+v", recs)
	}
}

// exchangeEDNS sends a question with EDNS.
func exchangeEDNS(t *testing.T, r *rig, network, name string, qtype uint16) *dns.Msg {
	t.Helper()
	m := new(dns.Msg).SetQuestion(name, qtype)
	m.SetEdns0(1232, false)
	c := dns.Client{Net: network, Timeout: secs(60)}
	reply, _, err := c.Exchange(m, r.addr)
	if err != nil {
		t.Fatalf("%s %s: %v", network, name, err)
	}
	return reply
}

// answers are the records of the answer section, without owner and TTL.
func answers(m *dns.Msg) string {
	var out []string
	for _, rr := range m.Answer {
		out = append(out, dns.TypeToString[rr.Header().Rrtype]+" "+strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	if len(m.Answer) > 0 && m.Answer[0].Header().Rrtype != dns.TypeCNAME {
		slices.Sort(out)
	}
	return strings.Join(out, ", ")
}

func extraText(m *dns.Msg) string {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				return e.ExtraText
			}
		}
	}
	return ""
}

// Who asks is looked at whatever is in the cache, on every way to an answer.
func TestClientTrigger(t *testing.T) {
	for _, silent := range []bool{false, true} {
		opts := Options{}
		if silent {
			opts.Audit = audit.Discard{}
		}
		r := start(t, zones, opts)
		r.store.Swap(snapshot(t, 2, []testBan{{blocklists.Ban{ID: "zone", EDE: 15}, zoneRules(t, policyClients)}}))
		for range 3 { // the third time a reader may have it at hand
			for from, want := range map[string]string{
				"127.0.0.1": "NOERROR A 192.0.2.10", "127.0.0.9": "NXDOMAIN ", "127.0.0.10": "NOERROR A 198.51.100.1", "127.0.0.11": "NOERROR ",
			} {
				c := dns.Client{Timeout: secs(60), Dialer: &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}}
				m, _, err := c.Exchange(new(dns.Msg).SetQuestion("good.example.", dns.TypeA), r.addr)
				if err != nil {
					t.Fatal(err)
				}
				if got := dns.RcodeToString[m.Rcode] + " " + answers(m); got != want || m.Truncated != (from == "127.0.0.11") {
					t.Errorf("silent %t, from %s: got %q, want %q", silent, from, got, want)
				}
			}
		}
	}
}

const policyClients = `@ SOA a. b. 1 2 3 4 5
32.9.0.0.127.rpz-client-ip CNAME .
32.10.0.0.127.rpz-client-ip A 198.51.100.1
32.11.0.0.127.rpz-client-ip CNAME rpz-tcp-only.
`

// The aliases before what a zone speaks about stay in the answer, as other
// engines have it; a ban of another kind tells nothing of the way.
func TestAliasesStay(t *testing.T) {
	r := start(t, zones+"way.example. 60 IN CNAME nx.test.example.\n", Options{})
	zone := "@ SOA a. b. 1 2 3 4 5\nnx.test.example CNAME .\n"
	r.store.Swap(snapshot(t, 2, append(bans(), testBan{blocklists.Ban{ID: "zone", EDE: 15}, zoneRules(t, zone)})))
	m := exchangeEDNS(t, r, "udp", "way.example.", dns.TypeA)
	if m.Rcode != dns.RcodeNameError || answers(m) != "CNAME nx.test.example." || len(m.Ns) != 1 || m.Ns[0].Header().Name != "nx.test.example." {
		t.Errorf("by a zone:\n%s", m)
	}
	m = exchangeEDNS(t, r, "udp", "cloak.example.", dns.TypeA)
	if m.Rcode != dns.RcodeNameError || len(m.Answer) != 0 {
		t.Errorf("by a list:\n%s", m)
	}
}

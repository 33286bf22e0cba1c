package resolver

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// answerOf cleans a response with those records in its answer section, and
// after "--" in its authority section.
func answerOf(t testing.TB, clk *testClock, k key, code int, lines ...string) *Answer {
	t.Helper()
	m := new(dns.Msg)
	m.Rcode, m.AuthenticatedData = code, true
	to := &m.Answer
	for _, s := range lines {
		switch s {
		case "--":
			to = &m.Ns
		case "++":
			to = &m.Extra
		default:
			*to = append(*to, rr(t, s))
		}
	}
	return newAnswer(k, m, clk.now)
}

const soa = "example. 600 IN SOA ns.example. admin.example. 1 2 3 4 300"

func TestTrail(t *testing.T) {
	sig := func(owner, covered string) string {
		return owner + " 60 IN RRSIG " + covered + " 13 2 60 20300101000000 20200101000000 1 example. AAAA"
	}
	var long, tooLong []string
	for i := range maxChain + 1 {
		from := fmt.Sprintf("c%d.example.", i)
		if i == 0 {
			from = "www.example."
		}
		s := fmt.Sprintf("%s 60 IN CNAME c%d.example.", from, i+1)
		if tooLong = append(tooLong, s); i < maxChain-1 {
			long = append(long, s)
		}
	}
	end := func(n int) string { return fmt.Sprintf("c%d.example. 60 IN A 192.0.2.1", n) }
	for _, tt := range []struct {
		name  string
		qtype uint16
		do    bool
		code  int
		in    []string
		rcode int
		want  []string // answer, "--", authority
	}{
		{name: "address", in: []string{"www.example. 60 IN A 192.0.2.1", "WWW.Example. 60 IN A 192.0.2.2"},
			want: []string{"www.example. 60 IN A 192.0.2.1", "www.example. 60 IN A 192.0.2.2", "--"}},
		{name: "poison", in: []string{"bank.example. 60 IN A 192.0.2.66", "www.example. 60 IN A 192.0.2.1", "www.example. 60 IN TXT x", "--",
			"example. 60 IN NS ns.evil.example.", "++", "ns.evil.example. 60 IN A 192.0.2.66"},
			want: []string{"www.example. 60 IN A 192.0.2.1", "--"}},
		{name: "other class", in: []string{"www.example. 60 CH A 192.0.2.1"}, want: []string{"--"}},
		{name: "chain in any order", in: []string{"b.example. 60 IN A 192.0.2.1", "A.example. 60 IN CNAME B.example.", "www.example. 60 IN CNAME a.example."},
			want: []string{"www.example. 60 IN CNAME a.example.", "A.example. 60 IN CNAME B.example.", "b.example. 60 IN A 192.0.2.1", "--"}},
		{name: "two aliases of one name", in: []string{"www.example. 60 IN CNAME a.example.", "www.example. 60 IN CNAME b.example.", "b.example. 60 IN A 192.0.2.1"},
			want: []string{"www.example. 60 IN CNAME a.example.", "--"}},
		{name: "alias asked for", qtype: dns.TypeCNAME, in: []string{"www.example. 60 IN CNAME a.example.", "a.example. 60 IN CNAME b.example."},
			want: []string{"www.example. 60 IN CNAME a.example.", "--"}},
		{name: "loop", in: []string{"www.example. 60 IN CNAME a.example.", "a.example. 60 IN CNAME WWW.example."}, rcode: dns.RcodeServerFailure, want: []string{"--"}},
		{name: "loop of one", in: []string{"www.example. 60 IN CNAME www.example."}, rcode: dns.RcodeServerFailure, want: []string{"--"}},
		{name: "long chain", in: append(long[:len(long):len(long)], end(maxChain-1)), want: append(long[:len(long):len(long)], end(maxChain-1), "--")},
		{name: "endless chain", in: append(tooLong[:len(tooLong):len(tooLong)], end(maxChain+1)), rcode: dns.RcodeServerFailure, want: []string{"--"}},
		{name: "DNAME without CNAME", in: []string{"example. 60 IN DNAME other.test.", "www.other.test. 60 IN A 192.0.2.1"},
			want: []string{"example. 60 IN DNAME other.test.", "www.example. 60 IN CNAME www.other.test.", "www.other.test. 60 IN A 192.0.2.1", "--"}},
		{name: "DNAME with a CNAME that differs", in: []string{"example. 60 IN DNAME other.test.", "www.example. 0 IN CNAME evil.test.", "evil.test. 60 IN A 192.0.2.66"},
			want: []string{"example. 60 IN DNAME other.test.", "www.example. 60 IN CNAME www.other.test.", "--"}},
		{name: "DNAME at the name itself", in: []string{"www.example. 60 IN DNAME other.test."}, want: []string{"--"}},
		{name: "DNAME of the root", in: []string{". 60 IN DNAME other.test.", "www.example.other.test. 60 IN A 192.0.2.1"},
			want: []string{". 60 IN DNAME other.test.", "www.example. 60 IN CNAME www.example.other.test.", "www.example.other.test. 60 IN A 192.0.2.1", "--"}},
		{name: "endless DNAME", in: []string{". 60 IN DNAME other.test."}, rcode: dns.RcodeServerFailure, want: []string{"--"}},
		{name: "DNAME too long", code: dns.RcodeYXDomain, rcode: dns.RcodeYXDomain,
			in:   []string{"example. 60 IN DNAME a" + strings.Repeat("aaaaaaaaa.", 25)},
			want: []string{"example. 60 IN DNAME a" + strings.Repeat("aaaaaaaaa.", 25), "--"}},
		{name: "no such name", code: dns.RcodeNameError, rcode: dns.RcodeNameError, in: []string{"--", soa},
			want: []string{"--", strings.Replace(soa, "600", "300", 1)}},
		{name: "no such name, with data of it", code: dns.RcodeNameError, rcode: dns.RcodeNameError, in: []string{"www.example. 60 IN A 192.0.2.1", "--", soa},
			want: []string{"--", strings.Replace(soa, "600", "300", 1)}},
		{name: "alias to no such name", code: dns.RcodeNameError, rcode: dns.RcodeNameError, in: []string{"www.example. 60 IN CNAME gone.test.", "--", soa},
			want: []string{"www.example. 60 IN CNAME gone.test.", "--", strings.Replace(soa, "600", "300", 1)}},
		{name: "SOA of another zone", in: []string{"--", "evil. 600 IN SOA ns.evil. a.evil. 1 2 3 4 300"}, want: []string{"--"}},
		{name: "second SOA", in: []string{"--", soa, strings.Replace(soa, "300", "5", 1)}, want: []string{"--", strings.Replace(soa, "600", "300", 1)}},
		{name: "signatures not asked for", in: []string{"www.example. 60 IN A 192.0.2.1", sig("www.example.", "A"), "--", sig("example.", "NSEC"), "example. 60 IN NSEC a.example. A"},
			want: []string{"www.example. 60 IN A 192.0.2.1", "--"}},
		{name: "signatures as what is asked for", qtype: dns.TypeRRSIG, in: []string{sig("www.example.", "A"), sig("www.example.", "TXT")},
			want: []string{sig("www.example.", "A"), sig("www.example.", "TXT"), "--"}},
		{name: "signatures", do: true, in: []string{"www.example. 60 IN A 192.0.2.1", sig("www.example.", "A"), sig("www.example.", "TXT"), "--",
			"example. 60 IN NSEC a.example. A", sig("example.", "NSEC"), "evil. 60 IN NSEC a.evil. A"},
			want: []string{"www.example. 60 IN A 192.0.2.1", sig("www.example.", "A"), "--", "example. 60 IN NSEC a.example. A", sig("example.", "NSEC")}},
		{name: "signed alias", do: true, in: []string{sig("www.example.", "CNAME"), "www.example. 60 IN CNAME a.test."},
			want: []string{"www.example. 60 IN CNAME a.test.", sig("www.example.", "CNAME"), "--"}},
		{name: "SERVFAIL with records", code: dns.RcodeServerFailure, rcode: dns.RcodeServerFailure, in: []string{"www.example. 60 IN A 192.0.2.1", "--", soa}, want: []string{"--"}},
		{name: "REFUSED", code: dns.RcodeRefused, rcode: dns.RcodeRefused, want: []string{"--"}},
		{name: "unknown code", code: dns.RcodeBadVers, rcode: dns.RcodeServerFailure, want: []string{"--"}},
		{name: "TTL with the top bit", in: []string{"www.example. 4294967295 IN A 192.0.2.1"}, want: []string{"www.example. 86400 IN A 192.0.2.1", "--"}},
		{name: "TTLs that differ", do: true, in: []string{"www.example. 90 IN CNAME a.example.", "a.example. 60 IN A 192.0.2.1", "A.example. 30 IN A 192.0.2.2", strings.Replace(sig("a.example.", "A"), "60", "70", 1),
			"--", "example. 50 IN NSEC a.example. A", strings.Replace(sig("example.", "NSEC"), "60", "40", 1)},
			want: []string{"www.example. 90 IN CNAME a.example.", "a.example. 30 IN A 192.0.2.1", "A.example. 30 IN A 192.0.2.2", strings.Replace(sig("a.example.", "A"), "60", "30", 1),
				"--", "example. 40 IN NSEC a.example. A", strings.Replace(sig("example.", "NSEC"), "60", "40", 1)}},
		{name: "TTL of a week", in: []string{"www.example. 604800 IN A 192.0.2.1"}, want: []string{"www.example. 86400 IN A 192.0.2.1", "--"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := key{name: "www.example.", qtype: max(tt.qtype, dns.TypeA), qclass: dns.ClassINET, do: tt.do}
			a := answerOf(t, newClock(), k, tt.code, tt.in...)
			got := a.Reply(question("www.example", k.qtype))
			if got.Rcode != tt.rcode {
				t.Errorf("rcode %s, want %s", dns.RcodeToString[got.Rcode], dns.RcodeToString[tt.rcode])
			}
			lines := append(append(texts(got.Answer), "--"), texts(got.Ns)...)
			if fmt.Sprintf("%q", lines) != fmt.Sprintf("%q", tt.want) {
				t.Errorf("got  %q\nwant %q", lines, tt.want)
			}
			if len(got.Extra) != 0 {
				t.Errorf("additional section: %v", got.Extra)
			}
		})
	}
}

func TestLife(t *testing.T) {
	for _, tt := range []struct {
		name string
		code int
		in   []string
		want int // seconds
	}{
		{"one", 0, []string{"www.example. 60 IN A 192.0.2.1"}, 60},
		{"least of the chain", 0, []string{"www.example. 60 IN CNAME a.test.", "a.test. 20 IN A 192.0.2.1", "a.test. 30 IN A 192.0.2.2"}, 20},
		{"least is dropped", 0, []string{"www.example. 60 IN A 192.0.2.1", "b.test. 1 IN A 192.0.2.1"}, 60},
		{"zero", 0, []string{"www.example. 0 IN A 192.0.2.1"}, 0},
		{"a week", 0, []string{"www.example. 604800 IN A 192.0.2.1"}, 86400},
		{"SOA's minimum", dns.RcodeNameError, []string{"--", soa}, 300},
		{"SOA's TTL", dns.RcodeNameError, []string{"--", strings.Replace(soa, "600", "100", 1)}, 100},
		{"no data", 0, []string{"--", soa}, 300},
		{"alias to no data", 0, []string{"www.example. 60 IN CNAME a.test.", "--", soa}, 60},
		{"no SOA", dns.RcodeNameError, nil, 0},
		{"alias without end and SOA", 0, []string{"www.example. 60 IN CNAME a.test."}, 0},
		{"SOA with data", 0, []string{"www.example. 60 IN A 192.0.2.1", "--", strings.Replace(soa, "600", "1", 1)}, 60},
		{"SERVFAIL", dns.RcodeServerFailure, nil, servfailTTL},
		{"REFUSED", dns.RcodeRefused, nil, 0},
		{"loop", 0, []string{"www.example. 60 IN CNAME www.example."}, servfailTTL},
	} {
		a := answerOf(t, newClock(), key{name: "www.example.", qtype: dns.TypeA, qclass: dns.ClassINET}, tt.code, tt.in...)
		if want := time.Duration(tt.want) * time.Second; a.life != want {
			t.Errorf("%s: cached for %v, want %v", tt.name, a.life, want)
		}
	}
}

func TestAgeing(t *testing.T) {
	clk := newClock()
	k := key{name: "www.example.", qtype: dns.TypeA, qclass: dns.ClassINET}
	a := answerOf(t, clk, k, 0, "www.example. 100 IN CNAME a.test.", "a.test. 10 IN A 192.0.2.1")
	ttls := func() [2]uint32 {
		m := a.Reply(question("www.example", dns.TypeA))
		return [2]uint32{m.Answer[0].Header().Ttl, m.Answer[1].Header().Ttl}
	}
	for _, tt := range []struct {
		move time.Duration
		want [2]uint32
	}{{0, [2]uint32{100, 10}}, {900 * time.Millisecond, [2]uint32{100, 10}}, {3200 * time.Millisecond, [2]uint32{96, 6}},
		{20 * time.Second, [2]uint32{76, 0}}, {100 * 365 * 24 * time.Hour, [2]uint32{0, 0}}, {-200 * 365 * 24 * time.Hour, [2]uint32{100, 10}}} {
		clk.move(tt.move)
		if got := ttls(); got != tt.want {
			t.Errorf("after %v more, TTLs are %v, want %v", tt.move, got, tt.want)
		}
	}
}

func TestReplyHeader(t *testing.T) {
	k := key{name: "www.example.", qtype: dns.TypeA, qclass: dns.ClassINET}
	a := answerOf(t, newClock(), k, 0, "www.example. 60 IN A 192.0.2.1")
	for _, tt := range []struct{ rd, cd, ad, do, wantAD bool }{
		{},
		{rd: true, cd: true},
		{ad: true, wantAD: true},
		{rd: true, do: true, wantAD: true},
	} {
		q := question("wWw.Example", dns.TypeA)
		q.RecursionDesired, q.CheckingDisabled, q.AuthenticatedData = tt.rd, tt.cd, tt.ad
		if tt.do {
			q.SetEdns0(1232, true)
		}
		m := a.Reply(q)
		want := dns.MsgHdr{Id: q.Id, Response: true, RecursionDesired: tt.rd, RecursionAvailable: true, CheckingDisabled: tt.cd, AuthenticatedData: tt.wantAD}
		if m.MsgHdr != want {
			t.Errorf("header for %+v:\ngot  %+v\nwant %+v", tt, m.MsgHdr, want)
		}
		if m.IsEdns0() != nil {
			t.Error("reply has an OPT record")
		}
		if m.Question[0] != q.Question[0] || m.Answer[0].Header().Name != "wWw.Example." {
			t.Errorf("the client's spelling is lost:\n%s", m)
		}
		// What the caller does with the reply stays in the reply.
		m.Answer[0].(*dns.A).A[0] = 99
		m.Answer[0].Header().Ttl = 1
		m.Question[0].Name = "spoilt."
	}
	wantTexts(t, "answer after all", a.Reply(question("www.example", dns.TypeA)).Answer, "www.example. 60 IN A 192.0.2.1")
}

func TestCanonical(t *testing.T) {
	for _, tt := range []struct {
		in, want string
		ok       bool
	}{
		{"WWW.Example", "www.example.", true},
		{"www.example.", "www.example.", true},
		{".", ".", true},
		{"", "", false},
		{`\119ww.example.`, "www.example.", true},
		{`a\.b.example.`, `a\.b.example.`, true},
		{`A\046B.example.`, `a\.b.example.`, true},
		{`\000.example.`, `\000.example.`, true},
		{"a..b.", "", false},
		{strings.Repeat("a", 64) + ".", "", false},
		{strings.Repeat("a.", 128), "", false},
	} {
		got, ok := canonical(tt.in)
		if got != tt.want && ok || ok != tt.ok {
			t.Errorf("canonical(%q) is %q, %v, want %q, %v", tt.in, got, ok, tt.want, tt.ok)
		}
	}
}

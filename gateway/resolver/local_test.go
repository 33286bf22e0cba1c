package resolver

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/miekg/dns"
)

var allSpecial = []Special{SpecialLocalhost, SpecialInvalid, SpecialTest, SpecialOnion, SpecialHome, SpecialReverse}

func localData(t testing.TB, special []Special, records ...string) *Local {
	t.Helper()
	l, err := newLocalOf(t, special, records...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func newLocalOf(t testing.TB, special []Special, records ...string) (*Local, error) {
	t.Helper()
	var rrs []dns.RR
	for _, s := range records {
		rrs = append(rrs, rr(t, s))
	}
	return NewLocal(rrs, special...)
}

// inShort is an answer in a line: the rcode, and the records' types and data.
func inShort(a *Answer, q *dns.Msg) string {
	if a == nil {
		return "asked upstream"
	}
	m := a.Reply(q)
	out := []string{dns.RcodeToString[m.Rcode]}
	for _, rr := range m.Answer {
		out = append(out, strings.Join(strings.Fields(strings.TrimPrefix(rr.String(), rr.Header().String())), " "))
	}
	for _, rr := range m.Ns {
		out = append(out, dns.Type(rr.Header().Rrtype).String()+"@"+rr.Header().Name)
	}
	return strings.Join(out, " ")
}

func TestLocal(t *testing.T) {
	l := localData(t, allSpecial,
		"printer.example.org. 60 IN A 10.0.0.5",
		"printer.example.org. 60 IN A 10.0.0.6",
		"printer.example.org. 60 IN AAAA fd00::5",
		"print.example.org. 60 IN CNAME printer.example.org.",
		"p.example.org. 60 IN CNAME print.example.org.",
		"*.apps.example.org. 60 IN A 10.0.0.7",
		"fixed.apps.example.org. 60 IN TXT \"x\"",
		"host.home.arpa. 60 IN A 10.0.0.8",
		"deep.under.home.arpa. 60 IN A 10.0.0.9",
		"5.0.0.10.in-addr.arpa. 60 IN PTR first.example.org.",
		"mail.example.org. 60 IN MX 10 printer.example.org.",
	)
	r := open(t, Options{Upstreams: udp(t, listen(t, records(t))), Local: l})
	const soa = "SOA@"
	for _, tc := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"printer.example.org", dns.TypeA, "NOERROR 10.0.0.5 10.0.0.6"},
		{"PRINTER.example.ORG", dns.TypeAAAA, "NOERROR fd00::5"},
		{"printer.example.org", dns.TypeHTTPS, "NOERROR " + soa + "printer.example.org."},
		{"print.example.org", dns.TypeA, "NOERROR printer.example.org. 10.0.0.5 10.0.0.6"},
		{"p.example.org", dns.TypeAAAA, "NOERROR print.example.org. printer.example.org. fd00::5"},
		{"p.example.org", dns.TypeMX, "NOERROR print.example.org. printer.example.org. " + soa + "printer.example.org."},
		{"mail.example.org", dns.TypeMX, "NOERROR 10 printer.example.org."},
		{"x.apps.example.org", dns.TypeA, "NOERROR 10.0.0.7"},
		{"x.y.apps.example.org", dns.TypeA, "NOERROR 10.0.0.7"},
		{"x.apps.example.org", dns.TypeTXT, "NOERROR " + soa + "x.apps.example.org."},
		{"fixed.apps.example.org", dns.TypeA, "NOERROR " + soa + "fixed.apps.example.org."},
		{"x.fixed.apps.example.org", dns.TypeA, "asked upstream"},
		{"apps.example.org", dns.TypeA, "asked upstream"},
		{"example.org", dns.TypeA, "asked upstream"},
		{"other.example.org", dns.TypeA, "asked upstream"},
		{"5.0.0.10.in-addr.arpa", dns.TypePTR, "NOERROR first.example.org."},
		{"6.0.0.10.in-addr.arpa", dns.TypePTR, "NOERROR printer.example.org."},
		{"7.0.0.10.in-addr.arpa", dns.TypePTR, "NXDOMAIN " + soa + "10.in-addr.arpa."},
		{"0.0.10.in-addr.arpa", dns.TypePTR, "NOERROR " + soa + "10.in-addr.arpa."},
		{"5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", dns.TypePTR, "NOERROR printer.example.org."},
		{"4.3.2.1.in-addr.arpa", dns.TypePTR, "asked upstream"},
		{"host.home.arpa", dns.TypeA, "NOERROR 10.0.0.8"},
		{"none.home.arpa", dns.TypeA, "NXDOMAIN " + soa + "home.arpa."},
		{"under.home.arpa", dns.TypeA, "NOERROR " + soa + "home.arpa."},
		{"home.arpa", dns.TypeA, "NOERROR " + soa + "home.arpa."},
		{"home.arpa", dns.TypeDS, "asked upstream"},
		{"home.arpa", dns.TypeNS, "NOERROR home.arpa."},
		{"x.home.arpa", dns.TypeDS, "NXDOMAIN " + soa + "home.arpa."},
		{"arpa", dns.TypeA, "asked upstream"},
	} {
		q := question(tc.name, tc.qtype)
		if got := inShort(r.Cached(q), q); got != tc.want {
			t.Errorf("%s %s: %s, want %s", tc.name, dns.Type(tc.qtype), got, tc.want)
		}
	}
	q := question("home.arpa", dns.TypeSOA)
	if got := inShort(r.Cached(q), q); !strings.HasPrefix(got, "NOERROR weir.invalid.") {
		t.Errorf("SOA of a zone: %s", got)
	}
	q = question("printer.example.org", dns.TypeA)
	q.Question[0].Qclass = dns.ClassCHAOS
	if a := r.Cached(q); a != nil {
		t.Errorf("another class: %s", inShort(a, q))
	}
	if l.Names() != 13 {
		t.Errorf("%d names", l.Names())
	}
	if st := r.Stats(); st.Local == 0 || st.Hits != 0 {
		t.Errorf("%d local answers and %d hits", st.Local, st.Hits)
	}
}

// Each kind of special names, on and off.
func TestSpecialNames(t *testing.T) {
	for name, tc := range map[string]struct {
		kind  Special
		qtype uint16
		want  string
	}{
		"localhost":              {SpecialLocalhost, dns.TypeA, "NOERROR 127.0.0.1"},
		"a.b.LOCALHOST":          {SpecialLocalhost, dns.TypeAAAA, "NOERROR ::1"},
		"x.localhost":            {SpecialLocalhost, dns.TypeMX, "NOERROR SOA@localhost."},
		"1.0.0.127.in-addr.arpa": {SpecialLocalhost, dns.TypePTR, "NOERROR localhost."},
		"2.0.0.127.in-addr.arpa": {SpecialLocalhost, dns.TypePTR, "NXDOMAIN SOA@127.in-addr.arpa."},
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa": {SpecialLocalhost, dns.TypePTR, "NOERROR localhost."},
		"x.invalid":                    {SpecialInvalid, dns.TypeA, "NXDOMAIN SOA@invalid."},
		"x.test":                       {SpecialTest, dns.TypeA, "NXDOMAIN SOA@test."},
		"facebook.onion":               {SpecialOnion, dns.TypeA, "NXDOMAIN SOA@onion."},
		"onion":                        {SpecialOnion, dns.TypeA, "NOERROR SOA@onion."},
		"nas.home.arpa":                {SpecialHome, dns.TypeAAAA, "NXDOMAIN SOA@home.arpa."},
		"9.9.168.192.in-addr.arpa":     {SpecialReverse, dns.TypePTR, "NXDOMAIN SOA@168.192.in-addr.arpa."},
		"1.0.31.172.in-addr.arpa":      {SpecialReverse, dns.TypePTR, "NXDOMAIN SOA@31.172.in-addr.arpa."},
		"1.0.64.100.in-addr.arpa":      {SpecialReverse, dns.TypePTR, "NXDOMAIN SOA@64.100.in-addr.arpa."},
		"1.8.e.f.ip6.arpa":             {SpecialReverse, dns.TypePTR, "NXDOMAIN SOA@8.e.f.ip6.arpa."},
		"255.255.255.255.in-addr.arpa": {SpecialReverse, dns.TypePTR, "NOERROR SOA@255.255.255.255.in-addr.arpa."},
	} {
		q := question(name, tc.qtype)
		k, err := keyOf(q)
		if err != nil {
			t.Fatal(err)
		}
		clk := newClock()
		if got := inShort(localData(t, []Special{tc.kind}).answer(k, clk.now), q); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
		others := slices.DeleteFunc(slices.Clone(allSpecial), func(s Special) bool { return s == tc.kind })
		if a := localData(t, others).answer(k, clk.now); a != nil {
			t.Errorf("%s with its kind off: %s", name, inShort(a, q))
		}
	}
	for _, name := range []string{"notlocalhost", "localhost.example", "xn--onion", "32.172.in-addr.arpa", "15.172.in-addr.arpa", "128.100.in-addr.arpa", "example", "x.example.com", "c.e.f.ip6.arpa"} {
		k, _ := keyOf(question(name, dns.TypePTR))
		if a := localData(t, allSpecial).answer(k, newClock().now); a != nil {
			t.Errorf("%s is taken for special", name)
		}
	}
	if _, err := NewLocal(nil, "locahost"); err == nil {
		t.Error("an unknown kind is no error")
	}
	var none *Local
	if k, _ := keyOf(question("localhost", dns.TypeA)); none.answer(k, newClock().now) != nil || new(Local).answer(k, newClock().now) != nil {
		t.Error("without local data there is some")
	}
}

func TestLocalRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"a.example. IN CNAME b.example.":                                                   "there is no local record for b.example.",
		"a.example. IN CNAME a.example.":                                                   "circle",
		"a.example. IN CNAME b.example.|b.example. IN CNAME a.example.":                    "circle",
		"a.example. IN CNAME b.example.|a.example. IN A 10.0.0.1|b.example. IN A 10.0.0.1": "only record",
		"a.example. IN A 10.0.0.1|b.example. IN A 10.0.0.1|a.example. IN CNAME b.example.": "only record",
	} {
		if _, err := newLocalOf(t, nil, strings.Split(text, "|")...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if l := localData(t, nil, "a.example. IN A 10.0.0.1", "a.example. IN A 10.0.0.1"); len(l.nodes["a.example."][dns.TypeA]) != 1 {
		t.Error("a record that is there twice is answered twice")
	}
}

func TestLocalEqual(t *testing.T) {
	one := localData(t, allSpecial, "a.example. IN A 10.0.0.1")
	for _, other := range []*Local{localData(t, nil, "a.example. IN A 10.0.0.1"), localData(t, allSpecial, "a.example. IN A 10.0.0.2"), nil} {
		if one.Equal(other) || other.Equal(one) {
			t.Error("different data are equal")
		}
	}
	if !one.Equal(localData(t, allSpecial, "a.example. IN A 10.0.0.1")) || !(*Local)(nil).Equal(nil) {
		t.Error("equal data are not")
	}
}

// A name that becomes local is not answered from before, nor the other way.
func TestSetLocal(t *testing.T) {
	z := records(t, wwwA)
	r := open(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 10})
	hot := NewHot(10)
	ask := func() string {
		q := question("www.example", dns.TypeA)
		resolve(t, r, "www.example", dns.TypeA)
		a := hot.Get(r, Question{Name: "www.example", Type: dns.TypeA}, r.now())
		if a == nil {
			a = r.Cached(q)
		}
		return inShort(a, q)
	}
	before := ask()
	r.SetLocal(localData(t, nil, "www.example. 60 IN A 10.9.9.9"))
	if got := ask(); got != "NOERROR 10.9.9.9" {
		t.Errorf("local: %s", got)
	}
	addrs, links, err := r.LookupAddrs(t.Context(), "www.example")
	if err != nil || len(addrs) != 1 || len(links) != 1 {
		t.Errorf("addresses %v, links %v, %v; want the local one, to be judged", addrs, links, err)
	}
	r.SetLocal(nil)
	if got := ask(); got != before {
		t.Errorf("no longer local: %s, want %s", got, before)
	}
}

func TestReadHosts(t *testing.T) {
	const text = "\ufeff# a comment\n127.0.0.1\tlocalhost\n\n10.0.0.1 Router.Example.org router # the first\r\n" +
		"fd00::1%eth0 router.example.org\n::ffff:10.0.0.2 mapped\nnonsense here\n10.0.0.3\n10.0.0.4 ok -bad-.. fine\n10.0.0.1 alias\n"
	rrs, wrong, first, err := ReadHosts(strings.NewReader(text))
	if err != nil || wrong != 3 || first != 7 {
		t.Errorf("%d wrong lines, first %d, %v; want 3 from line 7", wrong, first, err)
	}
	var got []string
	for _, rr := range rrs {
		f := strings.Fields(rr.String())
		got = append(got, f[0]+" "+f[4])
	}
	want := []string{"localhost. 127.0.0.1", "router.example.org. 10.0.0.1", "router. 10.0.0.1", "router.example.org. fd00::1", "mapped. 10.0.0.2", "ok. 10.0.0.4", "fine. 10.0.0.4", "alias. 10.0.0.1"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	l, err := NewLocal(rrs)
	if err != nil {
		t.Fatal(err)
	}
	q := question("1.0.0.10.in-addr.arpa", dns.TypePTR)
	k, _ := keyOf(q)
	if got := inShort(l.answer(k, newClock().now), q); got != "NOERROR router.example.org." {
		t.Errorf("the address's name: %s", got)
	}
	if _, _, _, err := ReadHosts(iotest.ErrReader(errors.New("broken"))); err == nil {
		t.Error("a file that cannot be read is no error")
	}
	if _, _, _, err := ReadHosts(strings.NewReader(strings.Repeat("10.0.0.1 "+strings.Repeat("a ", 30000)+"\n", 40))); err == nil {
		t.Error("more names than there may be are no error")
	}
}

func BenchmarkLocal(b *testing.B) {
	var records []string
	for i := range 10_000 {
		records = append(records, fmt.Sprintf("h%d.example.org. IN A 10.0.%d.%d", i, i/256, i%256))
	}
	l := localData(b, allSpecial, records...)
	k, _ := keyOf(question("h77.example.org", dns.TypeA))
	now := newClock().now
	b.ReportAllocs()
	for b.Loop() {
		l.answer(k, now)
	}
}

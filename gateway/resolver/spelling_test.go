package resolver

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// both starts a server that answers UDP and TCP each in its own way.
func both(t testing.TB, overUDP, overTCP func(q *dns.Msg) *dns.Msg) (addr []string, tcp *atomic.Int64) {
	tcp = new(atomic.Int64)
	a := listen(t, dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		answer := overUDP
		if w.RemoteAddr().Network() == "tcp" {
			tcp.Add(1)
			answer = overTCP
		}
		if m := answer(q); m != nil {
			_ = w.WriteMsg(m)
		}
	}))
	return []string{"udp://" + a.String()}, tcp
}

// says answers a question with an address, and returns its name as asked.
func says(t testing.TB, q *dns.Msg, addr string) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.Answer = []dns.RR{rr(t, q.Question[0].Name+" 300 IN A "+addr)}
	return m
}

// TestSpelling: names are spelled at random, and no client sees how.
func TestSpelling(t *testing.T) {
	var mu sync.Mutex
	seen := make(map[string]bool)
	u, tcp := both(t, func(q *dns.Msg) *dns.Msg {
		name := q.Question[0].Name
		mu.Lock()
		seen[name] = true
		mu.Unlock()
		m := new(dns.Msg).SetReply(q)
		m.Compress = true
		target := "a." + name[strings.IndexByte(name, '.')+1:]
		m.Answer = []dns.RR{rr(t, name+" 300 IN CNAME "+target), rr(t, target+" 300 IN A 192.0.2.1")}
		return m
	}, nil)
	r := open(t, Options{Upstreams: upstreams(t, u...)})
	for range 8 {
		q := question("www.long-name.example", dns.TypeA)
		a, err := r.Resolve(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		wantTexts(t, "answer", a.Reply(q).Answer, "www.long-name.example. 300 IN CNAME a.long-name.example.", "a.long-name.example. 300 IN A 192.0.2.1")
	}
	mu.Lock()
	defer mu.Unlock()
	if len(seen) < 7 || tcp.Load() != 0 {
		t.Errorf("8 queries had %d spellings, %d went over TCP", len(seen), tcp.Load())
	}
	for name := range seen {
		if dns.CanonicalName(name) != "www.long-name.example." {
			t.Errorf("asked for %s", name)
		}
	}
}

// TestSpellingLost: of an upstream that returns names in lower case, what it says
// over UDP is not taken, until it has turned out that it always does so.
func TestSpellingLost(t *testing.T) {
	u, tcp := both(t, func(q *dns.Msg) *dns.Msg {
		if name := q.Question[0].Name; name != dns.CanonicalName(name) {
			q.Question[0].Name = dns.CanonicalName(name)
			return says(t, q, "192.0.2.66")
		}
		return says(t, q, "192.0.2.1")
	}, func(q *dns.Msg) *dns.Msg { return says(t, q, "192.0.2.1") })
	r := open(t, Options{Upstreams: upstreams(t, u...)})
	for i := range 4 * spellingDoubts {
		q := question(fmt.Sprintf("a-name-with-many-letters-%d.example", i), dns.TypeA)
		a, err := r.Resolve(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.addrs(); len(got) != 1 || got[0].String() != "192.0.2.1" {
			t.Errorf("question %d: %v", i, got)
		}
	}
	if n := tcp.Load(); n != spellingDoubts || r.Stats().Doubted != spellingDoubts {
		t.Errorf("%d queries over TCP, want %d; %d doubted", n, spellingDoubts, r.Stats().Doubted)
	}
}

// TestSpellingUnit: the pause ends, and one good response ends doubts.
func TestSpellingUnit(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var s spelling
	for range 10 {
		for range spellingDoubts - 1 {
			s.note(false, now)
		}
		s.note(true, now)
	}
	if s.broken(now) {
		t.Error("doubts that were not in a row count")
	}
	for range spellingDoubts {
		s.note(false, now)
	}
	if !s.broken(now) || !s.broken(now.Add(spellingPause-1)) || s.broken(now.Add(spellingPause)) {
		t.Error("the pause is not as long as it should be")
	}
	// Names without letters and odd octets stay what they are.
	for _, name := range []string{".", "123.", `\000\255\@\[\` + "`" + `\{.1.`} {
		k := key{name: name, qtype: dns.TypeA, qclass: dns.ClassINET}
		b, err := k.query(1, true).Pack()
		if err != nil {
			t.Fatal(err)
		}
		was := string(questionOf(b))
		if new(spelling).mix(questionOf(b), now) || string(questionOf(b)) != was {
			t.Errorf("%s was changed", name)
		}
	}
}

// TestClientCookie: the upstream's cookie is kept and returned; a response with
// another one than ours is ignored, and one without it is asked for over TCP.
func TestClientCookie(t *testing.T) {
	const server = "0102030405060708"
	poison := func(q *dns.Msg, cookie string) *dns.Msg {
		m := says(t, q, "192.0.2.66")
		m.SetEdns0(1232, false)
		if cookie != "" {
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: cookie}}
		}
		return m
	}
	good := func(q *dns.Msg) *dns.Msg {
		m := poison(q, cookieOf(q)[:clientCookieHex]+server)
		m.Answer = says(t, q, "192.0.2.1").Answer
		return m
	}
	var mu sync.Mutex
	var cookies []string
	var forge func(q *dns.Msg) *dns.Msg
	answer := func(q *dns.Msg) [][]byte {
		mu.Lock()
		defer mu.Unlock()
		cookies = append(cookies, cookieOf(q))
		if forge != nil {
			return [][]byte{pack(t, forge(q)), pack(t, good(q))}
		}
		return [][]byte{pack(t, good(q))}
	}
	addr := raw(t, answer)
	l, err := net.Listen("tcp", addr.String())
	for range 20 {
		if err == nil {
			break
		}
		addr = raw(t, answer) // somebody else has the TCP port
		l, err = net.Listen("tcp", addr.String())
	}
	if err != nil {
		t.Fatal(err)
	}
	z := records(t, wwwA)
	serve(t, &dns.Server{Listener: l, Handler: z})
	r := open(t, Options{Upstreams: udp(t, addr)})
	ask := func(about string, forged func(q *dns.Msg) *dns.Msg, overTCP int64) string {
		mu.Lock()
		forge = forged
		n := len(cookies)
		mu.Unlock()
		before := z.queries.Load()
		a := resolve(t, r, "www.example", dns.TypeA)
		if got := a.addrs(); len(got) != 1 || got[0].String() != "192.0.2.1" {
			t.Errorf("%s: %v", about, got)
		}
		if n := z.queries.Load() - before; n != overTCP {
			t.Errorf("%s: %d queries over TCP, want %d", about, n, overTCP)
		}
		mu.Lock()
		defer mu.Unlock()
		return cookies[n]
	}
	first := ask("first", nil, 0)
	if len(first) != clientCookieHex {
		t.Errorf("the first cookie is %q", first)
	}
	if second := ask("second", nil, 0); second != first+server {
		t.Errorf("the second cookie is %q, want %q", second, first+server)
	}
	ask("another's cookie", func(q *dns.Msg) *dns.Msg { return poison(q, "ffffffffffffffff"+server) }, 0)
	ask("half a cookie", func(q *dns.Msg) *dns.Msg { return poison(q, "ffff") }, 0)
	for _, illegal := range []string{"01", "01020304050607", strings.Repeat("01", 33)} {
		ask("a cookie of no length that there is", func(q *dns.Msg) *dns.Msg { return poison(q, cookieOf(q)[:clientCookieHex]+illegal) }, 0)
	}
	ask("no cookie", func(q *dns.Msg) *dns.Msg { return poison(q, "") }, 1)
	if after := ask("after none", nil, 0); after != first {
		t.Errorf("after a response without a cookie, %q is sent", after)
	}
}

// TestBadCookie (RFC 7873, section 5.3): the query is sent once more with the
// cookie that came, and then over TCP.
func TestBadCookie(t *testing.T) {
	for _, tt := range []struct {
		name    string
		refused int64
		want    [2]int64 // queries over UDP and TCP
	}{{"once", 1, [2]int64{2, 0}}, {"always", 1 << 20, [2]int64{2, 1}}} {
		var asked atomic.Int64
		u, tcp := both(t, func(q *dns.Msg) *dns.Msg {
			m := says(t, q, "192.0.2.1")
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: cookieOf(q)[:clientCookieHex] + "0102030405060708"}}
			if asked.Add(1) <= tt.refused {
				m.Answer, m.Rcode = nil, dns.RcodeBadCookie
			}
			return m
		}, func(q *dns.Msg) *dns.Msg { return says(t, q, "192.0.2.1") })
		r := open(t, Options{Upstreams: upstreams(t, u...)})
		resolve(t, r, "www.example", dns.TypeA)
		if got := [2]int64{asked.Load(), tcp.Load()}; got != tt.want {
			t.Errorf("%s: %v queries over UDP and TCP, want %v", tt.name, got, tt.want)
		}
	}
}

// TestCookieOfAddress: asked from another address, we are somebody else.
func TestCookieOfAddress(t *testing.T) {
	var j cookieJar
	now := time.Now()
	from := func(ip string) string {
		q := key{name: ".", qtype: dns.TypeNS, qclass: dns.ClassINET}.query(1, true)
		s := j.add(q, &net.UDPAddr{IP: net.ParseIP(ip)}, now)
		m := new(dns.Msg).SetReply(q)
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: s.client + "0102030405060708"}}
		if err := j.check(s, m); err != nil {
			t.Error(err)
		}
		return cookieOf(q)
	}
	a, again, b, back := from("192.0.2.1"), from("192.0.2.1"), from("192.0.2.2"), from("192.0.2.1")
	if again != a+"0102030405060708" || b[:clientCookieHex] == a || len(b) != clientCookieHex || back != a {
		t.Errorf("%q, %q, %q, %q", a, again, b, back)
	}
	// No secret makes cookies for ever (RFC 7873, section 7.1), and no two upstreams
	// get the same one (RFC 9018, section 3).
	now = now.Add(cookieTurn - time.Second)
	if same := from("192.0.2.1"); same[:clientCookieHex] != a[:clientCookieHex] {
		t.Errorf("%q became %q before its time", a, same)
	}
	now = now.Add(time.Second)
	if turned := from("192.0.2.1"); turned[:clientCookieHex] == a[:clientCookieHex] || len(turned) != clientCookieHex {
		t.Errorf("%q is still %q after a day", a, turned)
	}
	if q := (key{name: ".", qtype: dns.TypeNS, qclass: dns.ClassINET}).query(1, true); (&cookieJar{}).add(q, &net.UDPAddr{IP: net.ParseIP("192.0.2.1")}, now).client == j.client {
		t.Error("two upstreams get the same cookie")
	}
	if (&cookieJar{}).add(new(dns.Msg), &net.UDPAddr{}, now) != nil {
		t.Error("a query without EDNS has a cookie")
	}
}

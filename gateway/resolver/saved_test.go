package resolver

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/bench/corpus"
	"github.com/weir-gateway/weir/blocklists"
)

// manyKinds answers each name with another kind of answer.
func manyKinds(t testing.TB) *zone {
	kinds := map[string][]string{
		"plain.example.":   {"plain.example. 60 IN A 192.0.2.1", "plain.example. 90 IN A 192.0.2.2"},
		"alias.example.":   {"alias.example. 60 IN CNAME b.example.", "b.example. 30 IN CNAME c.test.", "c.test. 60 IN A 192.0.2.3"},
		"service.example.": {"service.example. 60 IN HTTPS 1 svc.example. alpn=h2 ipv4hint=192.0.2.4"},
		"said.example.":    {"said.example. 60 IN A 192.0.2.5"},
		"inside.example.":  {"inside.example. 60 IN A 192.0.2.6", "inside.example. 60 IN A 10.0.0.1"},
		`a\.b.example.`:    {`a\.b.example. 60 IN TXT "x\000y"`},
	}
	return &zone{answer: func(q *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		m.AuthenticatedData = q.Question[0].Name == "plain.example."
		for _, s := range kinds[q.Question[0].Name] {
			if r := rr(t, s); r.Header().Rrtype == q.Question[0].Qtype || r.Header().Rrtype == dns.TypeCNAME || r.Header().Name == "c.test." {
				m.Answer = append(m.Answer, r)
			}
		}
		if len(m.Answer) == 0 {
			m.Rcode, m.Ns = dns.RcodeNameError, []dns.RR{rr(t, "example. 600 IN SOA ns.example. a.example. 1 2 3 4 300")}
		}
		if q.Question[0].Name == "said.example." {
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: 4, ExtraText: "forged"}}
		}
		return m
	}}
}

// questions of manyKinds.
func kindsOf() (qs []*dns.Msg) {
	for name, qtype := range map[string]uint16{"plain.example": dns.TypeA, "alias.example": dns.TypeA, "service.example": dns.TypeHTTPS,
		"said.example": dns.TypeA, "inside.example": dns.TypeA, `a\.b.example`: dns.TypeTXT, "missing.example": dns.TypeAAAA} {
		for i := range 4 {
			q := question(name, qtype)
			q.CheckingDisabled = i&1 != 0
			q.SetEdns0(1232, i&2 != 0)
			qs = append(qs, q)
		}
	}
	return qs
}

func saved(t testing.TB, r *Resolver) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := r.Save(&b, 1<<30); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestSavedCache: a cache that was saved answers as the one that it was, each
// second of a TTL counted, and nobody is asked.
func TestSavedCache(t *testing.T) {
	up := manyKinds(t)
	clk := newClock()
	opts := Options{Upstreams: udp(t, listen(t, up)), CacheEntries: 1000, Shape: Shape{Rebinding: true}}
	old := openAt(t, opts, clk.now, portDNS)
	for _, q := range kindsOf() {
		if _, err := old.Resolve(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	file := saved(t, old)
	clk.move(7 * time.Second)
	asked := up.queries.Load()
	opts.History = new(History)
	r := openAt(t, opts, clk.now, portDNS)
	if n, err := r.Restore(bytes.NewReader(file)); n != len(kindsOf()) || err != nil {
		t.Fatalf("%d of %d answers restored: %v", n, len(kindsOf()), err)
	}
	for _, q := range kindsOf() {
		want, got := old.Cached(q), r.Cached(q)
		if got == nil || want == nil {
			t.Fatalf("%s is not there", q.Question[0].String())
		}
		if g, w := got.Reply(q).String(), want.Reply(q).String(); g != w {
			t.Errorf("got\n%s\nwant\n%s", g, w)
		}
		ge, gok := got.Extended()
		we, wok := want.Extended()
		if !slices.Equal(got.Links(), want.Links()) || got.Filtered() != want.Filtered() || ge != we || gok != wok || got.life != want.life || got.ttl != want.ttl {
			t.Errorf("%s: links %v, filtered %t, extended %v, life %v", q.Question[0].String(), got.Links(), got.Filtered(), ge, got.life)
		}
		if m := got.Reply(q); len(m.Answer) > 0 && m.Answer[0].Header().Ttl != 53 {
			t.Errorf("TTL %d, want 53", m.Answer[0].Header().Ttl)
		}
	}
	if n := up.queries.Load(); n != asked {
		t.Errorf("%d questions were asked upstream", n-asked)
	}
	if !opts.History.Gave("alias.example", netip.MustParseAddr("192.0.2.3"), clk.now()) {
		t.Error("what the cache will give does not count as given")
	}
	if again := saved(t, r); len(again) != len(file) {
		t.Errorf("saved again it has %d bytes, before %d", len(again), len(file))
	}
}

// TestSavedCacheExpires: what is over is of use as a stale answer only, and for as
// long as any; what is of tomorrow, of none.
func TestSavedCacheExpires(t *testing.T) {
	up := corpus.NewCulprit(t, 60)
	clk := newClock()
	opts := Options{Upstreams: udp(t, up.Addr), CacheEntries: 1000, Stale: Stale{Max: time.Hour, Wait: 100 * time.Millisecond}}
	old := openAt(t, opts, clk.now, portDNS)
	resolve(t, old, "www.example", dns.TypeA)
	file := saved(t, old)
	for _, c := range []struct {
		after    time.Duration
		restored int
		stale    bool
	}{{-time.Second, 0, false}, {59 * time.Second, 1, false}, {61 * time.Second, 1, true}, {time.Hour + 59*time.Second, 1, true}, {time.Hour + time.Minute, 0, false}} {
		clk := newClock()
		clk.move(c.after)
		r := openAt(t, opts, clk.now, portDNS)
		if n, err := r.Restore(bytes.NewReader(file)); n != c.restored || err != nil {
			t.Errorf("after %v: %d restored, %v", c.after, n, err)
		}
		if c.restored == 0 {
			continue
		}
		if a := r.Cached(question("www.example", dns.TypeA)); (a == nil) != c.stale {
			t.Errorf("after %v: cached answer %v", c.after, a)
		}
		up.Do(corpus.Misdeeds()[0]) // dead
		if a := resolve(t, r, "www.example", dns.TypeA); a.Stale() != c.stale {
			t.Errorf("after %v: stale %t", c.after, a.Stale())
		}
		up.Repent()
	}
}

// TestSavedCacheIsBounded: of a cache that is too large, what was in use last is
// saved; and one that is too large for where it comes to pushes nothing out.
func TestSavedCacheIsBounded(t *testing.T) {
	opts := Options{Upstreams: udp(t, listen(t, records(t, "*. 60 IN A 192.0.2.1"))), CacheEntries: 200}
	old := open(t, opts)
	for i := range 200 {
		resolve(t, old, fmt.Sprintf("n%d.example", i), dns.TypeA)
	}
	resolve(t, old, "n0.example", dns.TypeA)
	var b bytes.Buffer
	n, err := old.Save(&b, 2000)
	if err != nil || b.Len() > 2000 || n < 20 || n > 60 {
		t.Fatalf("%d answers in %d bytes: %v", n, b.Len(), err)
	}
	opts.CacheEntries = 10
	r := open(t, opts)
	resolve(t, r, "new.example", dns.TypeA)
	if got, err := r.Restore(bytes.NewReader(b.Bytes())); got != 9 || err != nil {
		t.Errorf("%d restored, %v", got, err)
	}
	for name, want := range map[string]bool{"new.example": true, "n0.example": true, "n199.example": true, "n150.example": false} {
		if got := r.Cached(question(name, dns.TypeA)) != nil; got != want {
			t.Errorf("%s: in the cache %t", name, got)
		}
	}
	none := open(t, Options{Upstreams: opts.Upstreams})
	if n, err := none.Restore(bytes.NewReader(b.Bytes())); n != 0 || err != nil {
		t.Errorf("without a cache: %d, %v", n, err)
	}
	if n, err := none.Save(&b, 2000); n != 0 || err != nil {
		t.Errorf("without a cache: %d saved, %v", n, err)
	}
}

// TestSavedCacheGivesWay: what came since stays, and what was forgotten since
// stays forgotten.
func TestSavedCacheGivesWay(t *testing.T) {
	first, then := records(t, "*. 60 IN A 192.0.2.1"), records(t, "*. 60 IN A 192.0.2.2")
	up := new(zone)
	up.answer = func(q *dns.Msg) *dns.Msg {
		if up.queries.Load() == 1 {
			return first.answer(q)
		}
		return then.answer(q)
	}
	opts := Options{Upstreams: udp(t, listen(t, up)), CacheEntries: 100}
	old := open(t, opts)
	resolve(t, old, "www.example", dns.TypeA)
	file := saved(t, old)
	r := open(t, opts)
	resolve(t, r, "www.example", dns.TypeA)
	if n, err := r.Restore(bytes.NewReader(file)); n != 0 || err != nil {
		t.Errorf("%d restored, %v", n, err)
	}
	if a := r.Cached(question("www.example", dns.TypeA)); a == nil || a.addrs()[0] != netip.MustParseAddr("192.0.2.2") {
		t.Error("the newer answer is gone")
	}
	r.Flush()
	flushed := &flushing{Reader: bytes.NewReader(file), r: r}
	if n, err := r.Restore(flushed); n != 0 || err != nil || r.Cached(question("www.example", dns.TypeA)) != nil {
		t.Errorf("flushed while it is read: %d restored, %v", n, err)
	}
}

// flushing forgets all while the answers are read.
type flushing struct {
	*bytes.Reader
	r     *Resolver
	seeks int
}

func (f *flushing) Read(b []byte) (int, error) {
	if f.seeks > 2 {
		f.r.Flush()
	}
	return f.Reader.Read(b)
}

func (f *flushing) Seek(off int64, whence int) (int64, error) {
	f.seeks++
	return f.Reader.Seek(off, whence)
}

// TestOtherSettings: a saved cache is for those who would have made it.
func TestOtherSettings(t *testing.T) {
	a, b := listen(t, records(t, anyA)), listen(t, records(t, anyA))
	opts := Options{Upstreams: udp(t, a), CacheEntries: 100}
	old := open(t, opts)
	resolve(t, old, "www.example", dns.TypeA)
	file := saved(t, old)
	for what, change := range map[string]func(*Options){
		"upstreams": func(o *Options) { o.Upstreams = udp(t, b) },
		"routes":    func(o *Options) { o.Routes = []Route{{Names: []string{"example"}, Upstreams: udp(t, b)}} },
		"shape":     func(o *Options) { o.Shape.ECH = true },
		"networks":  func(o *Options) { o.Shape.PrivateNames = []string{"example"} },
	} {
		o := opts
		change(&o)
		r := open(t, o)
		if n, err := r.Restore(bytes.NewReader(file)); n != 0 || !errors.Is(err, ErrOtherCache) {
			t.Errorf("other %s: %d restored, %v", what, n, err)
		}
	}
	newer := slices.Clone(file)
	newer[len(savedMagic)-1]++
	r := open(t, opts)
	if n, err := r.Restore(bytes.NewReader(newer)); n != 0 || !errors.Is(err, ErrOtherCache) {
		t.Errorf("another version: %d restored, %v", n, err)
	}
	if n, err := r.Restore(bytes.NewReader(file)); n != 1 || err != nil {
		t.Errorf("the same: %d restored, %v", n, err)
	}
}

// TestDamagedSavedCache: of a file with a bit changed anywhere, or of a part of it,
// nothing is taken.
func TestDamagedSavedCache(t *testing.T) {
	opts := Options{Upstreams: udp(t, listen(t, records(t, anyA))), CacheEntries: 100}
	old := open(t, opts)
	resolve(t, old, "www.example", dns.TypeA)
	file := saved(t, old)
	r := open(t, opts)
	refuse := func(what string, b []byte) {
		if n, err := r.Restore(bytes.NewReader(b)); n != 0 || !errors.Is(err, ErrDamagedCache) && !errors.Is(err, ErrOtherCache) {
			t.Errorf("%s: %d restored, %v", what, n, err)
		}
	}
	for i := range file {
		b := slices.Clone(file)
		b[i] ^= 1 << (i % 8)
		refuse(fmt.Sprintf("octet %d changed", i), b)
		refuse(fmt.Sprintf("the first %d octets", i), file[:i])
	}
	refuse("longer", append(slices.Clone(file), 0))
}

// sealed is a file with a header and a checksum that are right.
func sealed(r *Resolver, entries []byte) []byte {
	b := append([]byte(savedMagic), r.settings[:]...)
	b = append(b, entries...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// FuzzRestore reads what could be in a file whose checksum is right. What comes
// into the cache are answers like any others.
func FuzzRestore(f *testing.F) {
	up := listen(f, manyKinds(f))
	opts := Options{Upstreams: udp(f, up), CacheEntries: 100, Stale: Stale{Max: 7 * 24 * time.Hour}}
	clk := newClock()
	old := openAt(f, opts, clk.now, portDNS)
	for _, q := range kindsOf() {
		if _, err := old.Resolve(f.Context(), q); err != nil {
			f.Fatal(err)
		}
	}
	for _, e := range old.cache.list(0) {
		f.Add(append(e.append(nil), make([]byte, savedEntry)...))
	}
	f.Add(make([]byte, savedEntry))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, entries []byte) {
		r, err := newResolver(opts, clk.now, portDNS)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = r.Close() }()
		n, err := r.Restore(bytes.NewReader(sealed(r, entries)))
		if err != nil && !errors.Is(err, ErrDamagedCache) {
			t.Fatal(err)
		}
		if n != r.cache.len() {
			t.Fatalf("%d restored, %d in the cache", n, r.cache.len())
		}
		for _, e := range r.cache.list(0) {
			if e.a.stored.After(clk.now()) || !answered(e.a.Rcode()) || e.a.life > maxTTL*time.Second {
				t.Fatalf("%v: %v, %v", e.k, e.a.stored, e.a.life)
			}
			q := question(e.k.Name, e.k.Type)
			if _, err := e.a.Reply(q).Pack(); err != nil {
				t.Fatal(err)
			}
			for _, l := range e.a.Links() {
				if c, err := blocklists.CanonicalName(l.Name); l.Name != "" && (err != nil || c != l.Name) {
					t.Fatalf("link %q", l)
				}
			}
		}
		_ = saved(t, r)
	})
}

// BenchmarkSavedCache saves and restores a full cache of the default size.
func BenchmarkSavedCache(b *testing.B) {
	const n = 100_000
	opts := Options{CacheEntries: n, Upstreams: udp(b, netip.MustParseAddrPort("127.0.0.1:1"))}
	old := open(b, opts)
	for i := range n {
		k := key{name: fmt.Sprintf("n%d.example.", i), qtype: dns.TypeA, qclass: dns.ClassINET}
		m := new(dns.Msg).SetQuestion(k.name, k.qtype)
		m.Answer = []dns.RR{rr(b, k.name+" 600 IN A 192.0.2.1"), rr(b, k.name+" 600 IN A 192.0.2.2")}
		old.cache.put(k.cacheKey(), old.take(k, m))
	}
	file := saved(b, old)
	b.Run("save", func(b *testing.B) {
		for b.Loop() {
			_ = saved(b, old)
		}
	})
	b.Run("restore", func(b *testing.B) {
		r := open(b, opts)
		for b.Loop() {
			if got, err := r.Restore(bytes.NewReader(file)); got < n*9/10 || err != nil {
				b.Fatal(got, err)
			}
			b.StopTimer()
			r.Flush()
			b.StartTimer()
		}
	})
	b.ReportMetric(float64(len(file))/n, "bytes/answer")
}

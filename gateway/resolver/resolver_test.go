package resolver

import (
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestTransports(t *testing.T) {
	// The environment must not matter: this proxy would fail every request.
	for _, v := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "ALL_PROXY"} {
		t.Setenv(v, "http://127.0.0.1:1")
	}
	ca := newAuthority(t)
	z := records(t, "www.example. 300 IN A 192.0.2.1")
	plain := listen(t, z)
	dot := listenTLS(t, z, ca.server(t, "127.0.0.1", "dns.example"))
	https := listenHTTPS(t, doh(z), ca.server(t, "127.0.0.1", "dns.example"))
	names := &zone{answer: func(q *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA && q.Question[0].Name == "dns.example." {
			m.Answer = []dns.RR{rr(t, "dns.example. 60 IN A 127.0.0.1")}
		}
		return m
	}}
	boot := []netip.AddrPort{listen(t, names)}
	for _, u := range []string{
		"udp://" + plain.String(), "tcp://" + plain.String(),
		"tls://" + dot.String(), "tls://dns.example:" + port(dot),
		"https://" + https.String() + "/dns-query", "https://dns.example:" + port(https),
	} {
		t.Run(u, func(t *testing.T) {
			r := open(t, Options{Upstreams: upstreams(t, u), Bootstrap: boot, TLSConfig: ca.client()})
			before := z.queries.Load()
			var wg sync.WaitGroup
			for i := range 50 {
				wg.Go(func() {
					q := question("www.example", dns.TypeA)
					q.CheckingDisabled = i%2 == 0
					a, err := r.Resolve(t.Context(), q)
					if err != nil {
						t.Error(err)
						return
					}
					wantTexts(t, "answer", a.Reply(q).Answer, "www.example. 300 IN A 192.0.2.1")
				})
			}
			wg.Wait()
			if n := z.queries.Load() - before; n < 2 {
				t.Errorf("upstream saw %d queries for two different questions", n)
			}
			s := r.Stats()
			if len(s.Upstreams) != 1 || !s.Upstreams[0].Healthy || s.Upstreams[0].Queries == 0 || s.Upstreams[0].RTT <= 0 {
				t.Errorf("upstream's statistics: %+v", s.Upstreams)
			}
		})
	}
	if n := names.queries.Load(); n != 4 {
		t.Errorf("bootstrap resolver saw %d queries, want A and AAAA once for each of two upstreams", n)
	}
}

func port(a netip.AddrPort) string {
	_, p, _ := net.SplitHostPort(a.String())
	return p
}

func TestQueryIsOurOwn(t *testing.T) {
	seen := make(chan *dns.Msg, 10)
	z := &zone{answer: func(q *dns.Msg) *dns.Msg {
		seen <- q.Copy()
		return new(dns.Msg).SetRcode(q, dns.RcodeNameError)
	}}
	r := open(t, Options{Upstreams: udp(t, listen(t, z))})
	q := question("WwW.ExAmPlE", dns.TypeA)
	q.Id, q.RecursionDesired, q.CheckingDisabled = 7, false, true
	q.Extra = []dns.RR{rr(t, "poison.example. 1 IN A 192.0.2.66")}
	q.SetEdns0(4096, true)
	q.IsEdns0().Option = append(q.IsEdns0().Option,
		&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IPv4(10, 8, 0, 7)},
		&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0011223344556677"})
	ids := make(map[uint16]bool)
	for range 4 {
		if _, err := r.Resolve(t.Context(), q); err != nil {
			t.Fatal(err)
		}
		got := <-seen
		opt := got.IsEdns0()
		switch {
		case !got.RecursionDesired, !got.CheckingDisabled, len(got.Answer)+len(got.Ns) != 0, len(got.Extra) != 1, opt == nil:
			t.Fatalf("upstream query:\n%s", got)
		case opt.UDPSize() != 1232, !opt.Do(), len(opt.Option) != 1 || !ours(opt.Option[0]):
			t.Fatalf("upstream OPT: %s", opt)
		}
		ids[got.Id] = true
	}
	if len(ids) < 3 {
		t.Errorf("4 queries had the IDs %v", ids)
	}
	plain := question("www.example", dns.TypeA)
	if _, err := r.Resolve(t.Context(), plain); err != nil {
		t.Fatal(err)
	}
	if got := <-seen; got.IsEdns0() == nil || got.IsEdns0().Do() || got.CheckingDisabled {
		t.Errorf("upstream query for one without EDNS:\n%s", got)
	}
}

// ours reports whether the option is our own cookie.
func ours(o dns.EDNS0) bool {
	c, ok := o.(*dns.EDNS0_COOKIE)
	return ok && len(c.Cookie) == clientCookieHex && c.Cookie != "0011223344556677"
}

func TestQuestionsRefused(t *testing.T) {
	z := records(t, "www.example. 300 IN A 192.0.2.1")
	r := open(t, Options{Upstreams: udp(t, listen(t, z))})
	two := question("www.example", dns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	notify := question("www.example", dns.TypeSOA)
	notify.Opcode = dns.OpcodeNotify
	response := question("www.example", dns.TypeA)
	response.Response = true
	anyClass := question("www.example", dns.TypeA)
	anyClass.Question[0].Qclass = dns.ClassANY
	for name, q := range map[string]*dns.Msg{
		"nil": nil, "none": new(dns.Msg), "two": two, "notify": notify, "response": response, "class": anyClass,
		"transfer":  question("www.example", dns.TypeAXFR),
		"OPT":       question("www.example", dns.TypeOPT),
		"long name": question(strings.Repeat("a.", 200), dns.TypeA),
	} {
		if r.Cached(q) != nil {
			t.Errorf("%s: Cached has an answer", name)
		}
		_, err := r.Resolve(t.Context(), q)
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		wantErr(t, err, ErrQuestion)
	}
	if n := z.queries.Load(); n != 0 {
		t.Errorf("upstream saw %d queries", n)
	}
}

func TestCoalescing(t *testing.T) {
	release := make(chan struct{})
	z := records(t, "www.example. 300 IN A 192.0.2.1")
	inner := z.answer
	z.answer = func(q *dns.Msg) *dns.Msg {
		<-release
		return inner(q)
	}
	r := open(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 100})
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			name := "www.example"
			if i%2 == 0 {
				name = "WWW.example"
			}
			q := question(name, dns.TypeA)
			a, err := r.Resolve(t.Context(), q)
			if err != nil {
				t.Error(err)
				return
			}
			if got := a.Reply(q); got.Id != q.Id || got.Question[0].Name != name+"." || got.Answer[0].Header().Name != name+"." {
				t.Errorf("reply to %s ID %d:\n%s", name, q.Id, got)
			}
		})
	}
	// One who leaves takes nobody with it.
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := r.Resolve(ctx, question("www.example", dns.TypeA))
		left <- err
	}()
	until(t, "a hundred", func() bool { return r.Stats().Coalesced == 100 })
	cancel()
	wantErr(t, <-left, context.Canceled)
	close(release)
	wg.Wait()
	if n := z.queries.Load(); n != 1 {
		t.Errorf("upstream saw %d queries, want 1", n)
	}
	if r.Cached(question("www.example", dns.TypeA)) == nil {
		t.Error("the answer is not in the cache")
	}
}

func TestFirstWaiterLeaves(t *testing.T) {
	release := make(chan struct{})
	z := records(t, "www.example. 300 IN A 192.0.2.1")
	inner := z.answer
	z.answer = func(q *dns.Msg) *dns.Msg {
		<-release
		return inner(q)
	}
	r := open(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 100})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first, second := make(chan error), make(chan error)
	ask := func(ctx context.Context, came chan<- error) {
		_, err := r.Resolve(ctx, question("www.example", dns.TypeA))
		came <- err
	}
	go ask(ctx, first)
	until(t, "the first", func() bool { return r.Stats().InFlight == 1 })
	go ask(t.Context(), second)
	until(t, "the second", func() bool { return r.Stats().Coalesced == 1 })
	cancel()
	wantErr(t, <-first, context.Canceled)
	close(release)
	if err := <-second; err != nil {
		t.Errorf("the second waiter: %v", err)
	}
	if n := z.queries.Load(); n != 1 {
		t.Errorf("upstream saw %d queries, want 1", n)
	}
}

func TestMaxInFlight(t *testing.T) {
	release := make(chan struct{})
	z := silent()
	z.answer = func(q *dns.Msg) *dns.Msg {
		<-release
		return new(dns.Msg).SetReply(q)
	}
	r := open(t, Options{Upstreams: udp(t, listen(t, z)), MaxInFlight: 3})
	var wg sync.WaitGroup
	for _, name := range []string{"a.example", "b.example", "c.example"} {
		wg.Go(func() {
			if _, err := r.Resolve(t.Context(), question(name, dns.TypeA)); err != nil {
				t.Error(err)
			}
		})
	}
	until(t, "three questions", func() bool { return r.Stats().InFlight == 3 })
	_, err := r.Resolve(t.Context(), question("d.example", dns.TypeA))
	wantErr(t, err, ErrBusy)
	close(release)
	wg.Wait()
	if s := r.Stats(); s.Busy != 1 || s.Failed != 0 || s.InFlight != 0 {
		t.Errorf("statistics: %+v", s)
	}
}

func TestNoUpstream(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	z := records(t, "www.example. 300 IN A 192.0.2.1")
	a := listen(t, z)
	clk := newClock()
	r := openAt(t, Options{ResolvConf: path}, clk.now, a.Port())
	start := time.Now()
	_, err := r.Resolve(t.Context(), question("www.example", dns.TypeA))
	wantErr(t, err, ErrNoUpstream)
	if d := time.Since(start); d > leisurely {
		t.Errorf("it took %v to say so", d)
	}
	if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "set dns.upstreams") {
		t.Errorf("error does not help: %v", err)
	}
	// The network comes up.
	writeFile(t, path, "# by a DHCP client\nsearch example\nnameserver 127.0.0.1\noptions edns0\n")
	if _, err = r.Resolve(t.Context(), question("www.example", dns.TypeA)); err == nil {
		t.Error("the file was read again at once")
	}
	clk.move(3 * time.Second)
	resolve(t, r, "www.example", dns.TypeA)
	// A file that goes away leaves the resolvers.
	writeFile(t, path, "# none\n")
	clk.move(3 * time.Second)
	_, err = r.Resolve(t.Context(), question("www.example", dns.TypeA))
	wantErr(t, err, ErrNoUpstream)
}

func TestClose(t *testing.T) {
	r := open(t, Options{Upstreams: udp(t, listen(t, silent())), Timeout: time.Minute})
	got := make(chan error)
	go func() {
		_, err := r.Resolve(context.Background(), question("www.example", dns.TypeA))
		got <- err
	}()
	for r.Stats().InFlight == 0 {
		time.Sleep(time.Millisecond)
	}
	start := time.Now()
	_ = r.Close()
	if err := <-got; err == nil {
		t.Error("an answer after Close")
	}
	if d := time.Since(start); d >= leisurely {
		t.Errorf("Close took %v", d)
	}
	_, err := r.Resolve(t.Context(), question("www.example", dns.TypeA))
	wantErr(t, err, ErrClosed)
}

func TestFlush(t *testing.T) {
	release := make(chan struct{}, 10)
	z := records(t, "www.example. 300 IN A 192.0.2.1")
	inner := z.answer
	z.answer = func(q *dns.Msg) *dns.Msg {
		<-release
		return inner(q)
	}
	r := open(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 10})
	release <- struct{}{}
	resolve(t, r, "www.example", dns.TypeA)
	r.Flush()
	if r.Cached(question("www.example", dns.TypeA)) != nil || r.Stats().Entries != 0 {
		t.Error("an answer is left after Flush")
	}
	// What was asked before a flush is not cached after it.
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = r.Resolve(t.Context(), question("www.example", dns.TypeA))
	}()
	for r.Stats().InFlight == 0 {
		time.Sleep(time.Millisecond)
	}
	r.Flush()
	release <- struct{}{}
	<-done
	if r.Cached(question("www.example", dns.TypeA)) != nil {
		t.Error("an answer from before Flush was cached after it")
	}
}

package rpz

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

var testKey = Key{Name: "xfr.example", Algorithm: "hmac-sha256", Secret: []byte("0123456789abcdef0123456789abcdef")}

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// serve runs a server of a zone policy.test on loopback until the test ends.
func serve(t testing.TB, change func(*Options)) *Server {
	t.Helper()
	opts := Options{
		Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, Zone: "policy.test",
		Keys: []Key{testKey}, Allow: loopback, Log: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&opts)
	}
	s, err := Listen(opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// put publishes the rules and waits for a version later than that.
func put(t testing.TB, s *Server, after uint32, rules ...testRule) uint32 {
	t.Helper()
	s.Publish(build(t, rules...))
	eventually(t, "a new version", func() bool { return s.Counts().Serial != after })
	return s.Counts().Serial
}

// question returns a question about the zone; serial is what the asker has, for
// IXFR.
func question(qtype uint16, serial uint32) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion("policy.test.", qtype)
	if qtype == dns.TypeIXFR {
		m.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "policy.test.", Rrtype: dns.TypeSOA, Class: dns.ClassINET}, Ns: ".", Mbox: ".", Serial: serial}}
	}
	return m
}

// ask makes a transfer with the library's client and returns what came, a record
// a line without TTL, and the size of the largest message.
func ask(t testing.TB, s *Server, key *Key, m *dns.Msg) ([]string, error) {
	t.Helper()
	tr := &dns.Transfer{DialTimeout: time.Minute, ReadTimeout: time.Minute, WriteTimeout: time.Minute}
	if key != nil {
		tr.TsigSecret = map[string]string{key.fqdn(): key.secret()}
		m.SetTsig(key.fqdn(), dns.Fqdn(key.Algorithm), fudge, time.Now().Unix())
	}
	ch, err := tr.In(m, s.Addrs()[0].String())
	if err != nil {
		return nil, err
	}
	var out []string
	for e := range ch {
		if e.Error != nil {
			return nil, e.Error
		}
		for _, rr := range e.RR {
			out = append(out, text(rr))
		}
	}
	return out, nil
}

func text(rr dns.RR) string {
	if soa, ok := rr.(*dns.SOA); ok {
		return fmt.Sprintf("SOA %d", soa.Serial)
	}
	return strings.ReplaceAll(strings.Join(slices.Delete(strings.Fields(rr.String()), 1, 3), " "), "policy.test.", "$")
}

func TestTransfers(t *testing.T) {
	s := serve(t, nil)
	first := put(t, s, 0, testRule{banA, "a.example"}, testRule{banAddresses, "b.example"})
	got, err := ask(t, s, &testKey, question(dns.TypeAXFR, 0))
	if err != nil {
		t.Fatal(err)
	}
	soa := fmt.Sprintf("SOA %d", first)
	if n := len(got); n != 7 || got[0] != soa || got[1] != "$ NS localhost." || got[6] != soa {
		t.Fatalf("AXFR: %q", got)
	}
	slices.Sort(got[2:6])
	want := []string{"*.a.example.$ CNAME .", "*.b.example.$ A 192.0.2.80", "a.example.$ CNAME .", "b.example.$ A 192.0.2.80"}
	if !slices.Equal(got[2:6], want) {
		t.Errorf("AXFR: got %q, want %q", got[2:6], want)
	}
	second := put(t, s, first, testRule{banA, "=a.example"}, testRule{banAddresses, "b.example"}, testRule{banNodata, "=c.example"})
	got, err = ask(t, s, &testKey, question(dns.TypeIXFR, first))
	want = []string{fmt.Sprintf("SOA %d", second), soa, "*.a.example.$ CNAME .", fmt.Sprintf("SOA %d", second), "c.example.$ CNAME *.", fmt.Sprintf("SOA %d", second)}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("IXFR: got %q, %v, want %q", got, err, want)
	}
	for name, tc := range map[string]struct{ serial, n uint32 }{"newest": {second, 1}, "newer": {second + 9, 1}, "unknown": {first - 1, 7}} {
		if got, err := ask(t, s, &testKey, question(dns.TypeIXFR, tc.serial)); err != nil || len(got) != int(tc.n) {
			t.Errorf("IXFR from the %s serial: %q, %v", name, got, err)
		}
	}
	// A transfer is counted when it has been sent.
	eventually(t, "the counts", func() bool {
		c := s.Counts()
		return c.Full == 2 && c.Changes == 1 && c.Same == 2 && c.Failed == 0 && c.Records == 4
	})
}

// TestSamePolicyIsNoVersion: secondaries are not bothered with what changes
// nothing for them.
func TestSamePolicyIsNoVersion(t *testing.T) {
	s := serve(t, nil)
	rest := []testRule{{banA, "c.example"}, {banA, "d.example"}}
	first := put(t, s, 0, append(rest, testRule{banA, "a.example"})...)
	s.Publish(build(t, append(rest, testRule{banA, "a.example"})...))
	second := put(t, s, first, append(rest, testRule{banA, "b.example"})...)
	got, err := ask(t, s, &testKey, question(dns.TypeIXFR, first))
	if err != nil || len(got) != 8 || got[0] != fmt.Sprintf("SOA %d", second) || s.Counts().Versions != 2 {
		t.Errorf("%q, %v, %d versions", got, err, s.Counts().Versions)
	}
}

// TestSerialGoesOn: whatever the clock says after a restart, the next serial is
// later than the last one, and it is kept before anybody sees it.
func TestSerialGoesOn(t *testing.T) {
	future := uint32(time.Now().Unix()) + 1_000_000
	kept := make(chan uint32, 10)
	s := serve(t, func(o *Options) {
		o.Serial = future
		o.Keep = func(serial uint32) error { kept <- serial; return errors.New("no space left") }
	})
	if got := put(t, s, 0, testRule{banA, "a.example"}); got != future+1 || <-kept != got {
		t.Errorf("serial %d after %d", got, future)
	}
	if got := put(t, s, future+1, testRule{banA, "b.example"}); got != future+2 || <-kept != got {
		t.Errorf("serial %d after %d", got, future+1)
	}
}

// exchange asks over UDP or TCP and returns what came, unverified.
func exchange(t testing.TB, s *Server, network string, m *dns.Msg, key *Key) (*dns.Msg, error) {
	t.Helper()
	c := &dns.Client{Net: network, Timeout: 30 * time.Second}
	if key != nil {
		c.TsigSecret = map[string]string{key.fqdn(): key.secret()}
		m.SetTsig(key.fqdn(), dns.Fqdn(key.Algorithm), fudge, time.Now().Unix())
	}
	r, _, err := c.Exchange(m, s.Addrs()[0].String())
	return r, err
}

func TestWhoMayAsk(t *testing.T) {
	wrong := testKey
	wrong.Secret = []byte("another secret, of which nobody knows")
	other := testKey
	other.Name = "other.example"
	sha512 := testKey
	sha512.Algorithm = "hmac-sha512"
	elsewhere := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	for _, tc := range []struct {
		name   string
		allow  []netip.Prefix
		bare   bool
		key    *Key
		rcode  int
		tsig   uint16
		signed bool
	}{
		{"signed", loopback, false, &testKey, dns.RcodeSuccess, 0, true},
		{"unsigned", loopback, false, nil, dns.RcodeRefused, 0, false},
		{"unsigned, which loopback may", nil, true, nil, dns.RcodeSuccess, 0, false},
		{"signed, from elsewhere", elsewhere, false, &testKey, dns.RcodeRefused, 0, true},
		{"unknown key", loopback, true, &other, dns.RcodeNotAuth, dns.RcodeBadKey, false},
		{"another algorithm", loopback, true, &sha512, dns.RcodeNotAuth, dns.RcodeBadKey, false},
		{"wrong secret", loopback, true, &wrong, dns.RcodeNotAuth, dns.RcodeBadSig, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := serve(t, func(o *Options) { o.Allow, o.UnsignedLoopback = tc.allow, tc.bare })
			put(t, s, 0, testRule{banA, "a.example"})
			for _, network := range []string{"udp", "tcp"} {
				r, err := exchange(t, s, network, question(dns.TypeSOA, 0), tc.key)
				if r == nil || r.Rcode != tc.rcode || len(r.Answer) > 0 != (tc.rcode == dns.RcodeSuccess) {
					t.Fatalf("%s: got %v, %v, want rcode %s", network, r, err, dns.RcodeToString[tc.rcode])
				}
				if sig := r.IsTsig(); tc.key != nil && (sig == nil || sig.Error != tc.tsig || sig.MACSize > 0 != tc.signed) {
					t.Errorf("%s: signature %v", network, sig)
				}
				if tc.signed && err != nil {
					t.Errorf("%s: %v", network, err)
				}
			}
			got, err := ask(t, s, tc.key, question(dns.TypeAXFR, 0))
			if ok := err == nil && len(got) == 5; ok != (tc.rcode == dns.RcodeSuccess) {
				t.Errorf("AXFR: %q, %v", got, err)
			}
		})
	}
}

// TestOldSignature: a request whose clock is wrong is told the time (RFC 8945,
// section 5.2.3).
func TestOldSignature(t *testing.T) {
	s := serve(t, nil)
	put(t, s, 0, testRule{banA, "a.example"})
	m := question(dns.TypeSOA, 0)
	m.SetTsig(testKey.fqdn(), dns.HmacSHA256, fudge, time.Now().Add(-time.Hour).Unix())
	c := &dns.Client{Timeout: 30 * time.Second, TsigSecret: map[string]string{testKey.fqdn(): testKey.secret()}}
	r, _, err := c.Exchange(m, s.Addrs()[0].String())
	if r == nil || r.Rcode != dns.RcodeNotAuth {
		t.Fatalf("%v, %v", r, err)
	}
	sig := r.IsTsig()
	if sig == nil || sig.Error != dns.RcodeBadTime || sig.OtherLen != 6 || sig.MACSize != 32 {
		t.Errorf("signature %v", sig)
	}
	var unix int64
	if _, err := fmt.Sscanf(sig.OtherData, "%x", &unix); err != nil || time.Since(time.Unix(unix, 0)).Abs() > time.Minute {
		t.Errorf("the time is %q", sig.OtherData)
	}
}

func TestWhatIsNotAnswered(t *testing.T) {
	s := serve(t, func(o *Options) { o.UnsignedLoopback = true })
	put(t, s, 0, testRule{banA, "a.example"})
	ask := func(change func(*dns.Msg)) int {
		m := question(dns.TypeSOA, 0)
		change(m)
		r, err := exchange(t, s, "udp", m, nil)
		if err != nil {
			t.Fatal(err)
		}
		return r.Rcode
	}
	for name, tc := range map[string]struct {
		change func(*dns.Msg)
		rcode  int
	}{
		"another zone":         {func(m *dns.Msg) { m.Question[0].Name = "example." }, dns.RcodeRefused},
		"a name of the zone":   {func(m *dns.Msg) { m.Question[0].Name = "a.example.policy.test." }, dns.RcodeRefused},
		"another class":        {func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		"another type":         {func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeA }, dns.RcodeRefused},
		"AXFR over UDP":        {func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }, dns.RcodeFormatError},
		"UPDATE":               {func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		"NOTIFY":               {func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, dns.RcodeRefused},
		"SOA in other letters": {func(m *dns.Msg) { m.Question[0].Name = "PoLiCy.tEsT." }, dns.RcodeSuccess},
		"IXFR over UDP":        {func(m *dns.Msg) { *m = *question(dns.TypeIXFR, 1) }, dns.RcodeSuccess},
	} {
		if got := ask(tc.change); got != tc.rcode {
			t.Errorf("%s: got %s, want %s", name, dns.RcodeToString[got], dns.RcodeToString[tc.rcode])
		}
	}
	// What is no request at all gets nothing, and harms nobody.
	c, err := net.Dial("udp", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	good, _ := question(dns.TypeSOA, 0).Pack()
	for _, p := range [][]byte{nil, good[:11], good[:20], append(slices.Clone(good[:2]), append([]byte{0x80}, good[3:]...)...), make([]byte, 600)} {
		if _, err := c.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Write(good); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 512)
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	if n, err := c.Read(buf); err != nil || n < 30 || [2]byte(buf) != [2]byte(good) {
		t.Errorf("after garbage: %d bytes, %v", n, err)
	}
}

// TestLargeZone: a zone comes in many messages, none of which is huge, and an
// asker that goes away in the middle leaves nothing behind.
func TestLargeZone(t *testing.T) {
	var rules []testRule
	for i := range 20_000 {
		rules = append(rules, testRule{banA, fmt.Sprintf("name-%d.sub.example", i)})
	}
	s := serve(t, nil)
	put(t, s, 0, rules...)
	got, err := ask(t, s, &testKey, question(dns.TypeAXFR, 0))
	if err != nil || len(got) != 2*len(rules)+3 {
		t.Fatalf("%d records, %v", len(got), err)
	}
	c, err := net.Dial("tcp", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	m := question(dns.TypeAXFR, 0)
	m.SetTsig(testKey.fqdn(), dns.HmacSHA256, fudge, time.Now().Unix())
	wire, _, err := dns.TsigGenerate(m, testKey.secret(), "", false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(append([]byte{byte(len(wire) >> 8), byte(len(wire))}, wire...)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 5000)); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	eventually(t, "the end of the transfer", func() bool { return s.Counts().Failed == 1 && len(s.conns) == 0 && len(s.transfers) == 0 })
}

// TestTooMany: what is beyond the limits is turned away and counted.
func TestTooMany(t *testing.T) {
	s := serve(t, nil)
	put(t, s, 0, testRule{banA, "a.example"})
	for range maxTransfers {
		s.transfers <- struct{}{}
	}
	if got, err := ask(t, s, &testKey, question(dns.TypeAXFR, 0)); err == nil {
		t.Errorf("a transfer beyond the limit: %q", got)
	}
	for range maxTransfers {
		<-s.transfers
	}
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	for range maxConns + 5 {
		c, err := net.Dial("tcp", s.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	eventually(t, "connections turned away", func() bool { return s.Counts().Overload >= 6 })
	last := open[len(open)-1]
	_ = last.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := last.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the last connection: %v", err)
	}
}

// secondary answers NOTIFYs as it is told to, and gives those that it gets.
func secondary(t *testing.T, answer func(m *dns.Msg, n int) *dns.Msg) (netip.AddrPort, chan *dns.Msg) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan *dns.Msg, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 512)
		for n := 0; ; n++ {
			size, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			m := new(dns.Msg)
			if m.Unpack(buf[:size]) != nil {
				continue
			}
			got <- m
			if r := answer(m, n); r != nil {
				p, _ := r.Pack()
				_, _ = c.WriteTo(p, from)
			}
		}
	}()
	t.Cleanup(func() {
		_ = c.Close()
		<-done
	})
	return c.LocalAddr().(*net.UDPAddr).AddrPort(), got
}

func TestNotify(t *testing.T) {
	yes := func(m *dns.Msg, _ int) *dns.Msg { return new(dns.Msg).SetReply(m) }
	plain, gotPlain := secondary(t, yes)
	signed, gotSigned := secondary(t, yes)
	deaf, gotDeaf := secondary(t, func(m *dns.Msg, n int) *dns.Msg {
		switch n {
		case 0:
			return nil
		case 1: // another question's answer, and a refusal
			r := new(dns.Msg).SetRcode(m, dns.RcodeRefused)
			return r
		}
		return yes(m, n)
	})
	s := serve(t, func(o *Options) { o.Notify = []Peer{{Addr: plain}, {Addr: signed, Key: testKey.Name}, {Addr: deaf}} })
	serial := put(t, s, 0, testRule{banA, "a.example"})
	for name, ch := range map[string]chan *dns.Msg{"plain": gotPlain, "signed": gotSigned} {
		m := <-ch
		if m.Opcode != dns.OpcodeNotify || m.Question[0].Name != "policy.test." || len(m.Answer) != 1 || m.Answer[0].(*dns.SOA).Serial != serial {
			t.Errorf("%s: %v", name, m)
		}
		if (m.IsTsig() != nil) != (name == "signed") {
			t.Errorf("%s: signature %v", name, m.IsTsig())
		}
	}
	eventually(t, "three tries", func() bool { return len(gotDeaf) >= 3 && s.Counts().Notifies == 3 })
}

// TestNotified: a NOTIFY from the primary of a zone that is followed is handed
// on, with who sent it.
func TestNotified(t *testing.T) {
	type notice struct {
		zone string
		from netip.Addr
		key  string
	}
	got := make(chan notice, 10)
	s := serve(t, func(o *Options) {
		o.Notified = func(zone string, from netip.Addr, key string) bool {
			got <- notice{zone, from, key}
			return zone == "feed.example"
		}
	})
	m := new(dns.Msg).SetNotify("Feed.example.")
	r, err := exchange(t, s, "udp", m, &testKey)
	if err != nil || r.Rcode != dns.RcodeSuccess || r.Opcode != dns.OpcodeNotify {
		t.Fatalf("%v, %v", r, err)
	}
	if n := <-got; n != (notice{"feed.example", netip.MustParseAddr("127.0.0.1"), "xfr.example"}) {
		t.Errorf("got %v", n)
	}
	if r, err = exchange(t, s, "udp", new(dns.Msg).SetNotify("other.example."), nil); err != nil || r.Rcode != dns.RcodeNotAuth {
		t.Errorf("another zone: %v, %v", r, err)
	}
}

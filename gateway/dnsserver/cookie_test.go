package dnsserver

import (
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/bench/corpus"
)

func unhex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// secretsFile writes a file of secrets.
func secretsFile(tb testing.TB, text string) string {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), "secrets")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	return file
}

func cookies(tb testing.TB, text string) *Cookies {
	tb.Helper()
	c, err := NewCookies(secretsFile(tb, text), slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

var cookieNames = [cookieStates]string{"new", "valid", "bad"}

// The examples of RFC 9018, appendix A.
func TestCookieVectors(t *testing.T) {
	const first, second = "e5e973e5a6b2a43f48e7dc849e37bfcf", "445536bcd2513298075a5d379663c962"
	for _, tc := range []struct {
		about, secret, from, option, want string
		at                                int64
		state                             cookieState
	}{
		{"a new client", first, "198.51.100.100", "2464c4abcf10c957", "2464c4abcf10c957 01000000 5cf79f11 1f8130c3eee29480", 1559731985, cookieNew},
		{"renewed", first, "198.51.100.100", "2464c4abcf10c957 01000000 5cf79f11 1f8130c3eee29480", "2464c4abcf10c957 01000000 5cf7a871 d4a564a1442aca77", 1559734385, cookieValid},
		{"reserved octets", first, "203.0.113.203", "fc93fc62807ddb86 01abcdef 5cf78f71 a314227b6679ebf5", "fc93fc62807ddb86 01abcdef 5cf78f71 a314227b6679ebf5", 1559728000, cookieValid},
		{"another client", first, "203.0.113.203", "fc93fc62807ddb86 01abcdef 5cf78f71 a314227b6679ebf5", "fc93fc62807ddb86 01000000 5cf7a9ac f73a7810aca2381e", 1559734700, cookieBad},
		{"IPv6, an older secret", second + "\ndd3bdf9344b678b185a6f5cb60fca715", "2001:db8:220:1:59de:d0f4:8769:82b8", "22681ab97d52c298 01000000 5cf7c579 26556bd0934c72f8", "22681ab97d52c298 01000000 5cf7c609 a6bb79d16625507a", 1559741961, cookieValid},
	} {
		got, state, ok := cookies(t, tc.secret).check(unhex(t, tc.option), netip.MustParseAddr(tc.from), time.Unix(tc.at, 0))
		if want := strings.ReplaceAll(tc.want, " ", ""); hex.EncodeToString(got) != want || state != tc.state || !ok {
			t.Errorf("%s: %x, %s, %v; want %s, %s", tc.about, got, cookieNames[state], ok, want, cookieNames[tc.state])
		}
	}
}

func TestCookieStates(t *testing.T) {
	const client = "0011223344556677"
	c := cookies(t, strings.Repeat("ab", 16))
	from, now := netip.MustParseAddr("192.0.2.1"), time.Unix(1<<32-1000, 0)
	old, _, _ := c.check(unhex(t, client), from, now)
	for _, tc := range []struct {
		about  string
		option []byte
		from   string
		after  time.Duration
		state  cookieState
		same   bool
	}{
		{"young", old, "192.0.2.1", time.Minute, cookieValid, true},
		{"over the end of the count", old, "192.0.2.1", 25 * time.Minute, cookieValid, true},
		{"to renew", old, "192.0.2.1", 59 * time.Minute, cookieValid, false},
		{"too old", old, "192.0.2.1", 61 * time.Minute, cookieBad, false},
		{"from a clock that is a little ahead", old, "192.0.2.1", -4 * time.Minute, cookieValid, true},
		{"from the future", old, "192.0.2.1", -6 * time.Minute, cookieBad, false},
		{"of another address", old, "192.0.2.2", 0, cookieBad, false},
		{"another client's", append(unhex(t, "1011223344556677"), old[8:]...), "192.0.2.1", 0, cookieBad, false},
		{"another version", append(append(append([]byte{}, old[:8]...), 2), old[9:]...), "192.0.2.1", 0, cookieBad, false},
		{"another construction", append(append([]byte{}, old...), 0), "192.0.2.1", 0, cookieBad, false},
		{"none of ours", unhex(t, client), "192.0.2.1", 0, cookieNew, false},
	} {
		got, state, ok := c.check(tc.option, netip.MustParseAddr(tc.from), now.Add(tc.after))
		if !ok || state != tc.state || (string(got) == string(tc.option)) != tc.same || len(got) != 24 || string(got[:8]) != string(tc.option[:8]) {
			t.Errorf("%s: %x, %s, %v; want %s, the same: %v", tc.about, got, cookieNames[state], ok, cookieNames[tc.state], tc.same)
		}
	}
	for n := range 50 {
		_, _, ok := c.check(make([]byte, n), from, now)
		if want := n == 8 || n >= 16 && n <= 40; ok != want {
			t.Errorf("length %d: %v, want %v", n, ok, want)
		}
	}
}

// Secrets of our own change, and what was made with the last one still holds.
func TestCookieRotation(t *testing.T) {
	c, err := NewCookies("", nil)
	if err != nil {
		t.Fatal(err)
	}
	from, now := netip.MustParseAddr("192.0.2.1"), time.Now()
	made := func(at time.Duration) []byte {
		b, _, _ := c.check(make([]byte, 8), from, now.Add(at))
		return b
	}
	worth := func(b []byte, at time.Duration) string {
		_, state, _ := c.check(b, from, now.Add(at))
		return cookieNames[state]
	}
	made(0)
	b := made(secretLife - time.Minute)
	if got := worth(b, secretLife+time.Minute); got != "valid" {
		t.Errorf("a cookie of the last secret is %s", got)
	}
	if len(c.secrets) != 2 || c.secrets[0] == c.secrets[1] {
		t.Fatalf("%d secrets, want two that differ", len(c.secrets))
	}
	first := c.secrets[1]
	made(2*secretLife + time.Minute)
	if c.secrets[0] == first || c.secrets[1] == first {
		t.Error("a secret that is two lives old is still known")
	}
	made(10 * secretLife)
	if len(c.secrets) != 1 {
		t.Errorf("%d secrets after a long time without questions, want 1", len(c.secrets))
	}
}

func TestCookieSecrets(t *testing.T) {
	a, b := strings.Repeat("ab", 16), strings.Repeat("cd", 16)
	for text, want := range map[string]string{
		"":                        "has 0 secrets, want 1 to 4",
		"# none\n":                "has 0 secrets, want 1 to 4",
		strings.Repeat(a+"\n", 5): "has 5 secrets, want 1 to 4",
		a + "\nabcd\n":            ":2: want 32 hexadecimal digits",
		a[:31] + "x":              ":1: want 32 hexadecimal digits",
		strings.Repeat(a, 1000):   ":1: want 32 hexadecimal digits",
	} {
		if _, err := NewCookies(secretsFile(t, text), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
	if _, err := NewCookies(filepath.Join(t.TempDir(), "none"), nil); err == nil {
		t.Error("a file that is not there is no error")
	}
	c := cookies(t, "# ours\n"+a+"\r\n\n"+b)
	now := time.Now()
	if s := c.current(now); len(s) != 2 || s[0][0] != 0xab || s[1][0] != 0xcd {
		t.Fatalf("secrets %x", s)
	}
	write := func(text string, at time.Time) {
		if err := os.WriteFile(c.file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(c.file, at, at); err != nil {
			t.Fatal(err)
		}
	}
	write(b+"\n"+a, now.Add(time.Hour))
	if s := c.current(now.Add(time.Second)); s[0][0] != 0xab {
		t.Error("the file was looked at too soon")
	}
	if s := c.current(now.Add(secretLook + time.Second)); len(s) != 2 || s[0][0] != 0xcd {
		t.Errorf("secrets %x after the file changed", s)
	}
	write("nonsense", now.Add(2*time.Hour))
	if s := c.current(now.Add(3 * secretLook)); len(s) != 2 || s[0][0] != 0xcd {
		t.Errorf("secrets %x after a wrong file", s)
	}
}

// withCookie is a question with that cookie, in hexadecimal digits.
func withCookie(name, cookie string) *dns.Msg {
	m := edns(query(name, dns.TypeA), 1232)
	m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: cookie}}
	return m
}

func cookieOf(m *dns.Msg) string {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if c, ok := o.(*dns.EDNS0_COOKIE); ok {
				return c.Cookie
			}
		}
	}
	return ""
}

func TestCookies(t *testing.T) {
	const client = "0011223344556677"
	onEngines(t, func(t *testing.T, portable bool) {
		secret := strings.Repeat("ab", 16)
		r := start(t, zones, Options{portable: portable, Cookies: cookies(t, secret)})
		valid := cookieOf(r.ask(t, "udp", withCookie("good.example", client)))
		if len(valid) != 48 || valid[:16] != client {
			t.Fatalf("cookie %q, want the client's and 16 octets", valid)
		}
		bad := valid[:46] + fmt.Sprintf("%02x", ^unhex(t, valid[46:])[0])
		for _, network := range transports {
			for _, name := range []string{"good.example", "wechat.com"} {
				if got := cookieOf(r.ask(t, network, withCookie(name, valid))); got != valid {
					t.Errorf("%s over %s: cookie %q, want %q again", name, network, got, valid)
				}
				if m := r.ask(t, network, withCookie(name, bad)); m.Rcode == dns.RcodeBadCookie || cookieOf(m) == bad || len(cookieOf(m)) != 48 {
					t.Errorf("%s over %s with a wrong cookie: %v, want the answer and a right one", name, network, m)
				}
			}
			if got := cookieOf(r.ask(t, network, edns(query("good.example", dns.TypeA), 1232))); got != "" {
				t.Errorf("a cookie for a client without: %q", got)
			}
			for _, length := range []string{"", "00", client[:14], client + "00", client + client[:14], strings.Repeat("00", 41)} {
				if m := r.ask(t, network, withCookie("good.example", length)); m.Rcode != dns.RcodeFormatError || len(m.Answer) != 0 {
					t.Errorf("cookie %q over %s: %v, want FORMERR", length, network, m)
				}
			}
			m := withCookie("good.example", client)
			m.Question = nil
			if got := r.exchange(t, network, pack(t, m)); got == nil || got.Rcode != dns.RcodeSuccess || len(cookieOf(got)) != 48 || len(got.Question)+len(got.Answer) != 0 {
				t.Errorf("no question over %s: %v, want a cookie", network, got)
			}
			m.Extra[0].(*dns.OPT).Option = nil
			if got := r.exchange(t, network, pack(t, m)); got == nil || got.Rcode != dns.RcodeFormatError {
				t.Errorf("no question and no cookie over %s: %v, want FORMERR", network, got)
			}
		}
		if st := r.Stats(); st.CookiesValid != 4 || st.CookiesBad != 4 || st.CookiesNew != 3 {
			t.Errorf("counted %+v", st)
		}
		jar := cookies(t, secret)
		jar.Require = true
		r = start(t, zones, Options{portable: portable, Cookies: jar})
		for cookie, want := range map[string]int{client: dns.RcodeBadCookie, bad: dns.RcodeBadCookie, valid: dns.RcodeSuccess} {
			m := r.ask(t, "udp", withCookie("good.example", cookie))
			if m.Rcode != want || len(cookieOf(m)) != 48 || (len(m.Answer) == 0) != (want != 0) {
				t.Errorf("cookie %q: %v, want %s", cookie, m, dns.RcodeToString[want])
			}
			if m := r.ask(t, "tcp", withCookie("good.example", cookie)); m.Rcode != dns.RcodeSuccess {
				t.Errorf("cookie %q over TCP: %v, want the answer", cookie, m)
			}
		}
		if m := r.ask(t, "udp", query("good.example", dns.TypeA)); m.Rcode != dns.RcodeSuccess {
			t.Errorf("no cookie: %v, want the answer", m)
		}
	})
}

// A client that knows cookies gets over BADCOOKIE by itself.
func TestDigCookie(t *testing.T) {
	dig := corpus.Tool(t, "dig")
	jar, err := NewCookies("", nil)
	if err != nil {
		t.Fatal(err)
	}
	jar.Require = true
	r := start(t, zones, Options{Cookies: jar})
	_, port, err := net.SplitHostPort(r.addr)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(dig, "@127.0.0.1", "-p", port, "+cookie", "+tries=1", "+time=60", "good.example").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "status: NOERROR") || !strings.Contains(string(out), "(good)") {
		t.Errorf("dig: %v\n%s", err, out)
	}
	if got := r.Stats(); got.Rcodes["BADCOOKIE"] != 1 || got.CookiesValid != 1 {
		t.Errorf("counted %+v", got)
	}
}

// Servers of another maker behind the same address, with the same secret, take
// our cookies, and we theirs.
func TestNamedCookie(t *testing.T) {
	const client, secret = "0011223344556677", "000102030405060708090a0b0c0d0e0f"
	dir := t.TempDir()
	port := corpus.Port(t).Port()
	conf := fmt.Sprintf(`options {
	directory %q; pid-file none; session-keyfile none; listen-on port %d { 127.0.0.1; }; listen-on-v6 { none; };
	recursion no; cookie-algorithm siphash24; cookie-secret %q; require-server-cookie yes; dnssec-validation no;
};
controls { };
zone "named.example" { type primary; file "zone"; };
`, dir, port, secret)
	zone := "@ 300 IN SOA ns. host. 1 1 1 1 1\n@ 300 IN NS ns.\n@ 300 IN A 192.0.2.9\n"
	for name, text := range map[string]string{"named.conf": conf, "zone": zone} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	corpus.Serve(t, corpus.Tool(t, "named"), "-g", "-c", filepath.Join(dir, "named.conf"))
	named := fmt.Sprint("127.0.0.1:", port)
	var theirs *dns.Msg
	eventually(t, "named answers", func() bool {
		m, err := dns.Exchange(withCookie("named.example", client), named)
		theirs = m
		return err == nil && cookieOf(m) != ""
	})
	jar := cookies(t, secret)
	jar.Require = true
	r := start(t, zones, Options{Cookies: jar})
	if m := r.ask(t, "udp", withCookie("good.example", cookieOf(theirs))); m.Rcode != dns.RcodeSuccess {
		t.Errorf("named's cookie: %v", m)
	}
	ours := cookieOf(r.ask(t, "udp", withCookie("good.example", client)))
	eventually(t, "named takes our cookie", func() bool { // and has its zone
		m, err := dns.Exchange(withCookie("named.example", ours), named)
		return err == nil && m.Rcode == dns.RcodeSuccess && len(m.Answer) == 1
	})
}

package blocklists

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestCanonicalName(t *testing.T) {
	label63 := strings.Repeat("a", 63)
	name253 := strings.Join([]string{label63, label63, label63, strings.Repeat("b", 61)}, ".")
	tests := []struct {
		in, want string
		err      error
	}{
		{"wechat.com", "wechat.com", nil},
		{"WeChat.COM.", "wechat.com", nil},
		{"com", "com", nil},
		{"_dns.resolver.arpa", "_dns.resolver.arpa", nil},
		{"-leading.trailing-.example", "-leading.trailing-.example", nil},
		{"r3---sn-a5.example", "r3---sn-a5.example", nil},
		{"XN--BCHER-KVA.example", "xn--bcher-kva.example", nil},
		{"bücher.example", "xn--bcher-kva.example", nil},
		{"BÜCHER.example", "xn--bcher-kva.example", nil},
		{"bu\u0308cher.example", "xn--bcher-kva.example", nil}, // not composed
		{"faß.example", "xn--fa-hia.example", nil},
		{"微信.中国", "xn--vuqz89a.xn--fiqs8s", nil},
		{"wechat。com", "wechat.com", nil},  // U+3002
		{"wechat．com", "wechat.com", nil},  // U+FF0E
		{"wechat｡com｡", "wechat.com", nil}, // U+FF61, and as the final dot
		{"ＷｅＣｈａｔ.com", "wechat.com", nil},
		{"ⓦⓔⓒⓗⓐⓣ.com", "wechat.com", nil},
		{"we\u00adchat.com", "wechat.com", nil}, // soft hyphen
		{"tiK\u200btok.com", "tiktok.com", nil}, // zero-width space
		{"tiKtok.com", "tiktok.com", nil},       // U+212A, the Kelvin sign
		{"r3---sn-a5.wechat。com", "r3---sn-a5.wechat.com", nil},
		{label63 + ".example", label63 + ".example", nil},
		{name253, name253, nil},
		{name253 + ".", name253, nil},

		{"", "", ErrNameEmpty},
		{".", "", ErrNameEmpty},
		{"。", "", ErrNameEmpty},
		{"..", "", ErrLabel},
		{"a..example", "", ErrLabel},
		{".example", "", ErrLabel},
		{"example..", "", ErrLabel},
		{"a。。example", "", ErrLabel},
		{label63 + "a.example", "", ErrLabel},
		{"example." + label63 + "a", "", ErrLabel},
		{name253 + "b", "", ErrNameLong},
		{strings.Repeat("ü", 5000), "", ErrNameLong},
		{"we chat.com", "", ErrNameChar},
		{" wechat.com", "", ErrNameChar},
		{"wechat.com\n", "", ErrNameChar},
		{"wechat\x00.com", "", ErrNameChar},
		{"wechat%2ecom", "", ErrNameChar},
		{`a\.tiktok.com`, "", ErrNameChar},
		{"user@wechat.com", "", ErrNameChar},
		{"wechat.com/path", "", ErrNameChar},
		{"wechat.com:443", "", ErrNameChar},
		{"[wechat.com]", "", ErrNameChar},
		{"*.wechat.com", "", ErrNameChar},
		{"wechat.com\x7f", "", ErrNameChar},
		{"a℀b.com", "", ErrNameChar}, // maps to a/c
		{"wechat\xff.com", "", ErrNameIDNA},
		{"\xe5\xbe.com", "", ErrNameIDNA},
		{"\ufffd.com", "", ErrNameIDNA},
	}
	for _, tt := range tests {
		got, err := CanonicalName(tt.in)
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("CanonicalName(%q) = %q, %v; want %q, %v", tt.in, got, err, tt.want, tt.err)
		}
	}
}

func TestCanonicalNameRunsOfBytes(t *testing.T) {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	for c := range 0x80 {
		s := "a" + string(rune(c)) + "b.example"
		_, err := CanonicalName(s)
		want := strings.IndexByte(allowed+".", byte(c)) >= 0
		if (err == nil) != want {
			t.Errorf("CanonicalName(%q): error %v, want acceptance %v", s, err, want)
		}
	}
}

// hostTests are spellings of hosts and what they mean. An empty want is an
// error.
var hostTests = []struct{ in, want string }{
	{"wechat.com", "wechat.com"},
	{"WECHAT.com.", "wechat.com"},
	{"wechat。com", "wechat.com"},
	{"localhost", "localhost"},
	{"1.example", "1.example"},
	{"1.2.3.4.example", "1.2.3.4.example"},
	{"4chan", "4chan"},
	{"0xg", "0xg"},
	{"0x7g.0x1h", "0x7g.0x1h"},
	{"1e3", "1e3"},
	{"0x_1", "0x_1"},
	{"1_000", "1_000"},
	{"-1", "-1"},

	{"127.0.0.1", "127.0.0.1"},
	{"127.0.0.1.", "127.0.0.1"},
	{"127.1", "127.0.0.1"},
	{"127.0.1", "127.0.0.1"},
	{"127.258", "127.0.1.2"},
	{"1.2.772", "1.2.3.4"},
	{"0x7f.1", "127.0.0.1"},
	{"0x7F.0X1", "127.0.0.1"},
	{"0x7f000001", "127.0.0.1"},
	{"0x000000000007f.0.0.1", "127.0.0.1"},
	{"2130706433", "127.0.0.1"},
	{"2130706433.", "127.0.0.1"},
	{"017700000001", "127.0.0.1"},
	{"0177.0.0.01", "127.0.0.1"},
	{"00000000177.1", "127.0.0.1"},
	{"0", "0.0.0.0"},
	{"00", "0.0.0.0"},
	{"0x", "0.0.0.0"},
	{"0x.0x.0", "0.0.0.0"},
	{"1.0x", "1.0.0.0"},
	{"256", "0.0.1.0"},
	{"4294967295", "255.255.255.255"},
	{"0xffffffff", "255.255.255.255"},
	{"1.16777215", "1.255.255.255"},
	{"1.2.65535", "1.2.255.255"},
	{"１２７.０.０.１", "127.0.0.1"},
	{"127。0。0。1", "127.0.0.1"},
	{"①②⑦.1", "127.0.0.1"},
	{"０ｘ7f.1", "127.0.0.1"},

	{"::1", "::1"},
	{"[::1]", "::1"},
	{"[2001:DB8::0:1]", "2001:db8::1"},
	{"::ffff:127.0.0.1", "127.0.0.1"},
	{"[::ffff:127.0.0.1]", "127.0.0.1"},
	{"[::ffff:7f00:1]", "127.0.0.1"},
	{"[64:ff9b::7f00:1]", "64:ff9b::7f00:1"},

	{"", ""},
	{".", ""},
	{"..", ""},
	{"1..2", ""},
	{".1", ""},
	{"08", ""},
	{"09.1", ""},
	{"1.08", ""},
	{"0x100000000", ""},
	{"4294967296", ""},
	{"99999999999999999999999999", ""},
	{"0xffffffffffffffffffffffff", ""},
	{"256.1", ""},
	{"1.256.1", ""},
	{"1.2.3.256", ""},
	{"1.2.65536", ""},
	{"1.16777216", ""},
	{"1.2.3.4.5", ""},
	{"a.b.c.0x1", ""},
	{"wechat.com.1", ""},
	{"foo.0x", ""},
	{"foo.09", ""},
	{"0x7g.1", ""},
	{"+1.1", ""},
	{"1.+1", ""},
	{"127.0.0.1%00", ""},
	{"127.0.0.1:80", ""},
	{"[wechat.com]", ""},
	{"[127.0.0.1]", ""},
	{"[::1", ""},
	{"::1]", ""},
	{"[::1]:443", ""},
	{"[[::1]]", ""},
	{"[]", ""},
	{"[", ""},
	{"[fe80::1%eth0]", ""},
	{"[fe80::1%25eth0]", ""},
	{"fe80::1%eth0", ""},
	{"::1::", ""},
	{":", ""},
	{"wechat%2ecom", ""},
	{"user@wechat.com", ""},
	{"wechat.com\x00.example", ""},
	{strings.Repeat("a.", 127) + "com", ""},
}

func TestParseHost(t *testing.T) {
	for _, tt := range hostTests {
		h, err := ParseHost(tt.in)
		if got := h.String(); (err == nil) != (tt.want != "") || err == nil && got != tt.want {
			t.Errorf("ParseHost(%q) = %q, %v; want %q", tt.in, got, err, tt.want)
		}
		if err != nil && h != (Host{}) {
			t.Errorf("ParseHost(%q) = %v beside the error %v", tt.in, h, err)
		}
		if err == nil && h.Addr.IsValid() != (h.Name == "") {
			t.Errorf("ParseHost(%q) = %+v is name and address, or neither", tt.in, h)
		}
	}
}

// TestParseHostEverySpelling writes one address in all combinations of bases
// and numbers of parts.
func TestParseHostEverySpelling(t *testing.T) {
	digits := func(n uint64, base int) string {
		s := ""
		for {
			s = "0123456789abcdef"[n%uint64(base):][:1] + s
			if n /= uint64(base); n == 0 {
				return s
			}
		}
	}
	spell := func(n uint64) []string {
		h := digits(n, 16)
		return []string{digits(n, 10), "0" + digits(n, 8), "000" + digits(n, 8), "0x" + h, "0X" + strings.ToUpper(h), "0x00" + h}
	}
	n := 0
	for _, a := range []string{"127.0.0.1", "10.8.0.7", "169.254.169.254", "255.255.255.255", "0.0.0.0", "8.9.80.88"} {
		want := netip.MustParseAddr(a)
		b := want.As4()
		v := uint64(b[0])<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3])
		for parts := 1; parts <= 4; parts++ {
			spellings := []string{""}
			for i := range parts {
				part := v >> (24 - 8*i) & 0xff
				if i == parts-1 {
					part = v & (1<<(8*(5-parts)) - 1)
				}
				var next []string
				for _, s := range spellings {
					for _, p := range spell(part) {
						next = append(next, strings.TrimPrefix(s+"."+p, "."))
					}
				}
				spellings = next
			}
			for _, s := range spellings {
				for _, s := range []string{s, s + "."} {
					if h, err := ParseHost(s); err != nil || h.Addr != want {
						t.Fatalf("ParseHost(%q) = %v, %v; want %v", s, h, err, want)
					}
					n++
				}
			}
		}
	}
	if n < 10_000 {
		t.Errorf("only %d spellings were tried", n)
	}
}

func FuzzCanonicalName(f *testing.F) {
	for _, tt := range hostTests {
		f.Add(tt.in)
	}
	f.Add("BÜCHER.example")
	f.Add("we\u00adchat.com")
	f.Fuzz(func(t *testing.T, s string) {
		name, err := CanonicalName(s)
		if err != nil {
			if name != "" {
				t.Fatalf("CanonicalName(%q) = %q beside the error %v", s, name, err)
			}
			known := []error{ErrNameEmpty, ErrNameLong, ErrLabel, ErrNameChar, ErrNameIDNA}
			if !slices.ContainsFunc(known, func(k error) bool { return errors.Is(err, k) }) {
				t.Fatalf("CanonicalName(%q): error of no known kind: %v", s, err)
			}
			return
		}
		if len(name) == 0 || len(name) > 253 {
			t.Fatalf("CanonicalName(%q) has %d bytes", s, len(name))
		}
		for l := range strings.SplitSeq(name, ".") {
			if len(l) < 1 || len(l) > 63 || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
				t.Fatalf("CanonicalName(%q) = %q with label %q", s, name, l)
			}
		}
		again, err := CanonicalName(name)
		if err != nil || again != name {
			t.Fatalf("CanonicalName(%q) = %q, of which it is %q, %v", s, name, again, err)
		}
		for _, v := range []string{strings.ToUpper(name), name + ".", name + "。"} {
			if len(v) > 4*253 {
				continue
			}
			got, err := CanonicalName(v)
			if err != nil && v == name+"。" && !isIDNA(name) {
				continue // only as ASCII may an A-label stand for nothing
			}
			if err != nil || got != name {
				t.Fatalf("CanonicalName(%q) = %q, %v; want %q", v, got, err, name)
			}
		}
	})
}

// isIDNA reports whether each A-label of a canonical name stands for a U-label.
func isIDNA(name string) bool {
	a, err := uts46.ToASCII(name)
	return err == nil && a == name
}

func FuzzParseHost(f *testing.F) {
	for _, tt := range hostTests {
		f.Add(tt.in)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := ParseHost(s)
		if err != nil {
			return
		}
		if h.Addr.IsValid() == (h.Name != "") {
			t.Fatalf("ParseHost(%q) = %+v is name and address, or neither", s, h)
		}
		if h.Addr.Is4In6() || h.Addr.Zone() != "" {
			t.Fatalf("ParseHost(%q) = %v is mapped or has a zone", s, h.Addr)
		}
		if again, err := ParseHost(h.String()); err != nil || again != h {
			t.Fatalf("ParseHost(%q) = %v, of which it is %v, %v", s, h, again, err)
		}
		if h.Name != "" {
			if _, err := netip.ParseAddr(h.Name); err == nil {
				t.Fatalf("ParseHost(%q) = name %q, which is an address", s, h.Name)
			}
			return
		}
		if b := h.Addr.String(); h.Addr.Is6() {
			if in, err := ParseHost("[" + b + "]"); err != nil || in != h {
				t.Fatalf("ParseHost([%s]) = %v, %v", b, in, err)
			}
		}
	})
}

// TestIsCanonical holds the quick answer against the slow one, at the edges.
func TestIsCanonical(t *testing.T) {
	label := strings.Repeat("a", maxLabel)
	long := strings.Join([]string{label, label, label, label[:61]}, ".")
	for name, want := range map[string]bool{
		"a": true, "a.b": true, "_dmarc.a-b.c0": true, "-a-.b": true, label + ".b": true, "b." + label: true, long: true,
		"": false, ".": false, "a.": false, ".a": false, "a..b": false, "A.b": false, "a b": false, "a*b": false, "é.b": false,
		"a\x00": false, label + "a.b": false, "b." + label + "a": false, long + "a": false,
	} {
		if got := isCanonical(name); got != want {
			t.Errorf("isCanonical(%q) = %t, want %t", name, got, want)
		}
		if c, err := CanonicalName(name); (err == nil && c == name) != want {
			t.Errorf("CanonicalName(%q) = %q, %v", name, c, err)
		}
	}
}

// Labels are found whatever their lengths and wherever a name ends.
func TestLabelStart(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 20_000 {
		name := make([]byte, 1+r.IntN(40))
		for i := range name {
			name[i] = "abz-/_.\\09\x80\xae\xed"[r.IntN(13)]
		}
		for end := range len(name) + 1 {
			want := 0
			for i, escaped := 0, false; i < end; i++ {
				if name[i] == '.' && !escaped {
					want = i + 1
				}
				escaped = name[i] == '\\' && !escaped
			}
			if got := labelStart(string(name), end); got != want {
				t.Fatalf("the label of %q before %d begins at %d, want %d", name, end, got, want)
			}
		}
	}
}

package parse

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/weir-gateway/weir/blocklists"
)

// fuzzDialect checks what holds for any bytes: nothing crashes, counts add up,
// every rule is one that a Set takes, with a canonical name, and the sizes of
// reads make no difference.
func fuzzDialect(f *testing.F, format Format, seeds ...string) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	lim := Limits{Bytes: 1 << 20, Lines: 10_000, Line: 300}
	f.Fuzz(func(t *testing.T, data []byte) {
		var b blocklists.Builder
		var rules []string
		line := 0
		rep, err := Load(format, bytes.NewReader(data), lim, func(r blocklists.Rule) error {
			checkRule(t, r)
			if r.Line < line {
				t.Errorf("rule of line %d after line %d", r.Line, line)
			}
			line = r.Line
			rules = append(rules, show(r))
			return b.Add(0, r)
		})
		if err == nil {
			checkReport(t, rep)
		} else if _, ok := errors.AsType[*InputError](err); !ok {
			t.Errorf("error of another type: %v", err)
		}
		again, skips, err2 := read(t, format, iotest.OneByteReader(bytes.NewReader(data)), lim)
		if !slices.Equal(again, rules) || len(skips) != rep.Skipped() || (err == nil) != (err2 == nil) {
			t.Errorf("byte by byte: got %q, %d skips, %v\nwant %q, %d skips, %v", again, len(skips), err2, rules, rep.Skipped(), err)
		}
	})
}

// checkRule tests what every rule promises.
func checkRule(t *testing.T, r blocklists.Rule) {
	t.Helper()
	if r.Line < 1 {
		t.Errorf("rule %v without a line", r)
	}
	if r.Kind.IsSignature() {
		if err := blocklists.CheckSignature(r); err != nil || r.Prefix.IsValid() {
			t.Errorf("signature %+v: %v", r, err)
		}
		return
	}
	if r.Kind == blocklists.Prefix || r.Kind == blocklists.Client {
		// Who asks is in private address space, most often.
		if !r.Prefix.IsValid() || r.Prefix != r.Prefix.Masked() || r.Kind == blocklists.Prefix && isSpecial(r.Prefix) || r.Name != "" || r.Path != "" {
			t.Errorf("prefix rule %+v", r)
		}
		return
	}
	if name, err := blocklists.CanonicalName(r.Name); err != nil || name != r.Name {
		t.Errorf("name %q is not canonical: %q, %v", r.Name, name, err)
	}
	if !bytes.ContainsRune([]byte(r.Name), '.') {
		t.Errorf("name %q is a single label", r.Name)
	}
	if h, err := blocklists.ParseHost(r.Name); err == nil && h.Addr.IsValid() {
		t.Errorf("name %q is the address %s", r.Name, h.Addr)
	}
	if r.Path != "" && r.Path[0] != '/' {
		t.Errorf("path %q has no slash before it", r.Path)
	}
	// A pattern that is only text is the beginning of a canonical path.
	if r.Path != "" && !bytes.ContainsAny([]byte(r.Path), "*^|") && blocklists.CanonicalPath(r.Path+"x") != r.Path+"x" {
		t.Errorf("path %q is not canonical: %q", r.Path, blocklists.CanonicalPath(r.Path+"x"))
	}
}

func FuzzDomains(f *testing.F) {
	fuzzDialect(f, Domains, "a.example\n=b.example\n*.c.example\r@@d.example # x\n192.0.2.1\ttab\n", "\ufeffbücher.example\r\n\xff\xfe", "\x1f\x8b\x08\x00", "１.2.3.4\n<html>")
}

func FuzzHosts(f *testing.F) {
	fuzzDialect(f, Hosts, "0.0.0.0 a.example b.example # x\n::1 localhost\n192.0.2.1 c.example\n0 d\n", "fe80::1%lo0 localhost\n0.0.0.0 0.0.0.0")
}

func FuzzABP(f *testing.F) {
	fuzzDialect(f, ABP, "[Adblock Plus 2.0]\n||a.example^\n@@||b.example^$important\n||c.example/x*y^|\n|https://d.example^\n", "||*.a.example^$all\n||192.0.2.1^\n||[2001:db8::1]^\n/re/$x\n##.ad\n!#if x\n||a.example^\n!#endif",
		"0.0.0.0 a.example # $\nb.example\n||a.example/%2e%2e/x\n||a.example//x?y//z\n")
}

func FuzzDnsmasq(f *testing.F) {
	fuzzDialect(f, Dnsmasq, "address=/a.example/b.example/0.0.0.0\nserver=/c.example/#\nlocal=/*.d.example/\n", "address = /#/\nserver=//\nipset=/x/y\n# x")
}

func FuzzRPZ(f *testing.F) {
	fuzzDialect(f, RPZ, "$TTL 5\n@ IN SOA a. b. (\n1 2 ; x\n3 4 5 )\n NS a.\nc.example CNAME .\n*.d.example 5m IN CNAME *.\n", "32.1.2.0.192.rpz-ip CNAME rpz-drop.\n64.zz.db8.2001.rpz-ip CNAME .\n",
		"24.0.0.0.10.rpz-client-ip CNAME rpz-drop.\n32.zz.db8.2001.rpz-client-ip A 192.0.2.1\n8.0.0.0.10.rpz-client-ip TXT \"a\"\n",
		"$ORIGIN x.\n@ SOA a b 1 2 3 4 5\na.b.x. CNAME (\nc.d CNAME \"\\\" .\n)\n")
}

func FuzzPrefixes(f *testing.F) {
	fuzzDialect(f, Prefixes, "192.0.2.0/24\n@@2001:db8::1\n10.0.0.0/8\n::ffff:192.0.2.0/99 # x\n64:ff9b::/100\ttab\n")
}

func FuzzURLs(f *testing.F) {
	fuzzDialect(f, URLs, "http://a.example/x\n@@b.example:80/y/../z\nc.example/%7e%2f.\nd.example//e?f=//g\n")
}

func FuzzDetect(f *testing.F) {
	f.Add([]byte("a.example\n"))
	f.Add([]byte("||a.example^\n0.0.0.0 b.example\n@ SOA x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Detect(data)
		if (got == "") != (err != nil) {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

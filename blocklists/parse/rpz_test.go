package parse

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestRPZ(t *testing.T) {
	const apex = "$TTL 3600\n@ IN SOA ns.example. host.example. (\n  1 ; serial\n  2\n\n  3 4 5 )\n  IN NS localhost.\n" // 7 lines
	testReadings(t, RPZ, []reading{
		{name: "actions", text: apex + "a.example CNAME .\nb.example IN CNAME *.\nc.example 300 IN CNAME rpz-passthru.\nd.example IN 5m CNAME RPZ-DROP.\ne.example CNAME rpz-tcp-only.\n" +
			"f.example CNAME walled.example.\ng.example A 192.0.2.1\nh.example CNAME h.example.\n",
			rules: []string{"8 =a.example nxdomain", "9 =b.example nodata", "10 @@=c.example passthru", "11 =d.example drop", "12 =e.example tcp-only", "13 =f.example local-data", "14 =g.example local-data", "15 @@=h.example passthru"}},
		{name: "triggers", text: "*.a.example CNAME .\n32.1.2.0.192.rpz-ip CNAME .\n24.0.100.51.198.rpz-ip CNAME *.\n128.1.zz.db8.2001.rpz-ip CNAME rpz-passthru.\n48.zz.1.db8.2001.RPZ-IP CNAME .\n" +
			"128.8.7.6.5.4.3.db8.2001.rpz-ip CNAME .\n32.1.2.0.192.rpz-client-ip CNAME .\nns.example.rpz-nsdname CNAME .\n32.1.2.0.192.rpz-nsip CNAME .\n* CNAME .\n@ CNAME .\n",
			rules: []string{"1 *.a.example nxdomain", "2 192.0.2.1/32 nxdomain", "3 198.51.100.0/24 nodata", "4 @@2001:db8::1/128 passthru", "5 2001:db8:1::/48 nxdomain", "6 2001:db8:3:4:5:6:7:8/128 nxdomain", "7 client 192.0.2.1/32 nxdomain"},
			skips: []string{"8:1 nsdname", "9:1 nsip", "10:1 everything", "11:1 everything"}},
		{name: "bad prefixes", text: "8.0.0.0.10.rpz-ip CNAME .\n33.1.2.0.192.rpz-ip CNAME .\n32.1.2.0.rpz-ip CNAME .\nx.1.2.0.192.rpz-ip CNAME .\nrpz-ip CNAME .\n128.zz.1.zz.rpz-ip CNAME .\n32.256.2.0.192.rpz-ip CNAME .\n0.0.0.0.0.rpz-ip CNAME .\n",
			skips: []string{"1:1 special", "2:1 not-address", "3:1 not-address", "4:1 not-address", "5:1 not-address", "6:1 not-address", "7:1 not-address", "8:1 special"}},
		{name: "zone named by the origin", text: "$ORIGIN rpz.example.\n@ SOA a. b. 1 2 3 4 5\na.example CNAME .\nb.example.rpz.example. CNAME .\nc.example.RPZ.example. CNAME .\nd.example. CNAME .\n$ORIGIN example\ne CNAME .\n*.f CNAME .\n$ORIGIN .\ng.example.rpz.example CNAME .\n",
			rules: []string{"3 =a.example nxdomain", "4 =b.example nxdomain", "5 =c.example nxdomain", "8 =e.example nxdomain", "9 *.f.example nxdomain", "11 =g.example nxdomain"},
			skips: []string{"6:1 out-of-zone"}},
		{name: "zone named by the SOA record", text: "$ORIGIN .\nrpz.example 300 IN SOA a. b. 1 2 3 4 5\n NS localhost.\n$ORIGIN com.rpz.example.\nevil CNAME .\n*.evil CNAME .\n$ORIGIN rpz.example.\nevil.example CNAME .\nevil.example.net. CNAME .\nrpz.example. TXT \"about; this\"\n",
			rules: []string{"5 =evil.com nxdomain", "6 *.evil.com nxdomain", "8 =evil.example nxdomain"}, skips: []string{"9:1 out-of-zone"}},
		{name: "zone by absolute owners", text: "rpz.example.\t300\tIN\tSOA\ta. b. 1 2 3 4 5\nevil.example.rpz.example.\t300\tIN\tCNAME\t.\nnotrpz.example. CNAME .\n",
			rules: []string{"2 =evil.example nxdomain"}, skips: []string{"3:1 out-of-zone"}},
		{name: "zone of unknown name", text: "a.example CNAME .\nb.example. CNAME .\nc.example CNAME rpz-passthru\nd.example CNAME @\n",
			rules: []string{"1 =a.example nxdomain"}, skips: []string{"2:1 out-of-zone", "3:17 local-data", "4:17 local-data"}},
		{name: "owner of the line before", text: "a.example CNAME .\n\tTXT \"x\"\n* TXT x\n  CNAME .\n", rules: []string{"1 =a.example nxdomain", "2 =a.example local-data"},
			skips: []string{"3:1 everything", "4:3 everything"}},
		{name: "no owner before", text: "  a.example CNAME .\n", skips: []string{"1:3 syntax"}},
		{name: "records over several lines", text: "a.example CNAME ( ; why\n\n ; comment\n . )\nb.example ( CNAME\n.\n) ; end\n",
			rules: []string{"1 =a.example nxdomain", "5 =b.example nxdomain"}},
		{name: "a parenthesis that is not closed", text: "a.example CNAME (\nb.example CNAME .\nc.example CNAME ( . )\nd.example CNAME )\ne.example CNAME \"\nf.example CNAME .\n",
			rules: []string{"2 =b.example nxdomain", "3 =c.example nxdomain", "6 =f.example nxdomain"},
			skips: []string{"1:1 syntax", "4:1 syntax", "5:1 syntax"}},
		{name: "open at the end", text: "a.example CNAME .\nb.example CNAME (\nc.example CNAME .\n", rules: []string{"1 =a.example nxdomain", "3 =c.example nxdomain"}, skips: []string{"2:1 syntax"}},
		{name: "bad lines", text: "a.example\na.example CNAME\na.example CNAME . .\na.example 5 IN\n0.0.0.0 a.example\n$TTL\n$TTL x\n$ORIGIN\n$GENERATE 1-2 a$ CNAME .\n$INCLUDE other.zone\n\\\n()\nb.example CNAME .\n",
			rules: []string{"13 =b.example nxdomain"},
			skips: []string{"1:1 syntax", "2:1 syntax", "3:1 syntax", "4:1 syntax", "5:1 syntax", "6:1 syntax", "7:1 syntax", "8:1 syntax", "9:1 directive", "10:1 include", "11:1 syntax"}},
		{name: "bad names", text: "a*.example CNAME .\na\\.b.example CNAME .\n192.0.2.1 CNAME .\ncom CNAME .\n*.com CNAME .\na..example CNAME .\n*.*.example CNAME .\na\\;b.example CNAME .\n",
			skips: []string{"1:1 wildcard", "2:1 invalid-name", "3:1 address", "4:1 single-label", "5:1 single-label", "6:1 invalid-name", "7:1 wildcard", "8:1 invalid-name"}},
		{name: "signed zones", text: apex + "a.example CNAME .\na.example RRSIG CNAME 8 2 300 x y z\na.example NSEC b.example. CNAME\n@ DNSKEY 1 2 3\n@ A 192.0.2.1\n", rules: []string{"8 =a.example nxdomain"}},
		{name: "idn and case", text: "WWW.Example.COM cname .\nbücher.example CNAME .\n\"quoted.example\" CNAME .\n",
			rules: []string{"1 =www.example.com nxdomain", "2 =xn--bcher-kva.example nxdomain", "3 =quoted.example nxdomain"}},
		{name: "an encoding in the middle of a record", text: "a.example CNAME (\n\xe9\n. )\n", rules: []string{"1 =a.example nxdomain"}, skips: []string{"2:1 encoding"}},
	})
}

// One parenthesis that nobody closes must not take the rest of the list.
func TestRPZOpenParenthesis(t *testing.T) {
	const n = 10_000
	text := "bad.example CNAME (\n" + strings.Repeat("a.example CNAME .\n", n)
	rules, skips, err := read(t, RPZ, strings.NewReader(text), Limits{})
	if err != nil || len(rules) != n || len(skips) != 1 {
		t.Errorf("%d rules, skips %q, %v", len(rules), skips, err)
	}
	// Nor must many of them take long.
	rules, skips, err = read(t, RPZ, strings.NewReader(strings.Repeat("a.example CNAME ( .\n", n)), Limits{})
	if err != nil || len(rules) != 0 || len(skips) != n {
		t.Errorf("%d rules, %d skips, %v", len(rules), len(skips), err)
	}
}

func TestTriggerPrefix(t *testing.T) {
	// The encoding is undone for every length, against a writer of it.
	for _, s := range []string{"192.0.2.1", "0.0.0.0", "255.255.255.255", "2001:db8::1", "::", "::1", "1::", "1:2:3:4:5:6:7:8", "fe80::1:0:0:1", "1:0:2::3"} {
		addr := netip.MustParseAddr(s)
		for bits := range addr.BitLen() + 1 {
			want, err := addr.Prefix(bits)
			if err != nil {
				t.Fatal(err)
			}
			got, ok := triggerPrefix(encodeTrigger(want))
			if !ok || got != want {
				t.Errorf("%s: %s: got %s, %t", want, encodeTrigger(want), got, ok)
			}
		}
	}
}

// encodeTrigger writes a prefix as an rpz-ip trigger.
func encodeTrigger(p netip.Prefix) string {
	if p.Addr().Is4() {
		words := strings.Split(p.Addr().String(), ".")
		return join(p.Bits(), words)
	}
	text := p.Addr().String()
	text = strings.Replace(text, "::", ":zz:", 1)
	return join(p.Bits(), strings.Split(strings.Trim(text, ":"), ":"))
}

func join(bits int, words []string) string {
	s := netip.PrefixFrom(netip.IPv6Unspecified(), bits).String()
	s = s[strings.IndexByte(s, '/')+1:]
	for i := len(words) - 1; i >= 0; i-- {
		s += "." + words[i]
	}
	return s
}

// Local data is kept as text that says everything by itself.
func TestLocalData(t *testing.T) {
	const zone = "$ORIGIN rpz.example.\n@ 60 SOA a. b. 1 2 3 4 5\n$TTL 2m\n" +
		"a.example A 192.0.2.1\na.example 5 AAAA 2001:db8::1\na.example IN 1h TXT \"a b\" c\na.example MX 10 mail\na.example CNAME *.walled.example.\n" +
		"a.example CNAME walled\na.example TYPE65280 \\# 2 0102\n32.1.2.0.192.rpz-ip SRV ( 1 2\n 3 srv.example. )\n"
	var got []string
	for r, err := range Rules(RPZ, strings.NewReader(zone), Limits{}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.ReplaceAll(r.Data.String(), "\t", " "))
	}
	want := []string{"120 IN A 192.0.2.1", "5 IN AAAA 2001:db8::1", `3600 IN TXT "a b" "c"`, "120 IN MX 10 mail.rpz.example.", "120 IN CNAME *.walled.example.",
		"120 IN CNAME walled.rpz.example.", `120 CLASS1 TYPE65280 \# 2 0102`, "120 IN SRV 1 2 3 srv.example."}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestLocalDataSkips(t *testing.T) {
	testReadings(t, RPZ, []reading{
		{name: "broken data", text: "a.example A 192.0.2.256\nb.example AAAA 192.0.2.1\nc.example MX mail.example.\nd.example TXT \"a\n",
			skips: []string{"1:1 local-data", "2:1 local-data", "3:1 local-data", "4:1 syntax"}},
		{name: "relative to an unknown zone", text: "a.example MX 10 mail\nb.example MX 10 mail.example.\n", rules: []string{"2 =b.example local-data"}, skips: []string{"1:1 local-data"}},
		{name: "what an answer may not be", text: "a.example NS ns.example.\nb.example DNAME c.example.\nd.example CNAME rpz-new.\ne.example CNAME rpz-new.example.\n",
			rules: []string{"4 =e.example local-data"}, skips: []string{"1:1 action", "2:1 action", "3:17 action"}},
	})
}

package parse

import (
	"strings"
	"testing"
)

func TestDomains(t *testing.T) {
	long := strings.Repeat("a", 63)
	name253 := strings.Repeat(long+".", 3) + strings.Repeat("b", 61)
	testReadings(t, Domains, []reading{
		{name: "empty"},
		{name: "kinds", text: "a.example\n=b.example\n*.c.example\n@@d.example\n@@=e.example\n@@*.f.example\n",
			rules: []string{"1 a.example…", "2 =b.example", "3 *.c.example", "4 @@d.example…", "5 @@=e.example", "6 @@*.f.example"}},
		{name: "comments", text: "# all\n#\na.example # why\nb.example\t# why\n\n  \t\n  # indented\nc.example#no\n",
			rules: []string{"3 a.example…", "4 b.example…"}, skips: []string{"8:1 invalid-name"}},
		{name: "line ends", text: "a.example\r\nb.example\rc.example\n\r\nd.example",
			rules: []string{"1 a.example…", "2 b.example…", "3 c.example…", "5 d.example…"}},
		{name: "byte order marks", text: "\ufeffa.example\n\ufeff# next file\n\ufeffb.example\n",
			rules: []string{"1 a.example…", "3 b.example…"}},
		{name: "blanks", text: " a.example \n\t=b.example\t\n\f@@c.example\v\n",
			rules: []string{"1 a.example…", "2 =b.example", "3 @@c.example…"}},
		{name: "canonical", text: "WWW.Example.COM.\nBücher.example\nxn--bcher-kva.example\n例え。テスト\nEXAMPLE.com\n_dns.resolver.arpa\n-a-.b--c.example\n",
			rules: []string{"1 www.example.com…", "2 xn--bcher-kva.example…", "3 xn--bcher-kva.example…", "4 xn--r8jz45g.xn--zckzah…",
				"5 example.com…", "6 _dns.resolver.arpa…", "7 -a-.b--c.example…"}},
		{name: "addresses", text: "192.0.2.1\n2001:db8::1\n192.0.2.1:80\n[2001:db8::1]:443\n[2001:db8::1]\n192.0.2.0/24\n2001:db8::/32\n" +
			"0x7f.1\n2130706433\n127.1\n017700000001\n300.1.1.1\n１９２.0.2.1\nfe80::1%eth0\n@@192.0.2.1\n=192.0.2.1\n",
			skips: []string{"1:1 address", "2:1 address", "3:1 address", "4:1 address", "5:1 address", "6:1 address", "7:1 address",
				"8:1 address", "9:1 address", "10:1 address", "11:1 address", "12:1 address", "13:1 address", "14:1 address", "15:3 address", "16:2 address"}},
		{name: "not quite addresses", text: "c91.196.152.28\nregistry.12913298\n1.example\n0.0x28.example\n",
			rules: []string{"1 c91.196.152.28…", "2 registry.12913298…", "3 1.example…", "4 0.0x28.example…"}},
		{name: "urls and ports", text: "http://a.example\nhttps://a.example/\na.example/path\n//a.example\n/path\nhttp://*.a.example\na.example:443\n=a.example:443\n",
			skips: []string{"1:1 url", "2:1 url", "3:1 url", "4:1 url", "5:1 url", "6:1 url", "7:1 port", "8:2 port"}},
		{name: "wildcards", text: "*\nads*.example.com\na.*.example\n*.*.example\n=*.a.example\n*a.example\n",
			skips: []string{"1:1 wildcard", "2:1 wildcard", "3:1 wildcard", "4:3 wildcard", "5:2 wildcard", "6:1 wildcard"}},
		{name: "single labels", text: "com\nlocalhost\n*.com\n=com\ncom.\n@@com\n",
			skips: []string{"1:1 single-label", "2:1 single-label", "3:3 single-label", "4:2 single-label", "5:1 single-label", "6:3 single-label"}},
		{name: "invalid names", text: ".a.example\na..example\na.example..\n@@\n=\n*.\na b\n\"a.example\"\na.example,\nuser@a.example\na\x01.example\n! a comment elsewhere\n||a.example^\n",
			skips: []string{"1:1 invalid-name", "2:1 invalid-name", "3:1 invalid-name", "4:3 invalid-name", "5:2 invalid-name", "6:3 invalid-name",
				"7:1 syntax", "8:1 invalid-name", "9:1 invalid-name", "10:1 invalid-name", "11:1 invalid-name", "12:1 syntax", "13:1 invalid-name"}},
		{name: "lengths", text: long + ".example\n" + long + "a.example\n" + name253 + "\n" + name253 + ".\n" + name253 + "c\n",
			rules: []string{"1 " + long + ".example…", "3 " + name253 + "…", "4 " + name253 + "…"}, skips: []string{"2:1 invalid-name", "5:1 invalid-name"}},
		{name: "encodings", text: "b\xfccher.example\n\xb9\xe3\xb8\xe6.example\n# Latin-1 \xe9 in a comment\na.example # \xe9\n",
			rules: []string{"4 a.example…"}, skips: []string{"1:1 encoding", "2:1 encoding"}},
		{name: "notes", text: "a.example\tsource, reason\n0.0.0.0\tb.example\na.example b.example\na.example # x\ty\n",
			rules: []string{"1 a.example…", "4 a.example…"}, skips: []string{"2:1 address", "3:1 syntax"}},
		{name: "markup after a rule", text: "a.example\n<html>\n<3\n", rules: []string{"1 a.example…"}, skips: []string{"2:1 html", "3:1 invalid-name"}},
		{name: "hosts lines", text: "0.0.0.0 a.example\n", skips: []string{"1:1 syntax"}},
		{name: "odd but real", text: "0------------0-------------0.0n-line.biz\nsupport¬forum.org\n",
			rules: []string{"1 0------------0-------------0.0n-line.biz…", "2 xn--supportforum-tqa.org…"}},
	})
}

func TestPrefixes(t *testing.T) {
	testReadings(t, Prefixes, []reading{
		{name: "spellings", text: "192.0.2.1\n198.51.100.0/24 # why\n203.0.113.77/24\n2001:db8::/32\n2001:DB8::1\n@@192.0.2.9\n::ffff:192.0.2.3\n::ffff:192.0.2.0/120\n192.0.2.1\tapp\tkind\n",
			rules: []string{"1 192.0.2.1/32", "2 198.51.100.0/24", "3 203.0.113.0/24", "4 2001:db8::/32", "5 2001:db8::1/128", "6 @@192.0.2.9/32",
				"7 192.0.2.3/32", "8 192.0.2.0/24", "9 192.0.2.1/32"}},
		{name: "special", text: "10.0.10.246\n172.31.0.0/16\n192.168.1.1\n127.0.0.1\n169.254.1.1\n224.0.0.1\n255.255.255.255\n100.69.180.29\n0.0.0.0\n0.0.0.0/0\n" +
			"::/0\n::\n::1\nfe80::1\nfc00::/7\nff02::1\n::ffff:10.0.0.1\n::ffff:0:0/96\n64:ff9b::/96\n64:ff9b::10.0.0.1\n@@10.0.0.0/8\n",
			skips: []string{"1:1 special", "2:1 special", "3:1 special", "4:1 special", "5:1 special", "6:1 special", "7:1 special", "8:1 special", "9:1 special",
				"10:1 special", "11:1 special", "12:1 special", "13:1 special", "14:1 special", "15:1 special", "16:1 special", "17:1 special", "18:1 special", "19:1 special", "20:1 special", "21:3 special"}},
		{name: "wide", text: "8.0.0.0/8\n8.0.0.0/7\n100.0.0.0/8\n2400::/12\n2a00::/16\n64:ff9b::203.0.113.1\n64:ff9b::/95\n",
			rules: []string{"1 8.0.0.0/8", "5 2a00::/16", "6 64:ff9b::cb00:7101/128"},
			skips: []string{"2:1 special", "3:1 special", "4:1 special", "7:1 special"}},
		{name: "not addresses", text: "a.example\n192.0.2.1-192.0.2.9\n192.0.2.0/33\n192.0.2.1:80\nfe80::1%eth0\n127.1\n192.0.2.1 192.0.2.2\n[2001:db8::1]\n192.0.2\n",
			skips: []string{"1:1 not-address", "2:1 not-address", "3:1 not-address", "4:1 not-address", "5:1 not-address", "6:1 not-address", "7:1 syntax", "8:1 not-address", "9:1 not-address"}},
	})
}

func TestURLs(t *testing.T) {
	testReadings(t, URLs, []reading{
		{name: "paths", text: "a.example/ads\nHTTP://A.example/Ads/%7eX\n@@a.example/ads/ok\na.example:80/x\na.example/\na.example/q?Id=1&x=//y\na.example//x//y\n",
			rules: []string{"1 a.example/ads…", "2 a.example/ads/~x…", "3 @@a.example/ads/ok…", "4 a.example/x…", "5 a.example/…", "6 a.example/q?id=1&x=//y…", "7 a.example/x/y…"}},
		{name: "last segment is not complete", text: "a.example/.\na.example/..\na.example/x%\na.example/x/\n",
			rules: []string{"1 a.example/.…", "2 a.example/..…", "3 a.example/x%…", "4 a.example/x/…"}},
		{name: "skips", text: "a.example\nhttps://a.example/x\nftp://a.example/x\na.example:8080/x\n192.0.2.1/x\nlocalhost/x\na.example/*\na.example/x|\na.example/x^y\na.example/#x\n" +
			"a.example/x/../y\nuser@a.example/x\n/x\n*.a.example/x\na.example/x y\na.example/\xe9\na.example//\n",
			skips: []string{"1:1 no-path", "2:1 scheme", "3:1 scheme", "4:1 port", "5:1 address", "6:1 single-label", "7:10 url-pattern", "8:10 url-pattern", "9:10 url-pattern",
				"10:10 url-pattern", "11:10 url-pattern", "12:1 invalid-name", "13:1 invalid-name", "14:1 wildcard", "15:1 syntax", "16:1 encoding", "17:10 url-pattern"}},
		{name: "a url inside", text: "a.example/x?u=http://b.example/\na.example/http://b.example\n",
			rules: []string{"1 a.example/x?u=http://b.example/…", "2 a.example/http:/b.example…"}},
	})
}

func TestHosts(t *testing.T) {
	testReadings(t, Hosts, []reading{
		{name: "addresses", text: "0.0.0.0 a.example\n127.0.0.1\tb.example\n:: c.example\n::1 d.example\n127.53.0.1 e.example\n::ffff:127.0.0.1 f.example\n0 g.example\n",
			rules: []string{"1 =a.example", "2 =b.example", "3 =c.example", "4 =d.example", "5 =e.example", "6 =f.example", "7 =g.example"}},
		{name: "several names", text: "  0.0.0.0  a.example B.Example. \t c.example#comment d.example\n",
			rules: []string{"1 =a.example", "1 =b.example", "1 =c.example"}},
		{name: "local data", text: "192.0.2.1 a.example b.example\nfe80::1%lo0 c.example\n0.0.0.1 d.example\n",
			skips: []string{"1:11 local-data", "1:21 local-data", "2:13 local-data", "3:9 local-data"}},
		{name: "self names", text: "127.0.0.1 localhost localhost.localdomain local\n255.255.255.255 broadcasthost\n::1 ip6-localhost IP6-loopback\n0.0.0.0 0.0.0.0\nfe80::1%lo0 localhost\nff02::1 ip6-allnodes\n0.0.0.0 ip6-a.example\n",
			rules: []string{"7 =ip6-a.example"},
			skips: []string{"1:11 self-name", "1:21 self-name", "1:43 self-name", "2:17 self-name", "3:5 self-name", "3:19 self-name", "4:9 self-name", "5:13 self-name", "6:9 self-name"}},
		{name: "good and bad", text: "0.0.0.0 a.example 192.0.2.1 b..example *.c.example d.example http://e.example f.example:80 com\n",
			rules: []string{"1 =a.example", "1 =d.example"},
			skips: []string{"1:19 address", "1:29 invalid-name", "1:40 wildcard", "1:62 url", "1:79 port", "1:92 single-label"}},
		{name: "no address, no name", text: "a.example\na.example b.example\n0.0.0.0\n0.0.0.0 # a.example\n",
			skips: []string{"1:1 no-address", "2:1 no-address", "3:1 no-name", "4:1 no-name"}},
		{name: "pseudo rules in comments", text: "#[beacons*.gvt3.example]\n# 0.0.0.0 a.example\n#0.0.0.0 a.example\n"},
		{name: "crlf and tabs", text: "0.0.0.0\ta.example\r\n\r\n0.0.0.0\tb.example\t\r\n", rules: []string{"1 =a.example", "3 =b.example"}},
		{name: "idn", text: "0.0.0.0 bücher.example b\xfccher.example\n0.0.0.0 bücher.example\n",
			rules: []string{"2 =xn--bcher-kva.example"}, skips: []string{"1:1 encoding"}},
	})
}

func TestDnsmasq(t *testing.T) {
	testReadings(t, Dnsmasq, []reading{
		{name: "blocks", text: "address=/a.example/\naddress=/b.example/#\naddress=/c.example/0.0.0.0\naddress=/d.example/::\naddress=/e.example/127.0.0.1\nserver=/f.example/\nlocal=/g.example/\naddress=/h.example/::1\n",
			rules: []string{"1 a.example…", "2 b.example…", "3 c.example…", "4 d.example…", "5 e.example…", "6 f.example…", "7 g.example…", "8 h.example…"}},
		{name: "allow", text: "server=/a.example/#\n", rules: []string{"1 @@a.example…"}},
		{name: "several names", text: "address=/a.example/B.example/.c.example/*.d.example/0.0.0.0\n",
			rules: []string{"1 a.example…", "1 b.example…", "1 c.example…", "1 *.d.example"}},
		{name: "blanks and comments", text: " address = /a.example/ # why\n# address=/b.example/\n\n", rules: []string{"1 a.example…"}},
		{name: "routing and local data", text: "server=/a.example/192.0.2.1\nserver=/a.example/127.0.0.1#5353\nserver=192.0.2.1\nlocal=/a.example/192.0.2.1\naddress=/a.example/192.0.2.1\n",
			skips: []string{"1:19 routing", "2:19 routing", "3:8 routing", "4:18 routing", "5:20 local-data"}},
		{name: "everything", text: "address=/#/\naddress=//\naddress=/#/0.0.0.0\nserver=//\naddress=/*/\naddress=/./\n",
			skips: []string{"1:10 everything", "2:10 everything", "3:10 everything", "4:9 everything", "5:10 everything", "6:10 everything"}},
		{name: "wildcards and bad names", text: "address=/*a.example/\naddress=/a*.example/\naddress=/com/\naddress=/192.0.2.1/\naddress=/a_b.example/a..b/\n",
			rules: []string{"5 a_b.example…"},
			skips: []string{"1:10 wildcard", "2:10 wildcard", "3:10 single-label", "4:10 address", "5:22 invalid-name"}},
		{name: "other directives", text: "ipset=/a.example/set\nnftset=/a.example/4#ip#x#y\nconf-file=/etc/x\nbogus-nxdomain=192.0.2.1\nno-resolv\n",
			skips: []string{"1:1 directive", "2:1 directive", "3:1 directive", "4:1 directive", "5:1 directive"}},
		{name: "syntax", text: "address=a.example\naddress=/a.example\naddress=/a.example/x\naddress=\na.example\n=/a.example/\naddress=\"/a.example/\"\naddress=/a.example b/\nAddress=/a.example/\n",
			skips: []string{"1:9 syntax", "2:9 syntax", "3:20 syntax", "4:9 syntax", "5:1 syntax", "6:1 syntax", "7:9 syntax", "8:9 syntax", "9:1 syntax"}},
	})
}

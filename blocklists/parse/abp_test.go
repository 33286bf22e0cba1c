package parse

import "testing"

func TestABP(t *testing.T) {
	testReadings(t, ABP, []reading{
		{name: "hosts", text: "||a.example^\n||*.b.example^\n|c.example^\n|d.example|\n|https://e.example^\n||f.example|\n|https://g.example/\n||H.Example^*\n||bücher.example^\n",
			rules: []string{"1 a.example…", "2 *.b.example", "3 =c.example", "4 =d.example", "5 =e.example", "6 f.example…", "7 =g.example", "8 h.example…", "9 xn--bcher-kva.example…"}},
		{name: "comments", text: "[Adblock Plus 2.0]\n! comment\n!\n# comment\n#\n#comment\n\n[uBlock Origin]\n# a ## b\n||a.example^\n", rules: []string{"10 a.example…"}},
		{name: "priorities", text: "@@||a.example^\n||b.example^$important\n@@||c.example^$important\n@@||d.example^$match-case\n@@|e.example^\n",
			rules: []string{"1 @@a.example… priority 1", "2 b.example… priority 2", "3 @@c.example… priority 3", "4 @@d.example… priority 1", "5 @@=e.example priority 1"}},
		{name: "modifiers that change nothing", text: "||a.example^$all\n||b.example^$match-case,all\n||c.example^$_,important,___\n",
			rules: []string{"1 a.example…", "2 b.example…", "3 c.example… priority 2"}},
		{name: "modifiers that cannot be honoured", text: "||a.example^$third-party\n||a.example^$document\n||a.example^$popup\n||a.example^$domain=b.example\n||a.example^$denyallow=b.example\n" +
			"||a.example^$dnsrewrite=NXDOMAIN\n||a.example^$client=192.0.2.1\n||a.example^$ctag=x\n||a.example^$badfilter\n||a.example^$dnstype=A\n||a.example^$important,script\n||a.example^$\n" +
			"||a.example^$~third-party\n||a.example^$ALL\n||a.example^$all,\n@@||a.example^$all\n@@||a.example^$document\n||a.example/x$match-case\n||a.example^$important=1\n",
			skips: []string{"1:13 modifier", "2:13 modifier", "3:13 modifier", "4:13 modifier", "5:13 modifier", "6:13 modifier", "7:13 modifier", "8:13 modifier", "9:13 modifier",
				"10:13 modifier", "11:13 modifier", "12:13 modifier", "13:13 modifier", "14:13 modifier", "15:13 modifier", "16:15 modifier", "17:15 modifier", "18:12 modifier", "19:13 modifier"}},
		{name: "no separator", text: "||a.example\n@@||a.example\n||192.0.2.1\n|a.example\n|https://a.example\n||a.example$important\n||com\n",
			skips: []string{"1:3 no-separator", "2:5 no-separator", "3:3 no-separator", "4:2 no-separator", "5:10 no-separator", "6:3 no-separator", "7:3 no-separator"}},
		{name: "addresses", text: "||192.0.2.1^\n||[2001:db8::1]^\n||2001:db8::2^\n@@||192.0.2.3^\n||::ffff:192.0.2.4^\n||192.0.2.5^$important\n|192.0.2.6^\n",
			rules: []string{"1 192.0.2.1/32", "2 2001:db8::1/128", "3 2001:db8::2/128", "4 @@192.0.2.3/32 priority 1", "5 192.0.2.4/32", "6 192.0.2.5/32 priority 2", "7 192.0.2.6/32"}},
		{name: "addresses that are none", text: "||10.0.0.1^\n||0.0.0.0^\n||192.0.2^\n||2130706433^\n192.0.2.1\n||192.0.2.1/path\n||192.0.2.1:80^\n||*.192.0.2.1^\n||fe80::1%eth0^\n||192.0.2.0/24^\n",
			skips: []string{"1:3 special", "2:3 special", "3:3 address", "4:3 address", "5:1 address", "6:3 address", "7:12 port", "8:5 address", "9:3 address", "10:3 address"}},
		{name: "paths", text: "||a.example/Ads/\n||a.example^*pixel\n||a.example^ads\n||a.example/ads/*.gif|\n||a.example/x^$all\n@@||a.example/ok\n||a.example/*\n|http://b.example/x\n|http://b.example^\n" +
			"||*.c.example/x\n||a.example^|\n||a.example/%7e%2F\n||a.example/http://b.example/\n||a.example/x?y=1\n",
			rules: []string{"1 a.example/ads/…", "2 a.example/*pixel…", "3 a.example/ads…", "4 a.example/ads/*.gif|…", "5 a.example/x^…", "6 @@a.example/ok… priority 1", "7 a.example/…",
				"8 =b.example/x", "9 =b.example/", "10 *.c.example/x", "11 a.example/|…", "12 a.example/~%2f…", "13 a.example/http:/b.example/…", "14 a.example/x?y=1…"}},
		{name: "paths that cannot be said", text: "|https://a.example/x\n|a.example/x\n||a.example|x\n||a.example?x\n||a.example/../x\n||a.example/*//x\n||a.example:8080^\n||a.example:x^\n||a.example&x=1\n||a.example:8080/x\n",
			skips: []string{"1:19 url-pattern", "2:11 url-pattern", "3:12 url-pattern", "4:3 url-pattern", "5:12 url-pattern", "6:12 url-pattern", "7:12 port", "8:3 url-pattern", "9:3 url-pattern", "10:12 port"}},
		{name: "wildcards and no top-level domain", text: "||ads*-x.example^\n||*a.example^\n||a.*^\n||a.example*\n||a.*/x\n||nxdomain.\n||a.example.^\n||*.*.example^\n|https://*.a.example^\n||\n|\n",
			skips: []string{"1:6 wildcard", "2:3 wildcard", "3:3 wildcard", "4:12 wildcard", "5:3 wildcard", "6:3 url-pattern", "7:3 url-pattern", "8:5 wildcard", "9:10 wildcard", "10:3 url-pattern", "11:2 url-pattern"}},
		{name: "single labels and bad names", text: "||com^\n||*.com^\n||a..example^\n||.a.example^\n||a.example^ # no\n@@||com^\n",
			skips: []string{"1:3 single-label", "2:5 single-label", "3:3 invalid-name", "4:3 invalid-name", "5:1 syntax", "6:5 single-label"}},
		{name: "regular expressions", text: "/^ads[0-9]+\\.example$/\n/ads/\n@@/ads\\.example/\n/ads/$script,important\n/^192\\.0\\.2\\.1:/\n",
			skips: []string{"1:1 regex", "2:1 regex", "3:1 regex", "4:1 regex", "5:1 regex"}},
		{name: "cosmetic", text: "##.ad\n###id\na.example##.ad\na.example#@#.ad\na.example#?#div\na.example#$#x\na.example#%#x\na.example#@$?#x\na.example$$script[x]\na.example##+js(x)\n##^script\n[$path=/x]##[ad]\n@@a.example##.ad\n## title\n",
			skips: []string{"1:1 cosmetic", "2:1 cosmetic", "3:1 cosmetic", "4:1 cosmetic", "5:1 cosmetic", "6:1 cosmetic", "7:1 cosmetic", "8:1 cosmetic", "9:1 cosmetic", "10:1 cosmetic", "11:1 cosmetic",
				"12:1 cosmetic", "13:1 cosmetic", "14:1 cosmetic"}},
		{name: "generic patterns", text: "/ads/*\n&ad=\n-ad-sidebar.$image\n.a.example^\na.example^\n*.a.example^\n@@a.example\na.example/x\n:8080\nhttp://a.example/\na.example$important\n-ad.example\na-.example\na b\n/\n",
			skips: []string{"1:1 url-pattern", "2:1 url-pattern", "3:1 url-pattern", "4:1 url-pattern", "5:1 url-pattern", "6:1 url-pattern", "7:1 url-pattern", "8:1 url-pattern", "9:1 url-pattern",
				"10:1 url-pattern", "11:1 url-pattern", "12:1 url-pattern", "13:1 url-pattern", "14:1 url-pattern", "15:1 url-pattern"}},
		{name: "names and hosts lines", text: "a.example\nB.Example # why $5\n0.0.0.0 c.example d.example # why\n192.0.2.1 e.example\n127.0.0.1 localhost\n:: f.example\nbücher.example\n0.0.0.0 # none\n",
			rules: []string{"1 =a.example", "2 =b.example", "3 =c.example", "3 =d.example", "6 =f.example", "7 =xn--bcher-kva.example"},
			skips: []string{"4:11 local-data", "5:11 self-name", "8:1 address"}},
		{name: "conditions", text: "!#include other.txt\n!#if ext_x\n||a.example^\n!#if y\n||b.example^\n!#endif\n!#else\n||c.example^\n!#endif\n||d.example^\n!#endif\n!#safari_cb_affinity\n",
			rules: []string{"10 d.example…"}, skips: []string{"1:1 include", "3:1 conditional", "5:1 conditional", "8:1 conditional"}},
	})
}

package dnsserver

import (
	"net"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/weir-gateway/weir/bench/corpus"
)

// What the programs that operators use say about us.
func TestDig(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		dig := corpus.Tool(t, "dig")
		r := start(t, zones, Options{portable: portable})
		_, port, err := net.SplitHostPort(r.addr)
		if err != nil {
			t.Fatal(err)
		}
		const ede15 = `; EDE: 15 \(Blocked\): \(WeChat on government devices \(https://ban\.example/wechat\)\)`
		for _, tc := range []struct {
			args string
			want []string // regular expressions
			not  string
		}{
			{"wechat.com", []string{"status: NXDOMAIN", ede15, `(?m)^wechat\.com\.\s+60\s+IN\s+SOA\s+weir\.invalid\.`, "udp: 1232", "flags: qr rd ra;"}, "WARNING"},
			{"WeChat.COM.", []string{"status: NXDOMAIN", ede15, `;WeChat\.COM\.`}, "WARNING"},
			{"+tcp wechat.com", []string{"status: NXDOMAIN", ede15}, ""},
			{"+noedns wechat.com", []string{"status: NXDOMAIN", "SOA"}, "EDNS"},
			{"short.weixin.qq.com TYPE65", []string{"status: NXDOMAIN", `(?m)^weixin\.qq\.com\.\s+60\s+IN\s+SOA`}, ""},
			{"wechat.com HTTPS", []string{"status: NXDOMAIN"}, ""},
			{"wechat.com TYPE12345", []string{"status: NXDOMAIN"}, ""},
			{"+tcp wechat.com ANY", []string{"status: NXDOMAIN", ede15}, ""},
			{"+notcp wechat.com ANY", []string{"status: NXDOMAIN", ede15}, ""},
			{"+nordflag wechat.com", []string{"status: NXDOMAIN", "flags: qr ra;"}, ""},
			{"+dnssec wechat.com", []string{"status: NXDOMAIN", "flags: do;"}, ""},
			{"+cdflag wechat.com", []string{"status: NXDOMAIN", "flags: qr rd ra cd;"}, ""},
			{"+bufsize=512 wechat.com", []string{"status: NXDOMAIN", ede15}, "flags:[a-z ]* tc"},
			{"+cookie +padding=128 +nsid +subnet=10.0.0.0/8 wechat.com", []string{"status: NXDOMAIN", ede15}, "WARNING"},
			{"touch.kaspersky.com", []string{`EDE: 16 \(Censored\)`}, ""},
			{"www.tiktok.com", []string{`EDE: 17 \(Filtered\)`}, ""},
			{"quiet.example", []string{"status: NXDOMAIN"}, "EDE"},
			{"cloak.example", []string{"status: NXDOMAIN", `through CNAME x\.wechat\.com`}, ""},
			{"good.example", []string{"status: NOERROR", `192\.0\.2\.10`}, "EDE"},
			{"+noedns good.example AAAA", []string{"status: NOERROR", `2001:db8::10`}, "EDNS"},
			{"mail.qq.com", []string{"status: NOERROR", `192\.0\.2\.1`}, ""},
			{"good.example ANY", []string{`HINFO\s+"RFC8482" ""`}, ""},
			{"+edns=1 +noednsneg good.example", []string{"status: BADVERS", "version: 0"}, ""},
			{"+edns=1 good.example", []string{"status: NOERROR"}, ""},
			{"+opcode=notify wechat.com", []string{"opcode: NOTIFY, status: NOTIMP"}, ""},
			{"+opcode=update good.example", []string{"opcode: UPDATE, status: NOTIMP"}, ""},
			{"+opcode=7 good.example", []string{"status: NOTIMP"}, ""},
			{"good.example AXFR", []string{"Transfer failed"}, ""},
			{"version.bind TXT CH", []string{"status: REFUSED"}, ""},
			{". NS", []string{"status: NOERROR"}, ""},
			{"+header-only", []string{"status: FORMERR"}, ""},
		} {
			args := append([]string{"@127.0.0.1", "-p", port, "+tries=1", "+time=60"}, strings.Fields(tc.args)...)
			out, err := exec.Command(dig, args...).CombinedOutput()
			if err != nil && !strings.Contains(tc.args, "AXFR") {
				t.Errorf("dig %s: %v\n%s", tc.args, err, out)
				continue
			}
			for _, re := range tc.want {
				if !regexp.MustCompile(re).Match(out) {
					t.Errorf("dig %s: no match of %q in\n%s", tc.args, re, out)
				}
			}
			if tc.not != "" && regexp.MustCompile(tc.not).Match(out) {
				t.Errorf("dig %s: match of %q in\n%s", tc.args, tc.not, out)
			}
		}
	})
}

func TestKdig(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		kdig := corpus.Tool(t, "kdig")
		r := start(t, zones, Options{portable: portable})
		_, port, err := net.SplitHostPort(r.addr)
		if err != nil {
			t.Fatal(err)
		}
		for _, args := range []string{"+edns wechat.com", "+edns +tcp wechat.com", "+edns +tcp +keepopen wechat.com tiktok.com", "+edns wechat.com TYPE65", "+edns=0 +bufsize=512 wechat.com"} {
			out, err := exec.Command(kdig, append([]string{"@127.0.0.1", "-p", port, "+retry=0", "+timeout=60"}, strings.Fields(args)...)...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "status: NXDOMAIN") || !strings.Contains(string(out), "EDE: 15 (Blocked)") {
				t.Errorf("kdig %s: %v\n%s", args, err, out)
			}
		}
	})
}

package gateway

import (
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/blocklists/bans"
	"github.com/weir-gateway/weir/config"
)

// explainer returns one for the configuration, with a real upstream.
func explainer(t *testing.T, text string) *Explainer {
	t.Helper()
	cfg, err := config.Parse("weir.yml", []byte(strings.ReplaceAll(text, "UPSTREAM", upstream(t))), bans.FS)
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewExplainer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// explainerHere explains from the files of the fixture, without its gateway.
func (f *fixture) explainerHere() *Explainer {
	f.t.Helper()
	cfg, err := config.Load(filepath.Join(f.dir, "weir.yml"), bans.FS)
	if err != nil {
		f.t.Fatal(err)
	}
	e, err := NewExplainer(cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	e.Resolve = false
	return e
}

// What no ban holds back is not for that reason what the proxy forwards.
func TestExplainProxyRules(t *testing.T) {
	e := explainer(t, listeners)
	open := explainer(t, strings.Replace(listeners, "proxy: {", "proxy: {allow_networks: [192.0.2.0/24, 10.1.0.0/16], ", 1))
	for _, tt := range []struct {
		e               *Explainer
		target, refused string
	}{
		{e, "10.1.2.3", "the address may not be reached: private"},
		{e, "0x7f.1", "the address may not be reached: loopback"},
		{e, "::ffff:127.0.0.1", "the address may not be reached: loopback"},
		{e, "[fd00::1]:443", "the address may not be reached: unique local"},
		{e, "good.example.org", "the address may not be reached: documentation"},
		{e, "https://good.example.org:8443/", "its port is none of proxy.connect_ports"},
		{e, "good.example.org:80", "its port is none of proxy.connect_ports"},
		{e, "http://good.example.org:443/", "its port is none of proxy.http_ports"},
		{e, "https://good.example.org:99999/", "its port is none of proxy.connect_ports"},
		{e, "8.8.4.5:443", ""},
		{open, "10.1.2.3", ""},
		{open, "10.2.2.3", "the address may not be reached: private"},
		{open, "good.example.org", ""},
		{open, "http://good.example.org/", ""},
		{open, "wechat.com:8443", ""}, // the ban is what it is told
	} {
		x, err := tt.e.Explain(t.Context(), tt.target, netip.Addr{}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if x.Proxy.Refused != tt.refused || strings.Contains(x.Proxy.Effect, "403 all the same") != (tt.refused != "") {
			t.Errorf("%s: refused %q, effect %q; want %q", tt.target, x.Proxy.Refused, x.Proxy.Effect, tt.refused)
		}
	}
}

func TestExplainAuthority(t *testing.T) {
	e := explainer(t, listeners)
	e.Resolve = false
	for target, canonical := range map[string]string{
		"WeChat.com.:443":            "wechat.com",
		"[::ffff:43.130.30.240]:443": "43.130.30.240",
		"43.130.30.240:443":          "43.130.30.240",
	} {
		x, err := e.Explain(t.Context(), target, netip.Addr{}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if x.Canonical != canonical || !x.Blocked || x.Kind != "url" || x.Proxy.Effect != "403 on CONNECT" {
			t.Errorf("%s: %+v", target, x)
		}
	}
	for _, target := range []string{"wechat.com:", "wechat.com:https", "wechat.com:0", "wechat.com:65536", ":443", "a b:443", "wechat.com:443/x"} {
		if x, err := e.Explain(t.Context(), target, netip.Addr{}, time.Now()); err == nil {
			t.Errorf("%s: %+v, want an error", target, x)
		}
	}
}

// A question that is dropped gets no extended error either, and a name that
// does not exist is not told to be resolved without a word.
func TestExplainEffects(t *testing.T) {
	e := explainer(t, strings.Replace(listeners, "dns: {", "dns: {blocked: drop, ", 1))
	x, err := e.Explain(t.Context(), "wechat.com", netip.Addr{}, time.Now())
	if err != nil || x.DNS.Effect != "no answer" {
		t.Errorf("dropped: %+v, %v; want no answer", x, err)
	}
	x, err = e.Explain(t.Context(), "missing.example.org", netip.Addr{}, time.Now())
	if err != nil || !x.Answers.Checked || x.Answers.Note != "A: NXDOMAIN, AAAA: NXDOMAIN, HTTPS: NXDOMAIN" {
		t.Errorf("missing: %+v, %v; want a note", x, err)
	}
}

// What cannot be listened on says what to do next.
func TestListenError(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for _, plane := range []string{"dns", "proxy", "admin"} {
		text := listeners
		at := strings.Index(text, plane+": {listen: ") + len(plane+": {listen: ")
		text = text[:at] + strings.Replace(text[at:], "127.0.0.1:0", l.Addr().String(), 1)
		cfg, err := config.Parse("weir.yml", []byte(strings.ReplaceAll(text, "UPSTREAM", "udp://127.0.0.1:9")), bans.FS)
		if err != nil {
			t.Fatal(err)
		}
		want := "another program listens there; end it, or change " + plane + ".listen"
		if _, err := New(cfg, Options{Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", plane, err, want)
		}
	}
}

// The path of a URL is judged by the signatures of paths too, at a name or an
// address alike.
func TestExplainSignature(t *testing.T) {
	e := explainer(t, listeners)
	e.Resolve = false
	for _, target := range []string{"http://innocent.example/mmtls/2a9b1264", "http://192.0.2.1/mmtls/2a9b1264"} {
		x, err := e.Explain(t.Context(), target, netip.Addr{}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if !x.Blocked || x.DNS.Action != "allow" || x.Proxy.Action != "block" || x.Proxy.Ban != "wechat" || x.Proxy.Rule != "path ^/mmtls/[0-9a-f]{8}$" || x.Proxy.Source != "embedded:wechat/signatures.txt" {
			t.Errorf("%s: %+v", target, x)
		}
	}
}

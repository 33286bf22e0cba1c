package world

import (
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/weir-gateway/weir/bench/corpus"
)

// The real tools reach the internet from the device, over both families, and
// whatever address they ask.
func TestWorld(t *testing.T) {
	corpus.Root(t)
	for _, tool := range []string{"ip", "dig", "kdig", "curl"} {
		corpus.Tool(t, tool)
	}
	w := New(t)
	for command, want := range map[string]string{
		"dig +short +time=30 +tries=1 @8.8.8.8 wechat.com":                                            "63.245.",
		"dig +short +time=30 +tries=1 @2001:4860:4860::8888 wechat.com AAAA":                          "2a0e:6324:",
		"dig +short +tcp +time=30 +tries=1 @1.1.1.1 -p 5353 www.example.com":                          "63.245.",
		"dig +short +time=30 +tries=1 @9.9.9.9 wechat.com." + CloakSuffix:                             "wechat.com.",
		"kdig +short +timeout=30 +tls @9.9.9.9 wechat.com":                                            "63.245.",
		"kdig +short +timeout=30 +quic @9.9.9.9 wechat.com":                                           "63.245.",
		"kdig +short +timeout=30 +https @8.8.8.8 wechat.com":                                          "63.245.",
		"curl -sS -m 60 --cacert CA --resolve www.tiktok.com:443:77.74.181.1 https://www.tiktok.com/": "origin of www.tiktok.com",
		"curl -sS -m 60 -H Host:wechat.com http://[2001:db8:77::1]:8080/":                             "origin of wechat.com",
	} {
		args := strings.Fields(strings.ReplaceAll(command, "--cacert CA", "--cacert "+w.CA.File))
		var out strings.Builder
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := w.Device.Run(cmd); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %v\n%s\nwant %q", command, err, out.String(), want)
		}
	}
}

// A thread that has left the namespace leaves its sockets in it.
func TestDial(t *testing.T) {
	corpus.Root(t)
	corpus.Tool(t, "ip")
	w := New(t)
	c, err := w.DialTLS(w.Device, "5.6.7.8:443", "site.example")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if got := c.ConnectionState().PeerCertificates[0].DNSNames; len(got) != 1 || got[0] != "site.example" {
		t.Errorf("certificate for %v", got)
	}
	if _, err := w.Device.Dial("tcp", "5.6.7.8:9"); err == nil {
		t.Error("a port where nobody listens: no error")
	}
	m, err := w.Device.Dial("tcp", "5.6.7.8:25")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	line := make([]byte, 3)
	if _, err := io.ReadFull(m, line); err != nil || string(line) != "220" {
		t.Errorf("mail server: %q, %v", line, err)
	}
}

package prove

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	weirhello "github.com/weir-gateway/weir/gateway/hello"
)

// TestHellos: each way to say a name says it, to a reader that takes any split.
func TestHellos(t *testing.T) {
	for _, w := range hellos("wechat.com") {
		near, far := net.Pipe()
		go func() {
			_ = w.say(far)
			_ = far.Close()
		}()
		var r weirhello.Reader
		b := make([]byte, 4096)
		for r.Hello().Kind == weirhello.Incomplete {
			n, err := near.Read(b)
			r.Feed(b[:n])
			if err != nil {
				break
			}
		}
		_ = near.Close()
		if h := r.Hello(); h.Kind != weirhello.Found || !strings.EqualFold(h.Name, "wechat.com") {
			t.Errorf("%s: %+v", w.what, h)
		}
	}
	var r weirhello.Reader
	if r.Feed(hello("")) != weirhello.Missing {
		t.Errorf("no name: %+v", r.Hello())
	}
	if at := bytes.Index(padded("wechat.com"), []byte("wechat.com")); at < 1600 {
		t.Errorf("the name stands at %d", at)
	}
}

func TestMirrored(t *testing.T) {
	if got := mirrored("www.my-chat.example"); got != "www-my--chat-example.translate.goog" {
		t.Error(got)
	}
}

// TestRunAlone: a proof against nothing finds everything closed, nothing
// working, and says so by its result.
func TestRunAlone(t *testing.T) {
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	nobody := c.LocalAddr().(*net.UDPAddr).AddrPort()
	_ = c.Close()
	o := Options{DNS: nobody, Allowed: "www.example.org", Timeout: 100 * time.Millisecond,
		Targets: []Target{{Ban: "wechat", Title: "WeChat", Name: "wechat.com"}}}
	r := Run(context.Background(), "test", o)
	n := r.Counts()
	if r.OK() || n[Broken] != 2 || n[Open] != 0 || n[NotTried] == 0 || n[Unclosable] != len(unclosable) || r.Generation != 0 {
		t.Errorf("%v, OK %t", n, r.OK())
	}
	if plan := Plan(o); len(plan) != len(r.Results) {
		t.Errorf("%d planned, %d tried", len(plan), len(r.Results))
	}
	o.Only = "dns-udp"
	if r := Run(context.Background(), "test", o); len(r.Results) != 1 || r.Results[0].Outcome != Closed || !r.OK() {
		t.Errorf("one route: %+v", r.Results)
	}
	o.Only = "no such route"
	if r := Run(context.Background(), "test", o); r.OK() {
		t.Error("nothing was tried, and that is said to be well")
	}
}

func TestSignedReport(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	r := &Report{Version: "1", Generation: 7, Targets: []Target{{Ban: "a", Title: "<A>", Name: "a.example"}},
		Results: []Result{{Route: "dns-udp", Ban: "a", Tried: "x", Outcome: Closed}, {Route: "works-dns", Tried: "y", Outcome: Broken, Detail: "<silence>"}}}
	doc, err := Sign(r, key)
	if err != nil {
		t.Fatal(err)
	}
	back, pub, err := Verify(doc)
	if err != nil || !pub.Equal(key.Public()) || back.Generation != 7 || !slices.Equal(back.Results, r.Results) {
		t.Errorf("%+v, %v", back, err)
	}
	for i := range bytes.Index(doc, []byte(`,"public_key"`)) {
		if doc[i] == 'c' {
			changed := slices.Clone(doc)
			changed[i] = 'd'
			if _, _, err := Verify(changed); err == nil {
				t.Errorf("a change at %d is not found out", i)
			}
		}
	}
	for _, bad := range []string{"", "{}", "[]", `{"report":{},"public_key":"AAAA","signature":""}`} {
		if _, _, err := Verify([]byte(bad)); err == nil {
			t.Errorf("%s is taken for a report", bad)
		}
	}
	var page, text strings.Builder
	if err := r.WriteHTML(&page); err != nil || !strings.Contains(page.String(), "Not everything is as it should be") || strings.Contains(page.String(), "<silence>") {
		t.Errorf("%v\n%s", err, page.String())
	}
	if err := r.WriteTable(&text, false); err != nil || strings.Contains(text.String(), "dns-udp") || !strings.Contains(text.String(), "BROKEN  works-dns") {
		t.Errorf("%v\n%s", err, text.String())
	}
}

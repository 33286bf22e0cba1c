package policy

import (
	"strings"
	"testing"

	"github.com/weir-gateway/weir/blocklists"
)

func mirrors(t *testing.T) Spec {
	spec := house(t)
	spec.Lists = append(spec.Lists, List{Name: "mirrors", Ban: 1, Embeds: true})
	lists := make([][]blocklists.Rule, len(spec.Lists))
	lists[0] = []blocklists.Rule{block(1, "wechat.example"), allow(2, "mail.wechat.example"), block(3, "my-chat.example"), block(4, "xn--bcher-kva.example")}
	lists[2] = []blocklists.Rule{block(1, "tiktok.example")}
	lists[3] = []blocklists.Rule{block(1, "later.example")}
	lists[5] = []blocklists.Rule{allow(1, "prot.wechat.example")}
	lists[6] = []blocklists.Rule{block(1, "mirror.test"), block(2, "deep.mirror.test"), block(3, "other.test")}
	spec.Set = build(t, lists)
	return spec
}

// TestMirror: a mirror is judged by what it embeds, and by nothing else.
func TestMirror(t *testing.T) {
	s := snapshot(t, mirrors(t))
	for _, c := range []struct{ device, name, want string }{
		{"10.8.0.1", "mirror.test", "allow (no rule) group=staff"},
		{"10.8.0.1", "fine-example.mirror.test", "allow (no rule) group=staff"},
		{"10.8.0.1", "wechat-example.mirror.test", "block (ban) wechat-app:1 ban=wechat signal=app group=staff"},
		{"10.8.0.1", "www-wechat-example.mirror.test", "block (ban) wechat-app:1 ban=wechat signal=app group=staff"},
		{"10.8.0.1", "www-wechat-example.deep.mirror.test", "block (ban) wechat-app:1 ban=wechat signal=app group=staff"},
		{"10.8.0.1", "x.www-wechat-example.mirror.test", "block (ban) wechat-app:1 ban=wechat signal=app group=staff"},
		{"10.8.0.1", "www.wechat.example.mirror.test", "block (ban) wechat-app:1 ban=wechat signal=app group=staff"},
		{"10.8.0.1", "my--chat-example.mirror.test", "block (ban) wechat-app:3 ban=wechat signal=app group=staff"},
		{"10.8.0.1", "1-my--chat-example.mirror.test", "block (ban) wechat-app:3 ban=wechat signal=app group=staff"},
		{"10.8.0.1", "xn--bcher-example-wob.mirror.test", "block (ban) wechat-app:4 ban=wechat signal=app group=staff"},
		{"10.8.0.1", "0-bcher--kva-example.mirror.test", "block (ban) wechat-app:4 ban=wechat signal=app group=staff"},
		{"10.8.0.1", "0-xn----bcher--kva-example-0.mirror.test", "block (ban) wechat-app:4 ban=wechat signal=app group=staff"},
		{"10.8.0.1", "my-chat-example.mirror.test", "allow (no rule) group=staff"},
		{"10.8.0.1", "we-chat-example.mirror.test", "allow (no rule) group=staff"},
		{"10.8.0.1", "notwechat-example.mirror.test", "allow (no rule) group=staff"},
		{"10.8.0.1", "wechat.mirror.test", "allow (no rule) group=staff"},
		{"10.8.0.1", "mail-wechat-example.mirror.test", "allow (list allows) wechat-app:2 ban=wechat group=staff"},
		{"10.8.0.1", "prot-wechat-example.mirror.test", "allow (protected) protected:1 signal=app group=staff"},
		{"10.8.0.1", "later-example.mirror.test", "report (not yet effective) later:1 ban=later group=staff"},
		{"10.8.0.7", "wechat-example.mirror.test", "allow (exemption) wechat-app:1 ban=wechat EX-1 group=staff"},
		{"10.8.1.65", "wechat-example.mirror.test", "allow (no rule) group=lab"},
		{"10.8.0.1", "fine-example.mirror.test.other.test", "allow (no rule) group=staff"},
		{"10.8.0.1", "---.mirror.test", "allow (no rule) group=staff"},
		{"10.8.0.1", strings.Repeat("a", 63) + ".mirror.test", "allow (no rule) group=staff"},
		{"10.8.0.1", "wechat.example", "block (ban) wechat-app:1 ban=wechat signal=app group=staff"},
	} {
		if got := spell(s.Name(device(c.device), c.name, noon)); got != c.want {
			t.Errorf("%s, %s: %s, want %s", c.device, c.name, got, c.want)
		}
		for range 2 { // the second from a cache
			if got := spell(s.URL(device(c.device), c.name, "/a", noon)); got != c.want {
				t.Errorf("%s, http://%s/a: %s, want %s", c.device, c.name, got, c.want)
			}
		}
	}
	if !s.Mentions("wechat-example.mirror.test") {
		t.Error("a name under a mirror is not mentioned")
	}
}

// TestEmbedded: what the encodings of translators and caches are published to
// mean.
func TestEmbedded(t *testing.T) {
	for front, want := range map[string]string{
		"www-example-com":                "www.example.com",
		"en--us-example-com":             "en-us.example.com",
		"a----b-example":                 "a--b.example",
		"0-en--us-example-com-0":         "0.en-us.example.com.0 xn--en-us.example.com.0 en-us.example.com",
		"1-en--us-example-com":           "1.en-us.example.com en-us.example.com",
		"0-bcher--kva-example":           "0.bcher-kva.example xn--bcher-kva.example",
		"www-xn----bcher--kva-example":   "www.xn--bcher-kva.example",
		"xn--bcher-example-wob":          "xn--bcher-kva.example",
		"x.www-example-com":              "x.www-example-com www.example.com",
		"www.example.com":                "www.example.com",
		"example":                        "",
		"-":                              "",
		"1-":                             "",
		"0-":                             "",
		"xn--":                           "",
		"tmy5s3w3yhe4cz2nknoivvhsqxsqaa": "", // a hash
	} {
		if got := strings.Join(embedded(front), " "); got != want {
			t.Errorf("%s: %q, want %q", front, got, want)
		}
	}
}

// TestMirrorAllocations: a name under no mirror pays nothing for there being
// some.
func TestMirrorAllocations(t *testing.T) {
	s := snapshot(t, mirrors(t))
	sub := device("10.8.0.1")
	for _, name := range []string{"fine.example", "www.wechat.example"} {
		if n := testing.AllocsPerRun(100, func() { s.Name(sub, name, noon) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

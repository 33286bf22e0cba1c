package policy

import (
	"strings"
	"testing"

	"github.com/weir-gateway/weir/gateway/hello"
)

func TestHello(t *testing.T) {
	spec := house(t)
	spec.Hello = HelloPolicy{Missing: Block, Mismatch: Block, ECH: Block, NotTLS: Report, Malformed: Block, Timeout: Allow}
	spec.Groups[2].Hello = &HelloPolicy{Missing: Allow, Mismatch: Report, ECH: Report, NotTLS: Block, Malformed: Report}
	s := snapshot(t, spec)
	found := func(name string) hello.Hello { return hello.Hello{Kind: hello.Found, Name: name} }
	outer := func(name string) hello.Hello { return hello.Hello{Kind: hello.Found, Name: name, ECH: true} }
	const staff, exempt, lab = "10.8.0.1", "10.8.0.7", "10.8.1.65"
	for _, c := range []struct {
		device, want string
		hello        hello.Hello
		action       Action
		reason       Reason
		rule         string
	}{
		{staff, "fine.example", found("fine.example"), Allow, ReasonNoRule, ""},
		{staff, "fine.example", found("FINE.example."), Allow, ReasonNoRule, ""},
		{staff, "", found("fine.example"), Allow, ReasonNoRule, ""},
		{staff, "fine.example", outer("fine.example"), Allow, ReasonNoRule, ""}, // GREASE

		{staff, "fine.example", found("wechat.example"), Block, ReasonBan, "wechat-app:1"},
		{staff, "fine.example", found("WeChat.Example."), Block, ReasonBan, "wechat-app:1"},
		{staff, "", found("a.wechat.example"), Block, ReasonBan, "wechat-app:1"},
		{staff, "", found("ｗｅｃｈａｔ。example"), Block, ReasonBan, "wechat-app:1"},
		{staff, "wechat.example", found("wechat.example"), Block, ReasonBan, "wechat-app:1"},
		{exempt, "wechat.example", found("wechat.example"), Allow, ReasonExemption, "wechat-app:1"},
		{exempt, "fine.example", found("wechat.example"), Block, ReasonOtherServerName, ""},
		{lab, "wechat.example", found("wechat.example"), Allow, ReasonNoRule, ""},
		{staff, "op.example", found("op.example"), Allow, ReasonOperator, "operator:1"},
		{staff, "prot.example", found("prot.example"), Allow, ReasonProtected, "protected:1"},
		{staff, "later.example", found("later.example"), Report, ReasonNotYet, "later:1"},

		{staff, "fine.example", found("other.example"), Block, ReasonOtherServerName, ""},
		{staff, "fine.example", outer("other.example"), Block, ReasonECH, ""},
		{lab, "fine.example", found("other.example"), Report, ReasonOtherServerName, ""},
		{lab, "fine.example", outer("other.example"), Report, ReasonECH, ""},
		{staff, "fine.example", hello.Hello{Kind: hello.Missing}, Block, ReasonNoServerName, ""},
		{lab, "fine.example", hello.Hello{Kind: hello.Missing}, Allow, ReasonNoServerName, ""},
		{staff, "", found("192.0.2.1"), Block, ReasonNoServerName, ""},
		{staff, "fine.example", hello.Hello{Kind: hello.NotTLS}, Report, ReasonNotTLS, ""},
		{lab, "fine.example", hello.Hello{Kind: hello.NotTLS}, Block, ReasonNotTLS, ""},
		{staff, "fine.example", hello.Hello{Kind: hello.Malformed}, Block, ReasonMalformed, ""},
		{staff, "", found("a\x00.example"), Block, ReasonMalformed, ""},
		{staff, "", found("a..example"), Block, ReasonMalformed, ""},
		{staff, "", found(strings.Repeat("a.", 130) + "example"), Block, ReasonMalformed, ""},
		{lab, "", found("a b"), Report, ReasonMalformed, ""},
		{staff, "fine.example", hello.Hello{}, Allow, ReasonNoHello, ""},
		{lab, "fine.example", hello.Hello{}, Block, ReasonNoHello, ""}, // not named for the group: the strictest
	} {
		v := s.Hello(device(c.device), c.want, c.hello, noon)
		if v.Action != c.action || v.Reason != c.reason || v.RuleID() != c.rule || v.Generation != 7 {
			t.Errorf("%s, %s, %v: %v, %v, rule %q, generation %d; want %v, %v, %q",
				c.device, c.want, c.hello, v.Action, v.Reason, v.RuleID(), v.Generation, c.action, c.reason, c.rule)
		}
		if v.Group != s.Group(device(c.device)) {
			t.Errorf("%s: group %q", c.device, v.Group)
		}
	}
}

// TestHelloZero: a policy that says nothing about unusual beginnings holds them
// back.
func TestHelloZero(t *testing.T) {
	s := snapshot(t, Spec{})
	for _, k := range []hello.Kind{hello.Incomplete, hello.Missing, hello.NotTLS, hello.Malformed} {
		if v := s.Hello(Subject{}, "", hello.Hello{Kind: k}, noon); !v.Blocked() {
			t.Errorf("%v: %v, %v", k, v.Action, v.Reason)
		}
	}
}

// TestReasonNames: each reason has words of its own.
func TestReasonNames(t *testing.T) {
	seen := make(map[string]bool)
	for r := ReasonNone; r <= ReasonNoHello; r++ {
		if s := r.String(); s == "" || seen[s] {
			t.Errorf("reason %d: %q", r, s)
		} else {
			seen[s] = true
		}
	}
}

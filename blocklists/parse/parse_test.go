package parse

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/weir-gateway/weir/blocklists"
)

// A reading is a text in a dialect and what is read from it: rules as
// "line rule", skips as "line:column reason".
type reading struct {
	name  string
	text  string
	rules []string
	skips []string
}

// show spells out a rule with all that it says.
func show(r blocklists.Rule) string {
	s := fmt.Sprintf("%d %s", r.Line, r)
	if r.Kind == blocklists.Suffix {
		s += "…"
	}
	if r.Priority != 0 {
		s += fmt.Sprintf(" priority %d", r.Priority)
	}
	if r.Mode != blocklists.ModeDefault {
		s += " " + r.Mode.String()
	}
	return s
}

// read collects what Rules yields.
func read(t testing.TB, f Format, r io.Reader, lim Limits) (rules, skips []string, err error) {
	t.Helper()
	for rule, e := range Rules(f, r, lim) {
		if err != nil {
			t.Fatal("an error was not the last thing yielded")
		}
		if s, ok := errors.AsType[*SkipError](e); ok {
			skips = append(skips, fmt.Sprintf("%d:%d %s", s.Line, s.Column, s.Reason))
		} else if e != nil {
			err = e
		} else {
			rules = append(rules, show(rule))
		}
	}
	return rules, skips, err
}

// testReadings runs the table and checks that Load agrees and counts add up.
func testReadings(t *testing.T, f Format, tests []reading) {
	t.Helper()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rules, skips, err := read(t, f, strings.NewReader(tt.text), Limits{})
			if err != nil {
				t.Fatalf("fatal: %v", err)
			}
			if !slices.Equal(rules, tt.rules) {
				t.Errorf("rules\n got %q\nwant %q", rules, tt.rules)
			}
			if !slices.Equal(skips, tt.skips) {
				t.Errorf("skips\n got %q\nwant %q", skips, tt.skips)
			}
			var loaded []string
			rep, err := Load(f, iotest.OneByteReader(strings.NewReader(tt.text)), Limits{}, func(r blocklists.Rule) error {
				loaded = append(loaded, show(r))
				return nil
			})
			if err != nil || !slices.Equal(loaded, rules) {
				t.Errorf("byte by byte: got %q, %v", loaded, err)
			}
			checkReport(t, rep)
			if rep.Rules != len(tt.rules) || rep.Skipped() != len(tt.skips) {
				t.Errorf("report has %d rules, %d skips", rep.Rules, rep.Skipped())
			}
		})
	}
}

// checkReport tests what every report promises.
func checkReport(t testing.TB, r Report) {
	t.Helper()
	if got := r.Blank + r.Comments + r.RuleLines + r.SkippedLines; got != r.Lines {
		t.Errorf("lines do not add up: %d blank, %d comments, %d with rules, %d skipped are %d of %d",
			r.Blank, r.Comments, r.RuleLines, r.SkippedLines, got, r.Lines)
	}
	if k := r.Kinds; k.Suffix+k.Exact+k.Under+k.Prefix+k.URL+k.Signature+k.Client != r.Rules || r.Block+r.Allow != r.Rules {
		t.Errorf("rules do not add up: %+v", r)
	}
	if r.Rules < r.RuleLines || r.Skipped() < r.SkippedLines {
		t.Errorf("fewer rules or skips than lines of them: %+v", r)
	}
	seen := map[Skip]int{}
	for _, e := range r.Examples {
		seen[e.Reason]++
		if e.Line < 1 || e.Line > r.Lines || e.Column < 1 {
			t.Errorf("example without a position: %v", e.Error())
		}
	}
	for reason, n := range r.Skips {
		if seen[reason] != min(n, examplesPerReason) {
			t.Errorf("%d examples of %d %s", seen[reason], n, reason)
		}
	}
}

func TestFormats(t *testing.T) {
	for _, f := range Formats() {
		if got, err := ParseFormat(string(f)); got != f || err != nil {
			t.Errorf("ParseFormat(%q) = %q, %v", f, got, err)
		}
		if dialects[f] == nil {
			t.Errorf("no dialect for %s", f)
		}
	}
	const want = `unknown list format "Domains": it must be one of domains, hosts, abp, dnsmasq, rpz, prefixes, urls, signatures`
	if _, err := ParseFormat("Domains"); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	Formats()[0] = "changed"
	if Formats()[0] != Domains {
		t.Error("the caller can change the formats")
	}
}

func TestUnknownFormat(t *testing.T) {
	_, _, err := read(t, "yaml", strings.NewReader("example.com\n"), Limits{})
	if e, ok := errors.AsType[*InputError](err); !ok || e.What != InputFormat {
		t.Errorf("got %v", err)
	}
}

func TestStop(t *testing.T) {
	// Breaking off yields nothing more, also within a line and at the end of a
	// zone with an open record.
	for _, tt := range []struct {
		f    Format
		text string
	}{
		{Domains, "a.example\nb.example\n"},
		{Hosts, "0.0.0.0 a.example b.example\n"},
		{Hosts, "0.0.0.0 localhost b.example\n"},
		{Dnsmasq, "address=/a.example/b.example/\n"},
		{RPZ, "a.example CNAME .\nb.example CNAME ( .\n"},
		{RPZ, "( a\nb.example CNAME .\nc.example CNAME (\n"},
	} {
		n := 0
		for _, err := range Rules(tt.f, strings.NewReader(tt.text), Limits{}) {
			_ = err // a skip counts as well
			n++
			break
		}
		if n != 1 {
			t.Errorf("%s: %d", tt.f, n)
		}
	}
}

func TestLoadAddFails(t *testing.T) {
	full := errors.New("full")
	rep, err := Load(Domains, strings.NewReader("a.example\nb.example\nc.example\n"), Limits{}, func(r blocklists.Rule) error {
		if r.Line == 2 {
			return full
		}
		return nil
	})
	if !errors.Is(err, full) || err.Error() != "line 2: rule b.example: full" {
		t.Errorf("got %v", err)
	}
	if rep.Lines != 2 {
		t.Errorf("read %d lines after the failure", rep.Lines)
	}
}

// A list of every dialect must go into a Builder and match what it says.
func TestRoundTrip(t *testing.T) {
	lists := []struct {
		f    Format
		text string
	}{
		{Domains, "Example.COM\n@@ok.example.com\n=exact.example\n*.under.example\nbücher.example\n"},
		{Hosts, "0.0.0.0 exact.example\n"},
		{ABP, "||example.com^\n@@||ok.example.com^\n||*.under.example^\n|exact.example^\n||bücher.example^\n||192.0.2.7^\n||url.example/ads\n"},
		{Dnsmasq, "address=/example.com/\nserver=/ok.example.com/#\nlocal=/*.under.example/\n"},
		{RPZ, "exact.example CNAME .\n*.under.example CNAME *.\n32.7.2.0.192.rpz-ip CNAME .\n"},
		{Prefixes, "192.0.2.7\n"},
		{URLs, "url.example/ads\n"},
	}
	for _, tt := range lists {
		var b blocklists.Builder
		rep, err := Load(tt.f, strings.NewReader(tt.text), Limits{}, func(r blocklists.Rule) error { return b.Add(0, r) })
		if err != nil || rep.Skipped() > 0 {
			t.Fatalf("%s: %v, %v", tt.f, err, rep.Skips)
		}
		set := b.Build()
		asks := map[string]string{}
		for _, name := range []string{"example.com", "www.example.com", "ok.example.com", "exact.example", "www.exact.example",
			"under.example", "www.under.example", "xn--bcher-kva.example", "notexample.com"} {
			for _, m := range set.AppendName(nil, name) {
				asks[name] = m.Rule.Action.String()
			}
		}
		wants := map[string]map[Format]string{
			"example.com":           {Domains: "block", ABP: "block", Dnsmasq: "block"},
			"www.example.com":       {Domains: "block", ABP: "block", Dnsmasq: "block"},
			"ok.example.com":        {Domains: "allow", ABP: "allow", Dnsmasq: "allow"},
			"exact.example":         {Domains: "block", Hosts: "block", ABP: "block", RPZ: "block"},
			"www.under.example":     {Domains: "block", ABP: "block", Dnsmasq: "block", RPZ: "block"},
			"xn--bcher-kva.example": {Domains: "block", ABP: "block"},
		}
		for _, name := range []string{"example.com", "www.example.com", "ok.example.com", "exact.example", "www.exact.example",
			"under.example", "www.under.example", "xn--bcher-kva.example", "notexample.com"} {
			if got, want := asks[name], wants[name][tt.f]; got != want {
				t.Errorf("%s: %s: got %q, want %q", tt.f, name, got, want)
			}
		}
	}
}

// Rules in the spelling of Rule.String read back as they are.
func TestDomainsSpelling(t *testing.T) {
	const text = "a.example\n=b.example\n*.c.example\n@@d.example\n@@=e.example\n@@*.f.example\n"
	var back strings.Builder
	for r, err := range Rules(Domains, strings.NewReader(text), Limits{}) {
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&back, r)
	}
	if back.String() != text {
		t.Errorf("got %q", back.String())
	}
}

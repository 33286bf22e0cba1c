package vpn

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/*.nft anew; read each of them afterwards")

// TestGolden pins the rendering, which nft must accept.
func TestGolden(t *testing.T) {
	ownNetwork(t)
	for name, text := range configs {
		rs := Rules("v1.2.3", parse(t, text), testBans())
		got := rs.Text()
		if out, err := output("nft -c -f -", got); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		file := filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".nft")
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s differs from %s; got\n%s", name, file, got)
		}
	}
}

// listing is what nft says the kernel has.
func listing(t *testing.T) string {
	t.Helper()
	out := run(t, "nft list ruleset")
	var lines []string
	for line := range strings.Lines(out) {
		lines = append(lines, strings.TrimRight(line, " \n"))
	}
	return strings.Join(lines, "\n")
}

// TestTextIsWhatIsApplied: nft's reading of the text and the library's of the
// rules leave the same in the kernel.
func TestTextIsWhatIsApplied(t *testing.T) {
	for name, text := range configs {
		t.Run(name, func(t *testing.T) {
			ownNetwork(t)
			rs := Rules("v1", parse(t, text), testBans())
			if out, err := output("nft -f -", rs.Text()); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			byText := listing(t)
			d, err := Kernel{}.Compare(rs)
			if err != nil || len(d.Rules)+len(d.Sets) > 0 {
				d.Routes = nil // nft makes none
				t.Errorf("what nft made of the text differs: %v\n%s", err, d.String())
			}
			run(t, "nft flush ruleset")
			if _, err := (Kernel{}).Apply(rs); err != nil {
				t.Fatal(err)
			}
			if byLibrary := listing(t); byLibrary != byText {
				t.Errorf("by nft:\n%s\nby the library:\n%s", byText, byLibrary)
			}
		})
	}
}

// TestApplyTwiceAndRemove: the second time nothing is written, and at the end
// nothing is left.
func TestApplyTwiceAndRemove(t *testing.T) {
	for name, text := range configs {
		t.Run(name, func(t *testing.T) {
			ownNetwork(t)
			run(t, "nft add table inet other")
			before := machine(t)
			var k Kernel
			if there, err := k.Remove(); there || err != nil {
				t.Errorf("Remove of nothing: %v, %v", there, err)
			}
			rs := Rules("v1", parse(t, text), testBans())
			d, err := k.Apply(rs)
			if err != nil || !d.Missing {
				t.Fatalf("first: %+v, %v", d, err)
			}
			generation, err := k.generation()
			if err != nil {
				t.Fatal(err)
			}
			first := machine(t)
			if d, err := k.Apply(rs); err != nil || !d.Empty() {
				t.Errorf("second: %v\n%s", err, d.String())
			}
			if again, err := k.generation(); err != nil || again != generation {
				t.Errorf("generation %d became %d (%v): something was written", generation, again, err)
			}
			if second := machine(t); second != first {
				t.Errorf("the second time changed\n%s\nto\n%s", first, second)
			}
			if there, err := k.Remove(); !there || err != nil {
				t.Errorf("Remove: %v, %v", there, err)
			}
			if after := machine(t); after != before {
				t.Errorf("before\n%s\nafter\n%s", before, after)
			}
		})
	}
}

// machine is all that Apply could change.
func machine(t *testing.T) string {
	t.Helper()
	return listing(t) + run(t, "ip rule") + run(t, "ip -6 rule") + run(t, "ip route show table all") + run(t, "ip -6 route show table all")
}

// TestDifferences: each change of the table by others is seen, said, and
// repaired.
func TestDifferences(t *testing.T) {
	ownNetwork(t)
	var k Kernel
	rs := Rules("v1", parse(t, configs["tproxy"]), testBans())
	if _, err := k.Apply(rs); err != nil {
		t.Fatal(err)
	}
	whole := machine(t)
	for _, tt := range []struct{ command, want string }{
		{"nft delete table inet weir", "+ table inet weir"},
		{"nft flush chain inet weir guard", "+ guard/quic: udp dport @quic counter reject"},
		{"nft insert rule inet weir guard counter accept", "- guard/"},
		{"nft add rule inet weir guard counter accept comment quic", "- guard/quic"},
		{"nft add chain inet weir more", "- chain more"},
		{"nft add set inet weir more { type ipv4_addr; }", "- set more"},
		{"nft add element inet weir quic { 4433 }", "~ set quic"},
		{"nft delete element inet weir banned-wechat-v4 { 203.0.113.0/25 }", "set banned-wechat-v4: +1 -0 (+203.0.113.0/25)"},
		{"nft add element inet weir spared-wechat-v6 { 2001:db8:8:: }", "set spared-wechat-v6: +0 -1 (-2001:db8:8::)"},
		{"nft flush set inet weir banned-wechat-v6", "set banned-wechat-v6: +6 -0"},
		{"ip rule del priority 22341", "+ ip rule priority 22341"},
		{"ip -6 route flush table 22341", "+ ip -6 route local default"},
		{"nft flush ruleset", "+ table inet weir"},
	} {
		run(t, tt.command)
		d, err := k.Compare(rs)
		if err != nil || !strings.Contains(d.String(), tt.want) {
			t.Errorf("%s: %v, %q, want %q in it", tt.command, err, d.String(), tt.want)
		}
		if _, err := k.Apply(rs); err != nil {
			t.Errorf("%s: %v", tt.command, err)
		}
		if got := machine(t); got != whole {
			t.Errorf("%s: not repaired: %s", tt.command, got)
		}
	}
}

// TestAnotherConfiguration goes from each configuration to each other.
func TestAnotherConfiguration(t *testing.T) {
	ownNetwork(t)
	var k Kernel
	want := make(map[string]string)
	names := slices.Sorted(maps.Keys(configs))
	for _, name := range names {
		if _, err := k.Apply(Rules("v1", parse(t, configs[name]), testBans())); err != nil {
			t.Fatal(err)
		}
		want[name] = machine(t)
		if _, err := k.Remove(); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range names {
		for _, b := range names {
			for _, name := range []string{a, b} {
				d, err := k.Apply(Rules("v1", parse(t, configs[name]), testBans()))
				if err != nil {
					t.Fatal(err)
				}
				if got := machine(t); got != want[name] {
					t.Errorf("from %s to %s:\n%s\nleft\n%s", a, b, d.String(), got)
				}
			}
		}
	}
}

func TestForeignTable(t *testing.T) {
	ownNetwork(t)
	var k Kernel
	run(t, "nft add table inet weir")
	run(t, "nft add chain inet weir about")
	before := machine(t)
	if _, err := k.Apply(Rules("v1", parse(t, configs["default"]), nil)); err == nil || !strings.Contains(err.Error(), "Weir has not made it") {
		t.Errorf("Apply: %v", err)
	}
	if _, err := k.Remove(); err == nil || !strings.Contains(err.Error(), "Weir has not made it") {
		t.Errorf("Remove: %v", err)
	}
	if after := machine(t); after != before {
		t.Errorf("a foreign table was changed:\n%s", after)
	}
}

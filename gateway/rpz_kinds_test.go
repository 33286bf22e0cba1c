package gateway

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/bench/corpus"
)

// An rpzKind is a way in which one engine differs from Weir, or Weir from two
// engines that agree, and when it may. What it is, and why Weir is as it is,
// stands in the table of blocklists/parse/RPZ.md under its name.
type rpzKind struct {
	engine string
	name   string
	may    func(s *situation) bool
}

var rpzKinds = []rpzKind{
	{"named", "empty-non-terminal", func(s *situation) bool { return s.node }},
	{"unbound", "client-passthru", func(s *situation) bool { return s.client == "CNAME rpz-passthru." }},
	{"unbound", "client-data", (*situation).clientData},
	{"unbound", "wildcard-target", func(s *situation) bool { return s.has("CNAME *.garden.example.") }},
	{"unbound", "address-after-passthru", (*situation).passed},
	{"unbound", "several-addresses", (*situation).severalAddresses},
	{"unbound", "address-drop", func(s *situation) bool { return slices.Contains(s.addrs, "CNAME rpz-drop.") }},
	{"unbound", "address-before-alias", func(s *situation) bool { return len(s.names) > 1 && len(s.addrs)+len(s.named) > 0 }},
	{"unbound", "empty-non-terminal", func(s *situation) bool { return s.node }},
	{"pdns_recursor", "wildcard-over-names", func(s *situation) bool { return s.node || s.below }},
	{"pdns_recursor", "several-addresses", (*situation).severalAddresses},
	{"pdns_recursor", "alias-not-told", func(s *situation) bool { return len(s.names) > 1 }},
	{"weir", "several-addresses", (*situation).severalAddresses},
	{"weir", "empty-non-terminal", func(s *situation) bool { return s.node }},
}

// A situation is what a policy zone could say about a question.
type situation struct {
	client string   // the action for who asks
	names  []string // of the question, and those that it is an alias of
	named  []string // actions for these
	node   bool     // a wildcard is above one, and a name without a rule between or at it
	below  bool     // the same, but the name has a rule
	addrs  []string // actions for addresses, a rule once
}

func (s *situation) severalAddresses() bool { return len(s.addrs) > 1 }

func (s *situation) has(action string) bool {
	return s.client == action || slices.Contains(s.named, action) || slices.Contains(s.addrs, action)
}

// clientData reports whether who asks gets local data.
func (s *situation) clientData() bool {
	switch s.client {
	case "", "CNAME .", "CNAME *.", "CNAME rpz-passthru.", "CNAME rpz-drop.", "CNAME rpz-tcp-only.":
		return false
	}
	return true
}

// passed reports whether something lets it pass that leads to an address with a
// rule: over TCP, tcp-only does so too.
func (s *situation) passed() bool {
	return len(s.addrs) > 0 && (s.has("CNAME rpz-passthru.") || s.has("CNAME rpz-tcp-only."))
}

// An rpzTally is the comparison of all answers.
type rpzTally struct {
	world *world
	rules map[string]string // the first action of each owner
	nodes map[string]bool   // owners and what is above them
	asked int
	same  int
	kinds map[string]int
	wrong []string
	bad   int
}

func newRPZTally(w *world, zone string) *rpzTally {
	y := &rpzTally{world: w, rules: map[string]string{}, nodes: map[string]bool{}, kinds: map[string]int{}}
	for line := range strings.Lines(strings.TrimPrefix(zone, zoneHead)) {
		owner, action, _ := strings.Cut(strings.TrimSpace(line), " ")
		if y.rules[owner] == "" {
			y.rules[owner] = action
		}
		for name := strings.TrimPrefix(owner, "*."); name != ""; {
			y.nodes[name] = true
			_, name, _ = strings.Cut(name, ".")
		}
	}
	return y
}

func (y *rpzTally) situation(q oracleQuestion) *situation {
	s := &situation{names: []string{q.name}}
	rrs, _ := y.world.answer(q.name, q.qtype)
	var addrs []netip.Addr
	for _, rr := range rrs {
		switch rr := rr.(type) {
		case *dns.CNAME:
			s.names = append(s.names, rr.Target)
		case *dns.A:
			a, _ := netip.AddrFromSlice(rr.A.To4())
			addrs = append(addrs, a)
		case *dns.AAAA:
			a, _ := netip.AddrFromSlice(rr.AAAA)
			addrs = append(addrs, a)
		}
	}
	for _, name := range s.names {
		y.look(s, strings.TrimSuffix(name, "."))
	}
	var owners []string
	for _, a := range addrs {
		owners = y.prefixes(owners, a, ".rpz-ip")
	}
	for _, o := range owners {
		s.addrs = append(s.addrs, y.rules[o])
	}
	if of := y.prefixes(nil, netip.MustParseAddr(q.client), ".rpz-client-ip"); len(of) > 0 {
		s.client = y.rules[of[0]]
	}
	return s
}

// look adds what speaks about one name.
func (y *rpzTally) look(s *situation, name string) {
	if a, ok := y.rules[name]; ok {
		s.named = append(s.named, a)
		return
	}
	for at, node := name, false; at != ""; {
		if y.nodes[at] {
			if _, ok := y.rules[at]; ok {
				s.below = s.below || y.wildAbove(at)
			} else {
				node = true
			}
		}
		_, at, _ = strings.Cut(at, ".")
		if a, ok := y.rules["*."+at]; ok {
			s.named = append(s.named, a)
			s.node = s.node || node
		}
	}
}

func (y *rpzTally) wildAbove(name string) bool {
	for name != "" {
		_, name, _ = strings.Cut(name, ".")
		if _, ok := y.rules["*."+name]; ok {
			return true
		}
	}
	return false
}

// prefixes appends the owners of the triggers for an address, the longest first.
func (y *rpzTally) prefixes(dst []string, a netip.Addr, kind string) []string {
	for bits := a.BitLen(); bits > 0; bits-- {
		p, err := a.Prefix(bits)
		if err != nil {
			continue
		}
		owner := rpzOwner(p) + kind
		if _, ok := y.rules[owner]; ok && !slices.Contains(dst, owner) {
			dst = append(dst, owner)
		}
	}
	return dst
}

// add compares one question's answers. Where there is no reason for a difference it is
// asked again, of all: the machine may have had no time for somebody.
func (y *rpzTally) add(q oracleQuestion, said map[string]string, again func() map[string]string) {
	y.asked++
	s := y.situation(q)
	kinds, who := reasonsFor(s, said)
	for tries := 0; who != "" && tries < 3 && y.bad < 20; tries++ {
		said = again()
		kinds, who = reasonsFor(s, said)
	}
	switch {
	case who != "":
		y.fail(q, s, said, who)
	case len(kinds) == 0:
		y.same++
	}
	for e, kind := range kinds {
		y.kinds[e+" "+kind]++
	}
}

// reasonsFor returns the reasons for the differences, or who has none.
func reasonsFor(s *situation, said map[string]string) (kinds map[string]string, who string) {
	weir, differ := said["weir"], []string{}
	for _, e := range []string{"named", "unbound", "pdns_recursor"} {
		if said[e] != weir {
			differ = append(differ, e)
		}
	}
	if len(differ) == 0 {
		return nil, ""
	}
	if said["named"] == said["unbound"] && said["unbound"] == said["pdns_recursor"] {
		return nil, "weir alone" // no kind excuses that
	}
	kinds = map[string]string{}
	for _, e := range differ {
		if kinds[e] = kindOf(e, s); kinds[e] == "" {
			return nil, e
		}
	}
	// Two that agree against Weir for one reason are a majority; for reasons of
	// their own they only happen to.
	for i, a := range differ {
		for _, b := range differ[i+1:] {
			if said[a] == said[b] && kinds[a] == kinds[b] && kinds["weir"] == "" {
				if kinds["weir"] = kindOf("weir", s); kinds["weir"] == "" {
					return nil, "weir"
				}
			}
		}
	}
	return kinds, ""
}

func kindOf(engine string, s *situation) string {
	for _, k := range rpzKinds {
		if k.engine == engine && k.may(s) {
			return k.name
		}
	}
	return ""
}

func (y *rpzTally) fail(q oracleQuestion, s *situation, said map[string]string, who string) {
	y.bad++
	if len(y.wrong) < 20 {
		y.wrong = append(y.wrong, fmt.Sprintf("%s: no reason for what %s says: %+v\n  named   %s\n  unbound %s\n  pdns    %s\n  weir    %s",
			q, who, *s, said["named"], said["unbound"], said["pdns_recursor"], said["weir"]))
	}
}

func (y *rpzTally) report(t *testing.T) {
	t.Helper()
	t.Logf("%d questions, %d answered alike by all four, %d differences by kind: %v", y.asked, y.same, y.asked-y.same, y.kinds)
	for _, w := range y.wrong {
		t.Error(w)
	}
	if y.bad > 0 {
		t.Errorf("%d questions without a reason", y.bad)
	}
	if y.same < y.asked/2 {
		t.Errorf("only %d of %d alike: the zone says too little, or an engine has ended", y.same, y.asked)
	}
}

// The table of differences is in the document, each kind once.
func TestRPZDocument(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(corpus.Module(t), "blocklists", "parse", "RPZ.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range rpzKinds {
		row := fmt.Sprintf("| `%s` |", k.name)
		i := strings.Index(string(text), row)
		if i < 0 {
			t.Errorf("RPZ.md has no row for %s", k.name)
			continue
		}
		line, _, _ := strings.Cut(string(text)[i:], "\n")
		if !strings.Contains(line, strings.TrimSuffix(k.engine, "_recursor")) {
			t.Errorf("the row of %s does not name %s", k.name, k.engine)
		}
	}
}

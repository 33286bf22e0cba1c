package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/blocklists"
)

// A judge is a Snapshot as the rules of the house are written down: maps and
// loops over everything, nothing compiled, nothing shared with the product but
// the words.
type judge struct {
	spec  Spec
	rules [][]blocklists.Rule
}

// speaks returns how specific the rule is about the question: its name's or
// prefix's length first, then exactness, then its path. Negative: not at all.
func speaks(r blocklists.Rule, q question) int {
	if r.Kind == blocklists.Prefix {
		if q.addr.IsValid() && r.Prefix.Contains(q.addr) {
			return r.Prefix.Bits() * 1000
		}
		return -1
	}
	if q.addr.IsValid() || r.Path != "" && !strings.HasPrefix(q.path, r.Path) {
		return -1
	}
	self, under := q.name == r.Name, strings.HasSuffix(q.name, "."+r.Name)
	score := len(r.Name)*1000 + len(r.Path)
	switch {
	case r.Kind == blocklists.Exact && self:
		return score + 500
	case r.Kind == blocklists.Suffix && (self || under), r.Kind == blocklists.Under && under:
		return score
	}
	return -1
}

// A question is a name, a URL or an address, and who asks when.
type question struct {
	sub        Subject
	name, path string
	addr       netip.Addr
	now        time.Time
}

type said struct {
	list  int
	rule  blocklists.Rule
	score int
}

// listsSay returns what each list says: its most specific rule, allow before
// block, then the first line.
func (j *judge) listsSay(q question) []said {
	var all []said
	for list, rules := range j.rules {
		best := said{score: -1}
		for _, r := range rules {
			score := speaks(r, q)
			better := score > best.score ||
				score == best.score && r.Action == blocklists.Allow && best.rule.Action == blocklists.Block
			if score >= 0 && better {
				best = said{list, r, score}
			}
		}
		if best.score >= 0 {
			all = append(all, best)
		}
	}
	return all
}

func (j *judge) group(sub Subject) (name string, bans map[string]bool) {
	bans = make(map[string]bool)
	longest := -1
	var ids []string
	for _, g := range j.spec.Groups {
		for _, d := range g.Devices {
			if d.Contains(sub.Addr.Unmap()) && d.Bits() > longest {
				longest, name, ids = d.Bits(), g.Name, g.Bans
			}
		}
	}
	for _, b := range j.spec.Bans {
		if ids == nil || slices.Contains(ids, b.ID) {
			bans[b.ID] = true
		}
	}
	return name, bans
}

// lifted returns the exemption from whatever holds back the name: for the longest
// name, then the first.
func (j *judge) lifted(q question, group string) string {
	longest, id := -1, ""
	for _, e := range j.spec.Exemptions {
		if e.Name == "" || q.name != e.Name && !strings.HasSuffix(q.name, "."+e.Name) || len(e.Name) <= longest {
			continue
		}
		one := judge{spec: Spec{Exemptions: []Exemption{e}}}
		if one.exemption(q, group, "") != "" {
			longest, id = len(e.Name), e.ID
		}
	}
	return id
}

func (j *judge) exemption(q question, group, ban string) string {
	for _, e := range j.spec.Exemptions {
		device := e.Group == "" && e.Device.IsValid() && e.Device.Contains(q.sub.Addr.Unmap())
		if e.Ban == ban && (device || e.Group != "" && e.Group == group) && !q.now.Before(e.From) && q.now.Before(e.Until) {
			return e.ID
		}
	}
	return ""
}

// decide returns the verdict in words.
func (j *judge) decide(q question) string {
	group, bans := j.group(q.sub)
	heard := j.listsSay(q)
	if q.addr.IsValid() {
		if v4 := blocklists.EmbeddedIPv4(q.addr); v4.IsValid() {
			q4 := q
			q4.addr = v4
			heard = append(heard, j.listsSay(q4)...)
		}
	}
	steps := make(map[string][]said)
	signal := blocklists.SignalNone
	for _, m := range heard {
		l := j.spec.Lists[m.list]
		lets := m.rule.Action == blocklists.Allow
		if l.Role == RoleOperator && lets {
			steps["operator allows"] = append(steps["operator allows"], m)
		}
		if l.Role == RoleProtected && lets {
			steps["protected"] = append(steps["protected"], m)
		}
		if l.Role != RoleBan || !bans[j.spec.Bans[l.Ban].ID] {
			continue
		}
		ban := j.spec.Bans[l.Ban]
		step := "ban"
		switch {
		case lets:
			step = "list allows"
		case j.exemption(q, group, ban.ID) != "":
			step = "exemption"
		case q.now.Before(ban.Effective):
			step = "not yet effective"
		case m.rule.Mode == blocklists.TCPOnly:
			step = "tcp only"
		}
		if !lets && step != "exemption" && l.Signal != "" {
			signal = l.Signal
		}
		steps[step] = append(steps[step], m)
	}
	order := []string{"operator allows", "protected", "ban", "not yet effective", "tcp only", "list allows"}
	if len(steps["exemption"]) > 0 && len(steps["ban"]) == 0 && len(steps["not yet effective"])+len(steps["tcp only"]) == 0 {
		order = []string{"exemption"}
	}
	for _, step := range order {
		if len(steps[step]) == 0 {
			continue
		}
		against := step == "ban" || step == "not yet effective" || step == "tcp only"
		if id := j.lifted(q, group); id != "" && against {
			cited := j.words(q, "exemption", group, steps[step], blocklists.SignalNone)
			return cited[:strings.LastIndexByte(cited, ' ')+1] + id
		}
		return j.words(q, step, group, steps[step], signal)
	}
	return fmt.Sprintf("allow no rule group=%s signal=%s", group, signal)
}

// words cites the first ban, then the most specific rule, then the first list.
func (j *judge) words(q question, step, group string, ms []said, signal blocklists.Signal) string {
	cited := ms[0]
	for _, m := range ms[1:] {
		a, b := j.spec.Lists[m.list], j.spec.Lists[cited.list]
		wide := func(s said) int { return s.score / 1000 * 1000 } // exactness is for one list only
		path := func(s said) int { return len(s.rule.Path) }
		switch {
		case a.Ban != b.Ban:
			if a.Ban < b.Ban {
				cited = m
			}
		case wide(m) != wide(cited):
			if wide(m) > wide(cited) {
				cited = m
			}
		case path(m) > path(cited), path(m) == path(cited) && m.list < cited.list:
			cited = m
		}
	}
	l := j.spec.Lists[cited.list]
	action := map[string]string{"ban": "block", "not yet effective": "report"}[step]
	if action == "" {
		action = "allow"
	}
	ban, exemption := "", ""
	if l.Role == RoleBan {
		ban = j.spec.Bans[l.Ban].ID
	}
	if step == "exemption" {
		exemption = j.exemption(q, group, ban)
	}
	out := fmt.Sprintf("%s %s group=%s signal=%s %s:%d ban=%s %s", action, step, group, signal, l.Name, cited.rule.Line, ban, exemption)
	if step == "ban" {
		mode := j.spec.Answer.Mode
		for _, m := range []blocklists.Mode{j.spec.Bans[l.Ban].Answer.Mode, l.Answer.Mode, cited.rule.Mode} {
			if m != blocklists.ModeDefault {
				mode = m
			}
		}
		out += " " + mode.String()
	}
	return out
}

// inWords is a verdict as the judge writes it.
func inWords(v Verdict) string {
	out := fmt.Sprintf("%s %s group=%s signal=%s", v.Action, v.Reason, v.Group, v.Signal)
	if v.List == "" {
		return out
	}
	ban, exemption := "", ""
	if v.Ban != nil {
		ban = v.Ban.ID
	}
	if v.Exemption != nil {
		exemption = v.Exemption.ID
	}
	out += fmt.Sprintf(" %s:%d ban=%s %s", v.List, v.Rule.Line, ban, exemption)
	if v.Blocked() {
		out += " " + v.Answer.Mode.String()
	}
	return out
}

// dice make policies and questions that meet.
type dice struct{ *rand.Rand }

func (d dice) pick(words ...string) string { return words[d.IntN(len(words))] }
func (d dice) chance(in int) bool          { return d.IntN(in) == 0 }
func (d dice) when() time.Time             { return noon.Add(time.Duration(d.IntN(5)-2) * time.Hour) }

func (d dice) name() string {
	name := d.pick("a", "b")
	for range d.IntN(4) {
		name = d.pick("a", "b", "c") + "." + name
	}
	return name
}

func (d dice) addr() netip.Addr {
	v4 := netip.AddrFrom4([4]byte{192, 0, byte(d.IntN(2)), byte(d.IntN(4))})
	switch d.IntN(4) {
	case 0:
		b := v4.As4()
		return netip.AddrFrom16([16]byte{0: 0, 1: 0x64, 2: 0xff, 3: 0x9b, 12: b[0], 13: b[1], 14: b[2], 15: b[3]})
	case 1:
		return netip.AddrFrom16(v4.As16())
	}
	return v4
}

func (d dice) rule(line int) blocklists.Rule {
	r := blocklists.Rule{Kind: blocklists.Suffix + blocklists.Kind(d.IntN(4)), Action: blocklists.Block, Line: line}
	if d.chance(3) {
		r.Action = blocklists.Allow
	}
	if d.chance(5) {
		r.Mode = blocklists.NODATA
	} else if r.Action == blocklists.Block && d.chance(6) {
		r.Mode = blocklists.TCPOnly
	}
	if r.Kind == blocklists.Prefix {
		a := d.addr().Unmap()
		r.Prefix = netip.PrefixFrom(a, a.BitLen()-d.IntN(12)).Masked()
		return r
	}
	if r.Kind == blocklists.Exact {
		r.Mode = blocklists.ModeDefault // else it would be a name of a policy zone
	}
	if r.Name = d.name(); d.chance(4) {
		r.Path = d.pick("/", "/a", "/ab")
	}
	return r
}

func (d dice) spec(t testing.TB) (Spec, *judge) {
	spec := Spec{Generation: d.Uint64(), Answer: blocklists.Answer{Mode: blocklists.Null}}
	ids := []string{"b0", "b1", "b2"}
	for _, id := range ids {
		b := &blocklists.Ban{ID: id}
		if d.chance(2) {
			b.Effective = d.when()
		}
		if d.chance(3) {
			b.Answer.Mode = blocklists.Refused
		}
		spec.Bans = append(spec.Bans, b)
	}
	var rules [][]blocklists.Rule
	for i := range 6 {
		l := List{Name: fmt.Sprintf("l%d", i), Ban: d.IntN(3)}
		switch i {
		case 4:
			l.Role, l.Ban = RoleOperator, 0
		case 5:
			l.Role, l.Ban = RoleProtected, 0
		}
		if d.chance(3) {
			l.Signal = blocklists.SignalApp
		}
		if d.chance(4) {
			l.Answer.Mode = blocklists.Drop
		}
		spec.Lists = append(spec.Lists, l)
		var rs []blocklists.Rule
		for line := range d.IntN(8) {
			rs = append(rs, d.rule(line+1))
		}
		rules = append(rules, rs)
	}
	spec.Set = build(t, rules)
	for i, devices := range []string{"10.0.0.0/8", "10.0.0.0/30", "10.0.0.2/32", "2001:db8::/126"} {
		g := Group{Name: fmt.Sprintf("g%d", i), Devices: prefixes(devices)}
		switch d.IntN(3) {
		case 0:
			g.Bans = []string{}
		case 1:
			g.Bans = ids[d.IntN(2):][:1+d.IntN(2)]
		}
		if d.chance(2) {
			spec.Groups = append(spec.Groups, g)
		}
	}
	for i := range d.IntN(5) {
		e := Exemption{ID: fmt.Sprintf("EX-%d", i), Ban: d.pick(ids...), Until: d.when()}
		if d.chance(2) {
			e.Ban, e.Name = "", d.name()
		}
		if d.chance(2) {
			e.From = d.when()
		}
		if d.chance(2) {
			e.Group = d.pick("g0", "g1", "g2", "g3")
		} else {
			e.Device = netip.PrefixFrom(device(d.pick("10.0.0.1", "10.0.0.2", "2001:db8::1")).Addr, d.IntN(33)).Masked()
		}
		spec.Exemptions = append(spec.Exemptions, e)
	}
	return spec, &judge{spec, rules}
}

func (d dice) question() question {
	q := question{
		sub: device(d.pick("", "10.0.0.1", "10.0.0.2", "::ffff:10.0.0.2", "10.0.0.9", "2001:db8::1", "172.16.0.1")),
		now: d.when().Add(time.Duration(d.IntN(3) - 1)),
	}
	switch d.IntN(3) {
	case 0:
		q.addr = d.addr()
	case 1:
		q.path = d.pick("/", "/a", "/abc", "/b")
		fallthrough
	default:
		q.name = d.name()
	}
	return q
}

func (q question) ask(s *Snapshot) Verdict {
	switch {
	case q.addr.IsValid():
		return s.Addr(q.sub, q.addr, q.now)
	case q.path != "":
		return s.URL(q.sub, q.name, q.path, q.now)
	}
	return s.Name(q.sub, q.name, q.now)
}

func TestAgainstJudge(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(5, 6))}
	counts := make(map[string]int)
	for range 3000 {
		spec, j := d.spec(t)
		plain := snapshot(t, spec)
		spec.CacheEntries = 1 + d.IntN(8)
		cached := snapshot(t, spec)
		for range 60 {
			q := d.question()
			// A mapped address is its IPv4 address, to lists and judge alike.
			asked := q
			asked.addr = q.addr.Unmap()
			v, want := q.ask(plain), j.decide(asked)
			if got := inWords(v); got != want {
				t.Fatalf("%+v:\n got %s\nwant %s\nspec %+v\nrules %+v", q, got, want, spec, j.rules)
			}
			for range 2 { // the second from the cache
				if got := q.ask(cached); got != v {
					t.Fatalf("%+v: with a cache %+v, without %+v", q, got, v)
				}
			}
			counts[v.Reason.String()]++
		}
	}
	t.Log(counts)
	for _, r := range reasonNames[1:ReasonNoServerName] { // what a name, a URL or an address can have
		if counts[r] < 500 {
			t.Errorf("reason %q came up %d times only", r, counts[r])
		}
	}
}

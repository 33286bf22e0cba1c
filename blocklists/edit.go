package blocklists

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// A Change is a rule of a list that comes or goes.
type Change struct {
	List int
	Rule Rule
}

// A Shift moves rules of a list that stand on lines after one to lines further
// down, or up where By is negative: a line that was inserted before line 8 is
// {After: 7, By: 1}, and line 8 taken away is {After: 8, By: -1}.
type Shift struct {
	List  int
	After int
	By    int
}

// An Edit is a small difference between two states of lists. Its parts are
// applied in the order of the fields, each Shift to the lines that the earlier
// ones made.
type Edit struct {
	// Drop names lists all of whose rules go.
	Drop []int
	// Remove takes rules away, wherever they stand: their lines are ignored. A
	// Set keeps repeated rules once, so whoever removes a line whose rule another
	// line repeats adds it again, with that line.
	Remove []Change
	// Shift keeps the lines of the remaining rules true.
	Shift []Shift
	// Add brings rules, with their new lines. A rule that is there already stays
	// once, with the lower of the two lines.
	Add []Change
}

// Errors of Set.Edit.
var (
	ErrNoRule  = errors.New("no such rule in the set")
	ErrRebuild = errors.New("too many edits for one set: build it anew")
)

// maxEdits bounds an overlay: the rules that came or went, the lists dropped and
// the steps of shifts. Each Edit costs time in proportion to what the overlay
// holds, and a lookup looks twice: an overlay is for the time until the next
// build, not instead of one.
const maxEdits = 1 << 14

// An overlay is how a Set differs from its base, which it shares with others. It
// is as immutable as they are.
type overlay struct {
	dropped map[int]struct{}  // lists of the base that say nothing any more
	gone    map[place]*Change // rules of the base that say nothing any more, as the key says it
	lines   map[int][]step    // where the rules of a list of the base stand now
	added   map[Change]int    // rules that came, by their line; those of the key are 0
	core    *core             // the same, compiled
	counts  []int             // rules of the base that still speak, by class
}

// A place is where a rule of a core is: the offset of its record, or its index.
type place struct {
	prefix bool
	at     uint32
}

// A step says that lines from one on are to be read with a difference, up to
// the next step.
type step struct {
	from int
	by   int
}

// Edit returns a Set that differs from s in e. It shares what it can with s,
// which stays as it is and in use, and costs time in proportion to the edits
// since the Set was built: a one-name edit of a million names, some
// microseconds. After too many it returns ErrRebuild, and ErrNoRule where there
// is nothing to remove; on any error nothing is changed.
func (s *Set) Edit(e Edit) (*Set, error) {
	signs, err := editSignatures(s.signs, &e)
	if err != nil {
		return nil, err
	}
	clients, err := s.clients.edit(&e)
	if err != nil {
		return nil, err
	}
	e.Remove, e.Add = withoutSignatures(e.Remove), withoutSignatures(e.Add)
	n := &Set{base: s.base, over: s.over.clone(), signs: signs, clients: clients}
	if n.base == nil {
		n.base = new(core)
	}
	if s.over == nil {
		n.over.counts = slices.Clone(n.base.counts)
	}
	for _, list := range e.Drop {
		n.drop(list)
	}
	for _, c := range slices.Concat(e.Remove, e.Add) {
		if c.List < 0 || c.List >= MaxLists {
			return nil, ErrSetFull
		}
	}
	for i := range e.Remove {
		if err := n.remove(&e.Remove[i]); err != nil {
			return nil, err
		}
	}
	for _, shift := range e.Shift {
		n.over.shift(shift)
		if n.over.size() > maxEdits {
			return nil, ErrRebuild
		}
	}
	for i := range e.Add {
		n.add(&e.Add[i])
		if n.over.size() > maxEdits {
			return nil, ErrRebuild
		}
	}
	if n.over.size() > maxEdits {
		return nil, ErrRebuild
	}
	if err := n.over.compile(); err != nil {
		return nil, err
	}
	return n, nil
}

// clone returns a copy to change, of nil an empty one. Steps are never changed
// in place, so they are shared.
func (o *overlay) clone() *overlay {
	if o == nil {
		return &overlay{
			dropped: map[int]struct{}{}, gone: map[place]*Change{},
			lines: map[int][]step{}, added: map[Change]int{},
		}
	}
	return &overlay{
		dropped: maps.Clone(o.dropped), gone: maps.Clone(o.gone),
		lines: maps.Clone(o.lines), added: maps.Clone(o.added), counts: slices.Clone(o.counts),
	}
}

func (o *overlay) size() int {
	n := len(o.dropped) + len(o.gone) + len(o.added)
	for _, steps := range o.lines {
		n += len(steps)
	}
	return n
}

// compile makes the core of the rules that came.
func (o *overlay) compile() error {
	var b Builder
	for c, line := range o.added {
		c.Rule.Line = line
		if err := b.Add(c.List, c.Rule); err != nil {
			return err
		}
	}
	o.core = b.Build().base
	return nil
}

func (s *Set) drop(list int) {
	o := s.over
	for i, k := range s.base.classes {
		if int(k.list) == list {
			o.counts[i] = 0
			o.dropped[list] = struct{}{}
		}
	}
	for c := range o.added {
		if c.List == list {
			delete(o.added, c)
		}
	}
	delete(o.lines, list) // what is added from now on has lines of its own
}

func (s *Set) remove(c *Change) error {
	o, key := s.over, c.key()
	if _, ok := o.added[key]; ok {
		delete(o.added, key)
		return nil
	}
	p, class, _, ok := s.base.locate(&key)
	if !ok || o.hides(key.List, p) {
		return fmt.Errorf("list %d, rule %s: %w", c.List, c.Rule, ErrNoRule)
	}
	o.hide(p, key, class)
	return nil
}

// hide has a rule of the base say nothing any more.
func (o *overlay) hide(p place, key Change, class uint32) {
	key.Rule.Name, key.Rule.Path = strings.Clone(key.Rule.Name), strings.Clone(key.Rule.Path)
	o.gone[p] = &key
	o.counts[class]--
}

func (s *Set) add(c *Change) {
	o, key := s.over, c.key()
	if old, ok := o.added[key]; ok {
		o.added[key] = min(old, c.Rule.Line)
		return
	}
	if p, class, line, ok := s.base.locate(&key); ok {
		now := o.line(key.List, line)
		_, dropped := o.dropped[key.List]
		_, gone := o.gone[p]
		switch {
		case dropped:
		case gone && now == c.Rule.Line: // it comes back as it was
			delete(o.gone, p)
			o.counts[class]++
			return
		case gone:
		case now <= c.Rule.Line:
			return
		default:
			o.hide(p, key, class)
		}
	}
	key.Rule.Name, key.Rule.Path = strings.Clone(key.Rule.Name), strings.Clone(key.Rule.Path)
	o.added[key] = c.Rule.Line
}

// key returns what the rule says, in the one form that it is compared in.
func (c *Change) key() Change {
	k := *c
	k.Rule.Line = 0
	if k.Rule.Kind == Prefix {
		k.Rule.Name, k.Rule.Prefix = "", CanonicalPrefix(k.Rule.Prefix)
	} else {
		k.Rule.Prefix = netip.Prefix{}
	}
	return k
}

// locate finds the rule that says so.
func (c *core) locate(key *Change) (p place, class uint32, line uint32, ok bool) {
	i := slices.Index(c.classes, classOf(key.List, &key.Rule))
	if i < 0 {
		return place{}, 0, 0, false
	}
	class = uint32(i)
	if key.Rule.Kind == Prefix {
		return c.locatePrefix(key, class)
	}
	if len(c.table.buckets) == 0 {
		return place{}, 0, 0, false
	}
	b, i, _, _ := c.find(c.hash(key.Rule.Name), key.Rule.Name)
	if b == nil {
		return place{}, 0, 0, false
	}
	if b.kind(i) != many {
		r, _ := readRecord(c.records.at(b.vals[i]))
		return place{at: b.vals[i]}, class, r.line, r.class == class && key.Rule.Path == ""
	}
	first := c.heads.at(b.vals[i]).names
	if key.Rule.Path != "" {
		first = c.heads.at(b.vals[i]).paths
	}
	for at := first; at != 0; {
		ref := c.refs.at(at - 1)
		r, _ := readRecord(c.records.at(ref.record))
		if r.class == class && (!r.path || r.pattern() == key.Rule.Path) {
			return place{at: ref.record}, class, r.line, true
		}
		at = ref.next
	}
	return place{}, 0, 0, false
}

func (c *core) locatePrefix(key *Change, class uint32) (place, uint32, uint32, bool) {
	if c.prefixes != nil {
		first, _ := c.prefixes.Get(key.Rule.Prefix)
		for i := first; i != 0; i = c.addrs.at(i - 1).next {
			if r := c.addrs.at(i - 1); r.class == class {
				return place{prefix: true, at: i}, class, r.line, true
			}
		}
	}
	return place{}, 0, 0, false
}

// hides reports whether the rule of the base says nothing any more.
func (o *overlay) hides(list int, p place) bool {
	if o == nil {
		return false
	}
	if _, ok := o.dropped[list]; ok {
		return true
	}
	_, ok := o.gone[p]
	return ok
}

// line returns where a rule of the base stands now.
func (o *overlay) line(list int, line uint32) int {
	if o == nil {
		return int(line)
	}
	steps := o.lines[list]
	i, found := slices.BinarySearchFunc(steps, int(line), func(s step, line int) int { return s.from - line })
	switch {
	case found:
		return int(line) + steps[i].by
	case i > 0:
		return int(line) + steps[i-1].by
	}
	return int(line)
}

// shift moves lines. Each run of lines that were read alike is moved, left or
// cut in two.
func (o *overlay) shift(s Shift) {
	for c, line := range o.added {
		if c.List == s.List && line > s.After {
			o.added[c] = line + s.By
		}
	}
	var out []step
	push := func(from, by int) {
		if n := len(out); n > 0 && out[n-1].by == by || n == 0 && by == 0 {
			return
		}
		out = append(out, step{from, by})
	}
	old := append([]step{{}}, o.lines[s.List]...)
	for i, run := range old {
		cut := s.After + 1 - run.by // the first line that is moved
		if cut > run.from {
			push(run.from, run.by)
		}
		if i+1 == len(old) || cut < old[i+1].from {
			push(max(cut, run.from), run.by+s.By)
		}
	}
	o.lines[s.List] = out
}

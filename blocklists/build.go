package blocklists

import (
	"errors"
	"fmt"
	"hash/maphash"

	"github.com/gaissmai/bart"
)

// A Builder compiles rules into a Set. The zero Builder is ready to use; it is
// not safe for concurrent use, and Build ends its life.
//
// Add only writes the rule down, in the form that the Set keeps it in, and
// Build makes the table over them, so nothing large is ever made twice: the
// memory of a Builder is that of its Set.
type Builder struct {
	// Pace, if it is set, is called by Build after each few names: whoever shares
	// a processor with others can let them have it.
	Pace func()

	base     *core
	classes  map[class]uint32
	codes    map[string]byte // of endings
	nodes    sketch          // the names so far and those above them
	signs    []*signature
	clients  []Match
	clientAt map[Match]int // by the rule without its line
	rec      []byte        // the record that is being made
}

// ErrSetFull is returned by Builder.Add for a rule that a Set has no room for.
var ErrSetFull = errors.New("too many rules or lists for one set")

// maxPath bounds the path of a rule: a record must fit into a chunk.
const maxPath = 64 << 10

// Add adds a rule of the list with that index. Rules that say the same again
// are kept once, with their first line. An error means that the rule is not a
// rule and nothing was added; the Builder stays usable. Nothing of the rule is
// kept but copies.
func (b *Builder) Add(list int, r Rule) error {
	if b.base == nil {
		b.begin()
	}
	if list < 0 || list >= MaxLists || b.base.records.full() {
		return ErrSetFull
	}
	if r.Action != Block && r.Action != Allow {
		return fmt.Errorf("rule %q has no action", r)
	}
	switch r.Kind {
	case Suffix, Exact, Under:
		return b.addName(list, r)
	case Prefix:
		return b.addPrefix(list, r)
	case Bytes, Field, Target:
		return b.addSignature(list, r)
	case Client:
		return b.addClient(list, r)
	}
	return fmt.Errorf("rule of unknown kind %d", r.Kind)
}

func (b *Builder) begin() {
	b.base = new(core)
	b.base.seed = maphash.MakeSeed()
	b.classes = make(map[class]uint32)
	b.codes = make(map[string]byte)
}

func (b *Builder) addName(list int, r Rule) error {
	// A rule in another spelling would never match, and nobody would know.
	if !isCanonical(r.Name) {
		if _, err := CanonicalName(r.Name); err != nil {
			return err
		}
		return fmt.Errorf("name of rule %q is not canonical", r)
	}
	if len(r.Path) > maxPath {
		return fmt.Errorf("path of a rule for %s is longer than %d bytes", r.Name, maxPath)
	}
	c := b.base
	start := labelStart(r.Name, len(r.Name))
	c.top = c.top || start == 0
	// The last labels alone are too few to count.
	for start > 0 {
		start = labelStart(r.Name, start-1)
		b.nodes.add(c.hash(r.Name[start:]))
	}
	var text [maxName]byte
	name := b.packName(text[:0], r.Name)
	class := b.class(list, &r)
	if r.Path == "" {
		b.rec = append(appendRecord(b.rec[:0], class, false, uint32(r.Line), len(name)), name...)
	} else {
		b.rec = appendRecord(b.rec[:0], class, true, uint32(r.Line), len(r.Name)+1+len(r.Path))
		b.rec = append(append(append(b.rec, r.Name...), 0), r.Path...)
	}
	c.records.add(b.rec)
	return nil
}

func (b *Builder) class(list int, r *Rule) uint32 {
	k := classOf(list, r)
	c := b.base
	if n := len(c.classes); n > 0 && c.classes[n-1] == k {
		return uint32(n - 1)
	}
	i, ok := b.classes[k]
	if !ok {
		i = uint32(len(c.classes))
		b.classes[k] = i
		c.classes = append(c.classes, k)
		c.counts = append(c.counts, 0)
	}
	return i
}

func (b *Builder) addPrefix(list int, r Rule) error {
	if !r.Prefix.IsValid() {
		return fmt.Errorf("rule %q has no prefix", r)
	}
	if r.Path != "" {
		return fmt.Errorf("rule %q is for an address and has a path", r)
	}
	c := b.base
	if c.prefixes == nil {
		c.prefixes = new(bart.Table[uint32])
	}
	class := b.class(list, &r)
	c.prefixes.Modify(CanonicalPrefix(r.Prefix), func(first uint32, _ bool) (uint32, bool) {
		for i := first; i != 0; i = c.addrs.at(i - 1).next {
			if c.addrs.at(i-1).class == class {
				return first, false
			}
		}
		c.counts[class]++
		return c.addrs.add(addrRef{next: first, line: uint32(r.Line), class: class}), false
	})
	return nil
}

// Build returns the compiled Set. The Builder must not be used afterwards, but
// as a new one.
func (b *Builder) Build() *Set {
	c, signs, pace, asking := b.base, b.signs, b.Pace, newClients(b.clients)
	nodes := b.nodes.count()
	*b = Builder{}
	if c == nil {
		return new(Set)
	}
	if len(c.records) > 0 {
		if pace == nil {
			pace = func() {}
		}
		c.table = newTable(nodes)
		c.build(pace, bitmap{})
	}
	return &Set{base: c, signs: signs, clients: asking}
}

// build fills the table. Where it is known which records tell a name above them
// something new, leads has a bit for each, and the others are not asked.
func (c *core) build(pace func(), leads bitmap) {
	if c.addRules(pace) != leads.n {
		leads = bitmap{} // of records that were others
	}
	for !c.addInner(pace, leads) {
		c.grow(pace)
	}
}

// addRules enters each record into the table, and writes those that stay again:
// a rule that says the same as an earlier one goes, and the second rule of one
// name leaves its text. It returns how many there are.
func (c *core) addRules(pace func()) int {
	a := adder{core: c, pace: pace, out: compactor{blob: c.records}}
	for _, chunk := range c.records {
		for len(chunk) > 0 {
			chunk = chunk[a.addSome(chunk):]
			a.pace()
		}
	}
	c.records = a.out.done()
	return a.out.count
}

// ahead is how many records are looked at before their turn. The table is
// larger than the processor's cache, so nearly each entry is fetched from
// memory; fetches that stand close together overlap.
const ahead = 24

// fetch brings the buckets of the hashes into the processor's cache.
func (t *table) fetch(hashes []uint64) {
	var sum uint64
	for _, h := range hashes {
		sum += t.buckets[t.home(h)].lo
	}
	t.fetched = sum
}

// addSome adds the records that the chunk begins with, and returns their size.
func (a *adder) addSome(chunk []byte) int {
	var hashes [ahead]uint64
	n, end := 0, 0
	for ; n < ahead && end < len(chunk); n++ {
		e := &a.entries[n]
		var size int
		e.r, size = readRecord(chunk[end:])
		e.name = a.endings.name(&e.r, e.buf[:0])
		e.rec = chunk[end : end+size]
		hashes[n] = a.hash(e.name)
		end += size
	}
	a.table.fetch(hashes[:n])
	for i, h := range hashes[:n] {
		a.add(h, &a.entries[i])
	}
	return end
}

// An adder is the state of addRules. What it reads from the records moves when
// the compactor writes: a record's text is not looked at after its put.
type adder struct {
	*core
	pace    func()
	out     compactor
	entries [ahead]entering
	short   []byte            // a record without its text
	paths   map[uint64]uint32 // offsets of the rules with a path, by hash
}

// An entering is a record whose turn is near. What of it is a view of the record
// is so until its put: the compactor never writes where nobody has read.
type entering struct {
	r    record
	rec  []byte
	name string
	buf  [maxName]byte // what name may be a view of
}

func (a *adder) add(h uint64, e *entering) {
	r, rec := &e.r, e.rec
	var mark uint64
	if r.path {
		mark = a.hash(view(r.text)) + uint64(r.class)*0x9e3779b97f4a7c15
		if a.repeats(mark, r) {
			return
		}
	}
	b, i, _, _ := a.find(h, e.name)
	switch {
	case b == nil && r.path:
		offset := a.addPath(mark, r, rec)
		n := a.heads.add(head{text: offset, paths: a.refs.add(ref{record: offset})})
		a.enter(h, many, n-1)
		return
	case b == nil:
		a.counts[r.class]++
		a.enter(h, leaf, a.out.put(rec))
		return
	case b.kind(i) == leaf:
		first := b.vals[i]
		if old, _ := readRecord(a.records.at(first)); !r.path && old.class == r.class {
			return
		}
		n := a.heads.add(head{text: first, names: a.refs.add(ref{record: first})})
		b.set(i, many, n-1)
	}
	if top := a.heads.at(b.vals[i]); r.path {
		top.paths = a.refs.add(ref{next: top.paths, record: a.addPath(mark, r, rec)})
	} else {
		a.addAgain(top, r)
	}
}

// addAgain adds a rule to a name that has one, unless it says the same.
func (a *adder) addAgain(h *head, r *record) {
	for i := h.names; i != 0; {
		at := a.refs.at(i - 1)
		if old, _ := readRecord(a.records.at(at.record)); old.class == r.class {
			return
		}
		i = at.next
	}
	a.counts[r.class]++
	a.short = appendRecord(a.short[:0], r.class, false, r.line, 0)
	h.names = a.refs.add(ref{next: h.names, record: a.out.put(a.short)})
}

// repeats reports whether the rule, which has a path, was there before. The
// last of a hash is compared in full; two different rules of one hash, should
// they ever meet, are both kept, and at worst so are their repeats.
func (a *adder) repeats(mark uint64, r *record) bool {
	offset, ok := a.paths[mark]
	if !ok {
		return false
	}
	old, _ := readRecord(a.records.at(offset))
	return old.class == r.class && string(old.text) == string(r.text)
}

func (a *adder) addPath(mark uint64, r *record, rec []byte) uint32 {
	offset := a.out.put(rec)
	if a.paths == nil {
		a.paths = make(map[uint64]uint32)
	}
	a.paths[mark] = offset
	a.counts[r.class]++
	return offset
}

// enter puts a new entry into the table, which grows if need be.
func (a *adder) enter(h uint64, kind int, val uint32) {
	if !a.table.room() {
		a.grow(a.pace)
	}
	a.table.put(h, kind, val)
}

// addInner tells each name that has something under it, and enters those that
// have no rule; and it notes the spans. It returns false when the table is too
// small.
func (c *core) addInner(pace func(), leads bitmap) bool {
	c.spans = nil
	done := 0
	for i, chunk := range c.records {
		for at := 0; at < len(chunk); {
			size, ok := c.addSomeInner(chunk[at:], c.spanAt(i, at), leads, &done)
			if !ok {
				return false
			}
			at += size
			pace()
		}
	}
	return true
}

// addSomeInner does so for the records that the chunk begins with.
func (c *core) addSomeInner(chunk []byte, s *span, leads bitmap, done *int) (size int, ok bool) {
	var (
		bufs   [ahead][maxName]byte
		names  [ahead]string
		dots   [ahead]int
		hashes [ahead]uint64
		n      int
	)
	for size < len(chunk) && n < ahead {
		r, length := readRecord(chunk[size:])
		size += length
		s.add(c.classes[r.class].list, r.line)
		*done++
		if len(r.text) == 0 || leads.n > 0 && !leads.get(*done-1) || !c.top && r.short() {
			continue
		}
		name := c.endings.name(&r, bufs[n][:0])
		if dot := c.above(name); dot > 0 {
			names[n], dots[n], hashes[n] = name, dot, c.hash(name[dot+1:])
			n++
		}
	}
	c.table.fetch(hashes[:n])
	for i, name := range names[:n] {
		if !c.addAbove(name, dots[i], hashes[i]) {
			return size, false
		}
	}
	return size, true
}

// above returns the dot before the shortest name above one that a search may
// begin with, or at most 0 for none: with no rule of a single label no search
// begins with one.
func (c *core) above(name string) int {
	dot := labelStart(name, len(name)) - 1
	if !c.top && dot > 0 {
		dot = labelStart(name, dot) - 1
	}
	return dot
}

// addAbove tells the names above one, from the shortest on, which is behind the
// dot and has that hash.
func (c *core) addAbove(name string, dot int, h uint64) bool {
	for {
		b, i, _, under := c.find(h, name[dot+1:])
		switch {
		case b == nil && !under:
			if !c.table.room() {
				return false
			}
			c.table.put(h, inner, fingerprint(h))
		case b == nil:
		case b.kind(i) == leaf:
			b.set(i, branch, b.vals[i])
		case b.kind(i) == many:
			c.heads.at(b.vals[i]).inner = true
		}
		if dot = labelStart(name, dot) - 1; dot <= 0 {
			return true
		}
		h = c.hash(name[dot+1:])
	}
}

// grow makes the table larger, for when it was estimated too small, and leaves
// out the inner entries, which addInner finds again.
func (c *core) grow(pace func()) {
	old := c.table
	c.table = table{buckets: make([]bucket, len(old.buckets)+len(old.buckets)/4+1)}
	var buf [maxName]byte
	for n := range old.buckets {
		if n%width == 0 {
			pace()
		}
		b := &old.buckets[n]
		for i := range width {
			if !b.taken(i) || b.kind(i) == inner {
				continue
			}
			offset := b.vals[i]
			if b.kind(i) == many {
				offset = c.heads.at(offset).text
			}
			r, _ := readRecord(c.records.at(offset))
			c.table.put(c.hash(c.endings.name(&r, buf[:0])), b.kind(i), b.vals[i])
		}
	}
}

package blocklists

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/maphash"
	"math"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/gaissmai/bart"
)

// ErrDamaged is in the errors about bytes that are no Set, or another one than
// was written.
var ErrDamaged = errors.New("damaged compiled set")

// ReadSet returns the Set of which WriteBase and WriteEdits have written these
// bytes. The first are not copied: they become a part of the Set and must not be
// used again. Whatever the bytes are, ReadSet returns a Set that is safe to ask
// or an error; that it is the one that was written, the checksum says and
// nothing more: who may write to the file may write any rule into it.
//
// It takes about as long as Builder.Build. Pace is as in Builder.
func ReadSet(base, edits []byte, pace func()) (*Set, error) {
	c, err := readCore(base, pace)
	if err != nil {
		return nil, fmt.Errorf("base: %w", err)
	}
	s := &Set{base: c}
	if err := s.readEdits(edits); err != nil {
		return nil, fmt.Errorf("edits: %w", err)
	}
	return s, nil
}

// WithEdits is ReadSet for a Set whose base is there already: that of s.
func (s *Set) WithEdits(edits []byte) (*Set, error) {
	n := &Set{base: s.base}
	if n.base == nil {
		n.base = new(core)
	}
	if err := n.readEdits(edits); err != nil {
		return nil, fmt.Errorf("edits: %w", err)
	}
	return n, nil
}

// maxData bounds one record of local data: it is text of what fits into a message
// (RFC 1035, section 3.2.1), and an escape takes four characters.
const maxData = 5 << 16

// An unmarshaler reads numbers and texts. After the first error it reads zeros.
type unmarshaler struct {
	b    []byte
	size int
	err  error
}

func newUnmarshaler(b []byte, magic string) *unmarshaler {
	u := &unmarshaler{size: len(b)}
	end := len(b) - 4
	switch {
	case end < len(magic) || string(b[:len(magic)-1]) != magic[:len(magic)-1]:
		u.fail("it is too short or something else")
	case b[len(magic)-1] != magic[len(magic)-1]:
		u.fail(fmt.Sprintf("it has format %d, this version reads %d", b[len(magic)-1], magic[len(magic)-1]))
	case crc32.Checksum(b[:end], castagnoli) != binary.LittleEndian.Uint32(b[end:]):
		u.fail("its checksum is wrong")
	default:
		u.b = b[len(magic):end:end]
	}
	return u
}

func (u *unmarshaler) fail(what string) {
	if u.err == nil {
		u.err = fmt.Errorf("%w: %s (%d bytes before the end)", ErrDamaged, what, len(u.b))
	}
	u.b = nil
}

// number reads one of at most that size.
func (u *unmarshaler) number(most uint64) uint64 {
	n, size := binary.Uvarint(u.b)
	if size <= 0 || n > most {
		u.fail("a number is missing or too large")
		return 0
	}
	u.b = u.b[size:]
	return n
}

// count reads how many things follow, each of at least one byte.
func (u *unmarshaler) count(most int) int {
	return int(u.number(uint64(min(most, len(u.b)))))
}

func (u *unmarshaler) bytes(n int) []byte {
	if n > len(u.b) {
		u.fail("it ends early")
		return nil
	}
	b := u.b[:n:n]
	u.b = u.b[n:]
	return b
}

func (u *unmarshaler) text(most int) string {
	return string(u.bytes(int(u.number(uint64(most)))))
}

func (u *unmarshaler) signed() int {
	n := u.number(math.MaxUint64)
	return int(n>>1) ^ -int(n&1)
}

func (u *unmarshaler) class() class {
	k := class{list: uint16(u.number(MaxLists - 1))}
	if b := u.bytes(4); b != nil {
		k.kind, k.action, k.mode, k.priority = Kind(b[0]), Action(b[1]), Mode(b[2]), b[3]
	}
	k.data = MakeData(u.text(maxData))
	if u.err == nil && (k.kind == 0 || k.kind > Client || k.action != Block && k.action != Allow) {
		u.fail("a class of rules is none")
	}
	return k
}

func (u *unmarshaler) prefix() netip.Prefix {
	a, ok := netip.AddrFromSlice([]byte(u.text(16)))
	p := netip.PrefixFrom(a, int(u.number(128)))
	if u.err == nil && (!ok || !p.IsValid() || CanonicalPrefix(p) != p) {
		u.fail("a prefix is none")
	}
	return p
}

func (u *unmarshaler) change() Change {
	k := u.class()
	c := Change{List: int(k.list), Rule: k.match(uint32(u.number(math.MaxUint32))).Rule}
	if c.Rule.Kind == Prefix || c.Rule.Kind == Client {
		c.Rule.Prefix = u.prefix()
		return c
	}
	c.Rule.Name, c.Rule.Path = u.text(maxName), u.text(maxPath)
	return c
}

// done fails where something is left.
func (u *unmarshaler) done() error {
	if u.err == nil && len(u.b) > 0 {
		u.fail("there is more than there should be")
	}
	return u.err
}

func readCore(b []byte, pace func()) (*core, error) {
	u := newUnmarshaler(b, baseMagic)
	c := new(core)
	c.seed = maphash.MakeSeed()
	for range u.count(math.MaxInt32) {
		if k := u.class(); k.kind.isApart() {
			u.fail("a rule of this kind is not among the edits")
		} else {
			c.classes = append(c.classes, k)
		}
	}
	c.counts = make([]int, len(c.classes))
	for i := range u.count(len(c.endings)) {
		c.endings[i] = u.text(maxName)
		if u.err == nil && (len(c.endings[i]) < 2 || strings.LastIndexByte(c.endings[i], '.') != 0) {
			u.fail("an ending is none")
		}
	}
	u.prefixes(c)
	nodes := int(u.number(math.MaxUint32))
	leads := bitmap{n: u.count(math.MaxInt32 / 8 * 8)}
	leads.b = u.bytes((leads.n + 7) / 8)
	rules := u.records(c)
	if err := u.done(); err != nil {
		return nil, err
	}
	if rules > 0 {
		if pace == nil {
			pace = func() {}
		}
		// What is told of the size is believed within reason; a table grows.
		c.table = newTable(min(nodes, 4*rules))
		c.build(pace, leads)
	}
	return c, nil
}

func (u *unmarshaler) prefixes(c *core) {
	n := u.count(math.MaxInt32)
	if n > 0 {
		c.prefixes = new(bart.Table[uint32])
	}
	for range n {
		p, first := u.prefix(), uint32(0)
		for range u.count(math.MaxInt32) {
			r := addrRef{next: first, class: uint32(u.number(math.MaxUint32)), line: uint32(u.number(math.MaxUint32))}
			if u.err != nil || int(r.class) >= len(c.classes) || c.classes[r.class].kind != Prefix {
				u.fail("a prefix is of no class")
				return
			}
			c.counts[r.class]++
			first = c.addrs.add(r)
		}
		if u.err != nil || first == 0 {
			u.fail("a prefix has no rule")
			return
		}
		c.prefixes.Insert(p, first)
	}
}

// records takes the blocks of records as they are, when each record is one.
func (u *unmarshaler) records(c *core) (rules int) {
	for {
		n := u.count(chunkSize)
		if n == 0 {
			break
		}
		if len(c.records) == maxChunks {
			u.fail("there are too many records")
		}
		if chunk := u.bytes(n); chunk != nil {
			c.records = append(c.records, chunk)
		}
	}
	for _, seen := range c.checkRecords() {
		if seen.rules == 0 {
			u.fail("a record is none")
			return 0
		}
		rules += seen.rules
		c.top = c.top || seen.top
	}
	return rules
}

// A checked is what a block of records holds: no rules if one of them is none.
type checked struct {
	rules int
	top   bool // one of them has a single label
}

// checkRecords looks at all blocks, on all processors: it is a tenth of the time
// that a start takes.
func (c *core) checkRecords() []checked {
	out := make([]checked, len(c.records))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(out)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(out)); i = next.Add(1) - 1 {
				out[i] = c.checkChunk(c.records[i])
			}
		})
	}
	wg.Wait()
	return out
}

func (c *core) checkChunk(chunk []byte) (seen checked) {
	for len(chunk) > 0 {
		size, top := c.checkRecord(chunk)
		if size == 0 {
			return checked{}
		}
		seen.rules++
		seen.top = seen.top || top
		chunk = chunk[size:]
	}
	return seen
}

// checkRecord returns the size of the record that b begins with, or 0 where
// there is none that everybody may rely on, and whether its name has one label.
func (c *core) checkRecord(b []byte) (size int, top bool) {
	r, size, ok := readChecked(b)
	if !ok || len(r.text) == 0 || int(r.class) >= len(c.classes) || c.classes[r.class].kind == Prefix {
		return 0, false
	}
	last := r.text[len(r.text)-1]
	switch {
	case r.path:
		end := bytes.IndexByte(r.text, 0)
		if end < 1 || end > maxName || len(r.text)-end-1 > maxPath {
			return 0, false
		}
		return size, labelStart(view(r.text[:end]), end) == 0
	case len(r.text) > maxName:
		return 0, false
	case last >= 0x80:
		if len(r.text) < 2 || c.endings[last&0x7f] == "" {
			return 0, false
		}
		return size, false
	}
	return size, labelStart(view(r.text), len(r.text)) == 0
}

// readChecked is readRecord for bytes that may be anything.
func readChecked(b []byte) (r record, size int, ok bool) {
	n, i := checkedUvarint(b, 0)
	if i == 0 || i == len(b) {
		return r, 0, false
	}
	flag := b[i]
	i++
	r.path, r.class = flag&pathFlag != 0, uint32(flag&^pathFlag)
	if r.class == longClass {
		if r.class, i = checkedUvarint(b, i); i == 0 {
			return r, 0, false
		}
	}
	if r.line, i = checkedUvarint(b, i); i == 0 || uint64(n) > uint64(len(b)-i) {
		return r, 0, false
	}
	size = i + int(n)
	r.text = b[i:size:size]
	return r, size, true
}

// checkedUvarint is readUvarint; it returns 0 for the next where there is none.
func checkedUvarint(b []byte, i int) (v uint32, next int) {
	for shift := 0; i < len(b) && shift < 35; shift += 7 {
		c := b[i]
		i++
		v |= uint32(c&0x7f) << shift
		if c < 0x80 {
			if shift == 28 && c > 0x0f {
				return 0, 0
			}
			return v, i
		}
	}
	return 0, 0
}

// readEdits makes the signatures, the rules about who asks and the overlay.
func (s *Set) readEdits(b []byte) error {
	u := newUnmarshaler(b, editsMagic)
	var build Builder
	for range u.count(maxSigns) {
		c := u.change()
		if u.err == nil && !c.Rule.Kind.IsSignature() {
			u.fail("a signature is none")
		}
		if u.err == nil {
			if err := build.addSignature(c.List, c.Rule); err != nil {
				return err
			}
		}
	}
	for range u.count(math.MaxInt32) {
		c := u.change()
		if u.err == nil && (c.Rule.Kind != Client || build.addClient(c.List, c.Rule) != nil) {
			u.fail("a rule about who asks is none")
		}
	}
	s.signs, s.clients = build.signs, newClients(build.clients)
	if u.number(1) == 1 && u.err == nil {
		s.over = (*overlay)(nil).clone()
		s.over.counts = slices.Clone(s.base.counts)
		u.overlay(s)
	}
	if err := u.done(); err != nil {
		return err
	}
	if s.over != nil {
		return s.over.compile()
	}
	return nil
}

func (u *unmarshaler) overlay(s *Set) {
	o := s.over
	for range u.count(maxEdits) {
		s.drop(int(u.number(MaxLists - 1)))
	}
	for range u.count(maxEdits) {
		u.gone(s)
	}
	for range u.count(maxEdits) {
		list := int(u.number(MaxLists - 1))
		var steps []step
		for range u.count(maxEdits) {
			steps = append(steps, step{u.signed(), u.signed()})
		}
		o.lines[list] = steps
		if !slices.IsSortedFunc(steps, func(a, b step) int { return a.from - b.from }) {
			u.fail("lines are not in order")
		}
	}
	for range u.count(maxEdits) {
		c := u.change()
		if c.Rule.Kind.isApart() {
			u.fail("a rule of another kind is among the rules")
		}
		o.added[c.key()] = c.Rule.Line
	}
}

// gone hides a rule of the base, which is counted where its list has not gone as
// a whole.
func (u *unmarshaler) gone(s *Set) {
	o, c := s.over, u.change()
	if u.err != nil {
		return
	}
	key := c.key()
	p, class, _, ok := s.base.locate(&key)
	if _, twice := o.gone[p]; !ok || twice {
		u.fail("what was taken away is not there")
		return
	}
	if _, dropped := o.dropped[c.List]; dropped {
		o.gone[p] = &key
		return
	}
	o.hide(p, key, class)
}

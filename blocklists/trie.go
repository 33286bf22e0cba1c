package blocklists

import (
	"bytes"
	"hash/maphash"
	"math/bits"
	"strings"
)

// A trie holds names by their labels from the right. Its nodes are the names
// of rules and, above them, the names that only lead there. They stand in one
// hash table under the whole name of the node, not under its parent and label:
// so the questions about "b.example" and "a.b.example" do not wait for each
// other, and a walk reads one line of the processor's cache per label. Nothing
// in it is a pointer, so the collector has nothing to walk.
//
// A name that has a rule is compared in full: there are no false matches. The
// names that only lead there are known by 40 bits of their hash, and the worst
// that two of the same bits can do is one more step of a walk. The seed is
// random, so an attacker who writes a list cannot aim for one bucket.
type trie struct {
	seed    maphash.Seed
	table   table
	records blob
	endings endings
	heads   pages[head]
	refs    pages[ref]
	classes []class
	top     bool // some rule has a single label
}

// A table is a hash table of buckets, each of which is one cache line. A bucket
// that is full gives to the next, and remembers in eight bits what: so only few
// of those who find nothing must look there too.
type table struct {
	buckets []bucket
	used    int
	fetched uint64 // of no meaning: keeps fetch from being optimized away
}

const (
	width   = 12 // entries a bucket
	perMill = 880
)

type bucket struct {
	lo   uint64 // the tags of entries 0 to 7, a byte each; 0 for a free entry
	hi   uint32 // the tags of entries 8 to 11
	meta uint32 // the kinds of the entries, two bits each, and in the last byte who went on
	vals [width]uint32
}

// The kinds of entries, and what their value is.
const (
	leaf   = iota // one rule, nothing under it: the offset of its record
	inner         // no rule, but something under it: a part of its hash
	branch        // one rule and something under it: as leaf
	many          // several rules, or with a path: index into heads
)

// A head is a name with several rules or with rules that have paths.
type head struct {
	text  uint32 // offset of a record that has the name
	names uint32 // first of the rules without a path: index+1 into refs, 0 for none
	paths uint32 // first of the rules with one
	inner bool   // something is under it
}

// A ref is a rule in the chain of a head.
type ref struct {
	next   uint32 // index+1, 0 for none
	record uint32
}

// A class is what rules say besides a name and a line.
type class struct {
	list     uint16
	kind     Kind
	action   Action
	mode     Mode
	priority uint8
	data     Data
}

func classOf(list int, r *Rule) class {
	return class{list: uint16(list), kind: r.Kind, action: r.Action, mode: r.Mode, priority: r.Priority, data: r.Data}
}

func newTable(nodes int) table {
	return table{buckets: make([]bucket, nodes*1000/(width*perMill)+1)}
}

// room reports whether another entry fits without long searches. Some entries
// stay free, so that each search ends.
func (t *table) room() bool { return t.used < len(t.buckets)*width*31/32 }

// home returns the bucket where the search begins.
func (t *table) home(h uint64) int {
	i, _ := bits.Mul64(h, uint64(len(t.buckets)))
	return int(i)
}

func tag(h uint64) uint8 { return uint8(max(1, h&0xff)) }

// mark is the bit of those who went on from a full bucket.
func mark(h uint64) uint32 { return 1 << (24 + h>>8&7) }

// fingerprint is the part of the hash that is the value of an inner entry.
func fingerprint(h uint64) uint32 { return uint32(h >> 8) }

// match returns the entries with that tag, as bits for entry.
func (b *bucket) match(tag uint8) uint64 {
	const ones, lows = 0x0101010101010101, 0x7f7f7f7f7f7f7f7f
	lo := b.lo ^ uint64(tag)*ones
	hi := uint64(b.hi) ^ uint64(tag)*ones
	// The eighth bit of each byte that is zero, and of no other.
	lo = ^((lo&lows + lows) | lo | lows)
	hi = ^((hi&lows + lows) | hi | lows) & 0xffffffff
	return lo>>7 | hi>>6
}

// entry returns the first entry of such bits.
func entry(m uint64) int {
	n := bits.TrailingZeros64(m)
	return n>>3 | n&1<<3
}

// taken reports whether the entry is in use.
func (b *bucket) taken(i int) bool {
	if i < 8 {
		return uint8(b.lo>>(8*i)) != 0
	}
	return uint8(b.hi>>(8*(i-8))) != 0
}

func (b *bucket) kind(i int) int { return int(b.meta >> (2 * i) & 3) }

func (b *bucket) set(i, kind int, val uint32) {
	b.meta = b.meta&^(3<<(2*i)) | uint32(kind)<<(2*i)
	b.vals[i] = val
}

// put adds an entry. There must be room.
func (t *table) put(h uint64, kind int, val uint32) {
	for i := t.home(h); ; {
		b := &t.buckets[i]
		if m := b.match(0); m != 0 {
			j := entry(m)
			if j < 8 {
				b.lo |= uint64(tag(h)) << (8 * j)
			} else {
				b.hi |= uint32(tag(h)) << (8 * (j - 8))
			}
			b.set(j, kind, val)
			t.used++
			return
		}
		b.meta |= mark(h)
		if i++; i == len(t.buckets) {
			i = 0
		}
	}
}

func (t *trie) hash(name string) uint64 { return maphash.String(t.seed, name) }

// find returns the bucket and the entry of the name's rules, or nil, the record
// that has the name, and whether there is anything under the name.
func (t *trie) find(h uint64, name string) (b *bucket, i int, r record, under bool) {
	for at := t.table.home(h); ; {
		b = &t.table.buckets[at]
		for m := b.match(tag(h)); m != 0; m &= m - 1 {
			i = entry(m)
			val, kind := b.vals[i], b.kind(i)
			head := (*head)(nil)
			switch kind {
			case inner:
				// The name may have a rule all the same, elsewhere.
				under = under || val == fingerprint(h)
				continue
			case many:
				head = t.heads.at(val)
				val = head.text
			}
			if r, _ = readRecord(t.records.at(val)); t.endings.holds(&r, name) {
				return b, i, r, under || kind == branch || head != nil && head.inner
			}
		}
		if b.meta&mark(h) == 0 {
			return nil, 0, record{}, under
		}
		if at++; at == len(t.table.buckets) {
			at = 0
		}
	}
}

// pattern returns the path of a record that has one.
func (r *record) pattern() string {
	return view(r.text[bytes.IndexByte(r.text, 0)+1:])
}

// labelStart returns where the label that ends before end begins. A dot after
// an odd number of backslashes is part of a label (RFC 1035, section 5.1): DNS
// questions may carry such names, lists never do.
func labelStart(name string, end int) int {
	for {
		dot := lastDot(name, end)
		if dot <= 0 || name[dot-1] != '\\' {
			return dot + 1
		}
		escapes := 0
		for i := dot - 1; i >= 0 && name[i] == '\\'; i-- {
			escapes++
		}
		if escapes%2 == 0 {
			return dot + 1
		}
		end = dot
	}
}

// lastDot returns where the last dot before end is, or -1. It looks at eight
// octets at once: the lengths of labels are what a processor cannot foresee.
func lastDot(name string, end int) int {
	const each, eighth = 0x0101010101010101, 0x8080808080808080
	const lows = ^uint64(eighth)
	if len(name) < 8 {
		return strings.LastIndexByte(name[:end], '.')
	}
	for end > 0 {
		at := max(0, end-8)
		other := load8(name, at) ^ '.'*each           // zero octets are dots
		dots := ^(other&lows + lows | other) & eighth // and no others have the eighth bit
		dots <<= 8 * uint(at+8-end) & 63              // without those from end on
		if dots != 0 {
			return end - 9 + bits.Len64(dots)/8
		}
		end = at
	}
	return -1
}

// load8 returns the eight octets from i on.
func load8(s string, i int) uint64 {
	s = s[i : i+8]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

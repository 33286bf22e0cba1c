package blocklists

import (
	"hash/maphash"
	"strings"
)

// A trie holds names by their labels from the right, in flat arrays without
// pointers, so that the collector has nothing to walk and a million names fit
// in tens of megabytes. Children are found through one open-addressing table
// for all edges, keyed by parent and label and compared in full: there are no
// false matches. The seed is random, so an attacker who writes a list cannot
// aim for one bucket.
type trie struct {
	seed   maphash.Seed
	nodes  []node   // nodes[0] is the root
	labels []byte   // each label as a length byte and its bytes
	slots  []uint32 // indexes into nodes, 0 for free; the length is a power of two
}

type node struct {
	parent uint32
	label  uint32 // offset in labels
	ref    uint32 // first of the node's references: index+1 into Set.refs, 0 for none
}

const root = 0

func newTrie() trie {
	return trie{seed: maphash.MakeSeed(), nodes: make([]node, 1), slots: make([]uint32, 64)}
}

func (t *trie) hash(parent uint32, label string) uint64 {
	return (maphash.String(t.seed, label) ^ uint64(parent)) * 0x9e3779b97f4a7c15
}

// slot returns the slot of the edge, or the free slot where it belongs.
func (t *trie) slot(parent uint32, label string) (slot uint64, child uint32) {
	mask := uint64(len(t.slots) - 1)
	h := t.hash(parent, label)
	for i := (h ^ h>>32) & mask; ; i = (i + 1) & mask {
		c := t.slots[i]
		if c == 0 {
			return i, 0
		}
		if n := &t.nodes[c]; n.parent == parent && t.text(n) == label {
			return i, c
		}
	}
}

// text is only compared or hashed, so the conversion does not allocate.
func (t *trie) text(n *node) string {
	l := uint32(t.labels[n.label])
	return string(t.labels[n.label+1 : n.label+1+l])
}

// child returns the node under parent with that label, or 0.
func (t *trie) child(parent uint32, label string) uint32 {
	_, c := t.slot(parent, label)
	return c
}

// insert returns the node of the name, made if need be.
func (t *trie) insert(name string) uint32 {
	n := uint32(root)
	for end := len(name); end > 0; {
		start := labelStart(name, end)
		n = t.insertChild(n, name[start:end])
		end = start - 1
	}
	return n
}

func (t *trie) insertChild(parent uint32, label string) uint32 {
	i, c := t.slot(parent, label)
	if c != 0 {
		return c
	}
	if len(t.nodes) >= len(t.slots)/4*3 {
		t.grow()
		i, _ = t.slot(parent, label)
	}
	c = uint32(len(t.nodes))
	t.nodes = append(t.nodes, node{parent: parent, label: uint32(len(t.labels))})
	t.labels = append(t.labels, byte(len(label)))
	t.labels = append(t.labels, label...)
	t.slots[i] = c
	return c
}

func (t *trie) grow() {
	t.slots = make([]uint32, 2*len(t.slots))
	mask := uint64(len(t.slots) - 1)
	for c := 1; c < len(t.nodes); c++ {
		n := &t.nodes[c]
		h := t.hash(n.parent, t.text(n))
		i := (h ^ h>>32) & mask
		for t.slots[i] != 0 {
			i = (i + 1) & mask
		}
		t.slots[i] = uint32(c)
	}
}

// labelStart returns where the label that ends before end begins. A dot after
// an odd number of backslashes is part of a label (RFC 1035, section 5.1): DNS
// questions may carry such names, lists never do.
func labelStart(name string, end int) int {
	for {
		dot := strings.LastIndexByte(name[:end], '.')
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

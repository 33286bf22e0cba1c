package rpz

import (
	"hash/maphash"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/policy"
)

// An action is what the zone says at an owner. The zero action is that it says
// nothing.
type action struct {
	pass       bool // rpz-passthru
	mode       blocklists.Mode
	ipv4, ipv6 netip.Addr
	data       string // records of local data, one a line, without their owner
}

// actionOf is how a verdict is said in a zone. What the gateway lets through
// because nothing speaks against it, or not yet, the zone does not mention.
func (z *view) actionOf(v *policy.Verdict) action {
	switch {
	case v.Blocked() && v.Answer.Mode == blocklists.LocalData:
		return action{mode: blocklists.LocalData, data: strings.Join(z.policy.LocalData(policy.Subject{}, v), "\n")}
	case v.Blocked():
		return blocked(v.Answer)
	case v.Reason == policy.ReasonTCPOnly:
		return action{mode: blocklists.TCPOnly}
	case v.Reason == policy.ReasonOperator || v.Reason == policy.ReasonProtected || v.Reason == policy.ReasonListAllow,
		v.Reason == policy.ReasonExemption: // of the group, for a name
		return action{pass: true}
	}
	return action{}
}

func blocked(a blocklists.Answer) action {
	switch a.Mode {
	case blocklists.NODATA, blocklists.Drop:
		return action{mode: a.Mode}
	case blocklists.Null:
		return action{mode: blocklists.Addresses, ipv4: netip.IPv4Unspecified(), ipv6: netip.IPv6Unspecified()}
	case blocklists.Addresses:
		return action{mode: a.Mode, ipv4: a.IPv4, ipv6: a.IPv6}
	}
	// A zone has no way to say REFUSED.
	return action{mode: blocklists.NXDOMAIN}
}

// size is how many records say the action.
func (a action) size() int {
	if a.mode == blocklists.LocalData {
		return strings.Count(a.data, "\n") + 1
	}
	if a.mode != blocklists.Addresses {
		return 1
	}
	n := 0
	for _, addr := range [...]netip.Addr{a.ipv4, a.ipv6} {
		if addr.IsValid() {
			n++
		}
	}
	return n
}

// A view is one policy at one time, as all see it who are in one group or none.
// It is immutable: it gives the same owners again and again.
type view struct {
	policy *policy.Snapshot
	at     time.Time
	room   int           // characters of the longest owner that fits before the zone's name
	pace   func() func() // nil for none, see Options
}

// anyUnder is the label of names that no rule stands at.
const anyUnder = "*."

// walk gives each owner of the zone, relative to it, once and in no order, and
// what it says; and how many the zone has no room for, or no way to say. An
// owner is valid until the next one.
//
// Where something is decided for all that is under a name, each name down there
// that others lie under is said in full, although no rule stands at it: some
// servers let such an empty name hide the wildcard above it (RFC 4592, section
// 2.2.2), and others do not.
func (z *view) walk(yield func(owner string, a action) bool) (unfit int) {
	// A zone could name who asks, but followers would do so before they look at names
	// that are protected.
	w := walker{view: z, between: make(map[string]struct{}), yield: yield, unfit: z.policy.Clients()}
	pause := func() {}
	if z.pace != nil {
		pause = z.pace()
	}
	for name := range z.policy.Names() {
		pause()
		if !w.name(name) || !w.above(name) {
			return w.unfit
		}
	}
	for p := range z.policy.Prefixes() {
		if !w.prefix(p) {
			return w.unfit
		}
	}
	return w.unfit
}

type walker struct {
	*view
	between map[string]struct{} // names that were given although no rule stands there
	buf     []byte
	unfit   int
	yield   func(string, action) bool
}

// name gives what is decided at a name and under it.
func (w *walker) name(name string) bool {
	w.buf = append(append(w.buf[:0], anyUnder...), name...)
	under := string(w.buf)
	for _, owner := range [...]string{name, under} {
		v := w.policy.Name(policy.Subject{}, owner, w.at)
		a := w.actionOf(&v)
		if a == (action{}) || a.pass && !w.heldAbove(name) {
			continue
		}
		if !w.fits(name) {
			w.unfit++
			continue
		}
		if !w.give(owner, a) {
			return false
		}
	}
	return true
}

// heldAbove reports whether the name would be held back without the rules that
// stand at it. Only then does the zone let it through by name: a follower that
// passes a name by its name does not look at the addresses that it leads to, and
// the gateway does.
func (w *walker) heldAbove(name string) bool {
	for {
		dot := strings.IndexByte(name, '.')
		if dot < 0 {
			return false
		}
		name = name[dot+1:]
		v := w.policy.Name(policy.Subject{}, anyUnder+name, w.at)
		if a := w.actionOf(&v); !a.pass {
			return a != (action{})
		}
	}
}

// prefix gives what is decided for a prefix, in the same way.
func (w *walker) prefix(p netip.Prefix) bool {
	v := w.policy.Prefix(policy.Subject{}, p, w.at)
	a := w.actionOf(&v)
	for around := p; a.pass; {
		if around.Bits() == 0 {
			return true
		}
		around = netip.PrefixFrom(around.Addr(), around.Bits()-1).Masked()
		v := w.policy.Prefix(policy.Subject{}, around, w.at)
		if b := w.actionOf(&v); b == (action{}) {
			return true
		} else if !b.pass {
			break
		}
	}
	return a == (action{}) || w.give(prefixOwner(p), a)
}

// above gives the names between one that a rule stands at and the next above.
func (w *walker) above(name string) bool {
	for {
		dot := strings.IndexByte(name, '.')
		if dot < 0 {
			return true
		}
		name = name[dot+1:]
		// Where nothing is said, nothing is said of all that is above.
		if !w.policy.Mentions(name) || w.policy.StandsAt(name) {
			return true
		}
		if _, seen := w.between[name]; seen {
			return true
		}
		w.between[strings.Clone(name)] = struct{}{}
		if !w.name(name) {
			return false
		}
	}
}

// fits reports whether the zone can have that name and a wildcard under it: one
// that ends like a trigger of another kind would be taken for one.
func (w *walker) fits(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	return len(name)+len(anyUnder) <= w.room && !strings.HasPrefix(last, "rpz-")
}

func (w *walker) give(owner string, a action) bool {
	if a.size() == 0 {
		a = action{mode: blocklists.NODATA} // addresses of no family
	}
	return w.yield(owner, a)
}

// prefixOwner is the owner of a prefix in answers: its length and its address
// backwards, of IPv6 in words with "zz" for the longest row of zeros.
func prefixOwner(p netip.Prefix) string {
	var words []string
	if p.Addr().Is4() {
		words = strings.Split(p.Addr().String(), ".")
	} else {
		text := strings.Replace(p.Addr().String(), "::", ":zz:", 1)
		words = strings.Split(strings.Trim(text, ":"), ":")
	}
	slices.Reverse(words)
	return strconv.Itoa(p.Bits()) + "." + strings.Join(words, ".") + ".rpz-ip"
}

// sums are hashes of what a zone says, one for each owner, sorted: two zones
// differ where theirs do. It is what is kept of a zone to find what changes.
type sums struct {
	seed maphash.Seed
	of   []uint64
}

func (s *sums) hash(owner string, a action) uint64 {
	var h maphash.Hash
	h.SetSeed(s.seed)
	_, _ = h.WriteString(owner) // never fails
	maphash.WriteComparable(&h, a)
	return h.Sum64()
}

// missing returns what is in a and not in b; both are sorted.
func missing(a, b []uint64) map[uint64]struct{} {
	out := make(map[uint64]struct{})
	for _, x := range a {
		for len(b) > 0 && b[0] < x {
			b = b[1:]
		}
		if len(b) == 0 || b[0] != x {
			out[x] = struct{}{}
		}
	}
	return out
}

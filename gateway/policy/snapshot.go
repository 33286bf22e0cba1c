package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gaissmai/bart"

	"github.com/weir-gateway/weir/blocklists"
)

// A Role is what the rules of a list are for.
type Role uint8

const (
	RoleBan       Role = iota // the list belongs to a ban
	RoleOperator              // the operator's own allow rules
	RoleProtected             // names that no ban may hold back
)

// A List is what a Snapshot knows about one list of its Set.
type List struct {
	Name   string
	Role   Role
	Ban    int // index in Spec.Bans, for RoleBan
	Signal blocklists.Signal
	Answer blocklists.Answer
	Embeds bool // its names are mirrors: what they embed is judged, not they
	Zone   bool // it is a response policy zone, whose rules say how to answer
}

// A Spec is what a Snapshot is made of.
type Spec struct {
	Generation uint64
	Set        *blocklists.Set
	Lists      []List // by the list indexes of Set
	Bans       []*blocklists.Ban
	Groups     []Group
	Exemptions []Exemption
	// Answer is how blocked questions are answered where neither rule, list nor
	// ban says so. ModeDefault means NXDOMAIN.
	Answer blocklists.Answer
	// Hello says what happens to connections whose first bytes are unusual. The
	// zero one blocks them all.
	Hello HelloPolicy
	// Canary is the policy of one group instead, nil for none.
	Canary *Canary
	// CacheEntries bounds the cache of URLs in front of the Set; 0 means none.
	CacheEntries int
}

// A Snapshot is the whole compiled policy of one generation. It is immutable
// and safe for concurrent use; slices and pointers reached through it must not
// be written to.
type Snapshot struct {
	id      uint64
	spec    Spec
	allBans mask   // all bans
	of      string // the group that everybody is judged as, see ForGroup; empty for none
	groups  bart.Table[int]
	masks   []mask       // bans of each group
	exempt  []exemptions // from each ban
	named   named        // from whatever holds back a name; nil for none
	cache   *matchCache
	canary  *Snapshot // instead of this one for a group; nil for none
	wide    bool      // more matches than few may come together, or a canary runs
	mirrors bool      // there is a list of them
	zones   bool      // there is a response policy zone

	canaryGroup int // index in Spec.Groups
}

// snapshots numbers the snapshots of this process.
var snapshots atomic.Uint64

// ID tells this snapshot from every other one of the process, and is never 0.
// What was found out under a snapshot may be kept with its ID: unlike a pointer
// it does not keep a replaced policy in memory.
func (s *Snapshot) ID() uint64 { return s.id }

// A mask is a set of bans by index. It is a slice of words because nothing
// bounds the number of bans.
type mask []uint64

func (m mask) has(i int) bool { return m[i/64]&(1<<(i%64)) != 0 }
func (m mask) add(i int)      { m[i/64] |= 1 << (i % 64) }

// NewSnapshot checks that the parts fit together and compiles them.
func NewSnapshot(spec Spec) (*Snapshot, error) {
	if spec.Set == nil {
		spec.Set = new(blocklists.Set)
	}
	lists := spec.Set.Lists()
	if lists > len(spec.Lists) {
		return nil, fmt.Errorf("set has %d lists, only %d are described", lists, len(spec.Lists))
	}
	if spec.Answer.Mode == blocklists.ModeDefault {
		spec.Answer.Mode = blocklists.NXDOMAIN
	}
	mirrors, zones := false, spec.Set.HasClients()
	for _, l := range spec.Lists {
		if l.Role == RoleBan && (l.Ban < 0 || l.Ban >= len(spec.Bans)) {
			return nil, fmt.Errorf("list %s belongs to no ban", l.Name)
		}
		mirrors, zones = mirrors || l.Embeds, zones || l.Zone
	}
	s := &Snapshot{id: snapshots.Add(1), spec: spec, cache: newMatchCache(spec.CacheEntries), mirrors: mirrors, zones: zones}
	s.wide = spec.Canary != nil || 2*lists > few // an address, and the one that it embeds
	byID := make(map[string]int, len(spec.Bans))
	s.allBans = s.newMask()
	for i, b := range spec.Bans {
		if _, dup := byID[b.ID]; dup {
			return nil, fmt.Errorf("ban %s is there twice", b.ID)
		}
		byID[b.ID] = i
		s.allBans.add(i)
	}
	if err := s.compileGroups(byID); err != nil {
		return nil, err
	}
	if err := s.withCanary(); err != nil {
		return nil, err
	}
	s.exempt = make([]exemptions, len(spec.Bans))
	for i := range spec.Exemptions {
		e := &spec.Exemptions[i]
		b, ok := byID[e.Ban]
		switch {
		case e.Name != "" && e.Ban != "":
			return nil, fmt.Errorf("exemption %s is from a ban and for a name; it is for one of them", e.ID)
		case e.Name != "":
			s.named.add(e)
		case !ok:
			return nil, fmt.Errorf("exemption %s is from ban %s, which is not there", e.ID, e.Ban)
		default:
			s.exempt[b].add(e)
		}
	}
	return s, nil
}

func (s *Snapshot) newMask() mask { return make(mask, len(s.spec.Bans)/64+1) }

func (s *Snapshot) compileGroups(byID map[string]int) error {
	for i, g := range s.spec.Groups {
		m := s.allBans
		if g.Bans != nil {
			m = s.newMask()
			for _, id := range g.Bans {
				b, ok := byID[id]
				if !ok {
					return fmt.Errorf("group %s has ban %s, which is not there", g.Name, id)
				}
				m.add(b)
			}
		}
		s.masks = append(s.masks, m)
		for _, d := range g.Devices {
			d = blocklists.CanonicalPrefix(d)
			if other, dup := s.groups.Get(d); dup {
				return fmt.Errorf("devices %s are in group %s and in group %s", d, s.spec.Groups[other].Name, g.Name)
			}
			s.groups.Insert(d, i)
		}
	}
	return nil
}

// Generation returns the number of the snapshot's policy.
func (s *Snapshot) Generation() uint64 { return s.spec.Generation }

// Bans returns the bans, in the order in which they are cited.
func (s *Snapshot) Bans() []*blocklists.Ban { return s.spec.Bans }

// Exemptions returns the exemptions, live or not.
func (s *Snapshot) Exemptions() []Exemption { return s.spec.Exemptions }

// Rules returns how many different rules the snapshot holds.
func (s *Snapshot) Rules() int { return s.spec.Set.Rules() }

// Group returns the name of the subject's group: that of the longest prefix
// that holds its address. It is empty for a device in no group, for which all
// bans hold.
func (s *Snapshot) Group(sub Subject) string {
	s = s.Of(sub)
	name, _ := s.group(sub)
	return name
}

func (s *Snapshot) group(sub Subject) (name string, bans mask) {
	if i, ok := s.groupIndex(sub); ok {
		return s.spec.Groups[i].Name, s.masks[i]
	}
	return s.of, s.allBans
}

func (s *Snapshot) groupIndex(sub Subject) (int, bool) {
	if len(s.spec.Groups) == 0 || !sub.Addr.IsValid() {
		return 0, false
	}
	return s.groups.Lookup(deviceAddr(sub))
}

// Name judges a DNS name or the host name of a connection. The name must be
// canonical (blocklists.CanonicalName). It is not kept, but the verdict's
// Rule.Name is a part of it: whoever lends a name that changes must be done
// with the verdict by then, or clone what is kept of it.
func (s *Snapshot) Name(sub Subject, name string, now time.Time) (v Verdict) {
	s.decide(&v, sub, asked{name: name}, now)
	return v
}

// URL judges a plain HTTP request by host and path; both must be canonical
// (blocklists.CanonicalName, blocklists.CanonicalPath). For the host, the same
// holds as for a name.
func (s *Snapshot) URL(sub Subject, host, path string, now time.Time) (v Verdict) {
	s.decide(&v, sub, asked{name: host, path: path}, now)
	return v
}

// Addr judges an address in an answer or as a destination, together with the
// IPv4 address that it embeds (IPv4-mapped, NAT64, 6to4, Teredo): a banned
// address is banned in every disguise.
func (s *Snapshot) Addr(sub Subject, addr netip.Addr, now time.Time) (v Verdict) {
	s.decide(&v, sub, asked{addr: addr}, now)
	return v
}

// asked is what is judged: a name, a URL or an address.
type asked struct {
	name, path string
	addr       netip.Addr
}

// few is how many matches have room on the stack of a decision. It is not
// more because the room is cleared for every one, and most need none.
const few = 8

func (s *Snapshot) decide(v *Verdict, sub Subject, q asked, now time.Time) {
	if s.wide {
		d := desks.Get().(*Desk)
		d.decide(v, s, sub, q, now)
		clear(d.matches) // they have the name, and the name is borrowed
		desks.Put(d)
		return
	}
	var room [few]blocklists.Match
	s.judge(v, sub, s.find(room[:0], sub, q), now)
	s.lift(v, sub, q.name, now)
}

// A Desk has room for one decision after the other, for somebody who makes so
// many that to clear and to copy the room for each would show. It belongs to
// one goroutine; the zero Desk is ready.
type Desk struct {
	verdict Verdict
	matches []blocklists.Match
}

// desks are those for decisions under which more lists may speak than few.
var desks = sync.Pool{New: func() any { return new(Desk) }}

// Name is Snapshot.Name. The verdict is the desk's, and so is the name until the
// next decision.
func (d *Desk) Name(s *Snapshot, sub Subject, name string, now time.Time) *Verdict {
	d.verdict = Verdict{}
	d.decide(&d.verdict, s, sub, asked{name: name}, now)
	return &d.verdict
}

func (d *Desk) decide(v *Verdict, s *Snapshot, sub Subject, q asked, now time.Time) {
	s = s.Of(sub)
	d.matches = s.find(d.matches[:0], sub, q)
	s.judge(v, sub, d.matches, now)
	s.lift(v, sub, q.name, now)
}

// find appends what the lists say.
func (s *Snapshot) find(dst []blocklists.Match, sub Subject, q asked) []blocklists.Match {
	from := len(dst)
	switch {
	case q.addr.IsValid():
		dst = s.appendAddr(dst, q.addr)
	case q.path != "":
		dst = s.appendURL(dst, q.name, q.path)
	default:
		dst = s.appendName(dst, q.name)
	}
	if s.spec.Set.HasClients() {
		dst = s.spec.Set.AppendClient(dst, from, sub.Addr)
	}
	return dst
}

func (s *Snapshot) appendName(dst []blocklists.Match, name string) []blocklists.Match {
	from := len(dst)
	dst = s.spec.Set.AppendName(dst, name)
	if s.mirrors && len(dst) > from {
		dst = s.unwrap(dst, from, name)
	}
	return dst
}

func (s *Snapshot) appendURL(dst []blocklists.Match, host, path string) []blocklists.Match {
	if ms, ok := s.cache.get(host, path); ok {
		return append(dst, ms...)
	}
	dst = s.spec.Set.AppendURL(dst, host, path)
	if s.mirrors && len(dst) > 0 {
		dst = s.unwrap(dst, 0, host)
	}
	s.cache.put(host, path, dst)
	return dst
}

// AddAhead notes in a that the canonical name will be judged.
func (s *Snapshot) AddAhead(a *blocklists.Ahead, name string) { a.Add(s.spec.Set, name) }

// FetchAhead reads from memory what judging the names that were noted under
// this snapshot needs.
func (s *Snapshot) FetchAhead(a *blocklists.Ahead) { a.Fetch(s.spec.Set) }

// AsksWho reports whether there are rules about who asks, whatever for.
func (s *Snapshot) AsksWho() bool {
	return s.spec.Set.HasClients() || s.canary != nil && s.canary.AsksWho()
}

// Mentions reports whether any list speaks about the canonical name, be it a
// canary's. A name that none speaks about may pass for every subject at every time.
func (s *Snapshot) Mentions(name string) bool {
	var buf [4]blocklists.Match
	return len(s.spec.Set.AppendName(buf[:0], name)) > 0 || s.canary != nil && s.canary.Mentions(name)
}

// MentionsAddr is Mentions for an address, together with the IPv4 address that
// it embeds.
func (s *Snapshot) MentionsAddr(addr netip.Addr) bool {
	var buf [4]blocklists.Match
	return len(s.appendAddr(buf[:0], addr)) > 0 || s.canary != nil && s.canary.MentionsAddr(addr)
}

func (s *Snapshot) appendAddr(dst []blocklists.Match, addr netip.Addr) []blocklists.Match {
	dst = s.spec.Set.AppendAddr(dst, addr)
	if v4 := blocklists.EmbeddedIPv4(addr); v4.IsValid() {
		dst = s.spec.Set.AppendAddr(dst, v4)
	}
	return dst
}

// judge applies the order of precedence: a live exemption of the subject from
// the ban, then an operator's allow rule or a protected name, then the bans in
// force for the subject's group.
func (s *Snapshot) judge(v *Verdict, sub Subject, ms []blocklists.Match, now time.Time) {
	v.Action, v.Reason, v.Generation = Allow, ReasonNoRule, s.spec.Generation
	group, bans := s.group(sub)
	v.Group = group
	if len(ms) == 0 {
		return // most names
	}
	var block, report, tcpOnly, allow, exempted *blocklists.Match
	for i := range ms {
		m := &ms[i]
		l := &s.spec.Lists[m.List]
		switch {
		case l.Role != RoleBan:
			// Such a list only lets through: its other rules say nothing.
			if m.Rule.Action == blocklists.Allow {
				allow = s.cite(allow, m)
			}
		case !bans.has(l.Ban):
		case m.Rule.Action == blocklists.Allow:
			allow = s.cite(allow, m)
		case s.exempt[l.Ban].live(sub, group, now) != nil:
			exempted = s.cite(exempted, m)
		default:
			if l.Signal != blocklists.SignalNone {
				v.Signal = l.Signal
			}
			switch {
			case !s.spec.Bans[l.Ban].InForce(now):
				report = s.cite(report, m)
			case m.Rule.Mode == blocklists.TCPOnly:
				tcpOnly = s.cite(tcpOnly, m)
			default:
				block = s.cite(block, m)
			}
		}
	}
	exempt := exempted != nil && block == nil && report == nil && tcpOnly == nil
	permitted := allow != nil && s.spec.Lists[allow.List].Role != RoleBan
	switch {
	case exempt:
		v.Reason = ReasonExemption
		v.Exemption = s.exempt[s.spec.Lists[exempted.List].Ban].live(sub, group, now)
		s.evidence(v, exempted)
	case permitted:
		v.Reason = ReasonOperator
		if s.spec.Lists[allow.List].Role == RoleProtected {
			v.Reason = ReasonProtected
		}
		s.evidence(v, allow)
	case block != nil:
		v.Action, v.Reason = Block, ReasonBan
		s.evidence(v, block)
	case report != nil:
		v.Action, v.Reason = Report, ReasonNotYet
		s.evidence(v, report)
	case tcpOnly != nil:
		v.Reason = ReasonTCPOnly
		s.evidence(v, tcpOnly)
	case allow != nil:
		v.Reason = ReasonListAllow
		s.evidence(v, allow)
	}
}

// cite returns which of two matches is cited, so that the order in which the
// Set names its matches shows nowhere: a rule of the operator before that of a
// protected name before that of a ban, then that of the first ban, then the
// more specific rule, then that of the first list.
func (s *Snapshot) cite(old, m *blocklists.Match) *blocklists.Match {
	if old == nil {
		return m
	}
	a, b := &s.spec.Lists[old.List], &s.spec.Lists[m.List]
	order := cmp.Or(
		cmp.Compare(a.Role-RoleOperator, b.Role-RoleOperator), // wraps: RoleBan is last
		cmp.Compare(a.Ban, b.Ban),
		cmp.Compare(len(m.Rule.Name), len(old.Rule.Name)),
		cmp.Compare(m.Rule.Prefix.Bits(), old.Rule.Prefix.Bits()),
		cmp.Compare(len(m.Rule.Path), len(old.Rule.Path)),
		cmp.Compare(old.List, m.List),
	)
	if order > 0 {
		return m
	}
	return old
}

// deviceAddr is the subject's address as devices are compared: IPv4 in its own
// form, and without a zone.
func deviceAddr(sub Subject) netip.Addr { return sub.Addr.Unmap().WithZone("") }

func (s *Snapshot) evidence(v *Verdict, m *blocklists.Match) {
	l := &s.spec.Lists[m.List]
	v.List, v.Rule = l.Name, m.Rule
	if l.Role != RoleBan {
		return
	}
	v.Ban = s.spec.Bans[l.Ban]
	if v.Action != Block {
		return
	}
	switch {
	case m.Rule.Mode != blocklists.ModeDefault:
		v.Answer.Mode = m.Rule.Mode
	case l.Answer.Mode != blocklists.ModeDefault:
		v.Answer = l.Answer
	case v.Ban.Answer.Mode != blocklists.ModeDefault:
		v.Answer = v.Ban.Answer
	default:
		v.Answer = s.spec.Answer
	}
}

// A Store holds the snapshot in force. The zero Store holds none; nothing may
// be answered before there is one.
type Store struct {
	p atomic.Pointer[Snapshot]
}

// Load returns the snapshot in force, or nil before the first.
func (s *Store) Load() *Snapshot { return s.p.Load() }

// Swap puts the next snapshot in force. Every decision that begins afterwards
// is made under it.
func (s *Store) Swap(next *Snapshot) { s.p.Store(next) }

package dnsserver

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/audit"
	"github.com/weir-gateway/weir/gateway/policy"
	"github.com/weir-gateway/weir/gateway/resolver"
	"github.com/weir-gateway/weir/gateway/wire"
)

// A hot is the hot path of one reader: it answers questions of the common
// shape that are blocked or cached, from bytes to bytes, without allocating
// and without a lock. Everything else is left for the exit.
//
// Its reader owns it. What it decides counts only when the reader commits it,
// which it does when the policy has not changed meanwhile.
type hot struct {
	core *core
	// query is that of the message which is answered now.
	query *wire.Query
	one   inquiry
	ahead blocklists.Ahead
	desk  policy.Desk
	// answers is nil where the resolver has no cache to read so.
	answers hotResolver
	cache   *resolver.Hot
	tally   tally
	// records are what goes on the record at commit; none where nobody keeps it.
	records []audit.Record
	silent  bool
	errors  extendedErrors
	over    transport // of what it answers
	// lean is what the last questions were like: below zero, most were blocked.
	// It decides which of the two is looked for first, because the other look is
	// a wait for memory in vain.
	lean int
}

// maxLean bounds how long a reader takes to change its mind.
const maxLean = 64

// hotEntries is how many answers a reader has at hand: the names that a few
// thousand devices ask for again and again.
const hotEntries = 16384

func newHot(c *core) *hot {
	h := &hot{core: c, cache: resolver.NewHot(hotEntries)}
	h.query = &h.one.query
	switch r := c.resolver.(type) {
	case hotResolver:
		h.answers = r
	case *resolver.Resolver:
		h.answers = always{r}
	}
	_, h.silent = c.audit.(audit.Discard)
	return h
}

// A hotResolver is a Resolver whose cache may be read through a resolver.Hot.
type hotResolver interface {
	// Current returns the resolver in use; nil for none.
	Current() *resolver.Resolver
}

// always is a hotResolver that never changes.
type always struct{ r *resolver.Resolver }

func (a always) Current() *resolver.Resolver { return a.r }

// An inquiry is a message that was read and is to be answered.
type inquiry struct {
	msg   []byte
	from  netip.Addr
	query wire.Query
	fate  wire.Fate
	rcode uint8 // of a Reject
}

// read reads the message.
func (h *hot) read(q *inquiry, p []byte, from netip.Addr) {
	q.msg, q.from = p, from
	q.query.Cookies, q.query.Subnets = h.core.cookies != nil, h.core.subnets
	q.fate, q.rcode = q.query.Parse(p)
}

// answer appends the reply to the message to dst. It is empty for a message
// that must not be answered. leave says that the message must leave by the
// exit: nothing was appended and nothing counted.
func (h *hot) answer(dst, p []byte, from netip.Addr, snap *policy.Snapshot, now time.Time) (reply []byte, leave bool) {
	h.read(&h.one, p, from)
	return h.reply(dst, &h.one, snap, now)
}

// lookAhead reads from memory what will be asked of the lists, where they are
// what most questions need first.
func (h *hot) lookAhead(qs []inquiry, snap *policy.Snapshot) {
	if snap == nil || h.silent && h.lean >= 0 {
		return
	}
	for i := range qs {
		if q := &qs[i]; q.fate == wire.Simple {
			snap.AddAhead(&h.ahead, q.query.Name())
		}
	}
	snap.FetchAhead(&h.ahead)
}

// reply is answer for a message that was read.
func (h *hot) reply(dst []byte, inq *inquiry, snap *policy.Snapshot, now time.Time) (reply []byte, leave bool) {
	switch inq.fate {
	case wire.Ignore:
		h.tally.dropped[ignored(inq.msg)]++
		return nil, false
	case wire.Reject:
		if h.core.proxied(inq.msg, inq.from) {
			return nil, true
		}
		return h.reject(dst, inq.msg, inq.rcode), false
	case wire.Complex:
		return nil, true
	}
	return h.decide(dst, inq, snap, now)
}

// decide is reply for a question of the common shape.
func (h *hot) decide(dst []byte, inq *inquiry, snap *policy.Snapshot, now time.Time) (reply []byte, leave bool) {
	q, from := &inq.query, inq.from
	h.query = q
	if snap == nil {
		return nil, true
	}
	r := h.current()
	var a *resolver.Answer
	if h.silent && h.lean >= 0 {
		// No verdict is on anybody's record, and there is only one.
		if a = h.known(r, now); a != nil && a.Plain() && a.Free(snap) {
			if reply, fits := q.AppendAnswer(dst, a.Wire(), a.Age(now)); fits {
				h.count(&passed, reply)
				return reply, false
			}
		}
	}
	v := h.desk.Name(snap, policy.Subject{Addr: from}, q.Name(), now)
	switch {
	case v.Blocked():
		reply, leave = h.blocked(dst, v)
	case v.Action == policy.Allow && v.Reason < policy.ReasonExemption: // which ends, and the answer with it
		reply, leave = h.cached(dst, r, a, snap, now)
	default:
		return nil, true
	}
	if leave {
		return nil, true
	}
	h.count(v, reply)
	if !h.silent {
		h.record(v, from, reply, now)
	}
	return reply, false
}

func (h *hot) reject(dst, p []byte, rcode uint8) []byte {
	h.tally.rejected++
	h.tally.rcodes[rcode]++
	return wire.AppendReject(dst, p, rcode)
}

// cut answers a message that is longer than every question, of which only the
// beginning is there: it is not judged by half.
func (h *hot) cut(dst, p []byte) []byte {
	h.read(&h.one, p, netip.Addr{})
	switch h.one.fate {
	case wire.Ignore:
		h.tally.dropped[ignored(p)]++
		return nil
	case wire.Reject:
		return h.reject(dst, p, h.one.rcode)
	}
	return h.reject(dst, p, wire.FormatError)
}

// blocked answers as the verdict's mode says.
func (h *hot) blocked(dst []byte, v *policy.Verdict) (reply []byte, leave bool) {
	if v.Ban == nil || h.query.Type == dns.TypeSVCB && len(h.core.endpoints) > 0 {
		return nil, true // the latter may be a question for our own endpoints
	}
	b := wire.Block{
		TTL: h.core.blockTTL, Zone: zoneLen(h.query.Name(), v.Rule.Name), Serial: uint32(v.Generation),
		EDE: h.errors.of(v),
	}
	switch v.Answer.Mode {
	case blocklists.Drop:
		return nil, false
	case blocklists.LocalData:
		return nil, true
	case blocklists.Refused:
		b.Rcode = wire.Refused
	case blocklists.NODATA:
	case blocklists.Null:
		b.Addr = netip.IPv4Unspecified()
		if h.query.Type != typeA {
			b.Addr = netip.IPv6Unspecified()
		}
	case blocklists.Addresses:
		b.Addr = v.Answer.IPv4
		if h.query.Type != typeA {
			b.Addr = v.Answer.IPv6
		}
	default: // NXDOMAIN, and a mode that nobody set
		b.Rcode = wire.NameError
	}
	reply, fits := h.query.AppendBlocked(dst, &b)
	return reply, !fits
}

// typeA is the type of questions for IPv4 addresses.
const typeA = 1

// passed is the verdict on what no list speaks about.
var passed = policy.Verdict{Action: policy.Allow, Reason: policy.ReasonNoRule}

// question is the one of the message that was parsed.
func (h *hot) question() resolver.Question {
	q := h.query
	return resolver.Question{Name: q.Name(), Type: q.Type, DO: q.DO, CD: q.CheckingDisabled()}
}

// current is the resolver in use, nil where its cache cannot be read from here.
func (h *hot) current() *resolver.Resolver {
	if h.answers == nil {
		return nil
	}
	return h.answers.Current()
}

// known returns the answer that the reader itself has at hand, or nil.
func (h *hot) known(r *resolver.Resolver, now time.Time) *resolver.Answer {
	if r == nil {
		return nil
	}
	return h.cache.Known(r, h.question(), now)
}

// cached answers with the answer that is known, or from the cache, where no
// list speaks about anything that the answer leads to.
func (h *hot) cached(dst []byte, r *resolver.Resolver, a *resolver.Answer, snap *policy.Snapshot, now time.Time) (reply []byte, leave bool) {
	if a == nil && r != nil {
		a = h.cache.Get(r, h.question(), now)
	}
	if a == nil || !a.Plain() || !a.Clean(snap) {
		return nil, true
	}
	reply, fits := h.query.AppendAnswer(dst, a.Wire(), a.Age(now))
	return reply, !fits
}

// count is what record is for the exit.
func (h *hot) count(v *policy.Verdict, reply []byte) {
	h.tally.actions[v.Action]++
	if len(reply) == 0 {
		h.tally.dropped[dropMode]++
		return
	}
	h.tally.rcodes[reply[3]&0xF]++
	if v.Action == policy.Block {
		h.lean = max(h.lean-1, -maxLean)
		return
	}
	h.tally.cached++
	h.lean = min(h.lean+1, maxLean)
}

// record keeps the decision until commit. The name and what the verdict says
// of it are in the reader's buffer; SetVerdict copies.
func (h *hot) record(v *policy.Verdict, from netip.Addr, reply []byte, now time.Time) {
	h.records = append(h.records, newRecord(v, from, strings.Clone(h.query.Name()), h.query.Type, h.over, "", reply, now))
}

// judge has messages answered under the snapshot in force, and again as long
// as that changes: no reply leaves under a policy that is no longer in force.
func (h *hot) judge(answer func(*policy.Snapshot)) {
	for {
		snap := h.core.policy.Load()
		answer(snap)
		if h.core.policy.Load() == snap {
			return
		}
		h.core.stats.rejudged.Add(1)
		h.reset()
	}
}

// reset forgets what was decided since the last commit.
func (h *hot) reset() {
	h.tally = tally{}
	h.records = h.records[:0]
}

// commit counts and records what was decided since the last commit.
func (h *hot) commit(to *counters) {
	h.tally.addTo(to, h.over)
	if h.over != udp { // whose readers count for themselves, and are asked
		h.core.latency.spot(h.over, fateBlocked, h.tally.actions[policy.Block])
		h.core.latency.spot(h.over, fateCached, uint32(h.tally.cached))
	}
	for i := range h.records {
		h.core.audit.Put(h.records[i])
	}
	h.reset()
}

// extendedErrors are the extended errors of the bans of one snapshot, as
// bytes. There are no more of them than bans.
type extendedErrors struct {
	generation uint64
	last       *blocklists.Ban // whose data is lastData
	lastData   []byte
	data       map[*blocklists.Ban][]byte
	rules      map[ruleError][]byte
}

// A ruleError is what the extended error of a policy zone's rule depends on.
type ruleError struct {
	ban  *blocklists.Ban
	kind blocklists.Kind
	mode blocklists.Mode
}

// of returns the extended error of a blocked question; it is empty where the
// ban asks for none.
func (e *extendedErrors) of(v *policy.Verdict) []byte {
	if e.generation != v.Generation || e.data == nil {
		*e = extendedErrors{
			generation: v.Generation,
			data:       make(map[*blocklists.Ban][]byte), rules: make(map[ruleError][]byte),
		}
	}
	if v.Rule.Mode != blocklists.ModeDefault {
		return e.ofRule(v)
	}
	if e.last != v.Ban {
		e.last, e.lastData = v.Ban, e.ofBan(v)
	}
	return e.lastData
}

func (e *extendedErrors) ofBan(v *policy.Verdict) []byte {
	data, ok := e.data[v.Ban]
	if !ok {
		data = errorData(v)
		e.data[v.Ban] = data
	}
	return data
}

// ofRule is of for rules whose extended error says more than the ban.
func (e *extendedErrors) ofRule(v *policy.Verdict) []byte {
	key := ruleError{v.Ban, v.Rule.Kind, v.Rule.Mode}
	data, ok := e.rules[key]
	if !ok {
		data = errorData(v)
		e.rules[key] = data
	}
	return data
}

func errorData(v *policy.Verdict) []byte {
	x := banError(&decision{Verdict: *v})
	if x == nil {
		return nil
	}
	return append(binary.BigEndian.AppendUint16(nil, x.InfoCode), x.ExtraText...)
}

// A tally is what a reader counts between two commits. It is small, plain
// memory of one goroutine.
type tally struct {
	received         uint64
	slipped          uint64
	rejected, cached uint64
	actions          [policy.Block + 1]uint32
	rcodes           [16]uint32
	dropped          [drops]uint32
}

func (t *tally) addTo(c *counters, tr transport) {
	if t.received > 0 {
		c.received[tr].Add(t.received)
	}
	if t.slipped > 0 {
		c.slipped.Add(t.slipped)
	}
	if t.rejected > 0 {
		c.rejected.Add(t.rejected)
	}
	if t.cached > 0 {
		c.cached.Add(t.cached)
	}
	for i, n := range t.actions {
		if n > 0 {
			c.actions[i].Add(uint64(n))
		}
	}
	for i, n := range t.rcodes {
		if n > 0 {
			c.rcodes[i].Add(uint64(n))
		}
	}
	for i, n := range t.dropped {
		if n > 0 {
			c.dropped[i].Add(uint64(n))
		}
	}
}

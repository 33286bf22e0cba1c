package dnsserver

import (
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/policy"
	"github.com/weir-gateway/weir/gateway/resolver"
)

// This file answers with the local data of response policy zones. It is off the
// hot path: such questions leave by the exit.

// A rewrite is an alias of local data whose target is asked for instead. It
// belongs to its question.
type rewrite struct {
	msg    *dns.Msg // asks for the target; nil for none
	answer *resolver.Answer
	err    error
}

// asks returns the message that the resolver must be asked next.
func (q *question) asks() *dns.Msg {
	if q.rewrite.msg != nil {
		return q.rewrite.msg
	}
	return q.msg
}

// resolved takes what the resolver said of the message from asks.
func (q *question) resolved(a *resolver.Answer, err error) {
	if a == nil && err == nil {
		err = errNoAnswer
	}
	if q.rewrite.msg != nil {
		q.rewrite.answer, q.rewrite.err = a, err
		return
	}
	q.answer, q.err = a, err
}

// failed returns why there is no answer.
func (q *question) failed() error {
	if q.rewrite.err != nil {
		return q.rewrite.err
	}
	return q.err
}

// toTarget makes the target what the question asks for.
func (q *question) toTarget(target string) {
	if old := q.rewrite.msg; old != nil && old.Question[0].Name == target {
		return
	}
	m := q.msg.Copy()
	m.Question[0].Name = target
	q.rewrite = rewrite{msg: m}
}

// answerLocally finds the records for a decision that asks for local data. It
// may find that the resolver must be asked for the target of an alias first.
func (c *core) answerLocally(snap *policy.Snapshot, q *question, d *decision) {
	alias, ok := d.localRecords(snap, q, c.blockTTL)
	if !ok || alias == nil || q.qtype == dns.TypeCNAME || q.local() != kindFault {
		return
	}
	q.toTarget(alias.Target)
	r := &q.rewrite
	if r.answer == nil && r.err == nil {
		r.answer = c.resolver.Cached(r.msg)
	}
	switch {
	case r.answer != nil:
		d.judgeTarget(snap, q, alias.Target)
	case r.err != nil:
		d.kind = kindFailed
	case q.msg.RecursionDesired:
		d.kind = kindMiss
	}
}

// localRecords takes over the records that answer the question, and the alias
// among them. It is not ok for an alias that leads to no name; what then remains
// is a block.
func (d *decision) localRecords(snap *policy.Snapshot, q *question, maxTTL uint32) (alias *dns.CNAME, ok bool) {
	owner := d.owner(q)
	d.local = []dns.RR{}
	for _, text := range snap.LocalData(q.from, &d.Verdict) {
		rr, err := dns.NewRR(owner + " " + text)
		if err != nil || rr == nil {
			continue // the parser has read it before
		}
		h := rr.Header()
		h.Ttl = min(h.Ttl, maxTTL) // a name that is released works soon
		if cname, is := rr.(*dns.CNAME); is {
			if alias, ok = cname, expand(cname, owner); !ok {
				d.local = nil
				return nil, false
			}
			d.local = []dns.RR{alias}
			return alias, true
		}
		if h.Rrtype == q.qtype {
			d.local = append(d.local, rr)
		}
	}
	return nil, true
}

// expand puts the question's name in the place of the "*" that the target
// begins with. It is false where that becomes too long for a name.
func expand(c *dns.CNAME, owner string) bool {
	under, wild := strings.CutPrefix(c.Target, "*.")
	if !wild {
		return true
	}
	c.Target = owner + under
	_, ok := dns.IsDomainName(c.Target)
	return ok
}

// owner is the name that is answered for: the question's, or where the aliases
// before it lead.
func (d *decision) owner(q *question) string {
	if n := len(d.chain); n > 0 {
		return d.chain[n-1].(*dns.CNAME).Target
	}
	return q.msg.Question[0].Name
}

// chainTo returns the aliases of the answer up to the link that the rule of a
// policy zone is about, as other engines keep them. Where another rule decides,
// there are none: nothing of the way to a banned name is told.
func (q *question) chainTo(v *policy.Verdict, to resolver.Link) (chain []dns.RR) {
	if v.Rule.Mode == blocklists.ModeDefault {
		return nil
	}
	name := q.name
	for _, rr := range q.answer.Reply(q.msg).Answer {
		c, ok := rr.(*dns.CNAME)
		if !ok || canonical(c.Hdr.Name) != name {
			continue
		}
		chain, name = append(chain, c), canonical(c.Target)
		if name == to.Name {
			break
		}
	}
	return chain
}

// judgeTarget judges where the alias leads. The list that named it is not asked
// again, which could go on for ever; all others are.
func (d *decision) judgeTarget(snap *policy.Snapshot, q *question, target string) {
	links := append([]resolver.Link{{Type: "CNAME", Name: canonical(target)}}, q.rewrite.answer.Links()...)
	for _, l := range links {
		v := l.JudgeBeside(snap, &d.Verdict, q.from, d.now)
		d.ends = resolver.Earlier(d.ends, v.Ends())
		if !v.Allowed() {
			d.Verdict, d.via, d.local = v, l.String(), nil
			switch {
			case !v.Blocked():
				d.kind = kindFault
			case v.Answer.Mode == blocklists.LocalData:
				d.Answer.Mode = blocklists.NXDOMAIN // rewritten once is enough
			}
			return
		}
	}
	d.kind = kindRewritten
}

// rewritten builds the reply that has the alias and what its target answers.
func (q *question) rewritten(d *decision) *dns.Msg {
	m := q.rewrite.answer.Reply(q.rewrite.msg)
	m.Question = append([]dns.Question(nil), q.msg.Question...)
	m.AuthenticatedData = false // the alias is nobody's data
	m.Answer = slices.Concat(d.chain, d.local, m.Answer)
	return m
}

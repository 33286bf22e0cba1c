package gateway

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/blocklists/source"
	"github.com/weir-gateway/weir/gateway/policy"
)

// Each source fails alone: a list that cannot be read, or is not to be taken, stays
// what it was, and everything else that has changed is in force. Only what the
// configuration says for the first time must be good as a whole.

// errStays ends a compilation that begins anew, because lists stay what they were.
var errStays = errors.New("lists stay what they were")

// reasonMissing is why a file is not taken that is not there.
const reasonMissing = "missing"

// before returns the index that a ban's list in a file had, if it had rules. The
// update that is being tried has none: it is taken or refused as a whole.
func (c *compiler) before(i int) (int, bool) {
	p := &c.parts[i]
	if c.copies.was == nil || p.list.Role != policy.RoleBan || !isFile(p.source) {
		return 0, false
	}
	if u := c.copies.update; u != nil && u.list.Name == p.status.Name {
		return 0, false
	}
	for j := range c.copies.was.parts {
		if o := &c.copies.was.parts[j]; sameList(*p, *o) {
			return j, o.status.Rules > 0
		}
	}
	return 0, false
}

// stay has a list be what it was, and reports whether there is such a thing. Its
// revision stays the old one: whoever compiles next looks at the source again.
func (c *compiler) stay(i int, r *fileRefusal) bool {
	j, ok := c.before(i)
	if !ok {
		return false
	}
	if c.stays == nil {
		c.stays = make(map[int]int)
	}
	p, old := &c.parts[i], &c.copies.was.parts[j]
	c.stays[i] = j
	p.read, p.at, p.outline, p.patched, p.same = old.read, old.at, old.outline, false, true
	p.status.Report, p.status.Rules, p.status.Digest = old.status.Report, old.status.Rules, old.status.Digest
	c.refused = append(c.refused, r)
	return true
}

// addOld adds the rules of the lists that stay what they were.
func (c *compiler) addOld(b *blocklists.Builder) error {
	if len(c.stays) == 0 {
		return nil
	}
	to := make(map[int]int, len(c.stays))
	for i, j := range c.stays {
		to[j] = i
	}
	for m := range c.copies.was.set.All() {
		c.pace.step()
		if i, ok := to[m.List]; ok {
			if err := b.Add(i, m.Rule); err != nil {
				return err
			}
		}
	}
	return nil
}

// failure is why a list cannot be read.
func (c *compiler) failure(i int, err error) *fileRefusal {
	p := &c.parts[i]
	reason := reasonOf(err)
	if errors.Is(err, fs.ErrNotExist) {
		reason = reasonMissing
	}
	text := err
	if e, ok := errors.AsType[*refusal](err); ok {
		text = e
	}
	return &fileRefusal{
		list: p.status.Name, file: strings.TrimPrefix(p.source, "file:"), since: time.Now(),
		why: refusal{reason, text.Error()}, broken: err,
		held: source.Copy{SHA256: sourceDigest(p.source), Bytes: c.read[p.source].Size},
	}
}

// stayWithVectors reports whether a compilation is to begin anew: because lists
// stay what they were, as those do that have changed in a ban whose vectors fail.
func (c *compiler) stayWithVectors(err error) bool {
	v, ok := errors.AsType[*vectorError](err)
	if !ok {
		return errors.Is(err, errStays)
	}
	again := false
	for i := range c.parts {
		p := &c.parts[i]
		j, ok := c.before(i)
		if _, stays := c.stays[i]; !ok || stays || p.status.Ban != v.ban || p.status.Digest == c.copies.was.parts[j].status.Digest {
			continue
		}
		r := c.failure(i, err)
		r.why.reason = reasonVectors
		again = c.stay(i, r) || again
	}
	return again
}

// spareBan reports whether a compilation is to begin anew without the vectors of a
// ban: where nothing of the ban is another than it was, and its vectors held then, it
// is they that are broken, and all other changes are none of theirs.
func (c *compiler) spareBan(err error) bool {
	v, ok := errors.AsType[*vectorError](err)
	if !ok || c.spared[v.ban] || !c.sameBan(v.ban) {
		return false
	}
	if c.spared == nil {
		c.spared = make(map[string]bool)
	}
	c.spared[v.ban] = true
	i := slices.IndexFunc(c.cfg.Bans, func(b blocklists.Ban) bool { return b.ID == v.ban })
	from := c.cfg.Bans[i].Vectors
	c.refused = append(c.refused, &fileRefusal{
		list: "vectors of " + v.ban, file: strings.TrimPrefix(from, "file:"), since: time.Now(),
		why: refusal{reasonVectors, err.Error()}, broken: err, held: source.Copy{SHA256: sourceDigest(from)},
	})
	return true
}

// sameBan reports whether all lists of a ban say what they did.
func (c *compiler) sameBan(id string) bool {
	was := c.copies.was
	if was == nil {
		return false
	}
	of := func(b *blocklists.Ban) bool { return b.ID == id }
	now, old := slices.IndexFunc(c.spec.Bans, of), slices.IndexFunc(was.bans, of)
	if now < 0 || old < 0 || !slices.Equal(c.spec.Bans[now].Tiers, was.bans[old].Tiers) {
		return false
	}
	lists := 0
	for i := range c.parts {
		p := &c.parts[i]
		if p.status.Ban != id {
			continue
		}
		lists++
		j := slices.IndexFunc(was.parts, func(o part) bool { return sameList(*p, o) })
		if _, stays := c.stays[i]; !stays && (j < 0 || p.status.Digest != was.parts[j].status.Digest || !slices.Equal(p.inline, was.parts[j].inline)) {
			return false
		}
	}
	for j := range was.parts {
		if was.parts[j].status.Ban == id {
			lists--
		}
	}
	return lists == 0
}

// A partialError says what of a change is not in force.
type partialError struct {
	generation uint64
	broken     bool // and not only waiting for somebody to approve it
	errs       error
}

func (e *partialError) Error() string {
	return fmt.Sprintf("generation %d is in force, with the old rules of what cannot be taken: %v", e.generation, e.errs)
}

func (e *partialError) Unwrap() []error { return []error{errInForce, e.errs} }

func isPartial(err error) bool {
	_, ok := errors.AsType[*partialError](err)
	return ok
}

// reportPartial says which lists are not what their sources say, nil for none.
// Those that are broken count as a failure, because nobody may know yet; others
// wait, and the machine may be to blame for some, which are tried again.
func (g *Gateway) reportPartial() *partialError {
	g.feeds.mu.Lock()
	files := g.feeds.files
	g.feeds.mu.Unlock()
	if len(files) == 0 {
		return nil
	}
	bad := broken(files)
	if bad != nil {
		g.counts.failed.Add(1)
	}
	var all []error
	for _, r := range files {
		all = append(all, r)
		if r.broken != nil && isSystem(r) {
			g.retry = time.Now().Add(retryEvery)
		}
	}
	return &partialError{generation: g.state.Load().generation, broken: bad != nil, errs: errors.Join(all...)}
}

// lastError returns why the latest reload was refused, or what of it could not be
// taken and still cannot; empty for nothing.
func (g *Gateway) lastError() string {
	if e := g.counts.lastError.Load(); e != nil {
		return *e
	}
	g.feeds.mu.Lock()
	files := g.feeds.files
	g.feeds.mu.Unlock()
	if err := broken(files); err != nil {
		return err.Error()
	}
	return ""
}

// broken returns what is wrong with those that nobody can approve, or nil.
func broken(files []*fileRefusal) error {
	var errs []error
	for _, r := range files {
		if r.broken != nil {
			errs = append(errs, r)
		}
	}
	return errors.Join(errs...)
}

package gateway

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/blocklists/source"
	"github.com/weir-gateway/weir/gateway/generation"
	"github.com/weir-gateway/weir/gateway/policy"
)

// A keptPolicy is all of a policySet but its rules, as it is written into a
// generation.
type keptPolicy struct {
	Version    string // of the program, whose parsers may differ from others'
	Lists      []policy.List
	Bans       []*blocklists.Ban
	Groups     []policy.Group
	Exemptions []policy.Exemption
	Answer     blocklists.Answer
	Hello      policy.HelloPolicy
	Parts      []keptPart
	Off        []keptOff
	Read       map[string]keptRevision
	Canary     *keptCanary `json:",omitempty"`
}

// A keptCanary is a group that goes ahead; its rules are the generation's other
// set.
type keptCanary struct {
	Group  string
	From   uint64
	Since  time.Time
	Who    string
	Why    string
	Policy *keptPolicy
}

type keptPart struct {
	Status ListStatus
	Source string            `json:",omitempty"` // what was opened
	Inline []blocklists.Rule `json:",omitempty"`
	Read   keptRevision
	At     time.Time
}

type keptOff struct {
	Before int
	Status ListStatus
}

// A keptRevision is a revision whose times compare with those of files, which a
// time.Time that went through JSON does not.
type keptRevision struct {
	Size    int64  `json:",omitempty"`
	ModTime int64  `json:",omitempty"` // Unix nanoseconds
	Changed int64  `json:",omitempty"`
	Inode   uint64 `json:",omitempty"`
	Absent  bool   `json:",omitempty"`
}

func keepRevision(r revision) keptRevision {
	nanos := func(t time.Time) int64 {
		if t.IsZero() {
			return 0
		}
		return t.UnixNano()
	}
	return keptRevision{r.Size, nanos(r.ModTime), nanos(r.Changed), r.Inode, r.absent}
}

func (k keptRevision) revision() revision {
	at := func(nanos int64) time.Time {
		if nanos == 0 {
			return time.Time{}
		}
		return time.Unix(0, nanos)
	}
	return revision{source.Revision{Size: k.Size, ModTime: at(k.ModTime), Changed: at(k.Changed), Inode: k.Inode}, k.Absent}
}

// kept returns what is written of the policy.
func (set *policySet) kept(version string) *keptPolicy {
	k := &keptPolicy{
		Version: version,
		Lists:   set.spec.Lists, Bans: set.spec.Bans, Groups: set.spec.Groups, Exemptions: set.spec.Exemptions,
		Answer: set.spec.Answer, Hello: set.spec.Hello, Read: make(map[string]keptRevision, len(set.read)),
	}
	for i := range set.parts {
		p := &set.parts[i]
		k.Parts = append(k.Parts, keptPart{p.status, p.source, p.inline, keepRevision(p.read), p.at})
	}
	for _, o := range set.off {
		k.Off = append(k.Off, keptOff{o.before, o.status})
	}
	for src, r := range set.read {
		k.Read[src] = keepRevision(r)
	}
	if c := set.canary; c != nil {
		k.Canary = &keptCanary{c.group, c.from, c.since, c.who, c.why, c.policy.kept(version)}
	}
	return k
}

// restore makes the policy of a generation again, but for the snapshot.
func restore(gen *generation.Generation, set *blocklists.Set) (*policySet, string, error) {
	var k keptPolicy
	if err := json.Unmarshal(gen.Policy, &k); err != nil {
		return nil, "", fmt.Errorf("its policy cannot be read: %w", err)
	}
	out, err := k.restore(set)
	switch c := k.Canary; {
	case err != nil:
		return nil, "", err
	case (c == nil) != (gen.CanarySet == nil) || c != nil && c.Policy == nil:
		return nil, "", errors.New("it says both that a canary runs and that none does")
	case c != nil:
		ahead, err := c.Policy.restore(gen.CanarySet)
		if err != nil {
			return nil, "", fmt.Errorf("canary: %w", err)
		}
		out.canary = &canary{group: c.Group, policy: ahead, from: c.From, since: c.Since, who: c.Who, why: c.Why}
	}
	return out, k.Version, nil
}

func (k *keptPolicy) restore(set *blocklists.Set) (*policySet, error) {
	if len(k.Parts) != len(k.Lists) || set.Lists() > len(k.Parts) {
		return nil, fmt.Errorf("it describes %d of %d lists", len(k.Parts), max(len(k.Lists), set.Lists()))
	}
	out := &policySet{set: set, built: true, bans: k.Bans, read: make(revisions, len(k.Read))}
	out.spec = policy.Spec{
		Set: set, Lists: k.Lists, Bans: k.Bans, Groups: k.Groups, Exemptions: k.Exemptions,
		Answer: k.Answer, Hello: k.Hello, CacheEntries: verdictCache,
	}
	for i, p := range k.Parts {
		out.parts = append(out.parts, part{status: p.Status, source: p.Source, list: k.Lists[i], inline: p.Inline, read: p.Read.revision(), at: p.At})
	}
	for _, o := range k.Off {
		out.off = append(out.off, offList{o.Before, o.Status})
	}
	for src, r := range k.Read {
		out.read[src] = r.revision()
	}
	out.lists = statuses(out.parts, out.off)
	return out, nil
}

// number makes the snapshot, under that number; that of a canary has the same.
func (set *policySet) number(n uint64) (err error) {
	set.spec.Generation, set.spec.Canary = n, nil
	if set.canary != nil {
		c, ahead := *set.canary, *set.canary.policy
		if err := ahead.number(n); err != nil {
			return fmt.Errorf("canary: %w", err)
		}
		c.policy = &ahead
		set.canary = &c
		set.spec.Canary = &policy.Canary{Group: c.group, Snapshot: ahead.snapshot}
	}
	set.snapshot, err = policy.NewSnapshot(set.spec)
	return err
}

// distrust has nothing of a policy that was restored be taken over, but lists in
// files that were read as this program reads them.
func (set *policySet) distrust(same bool) {
	for i := range set.parts {
		if p := &set.parts[i]; !same || strings.HasPrefix(p.source, "embedded:") {
			p.read.absent = true
		}
	}
}

// fresh has a policy that was restored be compared with what there is now: the
// built-in lists may be others than those of the program that wrote it, and of
// long files it is not known what is where in them.
func (set *policySet) fresh() {
	for i := range set.parts {
		p := &set.parts[i]
		switch {
		case strings.HasPrefix(p.source, "embedded:"):
			p.read.absent = sourceDigest(p.source) != p.status.Digest
		case isFile(p.source):
			p.patched = p.status.Rules > maxEdit
			p.trust()
		}
	}
}

// trust looks into a file that was read too soon after a change for its revision
// to say that it is the same.
func (p *part) trust() {
	now := look(p.source)
	if now != p.read || p.at.Sub(now.since()) >= racy {
		return
	}
	at := time.Now()
	if sourceDigest(p.source) == p.status.Digest && look(p.source) == now {
		p.at = at
	}
}

func sourceDigest(src string) string {
	r, err := opener.Open(src)
	if err != nil {
		return ""
	}
	defer func() { _ = r.Close() }()
	sum := sha256.New()
	if _, err := io.Copy(sum, r); err != nil {
		return ""
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// says reports whether the two say the same, to the last reason and line, so
// that they are one generation.
func (set *policySet) says(other *policySet) bool {
	same := func(a, b *policySet) bool { return a.set == b.set }
	if set.canary != nil && other.canary != nil && !same(set.canary.policy, other.canary.policy) {
		return false
	}
	return same(set, other) && bytes.Equal(set.essence(), other.essence())
}

// strip takes away what says nothing of what is decided.
func (k *keptPolicy) strip() {
	k.Read = nil
	for i := range k.Parts {
		p := &k.Parts[i]
		p.Read, p.At, p.Status.Report = keptRevision{}, time.Time{}, nil
	}
	if k.Canary != nil {
		k.Canary.Policy.strip()
	}
}

// essence is what a policy says beside its rules.
func (set *policySet) essence() []byte {
	k := set.kept("")
	k.strip()
	b, err := json.Marshal(k)
	if err != nil {
		return nil // of what is no JSON nothing is the same
	}
	return b
}

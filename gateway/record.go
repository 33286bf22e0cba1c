package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sync/atomic"

	"github.com/weir-gateway/weir/gateway/ledger"
)

// A note is what the record of changes says of one, beside who and why.
type note struct {
	role          string
	object        string // what was changed, where it is not the policy alone
	before, after string // digests of it
}

// recorder keeps the record of changes.
type recorder struct {
	ledger  *ledger.Ledger // nil for none
	denials denials
	failed  atomic.Uint64
	bad     atomic.Bool // the latest entry was not kept
	damaged atomic.Bool // the ledger was tampered with before this start
}

// openLedger opens the record of changes in the state folder, and says what it
// finds wrong with it. A gateway runs with a ledger that was tampered with: it
// is its operators who must know.
func (g *Gateway) openLedger() error {
	if g.folder == nil {
		return nil
	}
	l, torn, damaged, err := ledger.Open(g.folder.path)
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	g.record.ledger = l
	if torn != "" {
		g.log.Warn("the record of changes ended within a line, as after a crash; that end is set aside", "file", torn)
	}
	if damaged != nil {
		g.record.damaged.Store(true)
		g.log.Error("the record of changes does not verify; it goes on in a new file. See weir audit verify", "error", damaged)
	}
	return nil
}

// recordChange puts a change on the record, and returns when it is on the disk.
func (g *Gateway) recordChange(c change, before *policySet) error {
	n := c.note
	if n == nil {
		n = &note{}
	}
	if n.before == "" && n.after == "" {
		n.before, n.after = before.digest(), g.compiled.digest()
	}
	return g.record.append(ledger.Entry{
		Who: c.who, Role: n.role, What: string(c.kind), Object: n.object, Why: c.why,
		Before: n.before, After: n.after, Generation: g.compiled.snapshot.Generation(),
	})
}

func (r *recorder) append(e ledger.Entry) error {
	if r.ledger == nil {
		return nil
	}
	_, err := r.ledger.Append(e)
	r.bad.Store(err != nil)
	if err != nil {
		r.failed.Add(1)
		return fmt.Errorf("it is %w, but not on the record of changes: %w", errInForce, err)
	}
	return nil
}

// head returns the end of the record, or nil for none.
func (r *recorder) head() *ledger.Head {
	if r.ledger == nil {
		return nil
	}
	h := r.ledger.Head()
	return &h
}

func (r *recorder) close() {
	if r.ledger != nil {
		_ = r.ledger.Close()
	}
}

// digest tells policies apart by what they were made of.
func (set *policySet) digest() string {
	if set == nil {
		return ""
	}
	sum := sha256.Sum256(set.essence())
	return hex.EncodeToString(sum[:])
}

// digestOf is the digest of an object that is shown as JSON.
func digestOf(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// missRecord says where the record of changes is not what it must be: there were
// generations, and nothing is on it.
func (g *Gateway) missRecord() {
	if h := g.record.head(); h == nil || h.Seq > 0 || g.gens.store == nil || g.gens.store.Next() == 1 {
		return
	}
	g.record.damaged.Store(true)
	last := g.gens.store.Next() - 1
	g.log.Error("the record of changes is gone, and begins anew: somebody has taken it away", "last generation", last)
	g.note(ledger.Entry{Who: whoGateway, What: "record missing", Object: "record of changes", Generation: last,
		Why: "there are generations, and nothing was on the record"})
}

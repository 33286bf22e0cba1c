// Package generation keeps the generations of a policy on disk: what was in
// force, since when, who wanted it and why.
//
// A generation is a numbered file that is never changed, and refers to another
// one with the names that were compiled, which generations that differ by edits
// share. A Store reads and writes them; it writes so that a kill at any instant
// leaves whole generations, and keeps only so many of them. What a policy is
// beside its rules is the caller's to say: the package keeps it as JSON. It
// decides nothing and puts nothing in force.
package generation

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/weir-gateway/weir/blocklists"
)

// A Header is what is told of a generation.
type Header struct {
	Number uint64    `json:"number"`
	Parent uint64    `json:"parent,omitempty"` // what was in force before, 0 for nothing
	Time   time.Time `json:"time"`
	Who    string    `json:"who"`
	Why    string    `json:"why,omitempty"`
	Kind   string    `json:"kind"`             // start, reload, file, rollback, …
	Of     uint64    `json:"of,omitempty"`     // the generation that a rollback went back to, or the end of a canary
	Held   bool      `json:"held,omitempty"`   // nothing else is taken until somebody says so
	Config string    `json:"config,omitempty"` // the configuration file, empty for the built-in default
	Rules  int       `json:"rules"`
	Base   string    `json:"base"` // the file with the compiled names
	// Of a generation in which one group has another policy than all others.
	Canary      string `json:"canary,omitempty"` // the group
	CanaryRules int    `json:"canary_rules,omitempty"`
	CanaryBase  string `json:"canary_base,omitempty"`
	Pinned      bool   `json:"pinned,omitempty"` // it is kept until it is let go
	Bytes       int64  `json:"bytes,omitempty"`  // of the files that are this generation's alone
}

// A Generation is a header and what the policy was.
type Generation struct {
	Header
	Policy json.RawMessage // all but the rules, as the caller has it
	// CanarySet are the rules of the one group, nil where there is none.
	CanarySet *blocklists.Set

	edits, canaryEdits []byte
}

// A body is the second line of a generation's file.
type body struct {
	Policy json.RawMessage `json:"policy"`
	Edits  []byte          `json:"edits"` // of the set; see blocklists.Set.WriteEdits
	Canary []byte          `json:"canary,omitempty"`
}

// ErrNotKept is in errors about generations that are not there, or no more.
var ErrNotKept = errors.New("no such generation is kept")

// encode writes the lines of a file.
func (g *Generation) encode(w io.Writer) error {
	var b bytes.Buffer
	lines := json.NewEncoder(&b)
	h := g.Header
	h.Pinned, h.Bytes = false, 0 // those are the store's
	if err := errors.Join(lines.Encode(h), lines.Encode(body{g.Policy, g.edits, g.canaryEdits})); err != nil {
		return err
	}
	_, err := w.Write(append(b.Bytes(), sealOf(b.Bytes())...))
	return err
}

// sealOf returns the last line of a file: without it, or where it is not true of
// the lines before it, the file is none.
func sealOf(lines []byte) []byte {
	sum := sha256.Sum256(lines)
	return fmt.Appendf(nil, "{\"sha256\":%q}\n", hex.EncodeToString(sum[:]))
}

// decode reads a file, or says why it is none.
func decode(b []byte) (*Generation, error) {
	text := bytes.TrimSuffix(b, []byte("\n"))
	last := bytes.LastIndexByte(text, '\n') + 1
	if want := sealOf(b[:last]); !bytes.Equal(text[last:], bytes.TrimSuffix(want, []byte("\n"))) {
		return nil, errors.New("damaged generation: it ends early or its checksum is wrong")
	}
	var g Generation
	var rest body
	lines := json.NewDecoder(bytes.NewReader(b[:last]))
	if err := errors.Join(lines.Decode(&g.Header), lines.Decode(&rest)); err != nil {
		return nil, fmt.Errorf("damaged generation: %w", err)
	}
	g.Policy, g.edits, g.canaryEdits = rest.Policy, rest.Edits, rest.Canary
	return &g, nil
}

// maxHeader bounds the first line of a file.
const maxHeader = 64 << 10

// readHeader reads the first line of a file.
func readHeader(path string) (h Header, err error) {
	f, err := os.Open(path)
	if err != nil {
		return h, err
	}
	defer func() { _ = f.Close() }()
	line, err := bufio.NewReader(io.LimitReader(f, maxHeader)).ReadBytes('\n')
	if err != nil {
		return h, fmt.Errorf("damaged generation: it ends early: %w", err)
	}
	return h, json.Unmarshal(line, &h)
}

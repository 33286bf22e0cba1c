package generation

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/durable"
)

// Limits are how much a Store keeps. The newest generation and those that are
// pinned stay beyond them.
type Limits struct {
	Count int   // generations
	Bytes int64 // of all files
}

// DefaultLimits are some months of a list that changes daily, and no more disk
// than a dozen lists of a million names.
var DefaultLimits = Limits{Count: 200, Bytes: 512 << 20}

// maxPinned bounds how many generations are pinned.
const maxPinned = 32

// A Store is the folder of generations. One process owns it; its methods may be
// called at the same time.
type Store struct {
	dir    string
	limits Limits

	mu      sync.Mutex // over the files and what follows
	numbers []uint64   // of the generations that are there, ascending
	last    uint64     // the highest number that there ever was
	files   map[uint64]fileOf
	known   []known // what was last written or read, to see what shares its base
}

// A known is a set in memory, and the file that its base is in.
type known struct {
	set  *blocklists.Set
	base string
}

// A fileOf is what is remembered of a generation's file.
type fileOf struct {
	base   string // empty for a file that cannot be read
	canary string // the base of its canary, empty for none or for the same
	size   int64
}

func fileOfHeader(h *Header, size int64) fileOf {
	f := fileOf{base: h.Base, size: size}
	if h.CanaryBase != h.Base {
		f.canary = h.CanaryBase
	}
	return f
}

// bases are the files that the generation refers to.
func (f fileOf) bases() []string {
	if f.canary == "" {
		return []string{f.base}
	}
	return []string{f.base, f.canary}
}

const (
	fileEnd  = ".json"
	baseEnd  = ".set"
	trialEnd = ".canary.set" // the base of a canary that began then
	pinEnd   = ".pin"
)

func name(number uint64, end string) string { return fmt.Sprintf("%08d%s", number, end) }

// numberOf returns the number in the name of a file that ends so.
func numberOf(file, end string) (uint64, bool) {
	digits, ok := strings.CutSuffix(file, end)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil && name(n, end) == file
}

// isBase reports whether the file is one with compiled names, and of which number.
func isBase(file string) (uint64, bool) {
	if n, ok := numberOf(file, trialEnd); ok {
		return n, true
	}
	return numberOf(file, baseEnd)
}

// Open opens the folder, which must be there, and takes away what a killed
// process has left half done.
func Open(dir string, limits Limits) (*Store, error) {
	if err := durable.Sweep(dir); err != nil {
		return nil, err
	}
	return Look(dir, limits)
}

// Look opens the folder of somebody else's generations. It changes nothing, and
// of the store's methods those must not be called that do.
func Look(dir string, limits Limits) (*Store, error) {
	s := &Store{dir: dir, limits: limits, files: make(map[uint64]fileOf)}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if n, ok := numberOf(e.Name(), fileEnd); ok {
			h, err := readHeader(s.path(e.Name()))
			if _, ok := errors.AsType[*fs.PathError](err); ok {
				return nil, err // of the machine, not of what is in the file
			}
			s.numbers, s.last = append(s.numbers, n), max(s.last, n)
			s.files[n] = fileOfHeader(&h, s.size(e.Name()))
		}
		if n, ok := isBase(e.Name()); ok {
			s.last = max(s.last, n) // of a generation that came to nothing
		}
	}
	slices.Sort(s.numbers)
	return s, nil
}

// Next returns the number of the next generation: above all that there ever
// were.
func (s *Store) Next() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last + 1
}

// Write writes a generation and returns when it outlives a loss of power. Its sets
// are compared with the last ones: where two share a base, that is not written
// again. canary is nil where no group has rules of its own. Pace may be nil; it is
// called all the time while much is written.
func (s *Store) Write(h Header, policy []byte, set, canary *blocklists.Set, pace func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.numbers); n > 0 && h.Number <= s.numbers[n-1] || h.Number == 0 {
		return fmt.Errorf("generation %d is not a new one", h.Number)
	}
	g := Generation{Header: h, Policy: policy}
	now := make([]known, 1, 2)
	var err error
	if now[0], g.edits, err = s.writeSet(set, name(h.Number, baseEnd), pace); err != nil {
		return err
	}
	g.Base, g.Rules = now[0].base, set.Rules()
	if canary != nil {
		k := now[0]
		if canary.SameBase(set) {
			k.set = canary
			g.canaryEdits, err = edits(canary)
		} else {
			k, g.canaryEdits, err = s.writeSet(canary, name(h.Number, trialEnd), pace)
		}
		if err != nil {
			return err
		}
		g.CanaryBase, g.CanaryRules = k.base, canary.Rules()
		now = append(now, k)
	}
	if err := durable.WriteFile(s.path(name(h.Number, fileEnd)), g.encode); err != nil {
		return err
	}
	s.numbers, s.last = append(s.numbers, h.Number), max(s.last, h.Number)
	s.files[h.Number] = fileOfHeader(&g.Header, s.size(name(h.Number, fileEnd)))
	s.known = now
	return nil
}

// writeSet writes the base of a set to the file, unless it is on disk already, and
// returns where it is and the edits of the set.
func (s *Store) writeSet(set *blocklists.Set, file string, pace func()) (known, []byte, error) {
	at := slices.IndexFunc(s.known, func(k known) bool { return set.SameBase(k.set) })
	if at >= 0 {
		file = s.known[at].base
	} else if err := durable.WriteFile(s.path(file), func(w io.Writer) error { return set.WriteBase(w, pace) }); err != nil {
		return known{}, nil, err
	}
	e, err := edits(set)
	return known{set, file}, e, err
}

func edits(set *blocklists.Set) ([]byte, error) {
	var b bytes.Buffer
	err := set.WriteEdits(&b)
	return b.Bytes(), err
}

func (s *Store) path(file string) string { return filepath.Join(s.dir, file) }

// Newest returns the newest generation that can be read, nil for none, and
// errors about newer ones that cannot.
func (s *Store) Newest() (*Generation, *blocklists.Set, error) {
	s.mu.Lock()
	numbers := slices.Clone(s.numbers)
	s.mu.Unlock()
	var errs []error
	for _, n := range slices.Backward(numbers) {
		g, set, err := s.Load(n)
		if err == nil {
			return g, set, errors.Join(errs...)
		}
		errs = append(errs, err)
	}
	return nil, nil, errors.Join(errs...)
}

// Load reads a generation. Where it shares the base of the last one, that is not
// read again.
func (s *Store) Load(number uint64) (*Generation, *blocklists.Set, error) {
	g, bases, err := s.read(number)
	if err != nil {
		return nil, nil, fmt.Errorf("generation %d: %w", number, err)
	}
	set, err := bases[0].decode(g.edits, g.Rules)
	if err != nil {
		return nil, nil, fmt.Errorf("generation %d: %s: %w", number, g.Base, err)
	}
	if g.CanaryBase == "" {
		return g, set, nil
	}
	if g.CanaryBase == g.Base {
		bases[1].set = set
	}
	if g.CanarySet, err = bases[1].decode(g.canaryEdits, g.CanaryRules); err != nil {
		return nil, nil, fmt.Errorf("generation %d: %s: %w", number, g.CanaryBase, err)
	}
	return g, set, nil
}

// A stored is the base of a set: one in memory that shares it, or its file.
type stored struct {
	set  *blocklists.Set
	text []byte
}

func (b *stored) decode(edits []byte, rules int) (set *blocklists.Set, err error) {
	if b.set != nil {
		set, err = b.set.WithEdits(edits)
	} else {
		set, err = blocklists.ReadSet(b.text, edits, nil)
	}
	if err == nil && set.Rules() != rules {
		return nil, fmt.Errorf("it has %d rules and says %d", set.Rules(), rules)
	}
	return set, err
}

// read reads the files of a generation: what is decoded of them takes longer,
// and nobody needs to wait for that.
func (s *Store) read(number uint64) (g *Generation, bases [2]stored, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := os.ReadFile(s.path(name(number, fileEnd)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, bases, ErrNotKept
	}
	if err != nil {
		return nil, bases, err
	}
	if g, err = decode(b); err != nil {
		return nil, bases, err
	}
	if g.Number != number {
		return nil, bases, fmt.Errorf("damaged generation: it says to be %d", g.Number)
	}
	for i, file := range []string{g.Base, g.CanaryBase} {
		if i == 1 && (file == "" || file == g.Base) {
			break
		}
		if bases[i], err = s.readBase(file); err != nil {
			return nil, bases, err
		}
	}
	return g, bases, nil
}

func (s *Store) readBase(file string) (b stored, err error) {
	if _, ok := isBase(file); !ok {
		return b, fmt.Errorf("damaged generation: its base is %q", file)
	}
	for _, k := range s.known {
		if k.base == file {
			return stored{set: k.set}, nil
		}
	}
	b.text, err = os.ReadFile(s.path(file))
	return b, err
}

// Adopt tells the store which generation is in force, so that those which share
// its bases are not read or written in full.
func (s *Store) Adopt(g *Generation, set *blocklists.Set) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = append(make([]known, 0, 2), known{set, g.Base})
	if g.CanarySet != nil {
		s.known = append(s.known, known{g.CanarySet, g.CanaryBase})
	}
}

// History returns the headers of what is kept, the newest first. A file that
// cannot be read is left out.
func (s *Store) History() []Header {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Header
	for _, n := range slices.Backward(s.numbers) {
		h, err := readHeader(s.path(name(n, fileEnd)))
		if err != nil {
			continue
		}
		h.Pinned, h.Bytes = s.pinned(n), s.size(name(n, fileEnd))
		if h.Base == name(n, baseEnd) {
			h.Bytes += s.size(h.Base)
		}
		if h.CanaryBase == name(n, trialEnd) {
			h.Bytes += s.size(h.CanaryBase)
		}
		out = append(out, h)
	}
	return out
}

func (s *Store) size(file string) int64 {
	st, err := os.Stat(s.path(file))
	if err != nil {
		return 0
	}
	return st.Size()
}

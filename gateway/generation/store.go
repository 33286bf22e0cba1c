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
	// What was last written or read, to see what shares its base.
	set  *blocklists.Set
	base string
}

// A fileOf is what is remembered of a generation's file.
type fileOf struct {
	base string // empty for a file that cannot be read
	size int64
}

const (
	fileEnd = ".json"
	baseEnd = ".set"
	pinEnd  = ".pin"
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
			s.files[n] = fileOf{h.Base, s.size(e.Name())}
		}
		if n, ok := numberOf(e.Name(), baseEnd); ok {
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

// Write writes a generation and returns when it outlives a loss of power. Its
// set is compared with the last one: where the two share a base, that is not
// written again. Pace may be nil; it is called all the time while much is written.
func (s *Store) Write(h Header, policy []byte, set *blocklists.Set, pace func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.numbers); n > 0 && h.Number <= s.numbers[n-1] || h.Number == 0 {
		return fmt.Errorf("generation %d is not a new one", h.Number)
	}
	base := s.base
	if base == "" || !set.SameBase(s.set) {
		base = name(h.Number, baseEnd)
		err := durable.WriteFile(s.path(base), func(w io.Writer) error { return set.WriteBase(w, pace) })
		if err != nil {
			return err
		}
	}
	var edits bytes.Buffer
	if err := set.WriteEdits(&edits); err != nil {
		return err
	}
	h.Base, h.Rules = base, set.Rules()
	g := Generation{Header: h, Policy: policy, edits: edits.Bytes()}
	if err := durable.WriteFile(s.path(name(h.Number, fileEnd)), g.encode); err != nil {
		return err
	}
	s.numbers, s.last = append(s.numbers, h.Number), max(s.last, h.Number)
	s.files[h.Number] = fileOf{base, s.size(name(h.Number, fileEnd))}
	s.set, s.base = set, base
	return nil
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
	g, shared, base, err := s.read(number)
	if err != nil {
		return nil, nil, fmt.Errorf("generation %d: %w", number, err)
	}
	var set *blocklists.Set
	if shared != nil {
		set, err = shared.WithEdits(g.edits)
	} else {
		set, err = blocklists.ReadSet(base, g.edits, nil)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("generation %d: %s: %w", number, g.Base, err)
	}
	if set.Rules() != g.Rules {
		return nil, nil, fmt.Errorf("generation %d: it has %d rules and says %d", number, set.Rules(), g.Rules)
	}
	return g, set, nil
}

// read reads the files of a generation: what is decoded of them takes longer,
// and nobody needs to wait for that.
func (s *Store) read(number uint64) (g *Generation, shared *blocklists.Set, base []byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := os.ReadFile(s.path(name(number, fileEnd)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil, ErrNotKept
	}
	if err != nil {
		return nil, nil, nil, err
	}
	if g, err = decode(b); err != nil {
		return nil, nil, nil, err
	}
	if g.Number != number {
		return nil, nil, nil, fmt.Errorf("damaged generation: it says to be %d", g.Number)
	}
	if _, ok := numberOf(g.Base, baseEnd); !ok {
		return nil, nil, nil, fmt.Errorf("damaged generation: its base is %q", g.Base)
	}
	if s.set != nil && g.Base == s.base {
		return g, s.set, nil, nil
	}
	base, err = os.ReadFile(s.path(g.Base))
	return g, nil, base, err
}

// Adopt tells the store which generation is in force, so that those which share
// its base are not read or written in full.
func (s *Store) Adopt(g *Generation, set *blocklists.Set) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set, s.base = set, g.Base
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

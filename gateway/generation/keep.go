package generation

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/weir-gateway/weir/gateway/durable"
)

// Pin has a generation stay whatever the limits, or lets it go.
func (s *Store) Pin(number uint64, pin bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.numbers, number) {
		return fmt.Errorf("generation %d: %w", number, ErrNotKept)
	}
	path := s.path(name(number, pinEnd))
	if !pin {
		return s.remove(path)
	}
	pins := 0
	for _, n := range s.numbers {
		if n != number && s.pinned(n) {
			pins++
		}
	}
	if pins >= maxPinned {
		return fmt.Errorf("%d generations are pinned: let one go first", pins)
	}
	return durable.WriteBytes(path, nil)
}

func (s *Store) pinned(number uint64) bool {
	_, err := os.Stat(s.path(name(number, pinEnd)))
	return err == nil
}

// Prune removes the oldest generations beyond the limits, and then the bases
// that none of the others refers to. A generation goes before its base: whatever
// is left when the process is killed here is whole.
func (s *Store) Prune() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.numbers) == 0 {
		return nil
	}
	refs, total := s.survey()
	var errs []error
	left := len(s.numbers)
	for _, n := range slices.Clone(s.numbers[:len(s.numbers)-1]) {
		if left <= s.limits.Count && total <= s.limits.Bytes {
			break
		}
		if s.pinned(n) {
			continue
		}
		f := s.files[n]
		if err := s.remove(s.path(name(n, fileEnd))); err != nil {
			errs = append(errs, err)
			continue
		}
		s.numbers = slices.DeleteFunc(s.numbers, func(m uint64) bool { return m == n })
		delete(s.files, n)
		left, total = left-1, total-f.size
		for _, base := range f.bases() {
			if refs[base]--; refs[base] == 0 {
				total -= s.size(base)
			}
		}
	}
	return errors.Join(append(errs, s.dropBases(refs))...)
}

// survey returns how many generations refer to each base, and how large all is.
func (s *Store) survey() (refs map[string]int, total int64) {
	refs = make(map[string]int)
	for _, f := range s.files {
		total += f.size
		for _, base := range f.bases() {
			if refs[base]++; refs[base] == 1 && base != "" {
				total += s.size(base)
			}
		}
	}
	return refs, total
}

// dropBases removes files that belong to no generation that is there.
func (s *Store) dropBases(refs map[string]int) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		file := e.Name()
		_, base := isBase(file)
		n, isPin := numberOf(file, pinEnd)
		if base && refs[file] == 0 || isPin && !slices.Contains(s.numbers, n) {
			errs = append(errs, s.remove(s.path(file)))
		}
	}
	return errors.Join(errs...)
}

func (s *Store) remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

package source

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// A Store keeps versions of lists that came over the network, in a folder for
// each list: the last good one, one that waits for approval, one that was
// refused, and so on. Each is a file of bytes and one of what is known of them.
//
// The bytes go into place first, then what is known of them. A crash in between
// leaves bytes that nothing is known of, which can be seen because the digest is
// another: they are used, and fetched again in full.
//
// A Store is as good as its folder, and a folder belongs to one gateway; others
// may read. The zero Store is empty and stays so.
type Store struct{ Dir string }

// A Kind is which version of a list.
type Kind string

// The kinds. Only the first is ever in force.
const (
	Good     Kind = "list"
	Held     Kind = "held"
	Refused  Kind = "refused"  // by a check, the latest
	Unwanted Kind = "unwanted" // refused by a person
	Before   Kind = "before"   // what was good before a group went ahead with another
)

// A Copy is what is known of a version.
type Copy struct {
	URL string `json:"url"`
	Validators
	SHA256  string    `json:"sha256"`
	Bytes   int64     `json:"bytes"`
	Rules   int       `json:"rules,omitempty"`
	Fetched time.Time `json:"fetched"`           // when the bytes came
	Checked time.Time `json:"checked,omitzero"`  // when the source was last seen, and nothing was wrong with what it had
	Reason  string    `json:"reason,omitempty"`  // of one that was refused, in a word
	Message string    `json:"message,omitempty"` // the same, in a sentence
	By      string    `json:"by,omitempty"`      // who approved it
}

// Path returns where the bytes of a version are, or would be.
func (s Store) Path(list string, k Kind) string { return filepath.Join(s.Dir, list, string(k)) }

// Load returns what is known of a version. A version whose bytes are not those
// that it was written for has a digest and a size only; one that is not there is
// fs.ErrNotExist.
func (s Store) Load(list string, k Kind) (Copy, error) {
	if s.Dir == "" {
		return Copy{}, fs.ErrNotExist
	}
	sum, size, err := digestFile(s.Path(list, k))
	if err != nil {
		return Copy{}, err
	}
	var c Copy
	if text, err := os.ReadFile(s.Path(list, k) + ".json"); err == nil && json.Unmarshal(text, &c) == nil && c.SHA256 == sum {
		return c, nil
	}
	return Copy{SHA256: sum, Bytes: size}, nil
}

// Has reports whether the bytes of a version are there.
func (s Store) Has(list string, k Kind) bool {
	_, err := os.Stat(s.Path(list, k))
	return s.Dir != "" && !errors.Is(err, fs.ErrNotExist)
}

func digestFile(path string) (string, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	return hex.EncodeToString(sum.Sum(nil)), n, err
}

// Create returns a file in the list's folder to write a version to. The caller
// closes it, and puts it into place with Install or removes it.
func (s Store) Create(list string) (*os.File, error) {
	if s.Dir == "" {
		return nil, errors.New("there is no folder for fetched lists: name one with state")
	}
	dir := filepath.Join(s.Dir, list)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder of list %s: %w", list, err)
	}
	return os.CreateTemp(dir, "new-*")
}

// Install puts a file from the list's folder in the place of a version. Until it
// returns nil, the old version is there or the new one, whole.
func (s Store) Install(list string, k Kind, file string, c Copy) error {
	if err := syncFile(file); err != nil {
		return err
	}
	if err := os.Rename(file, s.Path(list, k)); err != nil {
		return err
	}
	if err := s.Note(list, k, c); err != nil {
		return err
	}
	return syncFile(s.Dir) // the list's folder may be new
}

// Duplicate puts the bytes of a version in the place of another, too, and notes that
// of it.
func (s Store) Duplicate(list string, from, to Kind, c Copy) error {
	in, err := os.Open(s.Path(list, from))
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	f, err := s.Create(list)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, in)
	if err = errors.Join(err, f.Close()); err == nil {
		err = s.Install(list, to, f.Name(), c)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// Note writes what is known of a version anew.
func (s Store) Note(list string, k Kind, c Copy) error {
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	f, err := s.Create(list)
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), s.Path(list, k)+".json")
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	return syncFile(filepath.Join(s.Dir, list))
}

// Remove removes a version, if there is one.
func (s Store) Remove(list string, k Kind) error {
	var errs []error
	for _, path := range []string{s.Path(list, k), s.Path(list, k) + ".json"} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// RemoveAll removes that version of all lists.
func (s Store) RemoveAll(k Kind) error {
	if s.Dir == "" {
		return nil
	}
	there, err := filepath.Glob(s.Path("*", k))
	for _, path := range there {
		err = errors.Join(err, s.Remove(filepath.Base(filepath.Dir(path)), k))
	}
	return err
}

// Clean removes what an end without warning has left half-written.
func (s Store) Clean() {
	left, err := filepath.Glob(filepath.Join(s.Dir, "*", "new-*"))
	if err != nil {
		return // only a bad pattern is an error
	}
	for _, path := range left {
		_ = os.Remove(path)
	}
}

// syncFile makes a file, or the names in a folder, last.
func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Package ledger is the record of changes: who changed what, when and why, in
// lines that each carry the hash of the one before.
//
// A line that was changed, taken out, put in or moved afterwards is found by
// Verify. Lines that were cut off at the end are not, except against a head
// that somebody has noted elsewhere: that is why the head is shown. It keeps
// no decisions (that is package audit) and says nothing about whether a change
// was right.
package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/weir-gateway/weir/gateway/durable"
)

// An Entry is one change. Its JSON form is stable: fields are added, never
// renamed or removed.
type Entry struct {
	Seq        uint64    `json:"seq"` // from 1, without gaps
	Time       time.Time `json:"time"`
	Who        string    `json:"who"`
	Role       string    `json:"role,omitempty"`
	What       string    `json:"what"`
	Object     string    `json:"object,omitempty"`
	Why        string    `json:"why,omitempty"`
	Before     string    `json:"before,omitempty"` // digest of what was changed, before and after
	After      string    `json:"after,omitempty"`
	Generation uint64    `json:"generation,omitempty"`
	Prev       string    `json:"prev"` // hash of the entry before
}

// A Head is the end of a ledger: its last entry.
type Head struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash"`
}

// genesis is what the first entry has for the hash of the one before.
var genesis = hex.EncodeToString(make([]byte, sha256.Size))

const (
	fileName = "ledger.jsonl"
	// hashField is how a line ends, after what is hashed.
	hashField = `,"hash":"`
	hashLen   = len(hashField) + 2*sha256.Size + len(`"}`)

	// maxFile is when another file is begun, and maxOld how many full ones are
	// kept: a gigabyte, some millions of changes.
	maxFile = 16 << 20
	maxOld  = 64
	maxLine = 64 << 10
)

// A Ledger appends entries. It is safe for concurrent use.
type Ledger struct {
	dir     string
	maxFile int64

	mu   sync.Mutex
	f    *os.File
	size int64
	head Head
	bad  error // why nothing more can be appended
}

// Open opens the ledger in a folder, or begins one. What a kill has left half
// written at its end is set aside in a file of its own, whose name is returned.
// A ledger that does not verify is set aside whole, goes on in a new file, and
// stays wrong for Verify; the error then is damaged, beside the Ledger.
func Open(dir string) (l *Ledger, torn string, damaged error, err error) {
	l = &Ledger{dir: dir, maxFile: maxFile, head: Head{Hash: genesis}}
	files, err := Files(dir)
	if err != nil {
		return nil, "", nil, err
	}
	path := filepath.Join(dir, fileName)
	if torn, err = setTornAside(path); err != nil {
		return nil, "", nil, fmt.Errorf("ledger: %w", err)
	}
	if len(files) > 0 {
		// Only the newest has to be looked at to go on; verify looks at them all.
		l.head, damaged = Verify(files[len(files)-1:], "")
	}
	if l.head.Hash == "" {
		l.head.Hash = genesis
	}
	if l.f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
		return nil, "", nil, fmt.Errorf("ledger: %w", err)
	}
	st, err := l.f.Stat()
	if err == nil {
		l.size = st.Size()
		err = durable.SyncFolder(dir)
	}
	if err == nil && damaged != nil {
		err = l.rotate()
	}
	if err != nil {
		return nil, "", nil, errors.Join(fmt.Errorf("ledger: %w", err), l.f.Close())
	}
	return l, torn, damaged, nil
}

// setTornAside moves what stands behind the last whole line into another file.
func setTornAside(path string) (string, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	whole := bytes.LastIndexByte(b, '\n') + 1
	if whole == len(b) {
		return "", nil
	}
	torn := path + ".torn"
	for i := 2; ; i++ {
		if _, err := os.Lstat(torn); errors.Is(err, fs.ErrNotExist) {
			break
		}
		torn = fmt.Sprintf("%s.torn-%d", path, i)
	}
	if err := durable.WriteBytes(torn, b[whole:]); err != nil {
		return "", err
	}
	return torn, os.Truncate(path, int64(whole))
}

// Files returns the files of the ledger in a folder, oldest first.
func Files(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "ledger-[0-9]*.jsonl"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	if newest := filepath.Join(dir, fileName); exists(newest) {
		files = append(files, newest)
	}
	return files, nil
}

func exists(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Size() > 0
}

// Append adds an entry and returns when it is on the disk. Seq, Prev and, if it
// is zero, Time are the ledger's.
func (l *Ledger) Append(e Entry) (Head, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bad != nil {
		return l.head, l.bad
	}
	if l.size >= l.maxFile {
		if err := l.rotate(); err != nil {
			return l.head, fmt.Errorf("ledger: %w", err)
		}
	}
	if e.Time.IsZero() {
		e.Time = time.Now().UTC()
	}
	e.Seq, e.Prev = l.head.Seq+1, l.head.Hash
	line, hash, err := encode(&e)
	if err != nil {
		return l.head, fmt.Errorf("ledger: %w", err)
	}
	if _, err = l.f.Write(line); err == nil {
		err = l.f.Sync()
	}
	if err != nil {
		err = fmt.Errorf("ledger: %w", err)
		// Half a line must not stay before the next one.
		if terr := l.f.Truncate(l.size); terr != nil {
			l.bad = fmt.Errorf("%w; restart weir when there is room", err)
		}
		return l.head, err
	}
	l.size += int64(len(line))
	l.head = Head{e.Seq, hash}
	return l.head, nil
}

// encode returns the line of an entry and its hash. What is hashed are the bytes
// of the line before its hash, so that whoever checks it needs to agree on no
// spelling.
func encode(e *Entry) (line []byte, hash string, err error) {
	b, err := json.Marshal(e)
	if err != nil {
		return nil, "", err
	}
	if len(b) > maxLine {
		return nil, "", errors.New("the entry is too long; give a shorter reason")
	}
	b = b[:len(b)-1]
	sum := sha256.Sum256(b)
	hash = hex.EncodeToString(sum[:])
	return append(b, hashField+hash+"\"}\n"...), hash, nil
}

// rotate gives the file a number and begins another, which goes on from it.
func (l *Ledger) rotate() error {
	path := filepath.Join(l.dir, fileName)
	files, err := Files(l.dir)
	if err != nil {
		return err
	}
	old := filepath.Join(l.dir, fmt.Sprintf("ledger-%020d.jsonl", l.head.Seq))
	for exists(old) { // of a ledger that was set aside without a good entry
		old = old[:len(old)-len(".jsonl")] + "x.jsonl"
	}
	if err := os.Rename(path, old); err != nil {
		return err
	}
	next, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return errors.Join(err, os.Rename(old, path))
	}
	_ = l.f.Close()
	l.f, l.size = next, 0
	for _, f := range files[:max(0, len(files)-maxOld)] {
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	return durable.SyncFolder(l.dir)
}

// Head returns the last entry.
func (l *Ledger) Head() Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}

// Close closes the file.
func (l *Ledger) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bad = fs.ErrClosed
	return l.f.Close()
}

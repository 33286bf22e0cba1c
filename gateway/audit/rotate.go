package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Rotate says when a file is put away for a new one, and for how long those that
// were are kept: FILE.1 is the newest of them. The zero Rotate does neither, for
// those who have a program for it.
type Rotate struct {
	Size int64         // bytes; 0: whatever its size
	Age  time.Duration // of its first record; 0: whatever its age
	Keep int           // files beside the one in use; 0: any number
	Stay time.Duration // since a file's last record; 0: for ever
}

func (r *Rotate) on() bool { return r.Size > 0 || r.Age > 0 }

// firstRecord returns when the first record of the file was made, or now for a
// file without one.
func firstRecord(path string, now time.Time) time.Time {
	f, err := os.Open(path)
	if err != nil {
		return now
	}
	defer func() { _ = f.Close() }()
	head, _ := bufio.NewReader(io.LimitReader(f, 128)).ReadBytes(',')
	text, _ := bytes.CutPrefix(head, []byte(`{"time":"`))
	t, err := time.Parse(time.RFC3339Nano, strings.TrimSuffix(string(text), `",`))
	if err != nil || t.After(now) {
		return now
	}
	return t
}

// due reports whether the file is to be put away.
func (r *Rotate) due(f *file, now time.Time) bool {
	return f.size > 0 && (r.Size > 0 && f.size >= r.Size || r.Age > 0 && now.Sub(f.since) >= r.Age)
}

// rotate puts the file away and opens a new one. If anything fails, the old one
// stays in use and it is tried again later.
func (l *Log) rotate(f *file, now time.Time) {
	l.flush(f)
	err := shift(l.path)
	var next io.WriteCloser
	if err == nil {
		if next, err = openFile(l.path); err != nil {
			_ = os.Rename(l.path+".1", l.path)
		}
	}
	if err != nil {
		if l.stuck.IsZero() {
			l.log.Error("audit file cannot be put away, it stays in use", "file", l.path, "error", err)
		}
		l.stuck = now
		return
	}
	l.stuck = time.Time{}
	l.close(f)
	*f = file{f: next, lines: f.lines[:0], since: now}
	l.expire(now)
}

// shift renames FILE to FILE.1, and those before it to one more.
func shift(path string) error {
	last := 0
	for ; ; last++ {
		_, err := os.Lstat(path + "." + strconv.Itoa(last+1))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return err
		}
	}
	for n := last; n > 0; n-- {
		if err := os.Rename(fmt.Sprintf("%s.%d", path, n), fmt.Sprintf("%s.%d", path, n+1)); err != nil {
			return err
		}
	}
	if err := os.Rename(path, path+".1"); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil // somebody else has put it away
}

// expire removes the files that are too many or too old.
func (l *Log) expire(now time.Time) {
	all, err := filepath.Glob(globQuote(l.path) + ".*")
	if err != nil {
		return
	}
	for _, name := range all {
		n, err := strconv.Atoi(strings.TrimPrefix(name, l.path+"."))
		if err != nil || n < 1 {
			continue // not one of ours
		}
		st, err := os.Lstat(name)
		if err != nil || !st.Mode().IsRegular() {
			continue
		}
		if l.opts.Rotate.Keep > 0 && n > l.opts.Rotate.Keep || l.opts.Rotate.Stay > 0 && now.Sub(st.ModTime()) > l.opts.Rotate.Stay {
			if err := os.Remove(name); err != nil {
				l.log.Error("audit file that is past its time cannot be removed", "file", name, "error", err)
			}
		}
	}
}

// globQuote takes the meaning away from what has one in a pattern.
func globQuote(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

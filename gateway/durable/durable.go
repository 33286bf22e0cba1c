// Package durable writes files that survive a kill at any instant, and locks
// folders.
//
// A file is there whole or not at all: it is written under another name, forced
// to the disk, renamed, and the rename is forced to the disk, too. When WriteFile
// has returned, the file outlives a loss of power. The package knows nothing of
// what is in the files.
package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// tempMark is in the names of files that are being written.
const tempMark = ".tmp-"

// Folder makes a folder for its owner only, if it is not there, and those above
// it. One that is there and that others may write to is refused: what lies in
// it decides what is blocked.
func Folder(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("folder %s: others may write to it (mode %o); chmod 700 it", path, st.Mode().Perm())
	}
	return nil
}

// WriteFile writes a file of mode 0600, or leaves what was there.
func WriteFile(path string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+tempMark+"*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncFolder(filepath.Dir(path))
}

// WriteBytes is WriteFile for bytes.
func WriteBytes(path string, b []byte) error {
	return WriteFile(path, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
}

// SyncFolder forces to the disk which files the folder has.
func SyncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Sweep removes what a killed process has left half written in a folder. It
// must not run beside a WriteFile there.
func Sweep(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.Contains(e.Name(), tempMark) && e.Type().IsRegular() {
			errs = append(errs, os.Remove(filepath.Join(path, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// ErrLocked is in the error of Lock where another process has the lock.
var ErrLocked = errors.New("in use by another process")

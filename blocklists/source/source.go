// Package source gives the bytes of lists and tells when they have changed.
//
// A source is written as embedded:PATH, in the bundles built into the program,
// file:PATH, or the https: or http: URL of a list. The first two are opened, by
// an Opener. The bytes behind a URL are got by a Fetcher, which trusts nobody,
// and kept in a Store: what is in force is the last good copy there, never the
// network. The package neither parses nor watches, and decides over no list.
package source

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"
)

// An Opener opens sources. The zero Opener knows no embedded ones.
type Opener struct {
	Bundles fs.FS
}

// A Revision tells one state of a source from another without reading it. On
// Linux a file that was replaced or written to, or whose owner or mode has
// changed so that it may now be read, has another one, whatever its size and
// whatever time it was given. Elsewhere size and time must do.
type Revision struct {
	Size    int64
	ModTime time.Time
	Changed time.Time // of the contents or the inode, which nobody can set
	Inode   uint64
}

// Open returns the bytes of the source. The caller closes them.
func (o Opener) Open(source string) (io.ReadCloser, error) {
	scheme, path := split(source)
	switch scheme {
	case "embedded":
		if o.Bundles == nil {
			return nil, fmt.Errorf("open %s: no embedded bundles", source)
		}
		return o.Bundles.Open(path)
	case "file":
		// Opening a FIFO would wait for a writer, and nothing here may wait.
		f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return nil, err
		}
		if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
			_ = f.Close()
			return nil, fmt.Errorf("open %s: not a regular file", path)
		}
		return f, nil
	}
	return nil, unknown(source)
}

// Revision returns the source's present revision. Embedded sources never
// change.
func (o Opener) Revision(source string) (Revision, error) {
	scheme, path := split(source)
	switch scheme {
	case "embedded":
		return Revision{}, nil
	case "file":
		return fileRevision(path)
	}
	return Revision{}, unknown(source)
}

func split(source string) (scheme, path string) {
	scheme, path, _ = strings.Cut(source, ":")
	return scheme, path
}

func unknown(source string) error {
	return fmt.Errorf("source %q is neither embedded:PATH nor file:PATH", source)
}

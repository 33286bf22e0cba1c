package gateway

import (
	"path/filepath"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/blocklists/source"
	"github.com/weir-gateway/weir/config"
)

// copies says where the last good copies of fetched lists are, and what lists were
// before. A compilation never waits for the network: it reads what is there.
type copies struct {
	store source.Store
	// was is what lists in files are held to, and what a list stays whose source
	// fails; nil for nothing.
	was *policySet
	// approved are the digests of files that no guard holds up, by list.
	approved map[string]string
	shield   *shield     // of the configuration's protected names; nil to have it made
	update   *feedUpdate // whose file stands for the copy of its list; nil for none
}

// newCopies returns the copies in the state folder of a configuration.
func newCopies(cfg *config.Config) copies {
	path, _, err := stateFolder(cfg)
	if err != nil {
		return copies{} // no copy is found
	}
	return copies{store: source.Store{Dir: filepath.Join(path, feedsFolder)}}
}

// locate returns what to open for a list, and whether that is a copy that is
// not there yet.
func (c copies) locate(l *blocklists.List) (from string, missing bool) {
	if l.Feed == nil {
		return l.Source, false
	}
	if c.update != nil && c.update.list.Name == l.Name {
		return "file:" + c.update.file, false
	}
	return "file:" + c.store.Path(l.Name, source.Good), !c.store.Has(l.Name, source.Good)
}

// A listError is one of a list by itself.
type listError struct {
	list string
	err  error
}

func (e *listError) Error() string { return e.err.Error() }
func (e *listError) Unwrap() error { return e.err }

// A vectorError is one of what a ban's lists say together.
type vectorError struct {
	ban string
	err error
}

func (e *vectorError) Error() string { return e.err.Error() }
func (e *vectorError) Unwrap() error { return e.err }

// settle makes a set that was compiled with an update's file one of the copy
// that the file has become.
func (c copies) settle(set *policySet) {
	from, to := "file:"+c.update.file, "file:"+c.store.Path(c.update.list.Name, source.Good)
	delete(set.read, from)
	set.read[to] = look(to)
	for i := range set.parts {
		if p := &set.parts[i]; p.source == from {
			p.source, p.read = to, set.read[to]
		}
	}
}

package gateway

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/durable"
	"github.com/weir-gateway/weir/gateway/resolver"
)

const (
	answersFile = "answers.cache" // in the state folder
	// mostAnswers bounds the file, in bytes.
	mostAnswers = 256 << 20
	// saveEvery is how much of the cache a kill costs.
	saveEvery = 10 * time.Minute
)

// An answerFile has the answer cache survive a restart. It says which names were
// asked for, so it is there only where that is asked for, for its owner only, and
// removed when it is not wanted any more. What comes back from it has been judged
// by nobody: the policy in force judges it when it is given, like any other answer.
type answerFile struct {
	path     string // empty: there is no folder for it
	resolver *liveResolver
	log      *slog.Logger
	wanted   atomic.Bool
	whole    atomic.Bool // what is in the file is in the cache, or of no use

	mu sync.Mutex // one change of the file at a time

	restored, written, failed, damaged, other atomic.Uint64
}

func newAnswerFile(folder *stateDir, r *liveResolver, log *slog.Logger) *answerFile {
	f := &answerFile{resolver: r, log: log}
	if folder != nil {
		f.path = filepath.Join(folder.path, answersFile)
	}
	return f
}

// configure says whether the cache is to survive.
func (f *answerFile) configure(cfg *config.Config) {
	wanted := cfg.DNS.Cache.Persist
	if f.wanted.Swap(wanted); !wanted {
		f.forget()
	} else if f.path == "" {
		f.log.Warn("the answer cache will not survive a restart: there is no state folder")
	}
}

// run brings back what was saved, and saves what is known now and then.
func (f *answerFile) run(ctx context.Context) error {
	f.restore(ctx)
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			f.save()
		}
	}
}

// restore never keeps Weir from anything: a file that is not as it was written is
// left aside, and so is one for other upstreams. Questions are answered
// meanwhile.
func (f *answerFile) restore(ctx context.Context) {
	defer func() { f.whole.Store(ctx.Err() == nil) }()
	if !f.wanted.Load() || f.path == "" {
		return
	}
	file, err := os.Open(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	n := 0
	if err == nil {
		defer func() { _ = file.Close() }()
		n, err = f.resolver.p.Load().Restore(untilDone{file, ctx})
	}
	f.restored.Add(uint64(n))
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, resolver.ErrOtherCache):
		f.other.Add(1)
		f.log.Info("saved answers are not used: they were saved under other settings or by another version", "file", f.path)
	case err != nil:
		f.damaged.Add(1)
		f.log.Warn("saved answers are not used; the file will be replaced", "file", f.path, "error", err)
	default:
		f.log.Info("saved answers are in the cache again", "answers", n)
	}
}

// untilDone reads a file until the context is done.
type untilDone struct {
	*os.File
	ctx context.Context
}

func (u untilDone) Read(b []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.File.Read(b)
}

// save replaces the file, if the cache is to survive and has all that is in it.
func (f *answerFile) save() {
	if !f.wanted.Load() || f.path == "" || !f.whole.Load() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	err := durable.WriteFile(f.path, func(w io.Writer) error {
		_, err := f.resolver.p.Load().Save(w, mostAnswers)
		return err
	})
	if err != nil {
		f.failed.Add(1)
		f.log.Error("the answer cache is not saved", "error", err)
		return
	}
	f.written.Add(1)
}

// forget removes the file, until the cache is saved again.
func (f *answerFile) forget() {
	if f.path == "" {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := os.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.failed.Add(1)
		f.log.Error("the saved answers are not removed", "error", err)
	}
}

func answerFileMetrics(e emitter, f *answerFile) {
	e.counter("weir_resolver_cache_restored_total", "Answers of before the start that are in the cache again.", float64(f.restored.Load()))
	e.counters("weir_resolver_cache_file_total", "Times that the saved cache was written or left aside, by outcome.", "outcome",
		series{"written", f.written.Load()}, series{"unwritten", f.failed.Load()}, series{"damaged", f.damaged.Load()}, series{"other settings", f.other.Load()})
}

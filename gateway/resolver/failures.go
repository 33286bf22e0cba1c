package resolver

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	failuresKept = 8192
	// A question that failed is not asked again for a second at first, and for
	// twice as long after each further failure (RFC 9520, section 3.2: from a
	// second to five minutes). Where an upstream said that it failed, asking again
	// soon is of less use.
	firstFailure = time.Second
	lastFailure  = 30 * time.Second
)

// failures remembers which questions no upstream answered, so that clients that
// ask again and again are not passed on (RFC 9520). The zero failures is ready.
type failures struct {
	mu  sync.Mutex
	lru *simplelru.LRU[cacheKey, *outcome]
}

// An outcome is what came of a question: a response that is no answer, or an error.
type outcome struct {
	answer *Answer
	err    error
	wait   time.Duration
	until  time.Time
}

func (f *failures) get(k cacheKey, now time.Time) *outcome {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lru == nil {
		return nil
	}
	if x, ok := f.lru.Get(k); ok && now.Before(x.until) {
		return x
	}
	return nil
}

// add notes a failure. Those that say something about ourselves are none.
func (f *failures) add(k cacheKey, a *Answer, err error, now time.Time) {
	if err != nil && !lasting(err) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lru == nil {
		f.lru, _ = simplelru.NewLRU[cacheKey, *outcome](failuresKept, nil) // the size is above zero
	}
	wait := firstFailure
	if err == nil {
		wait = max(wait, a.life)
	}
	if x, ok := f.lru.Peek(k); ok {
		wait = max(wait, min(2*x.wait, lastFailure))
	}
	f.lru.Add(k, &outcome{a, err, wait, now.Add(wait)})
}

// lasting reports whether the error would be the same a moment later.
func lasting(err error) bool {
	for _, passing := range []error{ErrNoUpstream, ErrBusy, ErrClosed, context.Canceled, syscall.EMFILE, syscall.ENFILE} {
		if errors.Is(err, passing) {
			return false
		}
	}
	return true
}

func (f *failures) remove(k cacheKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lru != nil {
		f.lru.Remove(k)
	}
}

// forget removes those that match, all of them for nil.
func (f *failures) forget(match func(name string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lru == nil {
		return
	}
	for _, k := range f.lru.Keys() {
		if match == nil || match(k.Name) {
			f.lru.Remove(k)
		}
	}
}

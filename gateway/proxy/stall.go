package proxy

import (
	"errors"
	"io"
	"sync/atomic"
	"time"
)

var (
	// errStalled is the cause of the end of an exchange without progress.
	errStalled = errors.New("exchange stalled")
	// errClient marks an error in the request's content.
	errClient = errors.New("request content")
)

// A stall ends an exchange in which no content has moved for too long, in
// either direction. There is no bound on the time of an exchange as a whole:
// large content takes long.
type stall struct {
	timer *time.Timer
	limit time.Duration
}

func newStall(f *flow, limit time.Duration) *stall {
	return &stall{time.AfterFunc(limit, func() { f.end(errStalled) }), limit}
}

func (s *stall) stop() { s.timer.Stop() }

// body watches content on its way. An error but the end is kept in *kept; with
// kept nil it is the client's.
func (s *stall) body(b io.ReadCloser, kept *error) *watchedBody {
	return &watchedBody{ReadCloser: b, stall: s, kept: kept}
}

type watchedBody struct {
	io.ReadCloser
	stall *stall
	kept  *error
	first func()      // called before the first Read, nil for nothing
	ended atomic.Bool // the end was read
	broke atomic.Bool // an error was read
}

func (b *watchedBody) Read(p []byte) (int, error) {
	if first := b.first; first != nil {
		b.first = nil
		first()
	}
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.stall.timer.Reset(b.stall.limit)
	}
	switch {
	case err == nil:
	case err == io.EOF:
		b.ended.Store(true)
	case b.kept != nil:
		*b.kept = err
	default:
		b.broke.Store(true)
	}
	return n, err
}

// Close implements io.Closer. That of a request's content is left to net/http,
// after the handler: it would wait here for what the client may never send.
func (b *watchedBody) Close() error {
	if b.kept == nil {
		return nil
	}
	return b.ReadCloser.Close()
}

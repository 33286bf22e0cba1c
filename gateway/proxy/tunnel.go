package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A tunnel copies bytes both ways until both sides are done. It owns both
// connections. This is the portable way, with two goroutines and a buffer for
// each that it holds to the end; where there is an engine, a relay is the
// tunnel.
type tunnel struct {
	client, origin *net.TCPConn
	close          func() // closes both
	idle           time.Duration
	last           atomic.Int64 // when the last byte came, in nanoseconds since opened
	opened         time.Time
	in, out        atomic.Int64 // from the origin, to the origin
}

// run copies until the end and says which end it was. The early bytes were
// received on a connection before the tunnel was there.
func (t *tunnel) run(f *flow, fromClient, fromOrigin []byte) ending {
	stop := context.AfterFunc(f.ctx, t.close)
	defer stop()
	defer t.close()
	watch := t.watch(f)
	defer watch.Stop()
	done := make(chan error, 1)
	go func() { done <- t.copy(t.client, t.origin, fromOrigin, &t.in) }()
	err := t.copy(t.origin, t.client, fromClient, &t.out)
	err = errors.Join(err, <-done)
	if why, ok := endingOf(context.Cause(f.ctx)); ok {
		return why
	}
	if err != nil {
		return endBroken
	}
	return endClosed
}

// watch ends a tunnel that is idle in both directions.
func (t *tunnel) watch(f *flow) *time.Timer {
	var timer *time.Timer
	var mu sync.Mutex // timer is set before its function looks
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(t.idle, func() {
		mu.Lock()
		defer mu.Unlock()
		if left := t.idle - time.Since(t.opened.Add(time.Duration(t.last.Load()))); left > 0 {
			timer.Reset(left)
			return
		}
		f.end(endIdle)
	})
	return timer
}

// reset makes both sides see that the tunnel broke, not that it ended.
func (t *tunnel) reset() {
	_ = t.client.SetLinger(0)
	_ = t.origin.SetLinger(0)
	t.close()
}

const (
	copyBuffer  = 32 << 10
	fullReads   = 16              // full buffers in a row before splicing
	spliceBytes = 4 << 20         // of one splice
	spliceTime  = 2 * time.Second // of one splice without a byte
)

var buffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// copy moves bytes from src to dst until src ends, and then ends dst: one half
// of the tunnel is closed, the other goes on. Bulky transfers leave the pooled
// buffer for splice(2), which needs bare connections; it comes back from there
// often enough to count.
func (t *tunnel) copy(dst, src *net.TCPConn, early []byte, n *atomic.Int64) error {
	err := t.copyAll(dst, src, early, n)
	if err != nil {
		t.reset()
		return err
	}
	_ = dst.CloseWrite() // fails where dst is gone, which its own direction finds out
	return nil
}

func (t *tunnel) copyAll(dst, src *net.TCPConn, early []byte, n *atomic.Int64) error {
	if len(early) > 0 {
		t.count(n, len(early))
		if _, err := dst.Write(early); err != nil {
			return err
		}
	}
	buf := buffers.Get().(*[copyBuffer]byte)
	defer buffers.Put(buf)
	for full := 0; ; {
		k, err := src.Read(buf[:])
		t.count(n, k)
		if k > 0 {
			if _, err := dst.Write(buf[:k]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if full++; k < copyBuffer {
			full = 0
		}
		if full >= fullReads {
			full = 0
			if err := t.splice(dst, src, n); err != nil {
				return err
			}
		}
	}
}

func (t *tunnel) splice(dst, src *net.TCPConn, n *atomic.Int64) error {
	for {
		if err := src.SetReadDeadline(time.Now().Add(spliceTime)); err != nil {
			return err
		}
		k, err := dst.ReadFrom(&io.LimitedReader{R: src, N: spliceBytes})
		t.count(n, int(k))
		if k == spliceBytes && err == nil {
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = nil
		}
		return errors.Join(err, src.SetReadDeadline(time.Time{}))
	}
}

func (t *tunnel) count(n *atomic.Int64, k int) {
	if k > 0 {
		n.Add(int64(k))
		t.last.Store(int64(time.Since(t.opened)))
	}
}

package resolver

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/miekg/dns"
)

var (
	// ErrOtherCache means that a saved cache is whole, and not for these settings
	// or this version.
	ErrOtherCache = errors.New("saved cache was made with other settings or by another version")
	// ErrDamagedCache means that a saved cache is not as it was written.
	ErrDamagedCache = errors.New("saved cache is damaged")
)

// Restore takes the answers of a saved cache over that may still be given, and
// returns how many. Each goes the road of a response that came when it did: its
// TTL has gone on meanwhile, what is to be taken out of answers is, and nothing is
// known about it that policy once found. One that came since is not replaced, none
// is pushed out, and a Flush ends it.
func (r *Resolver) Restore(f io.ReadSeeker) (n int, err error) {
	if r.cache == nil {
		return 0, nil
	}
	if err := r.check(f); err != nil {
		return 0, err
	}
	if _, err := f.Seek(int64(savedHeader), io.SeekStart); err != nil {
		return 0, err
	}
	epoch, in := r.epoch.Load(), bufio.NewReaderSize(f, 1<<16)
	buf := make([]byte, maxMsg)
	for {
		e, err := readSaved(in, buf)
		if err != nil {
			return n, err
		}
		if e.raw == nil {
			return n, nil
		}
		c, err := r.revive(e)
		if err != nil {
			return n, err
		}
		done, over := r.takeBack(c, epoch)
		if over {
			return n, nil
		}
		if done {
			n++
		}
	}
}

// check says whether the file is whole and for us, before anything in it is used.
func (r *Resolver) check(f io.ReadSeeker) error {
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return err
	}
	head := make([]byte, savedHeader)
	if size < int64(savedLeast) {
		return fmt.Errorf("%w: it has %d bytes", ErrDamagedCache, size)
	}
	if _, err := io.ReadFull(f, head); err != nil {
		return err
	}
	version := len(savedMagic) - 1
	if string(head[:version]) != savedMagic[:version] {
		return fmt.Errorf("%w: it does not begin as one", ErrDamagedCache)
	}
	if head[version] != savedMagic[version] {
		return ErrOtherCache
	}
	sum := sha256.New()
	sum.Write(head)
	if _, err := io.CopyN(sum, f, size-int64(savedHeader+sha256.Size)); err != nil {
		return err
	}
	var want [sha256.Size]byte
	if _, err := io.ReadFull(f, want[:]); err != nil {
		return err
	}
	if !bytes.Equal(sum.Sum(nil), want[:]) {
		return fmt.Errorf("%w: its checksum is another", ErrDamagedCache)
	}
	if !bytes.Equal(head[len(savedMagic):], r.settings[:]) {
		return ErrOtherCache
	}
	return nil
}

// A savedAnswer is an answer as it stands in the file; raw is nil for the end.
type savedAnswer struct {
	flags  byte
	stored time.Time
	raw    []byte
}

// readSaved reads the next answer into buf.
func readSaved(in io.Reader, buf []byte) (savedAnswer, error) {
	var head [savedEntry]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return savedAnswer{}, fmt.Errorf("%w: %v", ErrDamagedCache, err)
	}
	n := binary.BigEndian.Uint16(head[9:])
	if n == 0 {
		return savedAnswer{}, nil
	}
	if _, err := io.ReadFull(in, buf[:n]); err != nil {
		return savedAnswer{}, fmt.Errorf("%w: %v", ErrDamagedCache, err)
	}
	return savedAnswer{head[0], time.Unix(0, int64(binary.BigEndian.Uint64(head[1:]))), buf[:n]}, nil
}

// revive makes the answer again. The file is trusted no more than an upstream.
func (r *Resolver) revive(e savedAnswer) (cached, error) {
	name, off, err := dns.UnpackDomainName(e.raw, min(headerLen, len(e.raw)))
	if err != nil || off+4 > len(e.raw) {
		return cached{}, fmt.Errorf("%w: an answer has no question", ErrDamagedCache)
	}
	name, ok := canonical(name)
	k := key{name: name, qtype: binary.BigEndian.Uint16(e.raw[off:]), qclass: binary.BigEndian.Uint16(e.raw[off+2:]),
		do: e.flags&savedDO != 0, cd: e.flags&savedCD != 0}
	m, err := parse(e.raw, 0, k)
	if err != nil || !ok || m.Truncated || !answers(m) {
		return cached{}, fmt.Errorf("%w: %s is no answer", ErrDamagedCache, k)
	}
	a := r.shaped(k, m)
	if !answered(a.Rcode()) {
		return cached{}, fmt.Errorf("%w: %s leads nowhere", ErrDamagedCache, k)
	}
	a.stored = e.stored
	if e.flags&savedFiltered != 0 {
		a.notes |= noteFiltered
	}
	return cached{k.cacheKey(), a}, nil
}

// takeBack puts a saved answer into the cache, if it has a place there. It is over
// when the cache was flushed since it began, or the Resolver closed.
func (r *Resolver) takeBack(c cached, epoch uint64) (done, over bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.epoch.Load() != epoch {
		return false, true
	}
	now := r.now()
	// A clock that was put back would keep it for longer than its TTL.
	if c.a.stored.After(now) || now.Sub(c.a.stored) >= c.a.end()+r.cache.keep {
		return false, false
	}
	if !r.cache.restore(c.k, c.a) {
		return false, false
	}
	r.history.add(c.a, now)
	return true, false
}

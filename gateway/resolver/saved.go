package resolver

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/miekg/dns"
)

// A saved cache is a header (what it is, its version, the settings), then answers
// (flags, time, length, a response as an upstream would send it), one of length
// zero, and the SHA-256 of all before that. Of each part of the cache, what was in
// use last comes first.
const (
	savedMagic  = "weir answers\x00\x01" // the last octet is the version
	savedHeader = len(savedMagic) + sha256.Size
	savedEntry  = 1 + 8 + 2 // before the response
	savedLeast  = savedHeader + savedEntry + sha256.Size
)

// Flags of a saved answer.
const (
	savedDO = 1 << iota
	savedCD
	savedFiltered
)

// settings tell caches apart whose answers may differ: those of other upstreams
// know other things, and of another Shape take other things out. A saved cache of
// other settings is none, as it is when settings change while Weir runs.
func settings(opts *Options) [sha256.Size]byte {
	h := sha256.New()
	for _, u := range opts.Upstreams {
		_, _ = fmt.Fprintf(h, "upstream %q\n", u)
	}
	for _, r := range opts.Routes {
		_, _ = fmt.Fprintf(h, "route %q %q\n", r.Names, r.Upstreams)
	}
	if opts.Subnets.Fixed.IsValid() {
		_, _ = fmt.Fprintf(h, "subnet %v\n", opts.Subnets.Fixed)
	}
	s := opts.Shape
	_, _ = fmt.Fprintf(h, "shape %t %t %t %q %v\n", s.ECH, s.H3, s.Rebinding, s.PrivateNames, s.PrivateNetworks)
	return [sha256.Size]byte(h.Sum(nil))
}

// Save writes the answers of the cache that may still be given, at most so many
// bytes of them, and returns how many answers those are. It holds each part of the
// cache only for as long as it takes to list it.
func (r *Resolver) Save(w io.Writer, most int64) (n int, err error) {
	sum := sha256.New()
	out := bufio.NewWriterSize(io.MultiWriter(w, sum), 1<<16)
	now := r.now()
	b := append([]byte(savedMagic), r.settings[:]...)
	if _, err := out.Write(b); err != nil {
		return 0, err
	}
	room := most - int64(savedLeast)
	for i := range r.cache.parts() {
		of := int64(len(r.cache.shards) - i)
		share := room / of // what a part does not need, the next ones may have
		for _, e := range r.cache.list(i) {
			if b = e.append(b[:0]); len(b) == 0 || now.Sub(e.a.stored) >= e.a.end()+r.cache.keep {
				continue
			}
			if share -= int64(len(b)); share < 0 {
				break
			}
			if _, err := out.Write(b); err != nil {
				return n, err
			}
			room -= int64(len(b))
			n++
		}
	}
	_, _ = out.Write(make([]byte, savedEntry)) // Flush says what went wrong
	if err := out.Flush(); err != nil {
		return n, err
	}
	_, err = w.Write(sum.Sum(nil))
	return n, err
}

// A cached is an answer of the cache with its key.
type cached struct {
	k cacheKey
	a *Answer
}

// parts is the number of the cache's parts.
func (c *cache) parts() int {
	if c == nil {
		return 0
	}
	return len(c.shards)
}

// list returns what is in a part of the cache, what was in use last first.
func (c *cache) list(part int) []cached {
	s := &c.shards[part]
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]cached, 0, s.lru.Len())
	for _, k := range s.lru.Keys() {
		if a, ok := s.lru.Peek(k); ok {
			all = append(all, cached{k, a})
		}
	}
	slices.Reverse(all)
	return all
}

// restore is put for an answer of before: it pushes none out, and takes the place
// of none.
func (c *cache) restore(k cacheKey, a *Answer) bool {
	if c == nil || a.ttl == 0 {
		return false
	}
	s := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lru.Contains(k) || s.lru.Len() >= s.size || s.bytes+a.size > s.room {
		return false
	}
	k.Name = a.name[:len(a.name)-1]
	s.bytes += a.size
	s.lru.Add(k, a)
	return true
}

func (e *cached) flags() (f byte) {
	if e.k.DO {
		f |= savedDO
	}
	if e.k.CD {
		f |= savedCD
	}
	if e.a.notes&noteFiltered != 0 {
		f |= savedFiltered
	}
	return f
}

// append appends the answer as it is saved, or nothing if it has no room in a
// message.
func (e *cached) append(b []byte) []byte {
	start, a := len(b), e.a
	b = append(b, e.flags())
	b = binary.BigEndian.AppendUint64(b, uint64(a.stored.UnixNano()))
	b = append(b, 0, 0)
	at := len(b)
	b = append(b, make([]byte, headerLen)...)
	head := b[at:]
	head[2], head[3] = 0x80, a.wire.Rcode // QR
	if a.wire.AD {
		head[3] |= 0x20
	}
	binary.BigEndian.PutUint16(head[4:], 1)
	binary.BigEndian.PutUint16(head[6:], a.wire.Answers)
	binary.BigEndian.PutUint16(head[8:], a.wire.Authorities)
	var name [maxName]byte
	n, err := dns.PackDomainName(a.name, name[:], 0, nil, false)
	if err != nil {
		return b[:start]
	}
	b = append(b, name[:n]...)
	b = binary.BigEndian.AppendUint16(b, e.k.Type)
	b = binary.BigEndian.AppendUint16(b, e.k.class)
	b = append(b, a.wire.Body...)
	if a.notes&noteExtended != 0 {
		b[at+11] = 1
		b = appendExtended(b, a.wire.Body[len(a.wire.Body):cap(a.wire.Body)])
	}
	if len(b)-at > maxMsg {
		return b[:start]
	}
	binary.BigEndian.PutUint16(b[at-2:], uint16(len(b)-at))
	return b
}

// appendExtended appends an OPT record with an extended error, code and text.
func appendExtended(b, extended []byte) []byte {
	n := uint16(len(extended))
	b = append(b, 0, 0, byte(dns.TypeOPT), udpSize>>8, udpSize&0xff, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, n+4)
	b = binary.BigEndian.AppendUint16(b, dns.EDNS0EDE)
	b = binary.BigEndian.AppendUint16(b, n)
	return append(b, extended...)
}

package resolver

import (
	"bytes"
	"crypto/rand"
	"sync"
	"time"
)

const (
	// spellingDoubts is how many responses in a row that return a name in another
	// spelling make an upstream one that does not keep it, and spellingPause for
	// how long it is then asked in lower case.
	spellingDoubts = 3
	spellingPause  = time.Hour
)

// A spelling is whether one upstream returns names as they are spelled. Nearly
// all do; so each letter of a name is one bit more that a forger must guess
// (draft-vixie-dnsext-dns0x20). The zero spelling takes for granted that it does.
type spelling struct {
	mu     sync.Mutex
	doubts int
	plain  time.Time // until then, names are sent in lower case
}

// mix spells the question's letters at random, in place. It is false where they
// stay as they are.
func (s *spelling) mix(asked []byte, now time.Time) (mixed bool) {
	if s.broken(now) {
		return false
	}
	var bits [maxName/8 + 1]byte
	_, _ = rand.Read(bits[:]) // never fails
	letters(asked, func(i int, c *byte) {
		if bits[i/8]>>(i%8)&1 == 1 {
			*c ^= 0x20
			mixed = true
		}
	})
	return mixed
}

// note takes note of how a response spelled the question, and returns that.
func (s *spelling) note(asAsked bool, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if asAsked {
		s.doubts = 0
		return true
	}
	if s.doubts++; s.doubts >= spellingDoubts {
		s.doubts, s.plain = 0, now.Add(spellingPause)
	}
	return false
}

func (s *spelling) broken(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return now.Before(s.plain)
}

// questionOf returns a packed query's beginning, up to the end of the name.
func questionOf(q []byte) []byte {
	off := headerLen
	for q[off] != 0 {
		off += int(q[off]) + 1
	}
	return q[:off+1]
}

// letters calls f for each letter of the name of a question.
func letters(asked []byte, f func(i int, c *byte)) {
	n := 0
	for off := headerLen; asked[off] != 0; off += int(asked[off]) + 1 {
		label := asked[off+1 : off+1+int(asked[off])]
		for i := range label {
			if c := label[i] | 0x20; 'a' <= c && c <= 'z' {
				f(n, &label[i])
			}
			n++
		}
	}
}

// restore puts the question's name in lower case where the response has it as it
// was asked, and reports whether it has. Other names of the response may point
// to it: so no client sees how it was spelled.
func restore(raw, asked []byte) bool {
	if len(raw) < len(asked) || count(raw, 4) != 1 || !bytes.Equal(raw[headerLen:len(asked)], asked[headerLen:]) {
		return false
	}
	letters(raw, func(_ int, c *byte) { *c |= 0x20 })
	return true
}

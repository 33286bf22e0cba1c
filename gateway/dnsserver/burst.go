package dnsserver

import (
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/gateway/policy"
	"github.com/weir-gateway/weir/gateway/wire"
)

const (
	burstSize = 4096 // bytes of questions that are looked at together
	spotSize  = 8192 // after so many bytes of replies they are written
)

// A burst is what a client has sent at once: the questions in it that are blocked
// or cached are answered on the spot, by the same hot path as those over UDP, and
// their replies leave in one write. It is borrowed for as long as there are bytes,
// since most connections are idle.
type burst struct {
	in   []byte    // what was read and is not yet answered
	msgs []message // whole messages in it
	raw  []byte    // replies, one after the other
	done []reply   // which they are
	left []message // those that the hot path has left
	upto int       // so many of the messages are in done or left
	out  []byte    // replies as the protocol has them

	hot   *hot
	now   time.Time
	judge func(*policy.Snapshot) // answer, made once
}

// A message is one of a burst.
type message struct {
	p    []byte
	from netip.Addr
	to   ticket
}

// A ticket is where a reply belongs, where a connection has several places.
type ticket struct {
	stream uint32
	head   bool // the client wants no content
}

type reply struct {
	from, upto int // in raw; nothing for a question that is dropped
	to         ticket
}

// A protocol finds messages in what a client says, and says how replies are
// written.
type protocol interface {
	// take has the whole messages of a burst answered, and returns how many bytes
	// it has used; it is false when the connection is to be closed.
	take(b *burst) (used int, ok bool)
	// wrap appends the reply, which is empty for a question that is dropped. It is
	// called under the stream's lock for writing.
	wrap(b []byte, to ticket, reply []byte, now time.Time) []byte
	// nothing is for a message that is not answered at all; it is false where the
	// connection is not worth keeping.
	nothing(to ticket) bool
	// due is when tick must be called, if nothing comes before; zero for never.
	// tick is false when the connection has ended.
	due() time.Time
	tick(now time.Time) bool
}

// framed is the protocol of TCP and DoT: two octets of length before each message
// (RFC 1035, section 4.2.2).
type framed struct{ c *stream }

var bursts = sync.Pool{New: func() any {
	b := &burst{in: make([]byte, 0, burstSize), raw: make([]byte, 0, spotSize+replySize)}
	b.judge = b.answer
	return b
}}

// free gives the burst back, but for memory that a large message took.
func (b *burst) free() {
	if cap(b.in) > burstSize {
		b.in = make([]byte, 0, burstSize)
	}
	if cap(b.raw) > 2*spotSize {
		b.raw = make([]byte, 0, spotSize+replySize)
	}
	if cap(b.out) > 4*spotSize {
		b.out = nil
	}
	b.msgs, b.hot = b.msgs[:0], nil
	clear(b.msgs[:cap(b.msgs)])
	clear(b.left[:cap(b.left)])
	bursts.Put(b)
}

// burst reads what the client has sent after a first octet, until nothing of it
// is left. A message must be whole within the time for it. Memory grows with what
// has come, not with what is claimed.
func (c *stream) burst(r io.Reader, first byte) bool {
	b := bursts.Get().(*burst)
	defer b.free()
	b.in = append(b.in[:0], first)
	began := time.Now()
	for c.readBy(began.Add(c.server.opts.ReadTimeout)) {
		n, err := r.Read(b.in[len(b.in):cap(b.in)])
		b.in = b.in[:len(b.in)+n]
		if n > 0 {
			c.touch()
			used, ok := c.proto.take(b)
			if !ok {
				return false
			}
			if used > 0 {
				began = time.Now()
			}
			if b.in = b.in[:copy(b.in, b.in[used:])]; len(b.in) == 0 && err == nil {
				return true
			}
			b.grow()
		}
		if err != nil {
			return c.broken(err)
		}
	}
	return false
}

// grow makes room for the rest of a message that is longer than the buffer.
func (b *burst) grow() {
	if len(b.in) == cap(b.in) {
		b.in = append(make([]byte, 0, 2*cap(b.in)), b.in...)
	}
}

func (f framed) take(b *burst) (used int, ok bool) {
	c := f.c
	from := c.server.device(&c.claim, c.client)
	for len(b.in)-used >= 2 {
		size := int(binary.BigEndian.Uint16(b.in[used:]))
		if size == 0 {
			c.server.core.stats.drop(dropFraming)
			return used, false
		}
		if len(b.in)-used-2 < size {
			break
		}
		d, ok := c.server.turn(c.client)
		if d > 0 || !ok {
			if !c.serveAll(b) || !ok {
				return used, false
			}
			wait(c.server.ending, d)
		}
		b.msgs = append(b.msgs, message{p: b.in[used+2 : used+2+size], from: from})
		used += 2 + size
	}
	return used, c.serveAll(b)
}

func (f framed) wrap(b []byte, _ ticket, reply []byte, _ time.Time) []byte {
	if len(reply) == 0 {
		return b
	}
	return append(binary.BigEndian.AppendUint16(b, uint16(len(reply))), reply...)
}

func (framed) nothing(ticket) bool { return false }
func (framed) due() (at time.Time) { return at }
func (framed) tick(time.Time) bool { return true }

// serveAll answers the messages of the burst; it is false for a connection on
// which something came that is no question.
func (c *stream) serveAll(b *burst) bool {
	for len(b.msgs) > 0 {
		c.spot(b)
		for _, m := range b.left {
			if !c.leave(m, b.now) {
				return false
			}
		}
		b.msgs = b.msgs[:copy(b.msgs, b.msgs[b.upto:])]
	}
	return true
}

// spot answers what it can of the messages, as many as make one write, under one
// snapshot.
func (c *stream) spot(b *burst) {
	core := &c.server.core
	c.writing.Lock()
	defer c.writing.Unlock()
	b.hot = core.borrow(c.from.transport)
	b.now = time.Now()
	b.hot.judge(b.judge)
	b.hot.tally.received += uint64(b.upto)
	b.hot.commit(&core.stats)
	core.hots <- b.hot
	b.out = b.out[:0]
	for _, r := range b.done {
		b.out = c.proto.wrap(b.out, r.to, b.raw[r.from:r.upto], b.now)
	}
	c.send(b.out)
}

// answer answers messages under one snapshot.
func (b *burst) answer(snap *policy.Snapshot) {
	b.raw, b.done, b.left, b.upto = b.raw[:0], b.done[:0], b.left[:0], 0
	for _, m := range b.msgs {
		n := len(b.raw)
		if n >= spotSize {
			return
		}
		b.upto++
		p, leave := b.hot.onStream(b.raw[n:], m.p, m.from, snap, b.now)
		if leave {
			b.left = append(b.left, m)
			continue
		}
		if b.hot.core.tap != nil {
			b.hot.core.show(b.hot.over, m.p, p, m.from, b.now)
		}
		b.raw = append(b.raw, p...) // onto itself, where there was room
		b.done = append(b.done, reply{n, len(b.raw), m.to})
	}
}

// leave hands a message on that the hot path has left; it is false for one that
// is not a question at all: whoever speaks so is not worth a connection.
func (c *stream) leave(m message, arrived time.Time) bool {
	c.tokens <- struct{}{}
	c.open.Add(1)
	q, reply := c.server.core.look(nil, m.p, m.from, c.from.transport, arrived)
	if q == nil && reply == nil {
		c.done()
		return c.proto.nothing(m.to)
	}
	if q != nil {
		q.back = place{c, m.to}
	}
	c.put(outgoing{q, reply, m.to})
	return true
}

// A place is the asker of a question on a connection.
type place struct {
	c  *stream
	to ticket
}

func (p place) respond(q *question) { p.c.put(outgoing{q: q, to: p.to}) }

// borrow takes a hot path for messages of that transport, which whoever has it
// gives back at once: it waits for nothing meanwhile.
func (c *core) borrow(tr transport) *hot {
	h := <-c.hots
	if h == nil {
		h = newHot(c)
	}
	h.over = tr
	return h
}

// onStream is answer for a message of a connection, where replies may have any
// length, and be padded. Everything but a plain question leaves.
func (h *hot) onStream(dst, p []byte, from netip.Addr, snap *policy.Snapshot, now time.Time) (reply []byte, leave bool) {
	h.read(&h.one, p, from)
	q := &h.one.query
	if h.one.fate != wire.Simple || q.Keepalive && h.core.idle[h.over] > 0 {
		return nil, true
	}
	q.Limit = dns.MaxMsgSize
	if reply, leave = h.decide(dst, &h.one, snap, now); leave {
		return nil, true
	}
	if len(reply) > 0 && q.Padded && h.over.encrypted() {
		reply = pad(reply, dns.MaxMsgSize)
	}
	return reply, false
}

// broken counts a message that did not come whole in time.
func (c *stream) broken(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) && !c.server.isEnding() {
		c.server.core.stats.drop(dropSlow)
	}
	return false
}

package dnsserver

import (
	"bytes"
	"time"

	"net/netip"

	"github.com/weir-gateway/weir/gateway/tap"
)

// A Tap gets a copy of what clients asked and got. It must not block.
type Tap interface {
	Put(tap.Message)
}

// show gives a tap what the hot path has answered. Both are the reader's, so
// they are copied.
func (c *core) show(tr transport, query, reply []byte, from netip.Addr, asked time.Time) {
	m := tap.Message{Asked: asked, Client: from, Transport: transportNames[tr], Query: bytes.Clone(query), Reply: bytes.Clone(reply)}
	if len(reply) > 0 {
		m.Answered = time.Now()
	}
	c.tap.Put(m)
}

// showQuestion gives a tap a question that has been read, as a library writes it.
func (c *core) showQuestion(q *question, reply []byte, now time.Time) {
	query, err := q.msg.Pack()
	if err != nil {
		query = nil
	}
	c.tap.Put(tap.Message{
		Asked: q.arrived, Answered: now, Client: q.from.Addr, Transport: transportNames[q.transport],
		Query: query, Reply: bytes.Clone(reply),
	})
}

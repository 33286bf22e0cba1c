package dnsserver

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// replySize holds every reply over UDP, and what it takes to pack it: the
	// size without compression.
	replySize = 4096
	// socketBuffer is asked of the kernel for what comes while readers are busy:
	// a second of 5,000 questions, each of which the kernel counts with its own
	// overhead. The usual limit for programs without privileges is 1/20 of it.
	socketBuffer = 4 << 20
	// readPause keeps a socket that fails to read from being asked in a loop.
	readPause = 5 * time.Millisecond
)

// A udpListener is the sockets of one address and their readers. A reader
// answers on its hot path and leaves the rest to the exit.
type udpListener interface {
	// addrPort is the address that is bound.
	addrPort() netip.AddrPort
	// serve starts the readers.
	serve(wg *sync.WaitGroup)
	// stopReading makes the readers end. Replies can still be written.
	stopReading()
	// close waits for the readers that serve started, which is short, and closes
	// the sockets.
	close()
	// stats are the counters of the readers.
	stats() []*counters
}

// listenUDP binds an address.
func listenUDP(s *Server, at netip.AddrPort) (udpListener, error) {
	if s.opts.portable {
		return listenPortable(s, at)
	}
	return listenNative(s, at)
}

// A route is the way back for one reply. It may be used after its socket was
// closed, when nothing is written.
type route interface {
	write(reply []byte) error
}

// A datagram is a message that has left its reader by the exit. Its bytes are
// its own.
type datagram struct {
	msg     []byte
	from    netip.Addr
	arrived time.Time
	back    route
	proxied bool // it came by a load balancer, and nobody has looked at it
}

func (d *datagram) client() netip.Addr { return d.from }

// outBuffers are for replies that are not written by a reader.
var outBuffers = sync.Pool{New: func() any { b := make([]byte, 0, replySize); return &b }}

// run implements task.
func (d *datagram) run(e *exit) {
	buf := outBuffers.Get().(*[]byte)
	defer outBuffers.Put(buf)
	c := e.core
	q, reply := d.question(c, *buf)
	if q != nil {
		var miss bool
		for reply, miss = c.reply(*buf, q); miss; reply, miss = c.reply(*buf, q) {
			e.resolve(q)
		}
	}
	c.stats.inflight.Add(-1)
	c.send(d.back, reply)
}

func (c *core) send(back route, reply []byte) {
	if len(reply) == 0 {
		return
	}
	if err := back.write(reply); err != nil {
		c.stats.drop(dropWriteError)
	}
}

// leave hands the message to the exit. If there is no room it returns the
// reply to write at once: what policy and the cache know is still answered,
// and what would have to wait is answered SERVFAIL.
func (c *core) leave(dst []byte, d *datagram) (reply []byte) {
	if c.proxied(d.msg, d.from) && !d.unwrap(c) {
		return nil
	}
	if c.exit.take(d) {
		return nil
	}
	q, reply := d.question(c, dst)
	if q == nil {
		return reply
	}
	reply, miss := c.reply(dst, q)
	if miss {
		q.resolved(nil, errOverload)
		reply, _ = c.reply(dst, q)
	}
	return reply
}

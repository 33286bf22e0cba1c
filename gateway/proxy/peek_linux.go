package proxy

import (
	"net/http"

	"golang.org/x/sys/unix"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/hello"
)

// peek waits for what the client says first: nothing of it reaches the origin
// before it is judged. The time for it is that of a request head.
func (r *relay) peek() {
	l := r.loop
	r.state = relayPeeking
	r.hello = new(hello.Reader)
	r.deadline.fire = helloTooLate
	l.start(&r.deadline, &l.partial)
	if l.await(&r.client) != nil || l.await(&r.origin) != nil {
		r.decide(nil)
		return
	}
	if k := r.hello.Feed(r.early); k != hello.Incomplete && !r.x.undecided(k, r.early) {
		r.decide(nil)
		return
	}
	r.readHello()
}

func helloTooLate(t *timer) { t.owner.(*relay).decide(nil) }

// readHello reads until it is known what the client says, or there is nothing
// for now. What is read is bounded by the reader's patience. A client that says
// nothing while the origin speaks does not wait to speak TLS, where it is the
// client that begins.
func (r *relay) readHello() {
	l := r.loop
	for r.client.readable {
		n, err := unix.Read(r.client.fd, l.buf[:])
		switch {
		case n > 0:
			r.client.readable = n == len(l.buf) || r.client.hup
			if k := r.hello.Feed(l.buf[:n]); k != hello.Incomplete && !r.x.undecided(k, r.first(l.buf[:n])) {
				r.decide(l.buf[:n])
				return
			}
			r.early = append(r.early, l.buf[:n]...)
		case err == unix.EAGAIN:
			r.client.readable = false
		case err == unix.EINTR:
		default: // its end; what is wrong with the connection, the tunnel finds out
			r.up.ended = err == nil
			r.decide(nil)
			return
		}
	}
	if len(r.early) == 0 && r.origin.readable {
		r.decide(nil)
	}
}

// first are the first bytes of what is to be passed on and of what was read last.
func (r *relay) first(last []byte) []byte {
	if len(r.early) == 0 {
		return last
	}
	return append(r.early[:len(r.early):len(r.early)], last[:min(len(last), blocklists.MaxFlow)]...)
}

// decide judges what the client has said, and opens the tunnel with it and with
// what was read last, or ends it.
func (r *relay) decide(last []byte) {
	h := r.hello.Hello()
	r.hello = nil
	if !r.x.judgeHello(r.flow, h, r.first(last)) {
		r.x.unopened(endRefused)
		r.hardClose()
		r.abort()
		return
	}
	r.open(http.StatusOK)
	if len(r.early) > 0 {
		r.up.begin(append(r.early, last...))
		r.early = nil
	} else if err := r.up.take(last); err != nil {
		r.reset()
		return
	}
	r.start()
}

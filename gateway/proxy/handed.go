package proxy

import (
	"net"
	"net/netip"
	"sync"
)

// handed are connections on their way from the engine to net/http, which sees
// a listener. They are bounded by the admission, so that nobody ever waits to
// put one there.
type handed struct {
	addr   net.Addr
	mu     sync.Mutex
	some   sync.Cond
	gates  []*gate
	closed bool
}

func newHanded(addrs []netip.AddrPort) *handed {
	h := &handed{addr: &net.TCPAddr{}}
	if len(addrs) > 0 {
		h.addr = net.TCPAddrFromAddrPort(addrs[0])
	}
	h.some.L = &h.mu
	return h
}

// put is false when net/http accepts nothing any more.
func (h *handed) put(g *gate) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.gates = append(h.gates, g)
	h.some.Signal()
	return true
}

// Accept implements net.Listener.
func (h *handed) Accept() (net.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.gates) == 0 && !h.closed {
		h.some.Wait()
	}
	if h.closed {
		return nil, net.ErrClosed
	}
	g := h.gates[0]
	h.gates = h.gates[1:]
	return g, nil
}

// Close implements net.Listener. What nobody took is closed.
func (h *handed) Close() error {
	h.mu.Lock()
	left := h.gates
	h.gates, h.closed = nil, true
	h.some.Broadcast()
	h.mu.Unlock()
	for _, g := range left {
		_ = g.Close()
	}
	return nil
}

// Addr implements net.Listener.
func (h *handed) Addr() net.Addr { return h.addr }

package proxy

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// admission bounds the client connections, in all and for each client.
type admission struct {
	max, maxPerClient int
	stats             *counters

	mu      sync.Mutex
	all     int
	clients map[netip.Addr]int // only those with a connection
}

func newAdmission(maxConns, maxPerClient int, stats *counters) *admission {
	return &admission{max: maxConns, maxPerClient: maxPerClient, stats: stats, clients: make(map[netip.Addr]int)}
}

func (a *admission) enter(client netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.all >= a.max || a.clients[client] >= a.maxPerClient {
		a.stats.refusedConns.Add(1)
		return false
	}
	a.all++
	a.clients[client]++
	a.stats.accepted.Add(1)
	a.stats.conns.Add(1)
	return true
}

func (a *admission) leave(client netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all--
	a.stats.conns.Add(-1)
	if a.clients[client]--; a.clients[client] == 0 {
		delete(a.clients, client)
	}
}

// A listener hands net/http gates instead of connections.
type listener struct {
	*net.TCPListener
	server *Server
	admit  *admission
	warned time.Time // when the last message about Accept was written; Accept's alone
}

const refusedConn = "HTTP/1.1 503 Service Unavailable\r\nProxy-Status: weir; error=connection_limit_reached\r\n" +
	"Retry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			l.warn(err)
			return nil, err
		}
		client := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().WithZone("")
		if l.admit.enter(client) {
			return newGate(c, l.server, client, l.admit), nil
		}
		// A fresh socket has room for one line; should the client have sent
		// something already, it may see a reset instead.
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = c.Write([]byte(refusedConn))
		_ = c.Close()
	}
}

// warn says that clients wait, which net/http, trying again, says to nobody:
// most often there is no descriptor left.
func (l *listener) warn(err error) {
	if errors.Is(err, net.ErrClosed) || time.Since(l.warned) < 10*time.Second {
		return
	}
	l.warned = time.Now()
	l.server.opts.Log.Warn("proxy cannot accept connections", "listener", l.Addr(), "error", err)
}

package dnsserver

import (
	"net/netip"
	"sync"
)

// places bound the connections of one transport, in all and per client.
type places struct {
	mu        sync.Mutex
	taken     int
	clients   map[netip.Addr]int
	max       int
	perClient int
}

func (p *places) init(limit, perClient int) {
	p.clients, p.max, p.perClient = map[netip.Addr]int{}, limit, perClient
}

// A fullness is which bound a connection is beyond; the zero value is none.
type fullness uint8

const (
	notFull fullness = iota
	full
	clientFull
)

// take takes a place, or says why there is none. many is for a load balancer,
// which is many clients.
func (p *places) take(client netip.Addr, many bool) fullness {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.taken >= p.max:
		return full
	case p.clients[client] >= p.perClient && !many:
		return clientFull
	}
	p.taken++
	p.clients[client]++
	return notFull
}

// leave gives a place back.
func (p *places) leave(client netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	if p.clients[client]--; p.clients[client] == 0 {
		delete(p.clients, client)
	}
}

// crowded reports whether more than half of the places are taken.
func (p *places) crowded() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken > p.max/2
}

// many reports whether more than half of a client's places are taken.
func (p *places) many(client netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.clients[client] > p.perClient/2
}

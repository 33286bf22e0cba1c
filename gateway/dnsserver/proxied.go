package dnsserver

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"time"
)

// The PROXY protocol, version 2, as a load balancer in front of the gateway
// speaks it: https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt,
// section 2.2. It is believed from the addresses of Options.Proxies only.

const (
	proxySignature = "\r\n\r\n\x00\r\nQUIT\n"
	proxyHead      = len(proxySignature) + 4
	// maxProxyRest bounds what follows the head: addresses, and values that mean
	// nothing here.
	maxProxyRest = 1024
)

var errProxyHeader = errors.New("no header of the PROXY protocol")

// proxies are the networks of load balancers.
type proxies []netip.Prefix

func (p proxies) trust(a netip.Addr) bool {
	for _, n := range p {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// parseProxy reads the header at the beginning of p, and returns its length and
// the client that it speaks of. The client is invalid where the load balancer
// speaks of itself, as for a look at our health.
func parseProxy(p []byte) (client netip.Addr, n int, err error) {
	if len(p) < proxyHead || string(p[:len(proxySignature)]) != proxySignature {
		return client, 0, errProxyHeader
	}
	version, family := p[12], p[13]
	rest := int(binary.BigEndian.Uint16(p[14:]))
	if version>>4 != 2 || rest > maxProxyRest || len(p) < proxyHead+rest {
		return client, 0, errProxyHeader
	}
	n = proxyHead + rest
	switch version & 0xF {
	case 0: // LOCAL
		return client, n, nil
	case 1: // PROXY
	default:
		return client, 0, errProxyHeader
	}
	a := p[proxyHead:n]
	switch {
	case family>>4 == 1 && len(a) >= 12:
		client = netip.AddrFrom4([4]byte(a))
	case family>>4 == 2 && len(a) >= 36:
		client = netip.AddrFrom16([16]byte(a)).Unmap()
	default:
		return client, 0, errProxyHeader // of no family that a device has
	}
	return client, n, nil
}

// readProxy reads the header from a connection, and no byte more.
func readProxy(r io.Reader) (netip.Addr, error) {
	p := make([]byte, proxyHead, proxyHead+36)
	if _, err := io.ReadFull(r, p); err != nil {
		return netip.Addr{}, err
	}
	rest := int(binary.BigEndian.Uint16(p[14:]))
	if !bytes.HasPrefix(p, []byte(proxySignature)) || rest > maxProxyRest {
		return netip.Addr{}, errProxyHeader
	}
	p = append(p, make([]byte, rest)...)
	if _, err := io.ReadFull(r, p[proxyHead:]); err != nil {
		return netip.Addr{}, err
	}
	client, _, err := parseProxy(p)
	return client, err
}

// proxied reports whether a datagram begins with a header that is believed. For
// a message of DNS the signature is one with an opcode that nobody answers.
func (c *core) proxied(p []byte, from netip.Addr) bool {
	return len(c.proxies) > 0 && len(p) > len(proxySignature) && string(p[:len(proxySignature)]) == proxySignature && c.proxies.trust(from)
}

// unwrap takes the header off, so that the datagram is one of the client's. It
// is false for one that must not be answered.
func (d *datagram) unwrap(c *core) bool {
	client, n, err := parseProxy(d.msg)
	if err != nil {
		c.stats.drop(dropProxy)
		return false
	}
	d.msg, d.proxied = d.msg[n:], true
	if client.IsValid() {
		d.from = client
	}
	if c.limits != nil {
		if why, over := c.limits.over(d.from, d.arrived); over {
			c.stats.drop(why)
			return false
		}
	}
	return true
}

// question is accept for a datagram that the hot path has left: its header was
// looked at, but for one behind a header of the PROXY protocol.
func (d *datagram) question(c *core, dst []byte) (q *question, reply []byte) {
	if d.proxied {
		return c.look(dst, d.msg, d.from, udp, d.arrived)
	}
	return c.unpack(dst, d.msg, d.from, udp, d.arrived)
}

// proxyHeader reads the header of a stream from a load balancer, which must send
// one: what a client behind it sends must never be taken for it.
func (c *stream) proxyHeader() bool {
	if !c.server.core.proxies.trust(c.client) {
		return true
	}
	if !c.readBy(time.Now().Add(c.server.opts.HandshakeTimeout)) {
		return false
	}
	client, err := readProxy(c.raw)
	if err != nil {
		c.server.core.stats.drop(dropProxy)
		return false
	}
	if client.IsValid() {
		c.client = client
	}
	return true
}

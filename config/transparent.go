package config

import "net/netip"

// Transparent configures the listeners to which a packet filter brings
// connections that were made to somebody else.
type Transparent struct {
	Listen  []netip.AddrPort // TCP; empty: off
	Unknown UnknownAction    // what is neither TLS nor HTTP
	Unseen  UnseenAction     // a name at an address that it was never said to have
}

// An UnknownAction is what happens to a connection in an unknown protocol.
type UnknownAction string

const (
	UnknownBlock  UnknownAction = "block"
	UnknownAllow  UnknownAction = "allow"
	UnknownReport UnknownAction = "report"
)

// An UnseenAction is what happens to a connection whose name this gateway never
// said to be at that address.
type UnseenAction string

const (
	UnseenResolve UnseenAction = "resolve" // connect to what the gateway itself resolves the name to
	UnseenBlock   UnseenAction = "block"
	UnseenAllow   UnseenAction = "allow"
	UnseenReport  UnseenAction = "report"
)

func (v value) transparent(c *Transparent) {
	v.object(fields{
		"listen":  set(&c.Listen, listOf(value.divertedAddr)),
		"unknown": set(&c.Unknown, word(UnknownBlock, UnknownAllow, UnknownReport)),
		"unseen":  set(&c.Unseen, word(UnseenResolve, UnseenBlock, UnseenAllow, UnseenReport)),
	})
}

// divertedAddr is listenAddr for a listener that a packet filter must name.
func (v value) divertedAddr() (netip.AddrPort, bool) {
	ap, ok := v.listenAddr()
	if ok && ap.Port() == 0 {
		v.fail("port 0 is any free port; the packet filter that brings connections here must know which")
		return netip.AddrPort{}, false
	}
	return ap, ok
}

package vpn

import (
	"fmt"
	"net/netip"
	"strconv"
)

// A part is one condition or one action of a rule. Each has one spelling for
// nft and one as expressions for the kernel; a test holds them to each other.
type part interface{ text() string }

type (
	iif  struct{ name string } // came in by the interface
	oif  struct{ name string } // leaves by the interface
	ipv  struct{ six bool }    // is IPv4, or IPv6
	l4   struct{ proto uint8 } // is of the transport protocol
	port struct {
		proto uint8
		n     uint16
	} // is for the port
	ports struct {
		proto uint8
		set   string
	} // is for a port of the set
	// addr is in the set, or not in it, by its source or destination.
	addr struct {
		six, source bool
		set         string
		not         bool
	}
	local    struct{}              // is for this machine
	homeless struct{}              // has a source that is not reached by the way it came
	leads    struct{ name string } // is for what is reached through the interface
	reply    struct{}              // belongs to a connection from the other side
	diverted struct{}              // had its destination changed by the nat chain
	icmp     struct {              // is ICMP, or ICMPv6, of types from first to last
		six         bool
		first, last uint8
	}
	// size is of at most, or of more than, n bytes with all headers.
	size struct {
		six, over bool
		n         uint16
	}
	rate   struct{ perSecond, burst uint32 }
	marked struct{ mark uint32 }

	accept     struct{}
	drop       struct{}
	back       struct{} // return to the calling chain
	jump       struct{ chain string }
	leave      struct{ chain string } // goto
	reset      struct{}
	prohibited struct{}              // ICMP: administratively prohibited
	redirect   struct{ port uint16 } // to this machine's address on the interface
	dnat       struct{ to netip.AddrPort }
	// tproxy gives the packet to a socket of this machine as it is. An address
	// that is not specified is any.
	tproxy struct{ to netip.AddrPort }
	mark   struct{ mark uint32 }
)

// Transport protocols, and the types of ICMP that rules speak of.
const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58

	echoReply4, echo4, echo6, echoReply6 = 0, 8, 128, 129
	firstNeighbour, lastNeighbour        = 133, 136 // RFC 4861: router and neighbour messages
)

var protoNames = map[uint8]string{protoICMP: "icmp", protoTCP: "tcp", protoUDP: "udp", protoICMPv6: "ipv6-icmp"}

func icmpProto(six bool) uint8 {
	if six {
		return protoICMPv6
	}
	return protoICMP
}

func family(six bool) string {
	if six {
		return "ip6"
	}
	return "ip"
}

func (p iif) text() string  { return "iifname " + strconv.Quote(p.name) }
func (p oif) text() string  { return "oifname " + strconv.Quote(p.name) }
func (p l4) text() string   { return "meta l4proto " + protoNames[p.proto] }
func (p port) text() string { return fmt.Sprintf("%s dport %d", protoNames[p.proto], p.n) }

func (p ports) text() string { return fmt.Sprintf("%s dport @%s", protoNames[p.proto], p.set) }

func (p ipv) text() string {
	if p.six {
		return "meta nfproto ipv6"
	}
	return "meta nfproto ipv4"
}

func (p addr) text() string {
	field, op := " daddr ", "@"
	if p.source {
		field = " saddr "
	}
	if p.not {
		op = "!= @"
	}
	return family(p.six) + field + op + p.set
}

func (local) text() string    { return "fib daddr type local" }
func (homeless) text() string { return "fib saddr . iif oif missing" }
func (p leads) text() string  { return "fib daddr oifname " + strconv.Quote(p.name) }
func (reply) text() string    { return "ct direction reply" }
func (diverted) text() string { return "ct status dnat" }

func (p icmp) text() string {
	word := "icmp"
	if p.six {
		word = "icmpv6"
	}
	if p.first == p.last {
		return fmt.Sprintf("%s type %d", word, p.first)
	}
	return fmt.Sprintf("%s type %d-%d", word, p.first, p.last)
}

func (p size) text() string {
	op := "<="
	if p.over {
		op = ">"
	}
	return fmt.Sprintf("%s length %s %d", family(p.six), op, p.bytes())
}

// bytes is what the length field of the header counts: that of IPv6 does not
// count the header itself.
func (p size) bytes() uint16 {
	if p.six {
		return p.n - 40
	}
	return p.n
}

func (p rate) text() string {
	return fmt.Sprintf("limit rate %d/second burst %d packets", p.perSecond, p.burst)
}
func (p marked) text() string { return fmt.Sprintf("meta mark %#x", p.mark) }

func (accept) text() string     { return "accept" }
func (drop) text() string       { return "drop" }
func (back) text() string       { return "return" }
func (p jump) text() string     { return "jump " + p.chain }
func (p leave) text() string    { return "goto " + p.chain }
func (reset) text() string      { return "reject with tcp reset" }
func (prohibited) text() string { return "reject with icmpx admin-prohibited" }
func (p redirect) text() string { return fmt.Sprintf("redirect to :%d", p.port) }
func (p dnat) text() string     { return "dnat " + family(p.to.Addr().Is6()) + " to " + p.to.String() }
func (p mark) text() string     { return fmt.Sprintf("meta mark set %#x", p.mark) }

func (p tproxy) text() string {
	if p.to.Addr().IsUnspecified() {
		return fmt.Sprintf("tproxy %s to :%d", family(p.to.Addr().Is6()), p.to.Port())
	}
	return "tproxy " + family(p.to.Addr().Is6()) + " to " + p.to.String()
}

package world

import (
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
)

// Addresses of the tunnel and of the cables. The rest of the address space is
// the internet's.
const (
	DeviceV4             = "10.8.0.2"
	DeviceV6             = "fd00:8::2"
	GatewayV4            = "10.8.0.1"
	GatewayV6            = "fd00:8::1"
	outsideV4, outsideV6 = "198.51.100.1", "2001:db8:51::1" // the gateway's on the cable to the internet
	farV4, farV6         = "198.51.100.2", "2001:db8:51::2" // the internet's
	carrierDevice        = "10.9.0.2"
	carrierGateway       = "10.9.0.1"
)

// Upstream is the resolver that the gateway asks.
var Upstream = netip.MustParseAddrPort("63.245.0.53:53")

// A World is three namespaces and the servers of the internet.
type World struct {
	Device, Gateway, Internet *Space
	// Interface is the tunnel's in the namespaces of the device and the gateway.
	Interface string
	CA        *Authority
	Dir       string // of files that end with the test

	tb testing.TB
}

// worlds counts them: their control sockets are in one folder.
var worlds atomic.Int64

// New makes a world that ends with the test. Nothing filters in it yet: the
// gateway forwards what it gets.
func New(tb testing.TB) *World {
	tb.Helper()
	w := &World{
		Device: newSpace(tb, "device"), Gateway: newSpace(tb, "gateway"), Internet: newSpace(tb, "internet"),
		Interface: fmt.Sprintf("wg%d-%d", os.Getpid()%1e8, worlds.Add(1)%100), Dir: tb.TempDir(), tb: tb,
	}
	w.CA = newAuthority(tb)
	w.cables()
	w.tunnel()
	w.serve()
	return w
}

func (w *World) cables() {
	moveLink(w.tb, w.Device, "air", w.Gateway, "air")
	w.Device.ip(w.tb, "addr add "+carrierDevice+"/30 dev air")
	w.Gateway.ip(w.tb, "addr add "+carrierGateway+"/30 dev air")

	moveLink(w.tb, w.Gateway, "outside", w.Internet, "cable")
	w.Gateway.ip(w.tb, `
		addr add `+outsideV4+`/30 dev outside
		addr add `+outsideV6+`/64 dev outside nodad
		route add default via `+farV4+`
		-6 route add default via `+farV6)
	w.Gateway.sysctl(w.tb, map[string]string{"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"})
	w.everywhere()
}

// everywhere makes every address the internet's own but those behind the cable:
// the rule for them must come before the table of local addresses. The
// neighbours are fixed, because nobody else is to be found.
func (w *World) everywhere() {
	// What answers packets says from which address, and IPv6 wants leave for that.
	w.Internet.sysctl(w.tb, map[string]string{"net/ipv6/ip_nonlocal_bind": "1", "net/ipv4/ip_nonlocal_bind": "1"})
	const here, there = "02:00:00:00:00:02", "02:00:00:00:00:01"
	w.Internet.ip(w.tb, `
		link set cable address `+here+`
		addr add `+farV4+`/30 dev cable
		addr add `+farV6+`/64 dev cable nodad
		neigh replace `+outsideV4+` lladdr `+there+` dev cable nud permanent
		-6 neigh replace `+outsideV6+` lladdr `+there+` dev cable nud permanent
		route add 10.8.0.0/24 via `+outsideV4+`
		-6 route add fd00:8::/64 via `+outsideV6+`
		route add local 0.0.0.0/0 dev lo table local
		-6 route add local ::/0 dev lo table local
		rule add pref 10 to 10.8.0.0/24 lookup main
		rule add pref 11 to `+outsideV4+` lookup main
		rule add pref 100 lookup local
		rule del pref 0
		-6 rule add pref 10 to fd00:8::/64 lookup main
		-6 rule add pref 11 to `+outsideV6+` lookup main
		-6 rule add pref 100 lookup local
		-6 rule del pref 0`)
	w.Gateway.ip(w.tb, `
		link set outside address `+there+`
		neigh replace `+farV4+` lladdr `+here+` dev outside nud permanent
		-6 neigh replace `+farV6+` lladdr `+here+` dev outside nud permanent`)
}

// Forward makes the gateway's own address one of the internet's: who asks the
// gateway for DNS is answered by somebody who filters nothing.
func (w *World) Forward(tb testing.TB) {
	tb.Helper()
	w.Gateway.ip(tb, `
		addr del `+GatewayV4+`/24 dev `+w.Interface+`
		addr del `+GatewayV6+`/64 dev `+w.Interface+`
		route add `+DeviceV4+` dev `+w.Interface+`
		-6 route add `+DeviceV6+` dev `+w.Interface)
	w.Internet.ip(tb, `
		rule add pref 5 to `+GatewayV4+` lookup local
		-6 rule add pref 5 to `+GatewayV6+` lookup local`)
}

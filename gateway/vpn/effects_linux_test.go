package vpn

import (
	"fmt"
	"maps"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-gateway/weir/gateway/policy"
)

const (
	worldDefault = listening + `vpn: {interface: wg0, management: [192.0.2.5, 10.8.1.2, "2001:db8:aa::5", "fd00:8:1::2"]}
`
	worldTProxy = listening + `quic: {mode: inspect, listen: ["0.0.0.0:3130", "[::]:3130"]}
vpn:
  interface: wg0
  divert: tproxy
  management: [192.0.2.5, 10.8.1.2, "2001:db8:aa::5", "fd00:8:1::2"]
  tcp: {direct: [587]}
`
	worldOpen = listening + `quic: {mode: allow}
vpn: {interface: wg0, management: [], tcp: {inspect: [80, 443], direct: all}, udp: {direct: all}}
`
	worldPlain = `
dns: {listen: ["0.0.0.0:5353", "[::]:5353"]}
proxy: {listen: ["0.0.0.0:3128", "[::]:3128"]}
quic: {mode: allow}
vpn: {interface: wg0, management: [], tcp: {inspect: [], direct: [443]}}
`
	worldInternal = listening + `vpn: {interface: wg0, management: [], peers: allow, internal: [198.51.100.10, "2001:db8:1::10"]}
`
)

func worldBans() []Ban {
	return []Ban{{
		ID:     "app",
		Banned: []policy.Range{addrRange("203.0.113.0", "203.0.113.255"), addrRange("2001:db8:bad::", "2001:db8:bad:ffff:ffff:ffff:ffff:ffff")},
		Spared: []policy.Range{addrRange(sparedV4, sparedV4), addrRange(sparedV6, sparedV6)},
	}}
}

// A probe tries one thing; what comes back is a word.
type probe struct {
	name string
	try  func(w *world) string
}

func talk(s func(*world) space, network, local, to string, port int) func(*world) string {
	return func(w *world) string { return s(w).ask(network, local, net.JoinHostPort(to, fmt.Sprint(port))) }
}

func onDevice(w *world) space   { return w.device }
func onPeer(w *world) space     { return w.peer }
func onGateway(w *world) space  { return w.gateway }
func onInternet(w *world) space { return w.internet }

// probes tries every way of both families: NAME FAMILY.
func probes() []probe {
	var ps []probe
	add := func(name string, try func(*world) string) { ps = append(ps, probe{name, try}) }
	for family, a := range map[string]map[string]string{
		"v4": {"device": deviceV4, "spared": sparedV4, "gateway": gatewayV4, "peer": peerV4, "site": siteV4, "banned": bannedV4, "manager": managerV4},
		"v6": {"device": deviceV6, "spared": sparedV6, "gateway": gatewayV6, "peer": peerV6, "site": siteV6, "banned": bannedV6, "manager": managerV6},
	} {
		for _, network := range []string{"udp", "tcp"} {
			add("dns "+network+" "+family, talk(onDevice, network, a["device"], a["site"], 53))
			add("dns at gateway "+network+" "+family, talk(onDevice, network, a["device"], a["gateway"], 53))
			add("private dns "+network+" "+family, talk(onDevice, network, a["device"], a["site"], 853))
			add("web "+network+" "+family, talk(onDevice, network, a["device"], a["site"], 443))
			add("odd port "+network+" "+family, talk(onDevice, network, a["device"], a["site"], 8000))
			add("banned odd port "+network+" "+family, talk(onDevice, network, a["device"], a["banned"], 8000))
			add("banned, spared "+network+" "+family, talk(onDevice, network, a["spared"], a["banned"], 123))
			add("banned time "+network+" "+family, talk(onDevice, network, a["device"], a["banned"], 123))
			add("time "+network+" "+family, talk(onDevice, network, a["device"], a["site"], 123))
			add("mail "+network+" "+family, talk(onDevice, network, a["device"], a["site"], 587))
			add("banned mail "+network+" "+family, talk(onDevice, network, a["device"], a["banned"], 587))
			add("peer "+network+" "+family, talk(onDevice, network, a["device"], a["peer"], 22))
			add("resolver "+network+" "+family, talk(onDevice, network, a["device"], a["gateway"], 5353))
			add("admin "+network+" "+family, talk(onDevice, network, a["device"], a["gateway"], 8053))
			add("managed "+network+" "+family, talk(onPeer, network, "", a["gateway"], 8053))
			add("managed remotely "+network+" "+family, talk(onInternet, network, a["manager"], a["gateway"], 8053))
			add("inbound "+network+" "+family, talk(onInternet, network, a["site"], a["device"], 22))
			add("inbound, managed "+network+" "+family, talk(onInternet, network, a["manager"], a["device"], 22))
			add("outward "+network+" "+family, talk(onGateway, network, "", a["device"], 22))
		}
		add("closed, managed "+family, talk(onInternet, "udp", a["manager"], a["device"], 9))
		add("closed, outward "+family, talk(onGateway, "udp", "", a["device"], 9))
		add("proxy "+family, talk(onDevice, "tcp", a["device"], a["gateway"], 3128))
		add("listener "+family, talk(onDevice, "tcp", a["device"], a["gateway"], 3129))
		add("ping "+family, func(w *world) string { return w.device.ping(a["device"], a["site"], 84) })
		add("big ping "+family, func(w *world) string { return w.device.ping(a["device"], a["site"], 500) })
		add("ping gateway "+family, func(w *world) string { return w.device.ping(a["device"], a["gateway"], 84) })
		add("banned ping "+family, func(w *world) string { return w.device.ping(a["device"], a["banned"], 84) })
	}
	add("nat64", talk(onDevice, "udp", deviceV6, nat64V6, 123))
	add("teredo", talk(onDevice, "udp", deviceV6, teredoV6, 123))
	add("spoofed", spoof)
	return ps
}

// spoof sends from an address that is not the device's, and looks for the answer
// where that address is.
func spoof(w *world) string {
	const source = "172.16.9.9:40000"
	var there net.PacketConn
	var err error
	w.internet.do(func() { there, err = net.ListenPacket("udp", source) })
	if err != nil {
		return err.Error()
	}
	defer func() { _ = there.Close() }()
	w.device.do(func() {
		c, err := net.ListenPacket("udp", source)
		if err != nil {
			return
		}
		_, _ = c.WriteTo([]byte("?"), &net.UDPAddr{IP: net.ParseIP(gatewayV4), Port: 53})
		_ = c.Close()
	})
	_ = there.SetReadDeadline(time.Now().Add(silence()))
	buf := make([]byte, 64)
	n, _, err := there.ReadFrom(buf)
	if err != nil {
		return failure(err)
	}
	return string(buf[:n])
}

// answers tries all probes at once.
func (w *world) answers(t *testing.T) map[string]string {
	t.Helper()
	// What is known of neighbours would hide that they cannot be found.
	w.hub.run(t, "neigh flush all")
	w.gateway.run(t, "neigh flush all")
	out := make(map[string]string)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, p := range probes() {
		wg.Go(func() {
			word := p.try(w)
			mu.Lock()
			defer mu.Unlock()
			out[p.name] = word
		})
	}
	wg.Wait()
	return out
}

// differs says which answers are not what they should be, also when there is
// more time for them: they are late where other programs have the processors.
func (w *world) differs(t *testing.T, want map[string]string) []string {
	t.Helper()
	d := differences(w.answers(t), want)
	for range 3 {
		if d == nil {
			return nil
		}
		lateness.Store(int64(min(3*silence(), 5*time.Second)))
		d = differences(w.answers(t), want)
	}
	return d
}

// settle starts all servers of the world.
func (w *world) settle(t *testing.T, name string) {
	t.Helper()
	transparent := name == "tproxy"
	both := func(ports ...int) (out []string) {
		for _, p := range ports {
			out = append(out, fmt.Sprintf("0.0.0.0:%d", p), fmt.Sprintf("[::]:%d", p))
		}
		return out
	}
	w.internet.serve(t, "internet", false, both(53, 123, 443, 587, 853, 8000), both(53, 123, 443, 587, 853, 8000))
	w.device.serve(t, "device", false, both(22), both(22))
	w.peer.serve(t, "peer", false, both(22), both(22))
	w.gateway.serve(t, "dns", false, both(5353), both(5353))
	w.gateway.serve(t, "proxy", false, both(3128), nil)
	w.gateway.serve(t, "admin", false, both(8053), both(8053))
	w.gateway.serve(t, "transparent", transparent, both(3129), nil)
	if transparent {
		w.gateway.serve(t, "quic", true, nil, both(3130))
	}
}

// expected are the words of each world, by the name of a probe without its
// family; "FAMILY" may stand for one that differs.
var closed = map[string]string{
	"dns udp": "dns", "dns tcp": "dns", "dns at gateway udp": "dns", "dns at gateway tcp": "dns",
	"resolver udp": "dns", "resolver tcp": "dns", "proxy": "proxy", "listener": "reset",
	"private dns udp": "prohibited", "private dns tcp": "reset",
	"web udp": "prohibited", "web tcp": "transparent",
	"odd port udp": "silence", "odd port tcp": "transparent",
	"banned odd port udp": "prohibited", "banned odd port tcp": "transparent",
	"time udp": "internet", "time tcp": "transparent",
	"banned time udp": "prohibited", "banned time tcp": "transparent",
	"banned, spared udp": "internet", "banned, spared tcp": "transparent",
	"mail udp": "silence", "mail tcp": "transparent", "banned mail udp": "prohibited", "banned mail tcp": "transparent",
	"peer udp": "silence", "peer tcp": "silence",
	"admin udp": "silence", "admin tcp": "reset",
	"managed udp": "admin", "managed tcp": "admin", "managed remotely udp": "admin", "managed remotely tcp": "admin",
	"inbound udp": "silence", "inbound tcp": "silence", "inbound, managed udp": "device", "inbound, managed tcp": "device",
	"outward udp": "device", "outward tcp": "device", "closed, managed": "reset", "closed, outward": "reset",
	"ping": "pong", "big ping": "silence", "ping gateway": "pong", "banned ping": "silence",
	"nat64": "prohibited", "teredo": "prohibited", "spoofed": "silence",
}

// changed returns the words with some of them others.
func changed(base map[string]string, pairs ...string) map[string]string {
	m := maps.Clone(base)
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return m
}

var worlds = map[string]struct {
	config string
	want   map[string]string
}{
	"default": {worldDefault, closed},
	"tproxy":  {worldTProxy, changed(closed, "web udp", "quic", "mail tcp", "internet", "banned mail tcp", "reset")},
	"open": {worldOpen, changed(closed,
		"web udp", "internet", "odd port udp", "internet", "odd port tcp", "internet", "banned odd port tcp", "reset",
		"time tcp", "internet", "banned time tcp", "reset", "banned, spared tcp", "internet",
		"mail udp", "internet", "mail tcp", "internet", "banned mail tcp", "reset",
		"managed udp", "silence", "managed tcp", "reset",
		"inbound, managed udp", "silence", "inbound, managed tcp", "silence", "closed, managed", "silence")},
	"plain": {worldPlain, changed(closed,
		"web udp", "internet", "web tcp", "internet", "odd port tcp", "reset", "banned odd port tcp", "reset",
		"time tcp", "reset", "banned time tcp", "reset", "banned, spared tcp", "reset", "mail tcp", "reset", "banned mail tcp", "reset",
		"managed udp", "silence", "managed tcp", "reset",
		"inbound, managed udp", "silence", "inbound, managed tcp", "silence", "closed, managed", "silence")},
	"internal": {worldInternal, changed(closed,
		"private dns udp", "internet", "private dns tcp", "internet", "web udp", "internet", "web tcp", "internet",
		"odd port udp", "internet", "odd port tcp", "internet", "time tcp", "internet", "mail udp", "internet", "mail tcp", "internet",
		"peer udp", "peer", "peer tcp", "peer", "big ping", "pong", "managed udp", "silence", "managed tcp", "reset",
		"inbound, managed udp", "silence", "inbound, managed tcp", "silence", "closed, managed", "silence")},
}

// TestEffects: from the device's side, each way is closed or open as it should
// be, in both families.
func TestEffects(t *testing.T) {
	for name, tt := range worlds {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.settle(t, name)
			k := Kernel{NetNS: w.gateway.fd}
			if _, err := k.Apply(Rules("v1", parse(t, tt.config), worldBans())); err != nil {
				t.Fatal(err)
			}
			if d := w.differs(t, tt.want); d != nil {
				t.Errorf("%s", strings.Join(d, "\n"))
			}
		})
	}
}

package vpn

import (
	"net/netip"
	"testing"

	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/policy"
)

// parse returns a configuration of the section vpn and others, on listeners
// that packets can be brought to.
func parse(t testing.TB, text string) *config.Config {
	t.Helper()
	c, err := config.Parse("test.yml", []byte("bans: []\n"+text), nil)
	if err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	return c
}

const listening = `
dns: {listen: ["0.0.0.0:5353", "[::]:5353"]}
proxy: {listen: ["0.0.0.0:3128", "[::]:3128"]}
transparent: {listen: ["0.0.0.0:3129", "[::]:3129"]}
`

// configs are the configurations of these tests by name.
var configs = map[string]string{
	"default": listening + "vpn: {interface: wg0, management: [192.0.2.0/28]}\n",
	"tproxy": listening + `quic: {mode: inspect, listen: ["0.0.0.0:3130", "[::]:3130"]}
vpn: {interface: wg0, divert: tproxy, management: [192.0.2.0/28, "2001:db8:aa::/64"], tcp: {direct: [587, 22]}}
`,
	"open": listening + `quic: {mode: allow}
vpn: {interface: wg0, management: [], internal: [10.20.0.0/16, "2001:db8:20::/48"], tcp: {inspect: [443, 80], direct: all}, udp: {direct: all}, peers: allow}
`,
	"addresses": `
dns: {listen: ["127.0.0.1:53", "10.8.0.1:53", "[2001:db8:8::1]:53"]}
proxy: {listen: ["10.8.0.1:3128"]}
transparent: {listen: ["10.8.0.1:3129"]}
vpn: {interface: tun-0.x_y, management: [192.0.2.1], tcp: {direct: [25]}, internal: [10.20.0.0/16]}
`,
	"loopback": `
dns: {listen: ["10.8.0.1:53"]}
transparent: {listen: ["127.0.0.1:3129", "[::1]:3129"]}
vpn: {interface: wg0, divert: tproxy, management: [], peers: allow, internal: [10.20.0.0/16]}
`,
	"encrypted dns": `
dns:
  listen: ["0.0.0.0:53", "[::]:53"]
  tls: {cert: a.pem, key: b.pem}
  dot: {listen: ["0.0.0.0:853", "[::]:853"]}
  doq: {listen: ["10.8.0.1:853"]}
  doh: {listen: ["0.0.0.0:443", "[::1]:443"]}
transparent: {listen: ["0.0.0.0:3129", "[::]:3129"]}
vpn: {interface: wg0, management: []}
`,
	"no inspection": `
dns: {listen: ["0.0.0.0:53"]}
vpn: {interface: wg0, management: [], tcp: {inspect: [], direct: all}, udp: {direct: []}}
`,
}

func addrRange(first, last string) policy.Range {
	return policy.Range{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)}
}

// testBans are two bans: one for all but two devices, one for none yet.
func testBans() []Ban {
	return []Ban{
		{
			ID: "wechat",
			Banned: []policy.Range{
				addrRange("0.0.0.0", "0.0.0.0"), addrRange("203.0.113.0", "203.0.113.127"), addrRange("203.0.113.200", "203.0.113.202"),
				addrRange("255.255.255.0", "255.255.255.255"), addrRange("2001:db8:bad::", "2001:db8:bad:ffff:ffff:ffff:ffff:ffff"),
				addrRange("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
			},
			Spared: []policy.Range{addrRange("10.8.0.9", "10.8.0.9"), addrRange("2001:db8:8::9", "2001:db8:8::9")},
		},
		{
			ID: "a-ban-2", Banned: []policy.Range{addrRange("203.0.113.64", "203.0.113.255")},
			Spared: []policy.Range{addrRange("0.0.0.0", "255.255.255.255"), addrRange("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")},
		},
	}
}

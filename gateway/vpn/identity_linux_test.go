package vpn

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ipc"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weir-gateway/weir/bench/corpus"
)

// wireGuard makes a WireGuard interface in user space, in the test's network.
func wireGuard(t *testing.T) (name string, dev *device.Device) {
	t.Helper()
	ownNetwork(t)
	name = fmt.Sprintf("weirt%d", os.Getpid()%1_000_000)
	link, err := tun.CreateTUN(name, device.DefaultMTU)
	if err != nil {
		corpus.Missing(t, "needs /dev/net/tun: "+err.Error())
	}
	dev = device.NewDevice(link, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	t.Cleanup(dev.Close)
	f, err := ipc.UAPIOpen(name)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ipc.UAPIListen(name, f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go dev.IpcHandle(c)
		}
	}()
	return name, dev
}

func newKey(t *testing.T) wgtypes.Key {
	t.Helper()
	k, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k.PublicKey()
}

func TestIdentity(t *testing.T) {
	name, dev := wireGuard(t)
	a, b := newKey(t), newKey(t)
	peer := func(k wgtypes.Key, ips ...string) string {
		return fmt.Sprintf("public_key=%x\nreplace_allowed_ips=true\nallowed_ip=%s\n", k[:], strings.Join(ips, "\nallowed_ip="))
	}
	if err := dev.IpcSet(peer(a, "10.8.0.2/32", "2001:db8:8::2/128") + peer(b, "10.8.0.0/24")); err != nil {
		t.Fatal(err)
	}
	var id Identity
	if d, ok := id.Device(netip.MustParseAddr("10.8.0.2")); ok || id.Len() != 0 {
		t.Errorf("the zero Identity knows %+v", d)
	}
	if err := id.Refresh(name); err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]string{
		"10.8.0.2": a.String(), "2001:db8:8::2": a.String(), "::ffff:10.8.0.2": a.String(),
		"10.8.0.3": b.String(), "10.9.0.1": "", "2001:db8:8::3": "",
	} {
		if got := id.Key(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %q, want %q", addr, got, want)
		}
	}
	if d, _ := id.Device(netip.MustParseAddr("10.8.0.2")); len(d.Addresses) != 2 || !d.Handshake.IsZero() {
		t.Errorf("device %+v, want two addresses and no handshake", d)
	}
	if id.Key(netip.Addr{}) != "" || id.Len() != 2 {
		t.Errorf("%d devices, want 2, and none without an address", id.Len())
	}
	// An interface that goes leaves what was known.
	if err := id.Refresh("nowhere0"); err == nil || !strings.Contains(err.Error(), "vpn.wireguard: false") {
		t.Errorf("no such interface: %v", err)
	}
	if id.Len() != 2 {
		t.Error("an error forgot the devices")
	}
}

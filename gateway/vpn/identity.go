package vpn

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"github.com/gaissmai/bart"
	"golang.zx2c4.com/wireguard/wgctrl"
)

// A Device is one peer of the VPN, whatever its addresses are.
type Device struct {
	// Key is its public key, in WireGuard's spelling.
	Key string
	// Addresses are the networks that only it may send from.
	Addresses []netip.Prefix
	Handshake time.Time // the latest; zero for none
}

// An Identity says which device is behind an address, from the table of peers of
// a WireGuard interface. The zero Identity knows none. Lookups never wait.
type Identity struct {
	table atomic.Pointer[peerTable]
}

type peerTable struct {
	prefixes bart.Table[*Device]
	devices  int
}

// Device returns who is behind the address.
func (i *Identity) Device(addr netip.Addr) (Device, bool) {
	t := i.table.Load()
	if t == nil || !addr.IsValid() {
		return Device{}, false
	}
	d, ok := t.prefixes.Lookup(addr.Unmap().WithZone(""))
	if !ok {
		return Device{}, false
	}
	return *d, true
}

// Key returns the public key of the device behind the address, empty for none.
func (i *Identity) Key(addr netip.Addr) string {
	d, _ := i.Device(addr)
	return d.Key
}

// Len returns how many devices are known.
func (i *Identity) Len() int {
	if t := i.table.Load(); t != nil {
		return t.devices
	}
	return 0
}

// Refresh reads the peers of the interface. On an error what was known stays.
func (i *Identity) Refresh(name string) error {
	c, err := wgctrl.New()
	if err != nil {
		return fmt.Errorf("wireguard: %w", err)
	}
	defer func() { _ = c.Close() }()
	dev, err := c.Device(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("wireguard: %s is no WireGuard interface, or not there yet: check vpn.interface, or set vpn.wireguard: false (%w)", name, err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("wireguard: CAP_NET_ADMIN is missing: run as root, or give the service AmbientCapabilities=CAP_NET_ADMIN (%w)", err)
	case err != nil:
		return fmt.Errorf("wireguard: %s: %w", name, err)
	}
	t := &peerTable{devices: len(dev.Peers)}
	for _, p := range dev.Peers {
		d := &Device{Key: p.PublicKey.String(), Handshake: p.LastHandshakeTime}
		for _, n := range p.AllowedIPs {
			a, ok := netip.AddrFromSlice(n.IP)
			bits, _ := n.Mask.Size()
			if !ok {
				continue
			}
			prefix := netip.PrefixFrom(a.Unmap(), bits).Masked()
			d.Addresses = append(d.Addresses, prefix)
			t.prefixes.Insert(prefix, d)
		}
	}
	i.table.Store(t)
	return nil
}

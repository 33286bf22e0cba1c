package world

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/netip"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ipc"
	"golang.zx2c4.com/wireguard/tun"
)

const (
	tunnelPort = 51820
	tunnelMTU  = 1420
)

// tunnel joins device and gateway by WireGuard; all of the device's traffic goes
// through it.
func (w *World) tunnel() {
	w.tb.Helper()
	deviceKey, gatewayKey := newKey(), newKey()
	w.wireGuard(w.Gateway, gatewayKey, fmt.Sprintf("listen_port=%d\npublic_key=%x\nallowed_ip=%s/32\nallowed_ip=%s/128\n",
		tunnelPort, deviceKey.PublicKey().Bytes(), DeviceV4, DeviceV6))
	w.wireGuard(w.Device, deviceKey, fmt.Sprintf("public_key=%x\nendpoint=%s\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0\n",
		gatewayKey.PublicKey().Bytes(), netip.AddrPortFrom(netip.MustParseAddr(carrierGateway), tunnelPort)))
	w.Gateway.ip(w.tb, `
		addr add `+GatewayV4+`/24 dev `+w.Interface+`
		addr add `+GatewayV6+`/64 dev `+w.Interface+` nodad`)
	w.Device.ip(w.tb, `
		addr add `+DeviceV4+`/24 dev `+w.Interface+`
		addr add `+DeviceV6+`/64 dev `+w.Interface+` nodad
		route add default dev `+w.Interface+`
		-6 route add default dev `+w.Interface)
}

func newKey() *ecdh.PrivateKey {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic(err) // only without randomness
	}
	return k
}

// wireGuard makes an interface of user-space WireGuard in the namespace. Its
// peers can be read, as those of the kernel can, through its control socket.
func (w *World) wireGuard(s *Space, key *ecdh.PrivateKey, peers string) {
	w.tb.Helper()
	var tunnel tun.Device
	if err := s.Do(func() (err error) {
		tunnel, err = tun.CreateTUN(w.Interface, tunnelMTU)
		return err
	}); err != nil {
		w.tb.Fatalf("tunnel interface: %v", err)
	}
	d := device.NewDevice(tunnel, bind{conn.NewStdNetBind(), s}, device.NewLogger(device.LogLevelSilent, ""))
	w.tb.Cleanup(d.Close)
	if err := d.IpcSet("private_key=" + hex.EncodeToString(key.Bytes()) + "\n" + peers); err != nil {
		w.tb.Fatalf("tunnel: %v", err)
	}
	s.ip(w.tb, "link set "+w.Interface+" up")
	if err := d.Up(); err != nil {
		w.tb.Fatalf("tunnel: %v", err)
	}
	if s == w.Gateway {
		w.control(d)
	}
}

// control serves the control socket of the gateway's interface.
func (w *World) control(d *device.Device) {
	file, err := ipc.UAPIOpen(w.Interface)
	if err != nil {
		w.tb.Fatalf("control socket: %v", err)
	}
	l, err := ipc.UAPIListen(w.Interface, file)
	if err != nil {
		w.tb.Fatalf("control socket: %v", err)
	}
	w.tb.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go d.IpcHandle(c)
		}
	}()
}

// bind opens its sockets in the namespace, whichever goroutine asks for it.
type bind struct {
	conn.Bind
	space *Space
}

func (b bind) Open(port uint16) (fns []conn.ReceiveFunc, actual uint16, err error) {
	err = b.space.Do(func() (err error) {
		fns, actual, err = b.Bind.Open(port)
		return err
	})
	return fns, actual, err
}

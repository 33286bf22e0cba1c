package audit

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
)

// A Privacy is what records say of the device that asked. What was asked for,
// and why it was decided so, is in them whatever it is.
type Privacy string

const (
	// Full is the device's address, and its key where it is known. It is what the
	// zero Privacy means.
	Full Privacy = "full"
	// Truncated is the network that the address is in, an IPv4 /24 or an IPv6 /48.
	Truncated Privacy = "truncated"
	// Hashed is a pseudonym in place of both: the same for the same device until
	// the gateway starts again, and nobody can find the device by it.
	Hashed Privacy = "hashed"
	// None is nothing.
	None Privacy = "none"
)

// Address is as much of a device's address as may be shown.
func (p Privacy) Address(a netip.Addr) netip.Addr {
	switch p {
	case Truncated:
		return truncated(a)
	case Hashed, None:
		return netip.Addr{}
	}
	return a
}

// A veil applies a Privacy. Its salt is in memory only.
type veil struct {
	privacy Privacy
	salt    [32]byte
}

func newVeil(p Privacy) *veil {
	v := &veil{privacy: p}
	_, _ = rand.Read(v.salt[:]) // never fails
	return v
}

// draw takes out of the record what it must not say.
func (v *veil) draw(r *Record) {
	switch v.privacy {
	case Truncated, None:
		r.DeviceID = ""
	case Hashed:
		r.DeviceID = v.pseudonym(r)
	}
	r.Device = v.privacy.Address(r.Device)
}

func truncated(a netip.Addr) netip.Addr {
	bits := 48
	if a = a.Unmap(); a.Is4() {
		bits = 24
	}
	p, err := a.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Addr{} // there was none
	}
	return p.Addr()
}

// pseudonym is of the device's key where it is known, so that a device has one
// whatever its address.
func (v *veil) pseudonym(r *Record) string {
	of := r.DeviceID
	if of == "" {
		if !r.Device.IsValid() {
			return ""
		}
		of = r.Device.Unmap().String()
	}
	h := hmac.New(sha256.New, v.salt[:])
	_, _ = h.Write([]byte(of))
	return "hash:" + hex.EncodeToString(h.Sum(nil)[:12])
}

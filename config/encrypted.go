package config

import (
	"net/netip"
	"regexp"
	"strings"

	"github.com/weir-gateway/weir/blocklists"
)

// TLS names the files of the encrypted listeners, in PEM.
type TLS struct {
	Cert, Key string // empty: none
	ClientCA  string // who signs the certificates of devices; empty: they are not asked for one
	Name      string // what devices know the resolver by, canonical; empty: by its address only
}

// An Identity is by what a device is known over encrypted transports, whatever
// address it asks from. One of Certificate and Token is given.
type Identity struct {
	Certificate string // a name of its certificate, in lower case
	Token       string // a word that it knows
	Device      netip.Addr
}

// An Encrypted is the listeners of one encrypted transport.
type Encrypted struct {
	Listen []netip.AddrPort
}

// DoH is the listeners of DNS over HTTPS.
type DoH struct {
	Listen []netip.AddrPort
	HTTP3  bool // over UDP too, at the same addresses
}

func (v value) doh(c *DoH) {
	v.object(fields{
		"listen": set(&c.Listen, listOf(value.listenAddr)),
		"http3":  set(&c.HTTP3, value.boolean),
	})
}

func (v value) tls(c *TLS) {
	v.object(fields{
		"cert":      set(&c.Cert, value.filePath),
		"key":       set(&c.Key, value.filePath),
		"client_ca": set(&c.ClientCA, value.filePath),
		"name":      set(&c.Name, value.hostOrNone),
	})
}

// doq is encrypted for QUIC, which must not be where DNS in the clear is (RFC 9250,
// section 4.1.1).
func (v value) doq(c *Encrypted) {
	v.object(fields{"listen": set(&c.Listen, listOf(value.quicAddr))})
}

func (v value) quicAddr() (netip.AddrPort, bool) {
	ap, ok := v.listenAddr()
	return ap, ok && v.notPlain(ap.Port())
}

func (v value) notPlain(port uint16) bool {
	if port == 53 {
		v.fail("DNS over QUIC must not use port 53 (RFC 9250); its own is 853")
	}
	return port != 53
}

func (v value) encrypted(c *Encrypted) {
	v.object(fields{"listen": set(&c.Listen, listOf(value.listenAddr))})
}

// hostOrNone returns a host name, or the empty text for none.
func (v value) hostOrNone() (string, bool) {
	s, ok := v.scalar()
	if !ok || s == "" {
		return "", ok
	}
	h, err := blocklists.ParseHost(s)
	if err != nil || h.Addr.IsValid() {
		v.fail("%s is not a host name", quote(s))
		return "", false
	}
	return h.Name, true
}

// balancers returns the networks of load balancers, who can say that they ask for
// anybody.
func (v value) balancers() ([]netip.Prefix, bool) {
	list, ok := listOf(value.prefix)(v)
	if !ok {
		return nil, false
	}
	v.unique(len(list), func(i int) any { return list[i] })
	for i, p := range list {
		if p.IsValid() && p.Bits() == 0 {
			v.element(i).fail("%s would let everybody ask as somebody else; name the load balancers", p)
		}
	}
	return list, true
}

// token is what stands in a server name and in a path: one label, and long
// enough that it is not found by trying.
var token = identifier(regexp.MustCompile(`^[a-z0-9][a-z0-9-]{10,61}[a-z0-9]$`), "12 to 63 small letters, digits and hyphens")

func (v value) identity() (Identity, bool) {
	var i Identity
	v.object(fields{
		"certificate": set(&i.Certificate, value.text),
		"token":       set(&i.Token, token),
		"device":      set(&i.Device, value.deviceAddr),
	}, "device")
	i.Certificate = strings.ToLower(i.Certificate)
	_, certificate := v.child("certificate")
	if _, token := v.child("token"); token == certificate && isMapping(v.n) {
		v.fail("want either a certificate or a token")
	}
	return i, true
}

func (v value) deviceAddr() (netip.Addr, bool) {
	return v.addr(func(a netip.Addr) bool { return a.Is4() || a.Is6() }, "the address of a device")
}

// checkIdentities reports what two devices are known by, and what no device can
// be.
func (d *decoder) checkIdentities(c *DNS) {
	at, _ := d.at("dns", "identities")
	for what, of := range map[string]func(Identity) string{
		"certificate": func(i Identity) string { return i.Certificate },
		"token":       func(i Identity) string { return i.Token },
	} {
		first := map[string]int{}
		for i, id := range c.Identities {
			s := of(id)
			if s == "" {
				continue
			}
			if j, dup := first[s]; dup {
				at.element(i).fail("the %s %s is that of %s already", what, quote(s), at.element(j).key)
			}
			first[s] = i
		}
	}
	for i, id := range c.Identities {
		if id.Certificate != "" && c.TLS.ClientCA == "" {
			at.element(i).fail("nobody is asked for a certificate without dns.tls.client_ca")
		}
	}
}

// checkEncrypted reports encrypted listeners without a certificate, and half of
// one.
func (d *decoder) checkEncrypted(c *DNS) {
	d.checkIdentities(c)
	tls, _ := d.at("dns", "tls")
	switch {
	case c.TLS.Cert == "" && c.TLS.Key != "":
		tls.fail("there is a key and no cert; a certificate needs both")
	case c.TLS.Cert != "" && c.TLS.Key == "":
		tls.fail("there is a cert and no key; a certificate needs both")
	case c.TLS.Cert == "" && c.TLS.ClientCA != "":
		tls.fail("client_ca is for encrypted listeners, which need cert and key too")
	case c.TLS.Cert == "":
		for _, e := range c.encrypted() {
			if len(e.addrs) > 0 {
				at, _ := d.at(e.path...)
				at.fail("an encrypted listener needs dns.tls.cert and dns.tls.key")
			}
		}
	}
}

// encryptedAt is the listeners of one encrypted transport and where the file
// gives them.
type encryptedAt struct {
	addrs    []netip.AddrPort
	path     []any
	tcp, udp bool
}

func (c *DNS) encrypted() []encryptedAt {
	return []encryptedAt{
		{c.DoT.Listen, []any{"dns", "dot", "listen"}, true, false},
		{c.DoH.Listen, []any{"dns", "doh", "listen"}, true, c.DoH.HTTP3},
		{c.DoQ.Listen, []any{"dns", "doq", "listen"}, false, true},
	}
}

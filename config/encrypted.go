package config

import "net/netip"

// TLS names the files of the encrypted listeners, in PEM.
type TLS struct {
	Cert, Key string // empty: none
	ClientCA  string // who signs the certificates of devices; empty: they are not asked for one
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
	})
}

func (v value) encrypted(c *Encrypted) {
	v.object(fields{"listen": set(&c.Listen, listOf(value.listenAddr))})
}

// checkEncrypted reports encrypted listeners without a certificate, and half of
// one.
func (d *decoder) checkEncrypted(c *DNS) {
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

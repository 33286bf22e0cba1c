package dnsserver

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
)

// A CertFiles names the PEM files of the encrypted listeners.
type CertFiles struct {
	Cert, Key string
	ClientCA  string // who signs the certificates of devices; empty: they are not asked for one
	Name      string // that the certificate must be for; empty: any
}

// Certs are the certificates of the encrypted listeners. They are read anew by
// Reload and used from the next handshake on: connections that are open keep
// what they have.
type Certs struct {
	files   CertFiles
	current atomic.Pointer[material]
}

// material is what the files held when they were read.
type material struct {
	digest  [sha256.Size]byte
	cert    tls.Certificate
	clients *x509.CertPool // nil: devices are not asked
}

// NewCerts reads the files.
func NewCerts(files CertFiles) (*Certs, error) {
	c := &Certs{files: files}
	if _, err := c.Reload(); err != nil {
		return nil, err
	}
	return c, nil
}

// Reload reads the files again and reports whether they hold something new. On
// an error what was read before stays in force.
func (c *Certs) Reload() (changed bool, err error) {
	m, err := c.files.read()
	if err != nil {
		return false, err
	}
	if old := c.current.Load(); old != nil && old.digest == m.digest {
		return false, nil
	}
	c.current.Store(m)
	return true, nil
}

// Leaf is the certificate in force.
func (c *Certs) Leaf() *x509.Certificate { return c.current.Load().cert.Leaf }

func (f CertFiles) read() (*material, error) {
	var all [3][]byte
	for i, name := range []string{f.Cert, f.Key, f.ClientCA} {
		if name == "" && i == 2 {
			continue
		}
		var err error
		if all[i], err = os.ReadFile(name); err != nil {
			return nil, err
		}
	}
	m := &material{digest: sha256.Sum256(bytes.Join(all[:], []byte{0}))}
	var err error
	if m.cert, err = tls.X509KeyPair(all[0], all[1]); err != nil {
		return nil, fmt.Errorf("%s and %s: %s", f.Cert, f.Key, strings.TrimPrefix(err.Error(), "tls: "))
	}
	if err := m.cert.Leaf.VerifyHostname(f.Name); f.Name != "" && err != nil {
		return nil, fmt.Errorf("%s: the certificate is not for the name %s, but for %s", f.Cert, f.Name, strings.Join(m.cert.Leaf.DNSNames, ", "))
	}
	if f.ClientCA == "" {
		return m, nil
	}
	if m.clients = x509.NewCertPool(); !m.clients.AppendCertsFromPEM(all[2]) {
		return nil, fmt.Errorf("%s: no certificate in it", f.ClientCA)
	}
	return m, nil
}

// errNoCerts says that a listener needs what nobody gave.
var errNoCerts = errors.New("dns server has encrypted listeners and no certificate")

// config returns the configuration of a listener that speaks these protocols
// (RFC 7301). It is one object for as long as the certificates stay, so that
// sessions can be resumed; a session does not outlive the certificates that it
// began with.
func (c *Certs) config(least uint16, protocols ...string) *tls.Config {
	type derived struct {
		of  *material
		cfg *tls.Config
	}
	var last atomic.Pointer[derived]
	return &tls.Config{
		MinVersion: least,
		NextProtos: protocols,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			m := c.current.Load()
			if d := last.Load(); d != nil && d.of == m {
				return d.cfg, nil
			}
			d := &derived{m, m.config(least, protocols)}
			last.Store(d) // another handshake may do the same; either will do
			return d.cfg, nil
		},
	}
}

func (m *material) config(least uint16, protocols []string) *tls.Config {
	cfg := &tls.Config{
		MinVersion: least, NextProtos: protocols, Certificates: []tls.Certificate{m.cert},
		// Replies are short: small records at the beginning of a connection, meant
		// for web pages, would cost a system call each.
		DynamicRecordSizingDisabled: true,
	}
	if m.clients != nil {
		// A device without one is known by its address, as everywhere.
		cfg.ClientAuth, cfg.ClientCAs = tls.VerifyClientCertIfGiven, m.clients
	}
	return cfg
}

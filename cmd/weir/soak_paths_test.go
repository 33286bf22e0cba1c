package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"hash/fnv"
	"io"
	"math/big"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// soakTransports are the ways by which DNS is asked.
var soakTransports = []string{"udp", "tcp", "dot", "doh", "doh3", "doq"}

// A soakConn is a client of one transport with one question at a time.
type soakConn interface {
	ask(p []byte) ([]byte, error)
	close()
}

func (s *soak) dial(transport string) (soakConn, error) {
	dialer := &net.Dialer{Timeout: soakPatience}
	switch transport {
	case "udp":
		c, err := dialer.Dial("udp", s.at["DNS"])
		return soakPacket{c}, err
	case "tcp":
		c, err := dialer.Dial("tcp", s.at["DNS"])
		return soakStream{c}, err
	case "dot":
		c, err := tls.DialWithDialer(dialer, "tcp", s.at["DOT"], s.ca.client("dot"))
		return soakStream{c}, err
	case "doh":
		t := &http.Transport{TLSClientConfig: s.ca.client(), ForceAttemptHTTP2: true}
		return &soakWeb{http.Client{Transport: t, Timeout: soakPatience}, "https://" + s.at["DOH"] + "/dns-query", 2, t.CloseIdleConnections}, nil
	case "doh3":
		t := &http3.Transport{TLSClientConfig: s.ca.client(), QUICConfig: soakQUICConfig}
		return &soakWeb{http.Client{Transport: t, Timeout: soakPatience}, "https://" + s.at["DOH"] + "/dns-query", 3, func() { _ = t.Close() }}, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), soakPatience)
	defer cancel()
	c, err := quic.DialAddr(ctx, s.at["DOQ"], s.ca.client("doq"), soakQUICConfig)
	return soakQUIC{c}, err
}

var soakQUICConfig = &quic.Config{HandshakeIdleTimeout: soakPatience, MaxIdleTimeout: 2 * soakPatience}

type soakPacket struct{ net.Conn }

func (c soakPacket) close() { _ = c.Close() }

func (c soakPacket) ask(p []byte) ([]byte, error) {
	_ = c.SetDeadline(time.Now().Add(soakPatience))
	if _, err := c.Write(p); err != nil {
		return nil, err
	}
	b := make([]byte, 4096)
	n, err := c.Read(b)
	return b[:n], err
}

type soakStream struct{ net.Conn }

func (c soakStream) close() { _ = c.Close() }

func (c soakStream) ask(p []byte) ([]byte, error) {
	_ = c.SetDeadline(time.Now().Add(soakPatience))
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(p))), p...)); err != nil {
		return nil, err
	}
	return readMessage(c)
}

func readMessage(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

type soakWeb struct {
	http.Client
	url   string
	major int
	end   func()
}

func (c *soakWeb) close() { c.end() }

func (c *soakWeb) ask(p []byte) ([]byte, error) {
	resp, err := c.Post(c.url, "application/dns-message", bytes.NewReader(p))
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || resp.ProtoMajor != c.major) {
		err = fmt.Errorf("%s over %s", resp.Status, resp.Proto)
	}
	return b, err
}

type soakQUIC struct{ c *quic.Conn }

func (c soakQUIC) close() { _ = c.c.CloseWithError(0, "") }

func (c soakQUIC) ask(p []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), soakPatience)
	defer cancel()
	s, err := c.c.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	_ = s.SetDeadline(time.Now().Add(soakPatience))
	if _, err := s.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(p))), p...)); err != nil {
		return nil, err
	}
	if err := s.Close(); err != nil {
		return nil, err
	}
	return readMessage(s)
}

// What an upstream does with a question.
const (
	answers = iota
	silent
	fails // SERVFAIL
	lies  // another ID: not an answer at all
)

type soakUpstream struct {
	addr string
	mode atomic.Int64
}

func startUpstream(t *testing.T) *soakUpstream {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &soakUpstream{addr: c.LocalAddr().String()}
	srv := &dns.Server{PacketConn: c, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.RecursionAvailable = true
		switch u.mode.Load() {
		case silent:
			return
		case fails:
			m.Rcode = dns.RcodeServerFailure
		case lies:
			m.Id ^= 0x5555
			fallthrough
		default:
			if q.Question[0].Qtype == dns.TypeA {
				m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 20}, A: soakAddress(q.Question[0].Name)}}
			}
		}
		_ = w.WriteMsg(m)
	})}
	t.Cleanup(func() { _ = srv.Shutdown() })
	go func() { _ = srv.ActivateAndServe() }()
	return u
}

// soakAddress is the address of a name, which follows from it.
func soakAddress(name string) net.IP {
	h := fnv.New32a()
	_, _ = h.Write(bytes.ToLower([]byte(name)))
	n := h.Sum32()
	return net.IPv4(198, 18+byte(n>>16&1), byte(n>>8), byte(n))
}

// A soakCA signs the certificates that follow each other.
type soakCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	n    atomic.Int64
}

func newSoakCA(t *testing.T) *soakCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return &soakCA{cert: c, key: key}
}

// leaf returns a new pair, in PEM.
func (ca *soakCA) leaf(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1 + ca.n.Add(1)), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, ca.cert, k.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}))
}

func (ca *soakCA) client(protocols ...string) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", NextProtos: slices.Clone(protocols)}
}

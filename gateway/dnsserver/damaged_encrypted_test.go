package dnsserver

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"testing"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
)

// A damager sends n damaged messages over one transport and checks what comes
// back.
type damager func(t *testing.T, rnd *rand.Rand, n int)

// 10,000 damaged packets over each encrypted transport: nothing breaks, no reply
// is answered, and nothing is left behind, in goroutines or on the heap.
func TestDamagedPacketsEncrypted(t *testing.T) {
	const packets = 10_000
	// The client of HTTP/3 leaves a connection behind, open, on which a request was
	// cut off; those end when they are idle.
	r, ca := startAll(t, "", Options{MaxTCPPerClient: 2000, MaxConns: 2000, IdleEncrypted: secs(4), HandshakeTimeout: secs(6)})
	all := seeds(t)
	web := webClients(t, ca)
	for name, damage := range map[string]damager{
		"dot":  func(t *testing.T, rnd *rand.Rand, n int) { damageDoT(t, r, ca, rnd, all, n) },
		"doh":  func(t *testing.T, rnd *rand.Rand, n int) { damageDoH(t, r, web["HTTP/2.0"], rnd, all, n) },
		"doh1": func(t *testing.T, rnd *rand.Rand, n int) { damageDoH(t, r, web["HTTP/1.1"], rnd, all, n) },
		"doh3": func(t *testing.T, rnd *rand.Rand, n int) { damageDoH(t, r, web["HTTP/3.0"], rnd, all, n) },
		"doq":  func(t *testing.T, rnd *rand.Rand, n int) { damageDoQ(t, r, ca, rnd, all, n) },
		"raw":  func(t *testing.T, rnd *rand.Rand, n int) { damageRaw(t, r, rnd, all, n) },
	} {
		t.Run(name, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(3, 4))
			damage(t, rnd, packets/10) // caches and pools are filled
			rest := func() {
				for _, c := range web {
					c.CloseIdleConnections()
				}
				eventually(t, "no connection is left", func() bool {
					st := r.Stats()
					return st.ConnsDoT+st.ConnsDoH+st.ConnsDoH3+st.ConnsDoQ == 0 && st.Inflight == 0
				})
			}
			rest()
			goroutines, heap := runtime.NumGoroutine(), liveHeap()
			damage(t, rnd, packets)
			rest()
			eventually(t, "goroutines are back to their number", func() bool { return runtime.NumGoroutine() <= goroutines+4 })
			if now := liveHeap(); now > heap+4<<20 {
				t.Errorf("heap of %d KB, and %d KB before", now>>10, heap>>10)
			}
			if m := r.ask(t, "udp", query("wechat.com", dns.TypeA)); m.Rcode != dns.RcodeNameError {
				t.Errorf("afterwards: %v, want NXDOMAIN", m)
			}
		})
	}
	st := r.Stats()
	if st.Dropped["http_request"] == 0 || st.Dropped["quic_protocol"] == 0 || st.Dropped["response"] == 0 || st.Dropped["short"] == 0 || st.Rejected == 0 {
		t.Errorf("stats %+v: the packets were not of every kind", st)
	}
	r.audit.take()
}

func liveHeap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // finalizers of the first
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func damageDoT(t *testing.T, r *rig, ca *testCA, rnd *rand.Rand, all [][]byte, n int) {
	before := r.Stats().DoT
	cfg := ca.client("dot")
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1) // fewer full handshakes
	for range n / 20 {
		c, err := tls.Dial("tcp", r.DoTAddrs()[0].String(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		damagedConnection(t, c, rnd, all)
	}
	if got := r.Stats().DoT - before; got < uint64(n/20) {
		t.Errorf("%d messages received", got)
	}
	r.audit.take()
}

// isReply reports whether a message says of itself that it is one.
func isReply(p []byte) bool { return len(p) > 2 && p[2]&0x80 != 0 }

func damageDoH(t *testing.T, r *rig, c *http.Client, rnd *rand.Rand, all [][]byte, n int) {
	for i := range n {
		p := mutant(rnd, all)
		resp, err := askDamaged(t, r, c, p, i%2 == 0)
		if err != nil && !isReply(p) && bytes.Contains(bytes.ToLower(p), []byte("m-drop")) {
			continue // what policy drops ends the stream
		}
		if err != nil { // or it has come over a connection that had been idle for too long
			resp, err = askDamaged(t, r, c, p, i%2 == 0)
		}
		if err != nil {
			t.Fatalf("%x: %v", p, err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		switch {
		case err != nil:
			t.Errorf("%x: %v", p, err)
		case resp.StatusCode == 200 && isReply(p):
			t.Errorf("a reply is answered: %x", p)
		case resp.StatusCode == 200:
			checkReply(t, body)
		case resp.StatusCode != 400 || resp.Header.Get("Content-Type") == dohType:
			t.Errorf("%x: %s", p, resp.Status)
		}
	}
	r.audit.take()
}

func askDamaged(t *testing.T, r *rig, c *http.Client, p []byte, get bool) (*http.Response, error) {
	t.Helper()
	if get {
		return c.Do(request(t, "GET", r.dohURL()+"?dns="+base64.RawURLEncoding.EncodeToString(p), nil))
	}
	return c.Do(request(t, "POST", r.dohURL(), p))
}

func damageDoQ(t *testing.T, r *rig, ca *testCA, rnd *rand.Rand, all [][]byte, n int) {
	before := r.Stats().DoQ
	cfg := ca.client("doq")
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	var c *quic.Conn
	for range n {
		p := mutant(rnd, all)
		if len(p) > 1 && rnd.IntN(20) > 0 {
			p[0], p[1] = 0, 0
		}
		var s *quic.Stream
		for s == nil {
			var err error
			if c == nil {
				if c, err = quic.DialAddr(t.Context(), r.DoQAddrs()[0].String(), cfg, patientQUIC()); err != nil {
					t.Fatal(err)
				}
			}
			if s, err = c.OpenStreamSync(t.Context()); err != nil {
				c, s = nil, nil // the server has ended it
			}
		}
		_, _ = s.Write(frame(p))
		_ = s.Close()
		reply, err := io.ReadAll(s)
		if isReply(p) && len(reply) > 0 {
			t.Errorf("a reply is answered: %x", p)
		}
		if e, ok := errors.AsType[*quic.ApplicationError](err); ok && (e.ErrorCode != doqProtocolError || !e.Remote) {
			t.Errorf("%x: %v", p, err)
		}
		if err == nil && len(reply) > 2 {
			checkReply(t, reply[2:])
		}
	}
	if c != nil {
		_ = c.CloseWithError(0, "")
	}
	if got := r.Stats().DoQ - before; got < uint64(n/2) {
		t.Errorf("%d messages received", got)
	}
	r.audit.take()
}

// damageRaw sends bytes below the transport: what is no QUIC to the UDP ports,
// and what is no TLS to the others.
func damageRaw(t *testing.T, r *rig, rnd *rand.Rand, all [][]byte, n int) {
	for _, l := range r.quic {
		c, err := net.Dial("udp", l.addrPort().String())
		if err != nil {
			t.Fatal(err)
		}
		for range n {
			p := mutant(rnd, all)
			if len(p) > 0 && rnd.IntN(2) == 0 {
				p[0] |= 0xC0 // as the first packet of a connection
				p = append(p, make([]byte, 1200)...)
			}
			_, _ = c.Write(p)
		}
		_ = c.Close()
	}
	for _, l := range r.tcp {
		for range n / 100 {
			c, err := net.Dial("tcp", l.addrPort().String())
			if err != nil {
				t.Fatal(err)
			}
			_, _ = c.Write(mutant(rnd, all))
			_ = c.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}
	}
}

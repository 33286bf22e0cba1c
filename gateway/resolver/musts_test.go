package resolver

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
)

// No ID of a query in flight is used again on its connection (RFC 7766, section
// 6.2.1).
func TestStreamIDs(t *testing.T) {
	c := &streamConn{waiting: make(map[uint16]chan []byte)}
	seen := make(map[uint16]bool)
	for range maxInFlight {
		id, ch := c.enter()
		if seen[id] || c.waiting[id] != ch {
			t.Fatalf("ID %d twice", id)
		}
		seen[id] = true
	}
	for id, ch := range c.waiting {
		c.leave(id, ch)
	}
	if len(c.waiting) != 0 {
		t.Errorf("%d IDs are not given back", len(c.waiting))
	}
}

// One connection takes questions one after the other, and is closed when there are
// no more (RFC 7766, sections 6.2.2 and 6.2.3): we cost an upstream no more of them
// than there are questions at once.
func TestStreamIsClosedIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var dials, open atomic.Int64
		p := &streamPool{ctx: ctx, tasks: new(tasks), try: time.Second, count: new(counters), retired: make(map[*streamConn]struct{})}
		p.dial = func(context.Context) (net.Conn, error) {
			ours, theirs := net.Pipe()
			dials.Add(1)
			open.Add(1)
			go func() {
				defer open.Add(-1)
				for q := readQuery(theirs); q != nil; q = readQuery(theirs) {
					writeMsg(t, theirs, says(t, q, "192.0.2.1"))
				}
			}()
			return ours, nil
		}
		k := key{name: "www.example.", qtype: dns.TypeA, qclass: dns.ClassINET}
		for range 20 {
			if _, err := p.exchange(ctx, k, true); err != nil {
				t.Fatal(err)
			}
			time.Sleep(streamIdle / 2)
		}
		if dials.Load() != 1 || open.Load() != 1 {
			t.Errorf("%d connections, %d open, want one", dials.Load(), open.Load())
		}
		time.Sleep(streamIdle)
		synctest.Wait()
		if open.Load() != 0 {
			t.Error("an idle connection stays open")
		}
		cancel()
		p.close()
		p.tasks.wait()
	})
}

// A query over QUIC that nobody waits for any more is taken back, so that the
// upstream need not answer it (RFC 9250, section 4.3.1).
func TestQUICCancels(t *testing.T) {
	ca := newAuthority(t)
	conf := ca.server(t, "127.0.0.1")
	conf.NextProtos = []string{"doq"}
	l, err := quic.ListenAddr("127.0.0.1:0", conf, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	asked, code := make(chan struct{}), make(chan error, 1)
	go func() {
		c, err := l.Accept(context.Background())
		if err != nil {
			return
		}
		s, err := c.AcceptStream(context.Background())
		if err != nil {
			return
		}
		_, _ = io.ReadAll(s)
		close(asked)
		<-s.Context().Done() // the client reads no more
		code <- context.Cause(s.Context())
	}()
	conn, err := quic.DialAddr(t.Context(), l.Addr().String(), &tls.Config{RootCAs: ca.pool, NextProtos: []string{"doq"}, ServerName: "127.0.0.1"}, &quic.Config{HandshakeIdleTimeout: leisurely})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		<-asked
		cancel()
	}()
	k := key{name: "www.example.", qtype: dns.TypeA, qclass: dns.ClassINET}
	if _, err := roundTrip(ctx, conn, k.query(0, true)); err == nil {
		t.Fatal("an answer from nobody")
	}
	select {
	case err := <-code:
		if e, ok := errors.AsType[*quic.StreamError](err); !ok || e.ErrorCode != doqRequestCancelled || !e.Remote {
			t.Errorf("%v, want STOP_SENDING with DOQ_REQUEST_CANCELLED", err)
		}
	case <-time.After(time.Minute):
		t.Error("the upstream hears nothing")
	}
}

// A failure is that of its question, and of no other type, class or name (RFC 2308,
// section 7.1).
func TestFailureOfItsQuestion(t *testing.T) {
	z := newOutage(t, brief)
	z.mode.Store(broken)
	r := open(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 10})
	fails := func(name string, qtype uint16, cd, asked bool) {
		t.Helper()
		q := question(name, qtype)
		q.CheckingDisabled = cd
		before := z.queries.Load()
		if a, err := r.Resolve(t.Context(), q); err != nil || a.Rcode() != dns.RcodeServerFailure {
			t.Errorf("%s: %v, %v", q.Question[0].String(), a, err)
		}
		if got := z.queries.Load() > before; got != asked {
			t.Errorf("%s: asked upstream: %t", q.Question[0].String(), got)
		}
	}
	fails("www.example", dns.TypeA, false, true)
	fails("www.example", dns.TypeA, false, false)
	fails("www.example", dns.TypeAAAA, false, true)
	fails("www.example", dns.TypeA, true, true)
	fails("www2.example", dns.TypeA, false, true)
}

// Names in data are whole in what clients get, but for the types of RFC 1035, however
// an upstream has written them: a client that does not know a type cannot follow a
// pointer in it (RFC 3597, section 4; RFC 2782; RFC 9460, section 2.2).
func TestNamesInDataAreWhole(t *testing.T) {
	const owner = "\x04name\x07example\x00"
	for typ, data := range map[uint16]string{
		dns.TypeSRV:   "\x00\x01\x00\x02\x00\x03",
		dns.TypeSVCB:  "\x00\x01",
		dns.TypeHTTPS: "\x00\x00",
		dns.TypeDNAME: "",
		dns.TypeKX:    "\x00\x01",
	} {
		p := []byte("\x00\x00\x84\x00\x00\x01\x00\x01\x00\x00\x00\x00" + owner)
		p = append(p, byte(typ>>8), byte(typ), 0, 1, 0xc0, 12, byte(typ>>8), byte(typ), 0, 1, 0, 0, 1, 0, 0, byte(len(data)+7))
		p = append(append(p, data...), "\x04over\xc0\x11"...) // over.example., by a pointer to what the question says
		m := new(dns.Msg)
		if err := m.Unpack(p); err != nil {
			t.Fatalf("%s: %v", dns.Type(typ), err)
		}
		a := newAnswer(key{name: "name.example.", qtype: typ, qclass: dns.ClassINET}, m, time.Now)
		if want := data + "\x04over\x07example\x00"; a.Rcode() != dns.RcodeSuccess || !strings.Contains(string(a.Wire().Body), want) {
			t.Errorf("%s: %q, want %q in it", dns.Type(typ), a.Wire().Body, want)
		}
	}
}

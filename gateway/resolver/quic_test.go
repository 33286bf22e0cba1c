package resolver

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/weir-gateway/weir/bench/corpus"
)

// A doqServer is a DoQ server with RFC 9250's checks. It counts connections.
type doqServer struct {
	*zone
	conns atomic.Int64
	mu    sync.Mutex
	open  []*quic.Conn
}

func listenQUIC(t testing.TB, z *zone, conf *tls.Config) (netip.AddrPort, *doqServer) {
	t.Helper()
	conf.NextProtos = []string{"doq"}
	l, err := quic.ListenAddr("127.0.0.1:0", conf, &quic.Config{MaxIncomingStreams: 1000})
	if err != nil {
		t.Fatal(err)
	}
	s := &doqServer{zone: z}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept(context.Background())
			if err != nil {
				return
			}
			s.conns.Add(1)
			s.mu.Lock()
			s.open = append(s.open, c)
			s.mu.Unlock()
			wg.Go(func() { s.serve(t, c) })
		}
	})
	return l.Addr().(*net.UDPAddr).AddrPort(), s
}

func (s *doqServer) serve(t testing.TB, c *quic.Conn) {
	for {
		st, err := c.AcceptStream(context.Background())
		if err != nil {
			return
		}
		go func() {
			b, err := io.ReadAll(st) // to its end: section 4.2
			if err != nil {
				return // nobody waits for the answer any more
			}
			q := new(dns.Msg)
			if len(b) < 2 || int(binary.BigEndian.Uint16(b)) != len(b)-2 || q.Unpack(b[2:]) != nil || q.Id != 0 {
				t.Errorf("no query of DoQ: %x", b)
				return
			}
			s.queries.Add(1)
			m := lowered(q, s.answer)
			if m == nil {
				return
			}
			out, _ := m.Pack()
			_, _ = st.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...))
			_ = st.Close()
		}()
	}
}

func (s *doqServer) closeAll(code quic.ApplicationErrorCode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.open {
		_ = c.CloseWithError(code, "")
	}
	s.open = nil
}

// listenHTTP3 starts a DoH server over HTTP/3.
func listenHTTP3(t testing.TB, z *zone, conf *tls.Config) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	h := doh(z)
	s := &http3.Server{TLSConfig: http3.ConfigureTLSConfig(conf), Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.ProtoMajor != 3 {
			http.Error(w, req.Proto, http.StatusBadRequest)
			return
		}
		req.ProtoMajor = 2 // what doh wants; all else is the same
		h(w, req)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(pc)
	}()
	t.Cleanup(func() {
		_ = s.Close()
		_ = pc.Close()
		<-done
	})
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

// TestOverQUIC: many questions, one connection, by address and by name.
func TestOverQUIC(t *testing.T) {
	ca := newAuthority(t)
	names := &zone{answer: func(q *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{rr(t, "dns.example. 60 IN A 127.0.0.1")}
		}
		return m
	}}
	boot := []netip.AddrPort{listen(t, names)}
	z := records(t, anyA)
	addr, s := listenQUIC(t, z, ca.server(t, "127.0.0.1", "dns.example"))
	h3 := listenHTTP3(t, z, ca.server(t, "127.0.0.1", "dns.example"))
	for _, u := range []string{"quic://" + addr.String(), "quic://dns.example:" + port(addr), "h3://" + h3.String() + "/dns-query", "h3://dns.example:" + port(h3)} {
		t.Run(u, func(t *testing.T) {
			r := open(t, Options{Upstreams: upstreams(t, u), Bootstrap: boot, TLSConfig: ca.client()})
			before := z.queries.Load()
			resolve(t, r, "www.example", dns.TypeA)
			askPaced(t, r, 60)
			if n := z.queries.Load() - before; n < 61 {
				t.Errorf("upstream saw %d queries", n)
			}
			if st := r.Stats().Upstreams[0]; !st.Healthy || st.Failures != 0 {
				t.Errorf("%+v", st)
			}
		})
	}
	if n := s.conns.Load(); n != 2 {
		t.Errorf("%d connections for two resolvers", n)
	}
}

// TestQUICBreaks: a connection that ended costs a new one, not an error.
func TestQUICBreaks(t *testing.T) {
	ca := newAuthority(t)
	addr, s := listenQUIC(t, records(t, anyA), ca.server(t, "127.0.0.1"))
	r := open(t, Options{Upstreams: upstreams(t, "quic://"+addr.String()), TLSConfig: ca.client()})
	for _, code := range []quic.ApplicationErrorCode{doqNoError, 0x1, 0x5} {
		resolve(t, r, "www.example", dns.TypeA)
		s.closeAll(code)
		resolve(t, r, "www.example", dns.TypeA)
	}
	if st := r.Stats().Upstreams[0]; st.Failures != 0 || !st.Healthy {
		t.Errorf("%+v", st)
	}
}

// TestQUICFails: an upstream that is not the one named, is not there, or does not
// answer is left for the next one.
func TestQUICFails(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	wrong, _ := listenQUIC(t, records(t, anyA), other.server(t, "127.0.0.1"))
	mute, _ := listenQUIC(t, silent(), ca.server(t, "127.0.0.1"))
	wrongH3 := listenHTTP3(t, records(t, anyA), ca.server(t, "127.0.0.2"))
	good := listen(t, records(t, anyA))
	for _, u := range []string{"quic://" + wrong.String(), "quic://" + mute.String(), "quic://" + corpus.Port(t).String(), "h3://" + wrongH3.String()} {
		within(t, 300*time.Millisecond+slack, func() time.Duration {
			r := open(t, Options{Upstreams: upstreams(t, u, "udp://"+good.String()), TLSConfig: ca.client(), late: lateAfter})
			start := time.Now()
			resolve(t, r, "www.example", dns.TypeA)
			return time.Since(start)
		})
		if alone := open(t, Options{Upstreams: upstreams(t, u), TLSConfig: ca.client(), Timeout: 600 * time.Millisecond}); alone != nil {
			if _, err := alone.Resolve(t.Context(), question("www.example", dns.TypeA)); err == nil {
				t.Errorf("%s answers", u)
			}
		}
	}
}

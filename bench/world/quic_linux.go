package world

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// serveQUIC starts HTTP/3 and DNS over QUIC.
func (w *World) serveQUIC() {
	for _, p := range quicPorts {
		s := &http3.Server{Handler: http.HandlerFunc(site)}
		w.onQUIC(p, []string{"h3", "doq"}, func(c *quic.Conn) {
			if c.ConnectionState().TLS.NegotiatedProtocol == "doq" {
				overQUIC(c)
				return
			}
			_ = s.ServeQUICConn(c)
		})
	}
	for _, p := range doqPorts {
		w.onQUIC(p, []string{"doq"}, overQUIC)
	}
}

// onQUIC serves connections of QUIC v1 and v2.
func (w *World) onQUIC(port int, protocols []string, serve func(*quic.Conn)) {
	tr := &quic.Transport{Conn: w.packet("udp", fmt.Sprintf(":%d", port))}
	w.tb.Cleanup(func() { _ = tr.Close() })
	l, err := tr.Listen(w.CA.config(protocols...), &quic.Config{Versions: []quic.Version{quic.Version1, quic.Version2}, MaxIdleTimeout: time.Minute})
	if err != nil {
		w.tb.Fatalf("internet: QUIC on port %d: %v", port, err)
	}
	go func() {
		for {
			c, err := l.Accept(context.Background())
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
}

// overQUIC answers one question on each stream (RFC 9250, section 4.2).
func overQUIC(c *quic.Conn) {
	for {
		s, err := c.AcceptStream(context.Background())
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = s.Close() }()
			raw, err := io.ReadAll(io.LimitReader(s, 65537))
			q := new(dns.Msg)
			if err != nil || len(raw) < 2 || q.Unpack(raw[2:]) != nil || len(q.Question) != 1 {
				return
			}
			out, err := answer(q).Pack()
			if err != nil {
				return
			}
			_, _ = s.Write(slices.Concat(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out))
		}()
	}
}

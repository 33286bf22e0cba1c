package dnsserver

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

const (
	// readSize holds every datagram there is, so none is cut and judged by half.
	readSize = 65535
	// replySize holds every reply over UDP, and what it takes to pack it: the
	// size without compression.
	replySize = 4096
	// oobSize holds the control message that says where a packet was sent to.
	oobSize = 128
	// socketBuffer is asked of the kernel for what comes while readers are busy:
	// a second of 5,000 questions, each of which the kernel counts with its own
	// overhead. The usual limit for programs without privileges is 1/20 of it.
	socketBuffer = 4 << 20
	// readPause keeps a socket that fails to read from being asked in a loop.
	readPause = 5 * time.Millisecond
)

// A udpSocket is one bound UDP socket. Its readers check, judge and answer
// what needs no waiting, and hand the rest to the exit.
type udpSocket struct {
	server *Server
	conn   *net.UDPConn
	addr   netip.AddrPort
	// wild is set for a socket that is bound to every address. Its replies must
	// leave from the address that was asked, or clients will not take them.
	wild bool
}

func listenUDP(s *Server, at netip.AddrPort) (*udpSocket, error) {
	conn, err := net.ListenUDP(network("udp", at), net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, err
	}
	u := &udpSocket{server: s, conn: conn, addr: at}
	if !forceReadBuffer(conn, socketBuffer) {
		_ = conn.SetReadBuffer(socketBuffer) // as much as the system grants
	}
	if at.Addr().IsUnspecified() {
		u.wild = u.askDestination(s.opts.Log)
	}
	return u, nil
}

// askDestination has the kernel say which address each packet was sent to.
func (u *udpSocket) askDestination(log *slog.Logger) bool {
	var err error
	if u.addr.Addr().Is4() {
		err = ipv4.NewPacketConn(u.conn).SetControlMessage(ipv4.FlagDst, true)
	} else {
		err = ipv6.NewPacketConn(u.conn).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
	}
	if err != nil {
		log.Warn("dns server: replies may leave from another address than the one asked", "listen", u.addr, "error", err)
	}
	return err == nil
}

// read is a reader goroutine. It owns its buffers, and ends when Serve does.
func (u *udpSocket) read() {
	buf, out := make([]byte, readSize), make([]byte, 0, replySize)
	oob := make([]byte, oobSize)
	if !u.wild {
		oob = nil
	}
	for {
		n, noob, _, from, err := u.conn.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			if u.server.isEnding() || errors.Is(err, net.ErrClosed) {
				return
			}
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				u.server.core.stats.drop(dropReadError)
				time.Sleep(readPause)
			}
			continue
		}
		u.handle(out, buf[:n], oob[:noob], from)
	}
}

// handle answers one packet, or hands its question to the exit.
func (u *udpSocket) handle(out, packet, oob []byte, from netip.AddrPort) {
	c := &u.server.core
	if from.Port() == 0 {
		c.stats.received[udp].Add(1)
		c.stats.drop(dropNoPort)
		return
	}
	q, reply := c.accept(out, packet, from.Addr(), udp)
	if q == nil && reply == nil {
		return
	}
	back := &udpReturn{socket: u, to: from}
	if u.wild {
		back.source = u.source(oob)
	}
	if q != nil {
		q.to = back
		var pending bool
		if reply, pending = c.reply(out, q); pending {
			return // back may be in use already
		}
	}
	back.write(reply)
}

// source turns the control message of a packet into that of its reply. It is
// nil for a packet that was sent to many.
func (u *udpSocket) source(oob []byte) []byte {
	if u.addr.Addr().Is4() {
		var cm ipv4.ControlMessage
		if cm.Parse(oob) != nil || cm.Dst == nil || cm.Dst.IsMulticast() || cm.Dst.Equal(net.IPv4bcast) {
			return nil
		}
		return (&ipv4.ControlMessage{Src: cm.Dst}).Marshal()
	}
	var cm ipv6.ControlMessage
	if cm.Parse(oob) != nil || cm.Dst == nil || cm.Dst.IsMulticast() {
		return nil
	}
	reply := ipv6.ControlMessage{Src: cm.Dst}
	if cm.Dst.IsLinkLocalUnicast() {
		reply.IfIndex = cm.IfIndex
	}
	return reply.Marshal()
}

// A udpReturn is the way back for one question over UDP.
type udpReturn struct {
	socket *udpSocket
	to     netip.AddrPort
	source []byte // control message, nil for none
}

// outBuffers are for replies that are not written by a reader.
var outBuffers = sync.Pool{New: func() any { b := make([]byte, 0, replySize); return &b }}

// respond implements responder.
func (r *udpReturn) respond(q *question) {
	buf := outBuffers.Get().(*[]byte)
	defer outBuffers.Put(buf)
	if reply, pending := r.socket.server.core.reply(*buf, q); !pending {
		r.write(reply)
	}
}

func (r *udpReturn) write(reply []byte) {
	if len(reply) == 0 {
		return
	}
	if _, _, err := r.socket.conn.WriteMsgUDPAddrPort(reply, r.source, r.to); err != nil {
		r.socket.server.core.stats.drop(dropWriteError)
	}
}

package dnsserver

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/weir-gateway/weir/gateway/policy"
)

const (
	// readSize holds every datagram there is, so none is cut and judged by half.
	readSize = 65535
	// oobSize holds the control message that says where a packet was sent to.
	oobSize = 128
)

// A portableSocket is one bound UDP socket that takes one packet at a time:
// for systems without batches, and to hold the others against.
type portableSocket struct {
	server *Server
	conn   *net.UDPConn
	addr   netip.AddrPort
	// wild is set for a socket that is bound to every address. Its replies must
	// leave from the address that was asked, or clients will not take them.
	wild  bool
	count counters
}

func listenPortable(s *Server, at netip.AddrPort) (udpListener, error) {
	conn, err := net.ListenUDP(network("udp", at), net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, err
	}
	u := &portableSocket{server: s, conn: conn, addr: at}
	_ = conn.SetReadBuffer(socketBuffer) // as much as the system grants
	if at.Addr().IsUnspecified() {
		u.wild = u.askDestination(s.opts.Log)
	}
	return u, nil
}

// askDestination has the kernel say which address each packet was sent to.
func (u *portableSocket) askDestination(log *slog.Logger) bool {
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

func (u *portableSocket) addrPort() netip.AddrPort { return u.addr }
func (u *portableSocket) stats() []*counters       { return []*counters{&u.count} }
func (u *portableSocket) stopReading()             { _ = u.conn.SetReadDeadline(time.Unix(1, 0)) }
func (u *portableSocket) close()                   { _ = u.conn.Close() }

func (u *portableSocket) serve(wg *sync.WaitGroup) {
	for range u.server.opts.Readers {
		wg.Go(u.read)
	}
}

// read is a reader goroutine. It owns its buffers, and ends when Serve does.
func (u *portableSocket) read() {
	h := newHot(&u.server.core)
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
				u.count.drop(dropReadError)
				time.Sleep(readPause)
			}
			continue
		}
		u.handle(h, out, buf[:n], oob[:noob], from)
	}
}

// handle answers one packet, or hands it to the exit.
func (u *portableSocket) handle(h *hot, out, packet, oob []byte, from netip.AddrPort) {
	u.count.received[udp].Add(1)
	if from.Port() == 0 {
		u.count.drop(dropNoPort)
		return
	}
	addr := from.Addr().Unmap().WithZone("")
	back := &portableRoute{socket: u, to: from}
	if u.wild {
		back.source = u.source(oob)
	}
	var reply []byte
	var leave bool
	now := time.Now()
	h.read(&h.one, packet, addr)
	h.judge(func(snap *policy.Snapshot) { reply, leave = h.limit(out, &h.one, snap, now) })
	h.commit(&u.count)
	if h.core.tap != nil && !leave {
		h.core.show(udp, packet, reply, addr, now)
	}
	if leave {
		reply = h.core.leave(out, &datagram{msg: bytes.Clone(packet), from: addr, arrived: now, back: back})
	}
	h.core.send(back, reply)
}

// source turns the control message of a packet into that of its reply. It is
// nil for a packet that was sent to many.
func (u *portableSocket) source(oob []byte) []byte {
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

// A portableRoute is the way back for one question.
type portableRoute struct {
	socket *portableSocket
	to     netip.AddrPort
	source []byte // control message, nil for none
}

func (r *portableRoute) write(reply []byte) error {
	_, _, err := r.socket.conn.WriteMsgUDPAddrPort(reply, r.source, r.to)
	if err != nil && r.source != nil {
		// It was sent to a network's broadcast address, which looks like others.
		_, _, err = r.socket.conn.WriteMsgUDPAddrPort(reply, nil, r.to)
	}
	return err
}

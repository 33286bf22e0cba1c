// Package tap tells a collector what clients asked and got, as dnstap frames
// (dnstap.info) over a unix or TCP socket.
//
// Put never blocks: messages go through a buffer that is bounded in number and
// in bytes to one writer, and what does not fit is counted. A collector that is
// away is tried again until it is back. Nothing is decided here, and the audit
// record is not this: it has the reasons, and this has the packets.
package tap

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	dnstap "github.com/dnstap/golang-dnstap"
	"google.golang.org/protobuf/proto"
)

const (
	maxMessages = 8192
	maxBytes    = 8 << 20
	timeout     = 5 * time.Second // for a write, and for the collector to say that it is there
	firstPause  = 100 * time.Millisecond
	lastPause   = 5 * time.Second
	flushEvery  = 200 * time.Millisecond
)

// A Message is a question of a client and the reply to it. Its bytes are its own.
type Message struct {
	Asked, Answered time.Time
	Client          netip.Addr
	Transport       string // udp, tcp, dot, doh, doh3, doq
	Query           []byte // empty where it is not known as it came
	Reply           []byte // empty for none
}

// Options are what a Tap needs.
type Options struct {
	Network, Address  string // unix and a path, or tcp and an address with a port
	Identity, Version string // of this gateway
	// Address of a client as the collector may have it; invalid for none.
	Show func(netip.Addr) netip.Addr
	Log  *slog.Logger
}

// A Tap sends messages to one collector. Close it to send what is buffered.
type Tap struct {
	opts     Options
	messages chan Message
	bytes    atomic.Int64 // in messages
	quit     chan struct{}
	done     chan struct{}
	once     sync.Once

	written, dropped, failed atomic.Uint64
	connected                atomic.Bool
}

// Open returns a Tap. The collector need not be there.
func Open(opts Options) *Tap {
	t := &Tap{
		opts: opts, messages: make(chan Message, maxMessages),
		quit: make(chan struct{}), done: make(chan struct{}),
	}
	go t.run()
	return t
}

// ParseAddress splits unix:/path and tcp:address:port.
func ParseAddress(s string) (network, address string, err error) {
	network, address, found := strings.Cut(s, ":")
	if !found || network != "unix" && network != "tcp" || address == "" {
		return "", "", fmt.Errorf("want unix:/path or tcp:192.0.2.1:6000, got %q", s)
	}
	return network, address, nil
}

// Put hands the message to the writer, or counts it as dropped.
func (t *Tap) Put(m Message) {
	n := int64(len(m.Query) + len(m.Reply))
	if t.bytes.Add(n) > maxBytes {
		t.bytes.Add(-n)
		t.dropped.Add(1)
		return
	}
	select {
	case t.messages <- m:
	default:
		t.bytes.Add(-n)
		t.dropped.Add(1)
	}
}

// Stats are the counters of a Tap.
type Stats struct {
	Written   uint64 // messages that were given to the socket
	Dropped   uint64 // messages that did not fit into the buffer
	Failed    uint64 // messages that the collector did not take
	Connected bool
}

// Stats returns the counters since Open.
func (t *Tap) Stats() Stats {
	return Stats{t.written.Load(), t.dropped.Load(), t.failed.Load(), t.connected.Load()}
}

// Close sends what is buffered, if the collector is there, and ends.
func (t *Tap) Close() error {
	t.once.Do(func() { close(t.quit) })
	<-t.done
	return nil
}

// run is the writer's goroutine.
func (t *Tap) run() {
	defer close(t.done)
	pause, told := firstPause, false
	for {
		conn, err := net.DialTimeout(t.opts.Network, t.opts.Address, timeout)
		if err == nil {
			if err = t.serve(conn); err == nil {
				return
			}
			pause = firstPause
		}
		if !told {
			t.opts.Log.Warn("dnstap collector is not there, it is tried again", "address", t.opts.Address, "error", err)
			told = true
		}
		select {
		case <-t.quit:
			return
		case <-time.After(pause):
			pause = min(2*pause, lastPause)
		}
	}
}

// serve sends messages over one connection. It returns nil when all is done.
func (t *Tap) serve(conn net.Conn) error {
	defer func() { _ = conn.Close() }()
	w, err := dnstap.NewWriter(conn, &dnstap.WriterOptions{Bidirectional: true, Timeout: timeout})
	if err != nil {
		return err
	}
	t.connected.Store(true)
	defer t.connected.Store(false)
	flush := func() error {
		if f, ok := w.(interface{ Flush() error }); ok {
			return f.Flush()
		}
		return nil
	}
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case m := <-t.messages:
			err = t.send(w, &m)
		case <-tick.C:
			err = flush()
		case <-t.quit:
			for len(t.messages) > 0 && err == nil {
				m := <-t.messages
				err = t.send(w, &m)
			}
			_ = w.Close() // flushes, and says goodbye
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (t *Tap) send(w dnstap.Writer, m *Message) error {
	t.bytes.Add(-int64(len(m.Query) + len(m.Reply)))
	b, err := proto.Marshal(t.frame(m))
	if err == nil {
		_, err = w.WriteFrame(b)
	}
	if err != nil {
		t.failed.Add(1)
		return err
	}
	t.written.Add(1)
	return nil
}

// protocols are those that dnstap has names for.
var protocols = map[string]dnstap.SocketProtocol{
	"udp": dnstap.SocketProtocol_UDP, "tcp": dnstap.SocketProtocol_TCP,
	"dot": dnstap.SocketProtocol_DOT, "doh": dnstap.SocketProtocol_DOH, "doh3": dnstap.SocketProtocol_DOH,
}

// frame is the message as dnstap has it: a response with its query, or a query
// that got none.
func (t *Tap) frame(m *Message) *dnstap.Dnstap {
	kind := dnstap.Message_CLIENT_RESPONSE
	if len(m.Reply) == 0 {
		kind = dnstap.Message_CLIENT_QUERY
	}
	d := &dnstap.Message{Type: &kind, QueryMessage: m.Query, ResponseMessage: m.Reply}
	d.QueryTimeSec, d.QueryTimeNsec = stamp(m.Asked)
	if len(m.Reply) > 0 {
		d.ResponseTimeSec, d.ResponseTimeNsec = stamp(m.Answered)
	}
	if p, ok := protocols[m.Transport]; ok {
		d.SocketProtocol = &p
	}
	a := m.Client
	if t.opts.Show != nil {
		a = t.opts.Show(a)
	}
	if a = a.Unmap(); a.IsValid() {
		family := dnstap.SocketFamily_INET
		if a.Is6() {
			family = dnstap.SocketFamily_INET6
		}
		d.SocketFamily, d.QueryAddress = &family, a.AsSlice()
	}
	typ := dnstap.Dnstap_MESSAGE
	return &dnstap.Dnstap{Type: &typ, Identity: []byte(t.opts.Identity), Version: []byte(t.opts.Version), Message: d}
}

func stamp(t time.Time) (sec *uint64, nsec *uint32) {
	return proto.Uint64(uint64(t.Unix())), proto.Uint32(uint32(t.Nanosecond()))
}

package rpz

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/blocklists"
)

// What the zone's SOA and records say. A secondary that no NOTIFY reaches asks
// each minute; one that has lost its primary keeps the policy for a month.
const (
	refresh = 60
	retry   = 30
	expire  = 30 * 86400
	ttl     = 60
)

func (s *Server) header(name string, t uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: ttl}
}

func (s *Server) soa(serial uint32) *dns.SOA {
	return &dns.SOA{
		Hdr: s.header(s.zone, dns.TypeSOA), Ns: "localhost.", Mbox: "root.localhost.",
		Serial: serial, Refresh: refresh, Retry: retry, Expire: expire, Minttl: ttl,
	}
}

func (s *Server) ns() dns.RR {
	return &dns.NS{Hdr: s.header(s.zone, dns.TypeNS), Ns: "localhost."}
}

// cnames are what actions without addresses are said by.
var cnames = map[blocklists.Mode]string{
	blocklists.NXDOMAIN: ".", blocklists.NODATA: "*.", blocklists.Drop: "rpz-drop.", blocklists.TCPOnly: "rpz-tcp-only.",
}

// appendRecords appends the records of an action.
func (s *Server) appendRecords(dst []dns.RR, owner string, a action) []dns.RR {
	name := owner + "." + s.zone
	if a.mode == blocklists.LocalData {
		return s.appendData(dst, name, a.data)
	}
	if a.mode != blocklists.Addresses {
		target := cnames[a.mode]
		if a.pass {
			target = "rpz-passthru."
		}
		return append(dst, &dns.CNAME{Hdr: s.header(name, dns.TypeCNAME), Target: target})
	}
	if a.ipv4.IsValid() {
		dst = append(dst, &dns.A{Hdr: s.header(name, dns.TypeA), A: a.ipv4.AsSlice()})
	}
	if a.ipv6.IsValid() {
		dst = append(dst, &dns.AAAA{Hdr: s.header(name, dns.TypeAAAA), AAAA: a.ipv6.AsSlice()})
	}
	return dst
}

// appendData appends records of local data, which were read once already.
func (s *Server) appendData(dst []dns.RR, name, data string) []dns.RR {
	for line := range strings.Lines(data) {
		if rr, err := dns.NewRR(name + " " + line); err == nil && rr != nil {
			dst = append(dst, rr)
		}
	}
	return dst
}

// transfer answers AXFR and IXFR. An error ends the connection: what was sent of
// the zone is not all of it.
func (s *Server) transfer(ctx context.Context, c net.Conn, q *request) error {
	select {
	case s.transfers <- struct{}{}:
		defer func() { <-s.transfers }()
	default:
		s.stats.overload.Add(1)
		q.rcode = dns.RcodeServerFailure
		return writeMessage(c, q.sign, q.reply())
	}
	ctx, cancel := context.WithTimeout(ctx, maxTransfer)
	defer cancel()
	w := &writer{server: s, ctx: ctx, conn: c, request: q}
	e, began := s.current.Load(), time.Now()
	kind, err := w.answer(e)
	s.stats.transferred(kind, err)
	s.log.Info("zone transfer", "zone", s.opts.Zone, "to", q.from, "kind", kind, "serial", e.serial, "records", w.count, "took", time.Since(began), "error", err)
	return err
}

// The kinds of answers to questions for a transfer.
const (
	kindFull    = "axfr"
	kindChanges = "ixfr"
	kindCurrent = "up to date"
)

// answer chooses how to answer. RFC 1995, section 2: whoever has the newest
// version is told so, and whoever cannot be told what has changed since gets the
// whole zone.
func (w *writer) answer(e *edition) (kind string, err error) {
	have, known := w.have()
	if known && !newer(e.serial, have) {
		w.add(w.server.soa(e.serial))
		return kindCurrent, w.end()
	}
	if known {
		if d := e.journal.since(have); d != nil && d.size() < e.records {
			return kindChanges, w.changes(e, d)
		}
	}
	return kindFull, w.whole(e)
}

// have returns the serial that an IXFR question says its asker has.
func (w *writer) have() (serial uint32, known bool) {
	m := w.request.msg
	if m.Question[0].Qtype != dns.TypeIXFR || len(m.Ns) != 1 {
		return 0, false
	}
	soa, ok := m.Ns[0].(*dns.SOA)
	if !ok {
		return 0, false
	}
	return soa.Serial, true
}

func (j journal) size() int {
	n := 0
	for _, d := range j {
		n += d.size()
	}
	return n
}

// whole writes the zone (RFC 5936, section 2.2), as it is found: nothing of its
// size is ever made.
func (w *writer) whole(e *edition) error {
	soa := w.server.soa(e.serial)
	w.add(soa)
	w.add(w.server.ns())
	e.walk(func(owner string, a action) bool {
		w.entry(owner, a)
		return w.err == nil
	})
	w.add(soa)
	return w.end()
}

// changes writes what leads from one version to the newest (RFC 1995, section 4).
func (w *writer) changes(e *edition, js journal) error {
	w.add(w.server.soa(e.serial))
	for _, d := range js {
		w.add(w.server.soa(d.from))
		for i := range d.removed {
			w.entry(d.removed[i].owner, d.removed[i].action)
		}
		w.add(w.server.soa(d.to))
		for i := range d.added {
			w.entry(d.added[i].owner, d.added[i].action)
		}
	}
	w.add(w.server.soa(e.serial))
	return w.end()
}

// maxMessage bounds a message before its names are compressed. What lies beyond
// 16 KB cannot be pointed at (RFC 1035, section 4.1.4), and a follower must read
// a message as a whole.
const maxMessage = 16 << 10

// A writer writes records, as many to a message as fit well.
type writer struct {
	server  *Server
	ctx     context.Context
	conn    net.Conn
	request *request
	rrs     []dns.RR
	size    int // of rrs
	sent    int // messages
	count   int // records
	err     error
}

var errLate = errors.New("the transfer took too long, or the server stops")

func (w *writer) entry(owner string, a action) {
	w.rrs = w.server.appendRecords(w.rrs, owner, a)
	w.grown(a.size()*(len(owner)+len(w.server.zone)+32) + len(a.data))
}

func (w *writer) add(rr dns.RR) {
	w.rrs = append(w.rrs, rr)
	w.grown(dns.Len(rr))
}

func (w *writer) grown(by int) {
	if w.size += by; w.size > maxMessage {
		w.flush()
	}
}

func (w *writer) end() error {
	if w.err == nil && len(w.rrs) > 0 {
		w.flush()
	}
	return w.err
}

func (w *writer) flush() {
	if w.err != nil {
		return
	}
	if w.ctx.Err() != nil {
		w.err = errLate
		return
	}
	m := w.request.reply()
	if w.sent > 0 {
		m.Question = nil // RFC 5936, section 2.2.1
	}
	m.Answer = w.rrs
	w.err = writeMessage(w.conn, w.request.sign, m)
	w.sent++
	w.count += len(w.rrs)
	w.rrs, w.size = w.rrs[:0], 0
}

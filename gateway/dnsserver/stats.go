package dnsserver

import (
	"sync/atomic"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/gateway/policy"
)

// Stats are the counters of a Server since Listen, and its gauges. They are
// read one by one, so sums may be off by what is in flight.
type Stats struct {
	// Messages received. Each is dropped, rejected or becomes a question.
	UDP, TCP            uint64
	DoT, DoH, DoH3, DoQ uint64
	// Rejected messages were answered with an error of the protocol and no
	// judgement: a bad header, an unknown opcode, class or EDNS version.
	Rejected uint64

	// Questions, by the verdict they were answered under. Each is in one.
	Blocked, Reported, Allowed uint64
	Undecided                  uint64 // a fault, or no policy yet: answered SERVFAIL

	// Questions that were not blocked, by where their answer came from. Each
	// that was decided is in one.
	Cached      uint64
	Forwarded   uint64 // asked upstream
	Synthesized uint64 // answered here: ANY, transfers, RD=0 without a cached answer
	Failed      uint64 // SERVFAIL, because upstream failed
	Overloaded  uint64 // SERVFAIL, because too many questions wait

	// UDPReads and UDPWrites are the system calls of the readers. With UDP they
	// say how many messages one call moves.
	UDPReads, UDPWrites uint64

	Rejudged  uint64 // decided again because the policy changed before the reply was written
	Truncated uint64 // replies with TC

	// Slipped questions were beyond a limit and answered with TC, Paced ones came
	// over TCP and had to wait. Unlimited is how often a bucket could not be had.
	Slipped, Paced, Unlimited uint64

	// Cookies of clients, by what they were worth: no cookie of ours yet, one of
	// ours, and none that we made or one that is too old.
	CookiesNew, CookiesValid, CookiesBad uint64

	// Dropped counts what got no reply or was cut off, by reason: the names of
	// the drop constants, each of which is there.
	Dropped map[string]uint64
	// Rcodes counts replies by rcode word, those that were sent at least once.
	Rcodes map[string]uint64

	Inflight int64  // questions that wait for the resolver
	Conns    int64  // TCP connections open
	Accepted uint64 // connections of every kind

	// Connections open, by transport.
	ConnsDoT, ConnsDoH, ConnsDoH3, ConnsDoQ int64
}

// A drop is a reason why something got no reply or was cut off.
type drop uint8

const (
	dropShort           drop = iota // shorter than a header
	dropResponse                    // a reply, not a question
	dropNoPort                      // from port 0, which nobody can be answered at
	dropMode                        // a ban whose mode is drop
	dropReadError                   // the socket failed to read
	dropWriteError                  // the reply could not be sent
	dropAcceptError                 // a connection could not be accepted
	dropConns                       // a connection over TCP beyond MaxTCP or MaxConns
	dropClientConns                 // a connection over TCP beyond MaxTCPPerClient
	dropIdle                        // a connection closed because it was idle
	dropSlow                        // a connection closed because a message took too long
	dropFraming                     // a connection closed because of a message without length
	dropHandshake                   // a connection over TCP with a TLS handshake that failed or took too long
	dropRequest                     // an HTTP request without a message that can be answered
	dropQUICConns                   // a connection over QUIC beyond MaxConns
	dropQUICClientConns             // a connection over QUIC beyond MaxTCPPerClient
	dropQUICSlow                    // a stream whose message took too long
	dropQUICProtocol                // a connection closed because of an error of the DoQ protocol
	dropProxy                       // a message or connection of a load balancer without a header that can be read
	dropHTTP2                       // a connection closed because of an error of HTTP/2, or too much that asks for nothing
	dropRateDevice                  // beyond what a device may ask
	dropRateNetwork                 // beyond what a network may ask
	drops
)

var dropNames = [drops]string{
	"short", "response", "no_port", "mode", "read_error", "write_error", "accept_error",
	"tcp_limit", "tcp_client_limit", "tcp_idle", "tcp_slow", "tcp_framing",
	"tls_handshake", "http_request", "quic_limit", "quic_client_limit", "quic_slow", "quic_protocol",
	"proxy_header", "http2_protocol", "rate_device", "rate_network",
}

// rcodes is one more than the highest rcode that is counted by itself.
const rcodes = 24

// counters are the Server's counters while it runs.
type counters struct {
	received                       [allTransports]atomic.Uint64
	rejected                       atomic.Uint64
	actions                        [policy.Block + 1]atomic.Uint64 // by policy.Action
	cached, forwarded, synthesized atomic.Uint64
	failed, overloaded             atomic.Uint64
	slipped, paced                 atomic.Uint64
	rejudged, truncated            atomic.Uint64
	dropped                        [drops]atomic.Uint64
	rcodes                         [rcodes + 1]atomic.Uint64
	cookies                        [cookieStates]atomic.Uint64
	batches                        [2]atomic.Uint64 // system calls that read and wrote UDP
	inflight                       atomic.Int64
	conns                          [allTransports]atomic.Int64
	accepted                       atomic.Uint64
}

func (c *counters) drop(d drop)    { c.dropped[d].Add(1) }
func (c *counters) rcode(code int) { c.rcodes[min(uint(code), rcodes)].Add(1) }

// opened and closed count a connection.
func (c *counters) opened(t transport) {
	c.accepted.Add(1)
	c.conns[t].Add(1)
}

func (c *counters) closed(t transport) { c.conns[t].Add(-1) }

// Stats returns the counters.
func (s *Server) Stats() Stats {
	st := Stats{Dropped: make(map[string]uint64, drops), Rcodes: map[string]uint64{}}
	s.core.stats.addTo(&st)
	if s.core.limits != nil {
		st.Unlimited = s.core.limits.full.Load()
	}
	for _, u := range s.udp {
		for _, c := range u.stats() {
			c.addTo(&st)
		}
	}
	return st
}

// addTo adds what was counted. Readers count apart, so that no two of them
// write to the same memory.
func (c *counters) addTo(st *Stats) {
	for to, n := range map[*uint64]*atomic.Uint64{
		&st.UDP: &c.received[udp], &st.TCP: &c.received[tcp],
		&st.DoT: &c.received[dot], &st.DoH: &c.received[doh], &st.DoH3: &c.received[doh3], &st.DoQ: &c.received[doq], &st.Rejected: &c.rejected,
		&st.Undecided: &c.actions[policy.Undecided], &st.Allowed: &c.actions[policy.Allow],
		&st.Reported: &c.actions[policy.Report], &st.Blocked: &c.actions[policy.Block],
		&st.Cached: &c.cached, &st.Forwarded: &c.forwarded, &st.Synthesized: &c.synthesized,
		&st.Failed: &c.failed, &st.Overloaded: &c.overloaded,
		&st.Slipped: &c.slipped, &st.Paced: &c.paced,
		&st.CookiesNew: &c.cookies[cookieNew], &st.CookiesValid: &c.cookies[cookieValid], &st.CookiesBad: &c.cookies[cookieBad],
		&st.UDPReads: &c.batches[0], &st.UDPWrites: &c.batches[1],
		&st.Rejudged: &c.rejudged, &st.Truncated: &c.truncated, &st.Accepted: &c.accepted,
	} {
		*to += n.Load()
	}
	st.Inflight += c.inflight.Load()
	for t, to := range map[transport]*int64{tcp: &st.Conns, dot: &st.ConnsDoT, doh: &st.ConnsDoH, doh3: &st.ConnsDoH3, doq: &st.ConnsDoQ} {
		*to += c.conns[t].Load()
	}
	for i := range c.dropped {
		st.Dropped[dropNames[i]] += c.dropped[i].Load()
	}
	for i := range c.rcodes {
		if n := c.rcodes[i].Load(); n > 0 {
			st.Rcodes[rcodeWord(i)] += n
		}
	}
}

// rcodeWord is the rcode's word in records and counters.
func rcodeWord(code int) string {
	if code == dns.RcodeBadVers { // shares its number with BADSIG, which is not sent
		return "BADVERS"
	}
	if w, ok := dns.RcodeToString[code]; ok {
		return w
	}
	return "other"
}

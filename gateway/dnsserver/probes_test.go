package dnsserver

import (
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/bench/corpus"
)

// A probe is a message as bytes and what the reply to it must be.
type probe struct {
	about  string
	counts string // of the header
	head   string // third and fourth octet of the header
	rest   string // after the question
	rcode  int
	opt    bool
}

const (
	oneOPT = "\x00\x01\x00\x00\x00\x00\x00\x01"
	noOPT  = "\x00\x01\x00\x00\x00\x00\x00\x00"
)

// ednsProbes are those of the compliance tests of EDNS (RFC 6891), and what they
// leave out.
func ednsProbes() []probe {
	opt := func(version, flags, options string) string {
		return "\x00\x00\x29\x04\xd0\x00" + version + flags + string([]byte{0, byte(len(options))}) + options
	}
	unknown := "\x00\x64\x00\x02hi" // option 100
	ok, badvers, formerr := dns.RcodeSuccess, dns.RcodeBadVers, dns.RcodeFormatError
	ps := []probe{
		{"no EDNS", noOPT, "\x01\x00", "", ok, false},
		{"plain", oneOPT, "\x01\x00", opt("\x00", "\x00\x00", ""), ok, true},
		{"unknown option", oneOPT, "\x01\x00", opt("\x00", "\x00\x00", unknown), ok, true},
		{"unknown option twice", oneOPT, "\x01\x00", opt("\x00", "\x00\x00", unknown+unknown), ok, true},
		{"unknown option, empty", oneOPT, "\x01\x00", opt("\x00", "\x00\x00", "\xff\xfe\x00\x00"), ok, true},
		{"options that are empty or too short for what they are", oneOPT, "\x01\x00", opt("\x00", "\x00\x00",
			"\x00\x13\x00\x00"+"\x00\x12\x00\x00"+"\x00\x01\x00\x01x"+"\x00\x02\x00\x01x"+"\x00\x09\x00\x01x"+"\x00\x0f\x00\x01x"), ok, true},
		{"such an option and a padding that lies", oneOPT, "\x01\x00", opt("\x00", "\x00\x00", "\x00\x13\x00\x00"+"\x00\x0c\x00\xff"), formerr, true},
		{"unknown flags", oneOPT, "\x01\x00", opt("\x00", "\x7f\xff", ""), ok, true},
		{"all flags", oneOPT, "\x01\x00", opt("\x00", "\xff\xff", ""), ok, true},
		{"header bit Z", oneOPT, "\x01\x40", opt("\x00", "\x00\x00", ""), ok, true},
		{"version 1", oneOPT, "\x01\x00", opt("\x01", "\x00\x00", ""), badvers, true},
		{"version 255, all flags", oneOPT, "\x01\x00", opt("\xff", "\xff\xff", ""), badvers, true},
		{"version 1, unknown option", oneOPT, "\x01\x00", opt("\x01", "\x00\x00", unknown), badvers, true},
		{"version 1, options of another kind", oneOPT, "\x01\x00", opt("\x01", "\x00\x00", "\x00\x0a\x00\xff"), badvers, true},
		{"an extended rcode in a query", oneOPT, "\x01\x00", "\x00\x00\x29\x04\xd0\xff\x00\x00\x00\x00\x00", ok, true},
		{"options that lie", oneOPT, "\x01\x00", opt("\x00", "\x00\x00", "\x00\x0a\x00\xff"), formerr, true},
		{"two OPT", "\x00\x01\x00\x00\x00\x00\x00\x02", "\x01\x00", opt("\x00", "\x00\x00", "") + opt("\x00", "\x00\x00", ""), formerr, true},
		{"OPT not at the root", oneOPT, "\x01\x00", "\xc0\x0c" + opt("\x00", "\x00\x00", "")[1:], formerr, false},
		{"OPT in the answer section", "\x00\x01\x00\x01\x00\x00\x00\x00", "\x01\x00", opt("\x00", "\x00\x00", ""), formerr, false},
		{"OPT in the authority section", "\x00\x01\x00\x00\x00\x01\x00\x00", "\x01\x00", opt("\x00", "\x00\x00", ""), formerr, false},
	}
	for opcode := 1; opcode < 16; opcode++ {
		head := string([]byte{byte(opcode)<<3 | 1, 0})
		ps = append(ps,
			probe{fmt.Sprint("opcode ", opcode), noOPT, head, "", dns.RcodeNotImplemented, false},
			probe{fmt.Sprint("opcode ", opcode, " with EDNS"), oneOPT, head, opt("\x00", "\x80\x00", ""), dns.RcodeNotImplemented, true})
	}
	return ps
}

func TestEDNSProbes(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, zones, Options{portable: portable})
		for _, network := range transports {
			for _, pr := range ednsProbes() {
				p := []byte("\x12\x34" + pr.head + pr.counts + "\x04good\x07example\x00\x00\x01\x00\x01" + pr.rest)
				m := r.exchange(t, network, p)
				if m == nil {
					t.Errorf("%s over %s: no reply", pr.about, network)
					continue
				}
				checkProbe(t, network, &pr, m)
			}
		}
	})
}

// exchange sends bytes and returns the reply, nil for none.
func (r *rig) exchange(t *testing.T, network string, p []byte) *dns.Msg {
	t.Helper()
	c := r.dial(t, network)
	defer func() { _ = c.Close() }()
	if network == "tcp" {
		p = frame(p)
	}
	if _, err := c.Write(p); err != nil {
		t.Fatal(err)
	}
	if network == "tcp" {
		return readFrame(t, c, secs(30))
	}
	return readPacket(t, c)
}

func checkProbe(t *testing.T, network string, pr *probe, m *dns.Msg) {
	t.Helper()
	opt := m.IsEdns0()
	if m.Rcode != pr.rcode || (opt != nil) != pr.opt || m.Id != 0x1234 || !m.Response || m.Zero {
		t.Errorf("%s over %s: %v, want %s, OPT %v", pr.about, network, m, dns.RcodeToString[pr.rcode], pr.opt)
	}
	if m.Opcode != int(pr.head[0]>>3&0xF) {
		t.Errorf("%s over %s: opcode %d", pr.about, network, m.Opcode)
	}
	if pr.rcode == dns.RcodeSuccess && len(m.Answer) != 1 {
		t.Errorf("%s over %s: %v, want the answer", pr.about, network, m)
	}
	if opt == nil {
		return
	}
	// Version, flags and extended rcode share the TTL of the record.
	if flags := opt.Hdr.Ttl & 0x7fff; opt.Version() != 0 || flags != 0 || opt.UDPSize() < 512 {
		t.Errorf("%s over %s: OPT %v, want version 0 and no unknown flag", pr.about, network, opt)
	}
	for _, o := range opt.Option {
		if o.Option() == 100 || o.Option() == 0xfffe {
			t.Errorf("%s over %s: an unknown option comes back", pr.about, network)
		}
	}
}

// Sizes that clients announce: below 512 counts as 512, and no reply over UDP is
// longer than what was announced.
func TestEDNSSizes(t *testing.T) {
	var zone strings.Builder
	for i := range 70 {
		fmt.Fprintf(&zone, "many.example. 300 IN A 192.0.2.%d\n", i+1) // 1148 octets
	}
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, zone.String(), Options{portable: portable})
		for _, tc := range []struct {
			size      uint16
			limit     int
			truncated bool
		}{
			{0, 512, true}, {1, 512, true}, {511, 512, true}, {512, 512, true}, {513, 513, true}, {1000, 1000, true},
			{1232, 1232, false}, {4096, 1232, false}, {65535, 1232, false},
		} {
			m := r.ask(t, "udp", edns(query("many.example", dns.TypeA), tc.size))
			m.Compress = true
			if n := m.Len(); m.Truncated != tc.truncated || n > tc.limit || m.IsEdns0() == nil {
				t.Errorf("size %d: TC %v, %d octets; want TC %v and at most %d", tc.size, m.Truncated, n, tc.truncated, tc.limit)
			}
			if m := r.ask(t, "tcp", edns(query("many.example", dns.TypeA), tc.size)); m.Truncated || len(m.Answer) != 70 {
				t.Errorf("size %d over TCP: TC %v and %d records, want all", tc.size, m.Truncated, len(m.Answer))
			}
		}
		m := r.ask(t, "udp", query("many.example", dns.TypeA))
		m.Compress = true
		if !m.Truncated || m.Len() > 512 || m.IsEdns0() != nil {
			t.Errorf("without EDNS: TC %v, %d octets", m.Truncated, m.Len())
		}
	})
}

// Types that nobody knows are types as any other (RFC 3597, section 2).
func TestUnknownTypes(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, "odd.example. 300 IN TYPE65400 \\# 3 010203\ngood.example. 300 IN A 192.0.2.10\n", Options{portable: portable})
		for _, network := range transports {
			for range 2 { // asked, then cached
				m := r.ask(t, network, query("odd.example", 65400))
				if len(m.Answer) != 1 || m.Answer[0].Header().Rrtype != 65400 {
					t.Errorf("%v over %s, want the record as it is", m, network)
				}
			}
			for _, typ := range []uint16{dns.TypeNULL, dns.TypeMX, 1234, 65280, 65534} {
				if m := r.ask(t, network, query("good.example", typ)); m.Rcode != dns.RcodeSuccess || len(m.Answer) != 0 {
					t.Errorf("type %d over %s: %v, want no data", typ, network, m)
				}
			}
		}
	})
}

// The same with the commands that operators test servers with.
func TestDigProbes(t *testing.T) {
	dig := corpus.Tool(t, "dig")
	r := start(t, zones, Options{})
	_, port, err := net.SplitHostPort(r.addr)
	if err != nil {
		t.Fatal(err)
	}
	const noerror, badvers, version0 = `status: NOERROR`, `status: BADVERS`, `version: 0`
	for _, tc := range []struct {
		args string
		want []string
		not  string
	}{
		{"+noedns +noad", []string{noerror}, "EDNS|MBZ"},
		{"+edns=0 +nocookie", []string{noerror, version0}, "MBZ"},
		{"+edns=1 +noednsneg +nocookie", []string{badvers, version0}, "MBZ"},
		{"+edns=0 +ednsopt=100:0102 +nocookie", []string{noerror, version0}, "OPT=100"},
		{"+edns=1 +noednsneg +ednsopt=100 +nocookie", []string{badvers, version0}, "OPT=100"},
		{"+edns=0 +ednsflags=0x80 +nocookie", []string{noerror, version0}, "MBZ"},
		{"+edns=1 +noednsneg +ednsflags=0x80 +nocookie", []string{badvers, version0}, "MBZ"},
		{"+dnssec +nocookie", []string{noerror, "flags: do;"}, "MBZ"},
		{"+zflag", []string{noerror}, "MBZ"},
		{"+cookie +nsid +expire +subnet=0.0.0.0/0 +keepalive", []string{noerror}, "BADOPT|MBZ"},
		{"+header-only +opcode=15 +noedns", []string{"status: NOTIMP"}, "EDNS"},
		{"+opcode=15 +edns=0 +nocookie", []string{"status: NOTIMP", version0}, ""},
		{"+tcp +edns=1 +noednsneg", []string{badvers}, "MBZ"},
	} {
		args := append([]string{"@127.0.0.1", "-p", port, "+tries=1", "+time=60"}, strings.Fields(tc.args)...)
		out, err := exec.Command(dig, append(args, "good.example")...).CombinedOutput()
		if err != nil {
			t.Errorf("dig %s: %v\n%s", tc.args, err, out)
		}
		for _, re := range tc.want {
			if !regexp.MustCompile(re).Match(out) {
				t.Errorf("dig %s: no match of %q in\n%s", tc.args, re, out)
			}
		}
		if tc.not != "" && regexp.MustCompile(tc.not).Match(out) {
			t.Errorf("dig %s: match of %q in\n%s", tc.args, tc.not, out)
		}
	}
}

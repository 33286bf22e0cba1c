package dnsserver

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// wire is a query for wechat.com A, in bytes.
func wire() []byte {
	return []byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06wechat\x03com\x00\x00\x01\x00\x01")
}

func TestCheck(t *testing.T) {
	edit := func(f func(p []byte)) []byte {
		p := wire()
		f(p)
		return p
	}
	name := func(wire string) []byte { return append(append(wire12(), wire...), 0, 1, 0, 1) }
	longest := strings.Repeat("\x3f"+strings.Repeat("a", 63), 3) + "\x3d" + strings.Repeat("a", 61) + "\x00"
	for _, tc := range []struct {
		label string
		p     []byte
		fate  fate
		rcode int
		why   drop
	}{
		{"query", wire(), proceed, 0, 0},
		{"nothing", nil, ignore, 0, dropShort},
		{"11 bytes", wire()[:11], ignore, 0, dropShort},
		{"reply", edit(func(p []byte) { p[2] |= 0x80 }), ignore, 0, dropResponse},
		{"reply of unknown opcode with bad counts", edit(func(p []byte) { p[2], p[5] = 0xFF, 9 }), ignore, 0, dropResponse},
		{"IQUERY", edit(func(p []byte) { p[2] = 1 << 3 }), reject, dns.RcodeNotImplemented, 0},
		{"STATUS", edit(func(p []byte) { p[2] = 2 << 3 }), reject, dns.RcodeNotImplemented, 0},
		{"NOTIFY", edit(func(p []byte) { p[2] = 4 << 3 }), reject, dns.RcodeNotImplemented, 0},
		{"UPDATE", edit(func(p []byte) { p[2] = 5 << 3 }), reject, dns.RcodeNotImplemented, 0},
		{"DSO", edit(func(p []byte) { p[2], p[5] = 6<<3, 0 }), reject, dns.RcodeNotImplemented, 0},
		{"header only", wire()[:12], reject, dns.RcodeFormatError, 0},
		{"no question", edit(func(p []byte) { p[5] = 0 }), reject, dns.RcodeFormatError, 0},
		{"two questions", edit(func(p []byte) { p[5] = 2 }), reject, dns.RcodeFormatError, 0},
		{"257 questions", edit(func(p []byte) { p[4] = 1 }), reject, dns.RcodeFormatError, 0},
		{"an answer", edit(func(p []byte) { p[7] = 1 }), reject, dns.RcodeFormatError, 0},
		{"256 answers", edit(func(p []byte) { p[6] = 1 }), reject, dns.RcodeFormatError, 0},
		{"authority", edit(func(p []byte) { p[9] = 1 }), reject, dns.RcodeFormatError, 0},
		{"authority of IXFR", edit(func(p []byte) { p[9], p[len(p)-3] = 1, 251 }), proceed, 0, 0},
		{"two authorities of IXFR", edit(func(p []byte) { p[9], p[len(p)-3] = 2, 251 }), reject, dns.RcodeFormatError, 0},
		{"two additional", edit(func(p []byte) { p[11] = 2 }), proceed, 0, 0},
		{"three additional", edit(func(p []byte) { p[11] = 3 }), reject, dns.RcodeFormatError, 0},
		{"256 additional", edit(func(p []byte) { p[10] = 1 }), reject, dns.RcodeFormatError, 0},
		{"no type", wire()[:len(wire())-4], reject, dns.RcodeFormatError, 0},
		{"half a class", wire()[:len(wire())-1], reject, dns.RcodeFormatError, 0},
		{"name without end", wire()[:18], reject, dns.RcodeFormatError, 0},
		{"label beyond the end", edit(func(p []byte) { p[12] = 63 }), reject, dns.RcodeFormatError, 0},
		{"pointer to itself", name("\xc0\x0c"), reject, dns.RcodeFormatError, 0},
		{"pointer into the header", name("\xc0\x04"), reject, dns.RcodeFormatError, 0},
		{"extended label", name("\x41\x01\x00"), reject, dns.RcodeFormatError, 0},
		{"root", name("\x00"), proceed, 0, 0},
		{"longest name", name(longest), proceed, 0, 0},
		{"longer than the longest name", name("\x01a" + longest), reject, dns.RcodeFormatError, 0},
	} {
		f, rcode, why := check(tc.p)
		if f != tc.fate || rcode != tc.rcode || why != tc.why {
			t.Errorf("%s: fate %d, rcode %d, drop %d; want %d, %d, %d", tc.label, f, rcode, why, tc.fate, tc.rcode, tc.why)
		}
	}
}

// wire12 is the header of wire.
func wire12() []byte { return wire()[:headerLen] }

func TestAppendHeader(t *testing.T) {
	p := []byte("\xab\xcd\x2f\xff\x00\x01\x00\x02\x00\x03\x00\x04rest")
	want := []byte("before\xab\xcd\xa9\x84\x00\x00\x00\x00\x00\x00\x00\x00") // UPDATE and RD kept; AA, TC and the rest gone
	if got := appendHeader([]byte("before"), p, dns.RcodeNotImplemented); !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

// What passes check but not Unpack, and what lies in its counts.
func TestMalformed(t *testing.T) {
	r := start(t, "", Options{})
	opt := "\x00\x00\x29\x04\xd0\x00\x00\x00\x00"
	for label, tail := range map[string]string{
		"additional record missing":   "",
		"additional record cut":       "\x00\x00\x29\x04",
		"OPT with a length that lies": opt + "\x00\x09",
		"option with such a length":   opt + "\x00\x04\x00\x0a\x00\x09",
		"OPT not at the root":         "\x01a" + opt + "\x00\x00",
	} {
		p := append(wire(), tail...)
		p[11] = 1
		for _, network := range transports {
			c := r.dial(t, network)
			msg := p
			if network == "tcp" {
				msg = frame(p)
			}
			if _, err := c.Write(msg); err != nil {
				t.Fatal(err)
			}
			var m *dns.Msg
			if network == "tcp" {
				m = readFrame(t, c, secs(5))
			} else {
				m = readPacket(t, c)
			}
			if m == nil || m.Rcode != dns.RcodeFormatError || m.Id != 0x1234 || len(m.Question) != 0 {
				t.Errorf("%s over %s: %v, want FORMERR and a header only", label, network, m)
			}
		}
	}
	if st := r.Stats(); st.Rejected != 10 || st.Rcodes["FORMERR"] != 10 || len(r.audit.take()) != 0 {
		t.Errorf("stats %+v, want 10 rejected and none on the record", st)
	}
	if got := r.Stats().Dropped; len(got) != int(drops) || slices.Contains(dropNames[:], "") {
		t.Errorf("drop reasons %v, want %d with names", got, drops)
	}
}

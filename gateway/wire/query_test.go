package wire

import (
	"bytes"
	"strings"
	"testing"
)

// plainQuery is a query for wechat.com A, in bytes.
func plainQuery() []byte {
	return []byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06wechat\x03com\x00\x00\x01\x00\x01")
}

// edited is plainQuery, changed.
func edited(f func(p []byte)) []byte {
	p := plainQuery()
	f(p)
	return p
}

// named is a query for the name, type A.
func named(name string) []byte {
	return append(append(plainQuery()[:HeaderLen], name...), 0, typeA, 0, classINET)
}

// typed is a query for wechat.com of that type and class.
func typed(t, class uint16) []byte {
	return edited(func(p []byte) {
		n := len(p)
		p[n-4], p[n-3], p[n-2], p[n-1] = byte(t>>8), byte(t), byte(class>>8), byte(class)
	})
}

// extra is plainQuery with that many additional records, which are tail.
func extra(n byte, tail string) []byte {
	p := append(plainQuery(), tail...)
	p[11] = n
	return p
}

// nameOf returns a name of that many octets, as it is in a message.
func nameOf(octets int) string {
	var b strings.Builder
	for octets--; octets > 0; {
		n := min(octets-1, maxLabel)
		if octets-1-n == 1 { // one octet is no label
			n--
		}
		b.WriteByte(byte(n))
		b.WriteString(strings.Repeat("a", n))
		octets -= n + 1
	}
	return b.String() + "\x00"
}

// The header and the question, in the order of the checks. Where two checks
// fail, the first one says what becomes of the message.
func TestParseHeaderAndQuestion(t *testing.T) {
	for _, tc := range []struct {
		label string
		p     []byte
		fate  Fate
		rcode uint8
	}{
		{"query", plainQuery(), Simple, 0},
		{"nothing", nil, Ignore, 0},
		{"11 octets", plainQuery()[:11], Ignore, 0},
		{"11 octets of a reply", edited(func(p []byte) { p[2] |= 0x80 })[:11], Ignore, 0},
		{"reply", edited(func(p []byte) { p[2] |= 0x80 }), Ignore, 0},
		{"header of a reply", edited(func(p []byte) { p[2] |= 0x80 })[:12], Ignore, 0},
		{"reply of unknown opcode with bad counts", edited(func(p []byte) { p[2], p[5] = 0xFF, 9 }), Ignore, 0},
		{"IQUERY", edited(func(p []byte) { p[2] = 1 << 3 }), Reject, NotImplemented},
		{"STATUS", edited(func(p []byte) { p[2] = 2 << 3 }), Reject, NotImplemented},
		{"NOTIFY", edited(func(p []byte) { p[2] = 4 << 3 }), Reject, NotImplemented},
		{"UPDATE", edited(func(p []byte) { p[2] = 5 << 3 }), Reject, NotImplemented},
		{"DSO", edited(func(p []byte) { p[2], p[5] = 6<<3, 0 }), Reject, NotImplemented},
		{"opcode 15 with bad counts", edited(func(p []byte) { p[2], p[5], p[7] = 15<<3, 9, 9 }), Reject, NotImplemented},
		{"header only", plainQuery()[:12], Reject, FormatError},
		{"no question", edited(func(p []byte) { p[5] = 0 }), Reject, FormatError},
		{"two questions", edited(func(p []byte) { p[5] = 2 }), Reject, FormatError},
		{"256 questions", edited(func(p []byte) { p[4], p[5] = 1, 0 }), Reject, FormatError},
		{"257 questions", edited(func(p []byte) { p[4] = 1 }), Reject, FormatError},
		{"an answer", edited(func(p []byte) { p[7] = 1 }), Reject, FormatError},
		{"256 answers", edited(func(p []byte) { p[6] = 1 }), Reject, FormatError},
		{"authority", edited(func(p []byte) { p[9] = 1 }), Reject, FormatError},
		{"256 authorities", edited(func(p []byte) { p[8] = 1 }), Reject, FormatError},
		{"authority of IXFR", edited(func(p []byte) { p[9], p[len(p)-3] = 1, 251 }), Complex, 0},
		{"authority of IXFR of another class", edited(func(p []byte) { p[9], p[len(p)-3], p[len(p)-1] = 1, 251, 3 }), Complex, 0},
		{"two authorities of IXFR", edited(func(p []byte) { p[9], p[len(p)-3] = 2, 251 }), Reject, FormatError},
		{"additional record that is not there", extra(1, ""), Complex, 0},
		{"two additional", extra(2, ""), Complex, 0},
		{"three additional", extra(3, ""), Reject, FormatError},
		{"256 additional", edited(func(p []byte) { p[10] = 1 }), Reject, FormatError},
		{"octets behind the question", append(plainQuery(), 0), Complex, 0},
		{"no type", plainQuery()[:24], Reject, FormatError},
		{"half a type", plainQuery()[:25], Reject, FormatError},
		{"no class", plainQuery()[:26], Reject, FormatError},
		{"half a class", plainQuery()[:27], Reject, FormatError},
		{"every flag that a query may have", edited(func(p []byte) { p[2], p[3] = 0x07, 0xFF }), Simple, 0},
	} {
		var q Query
		if f, rcode := q.Parse(tc.p); f != tc.fate || rcode != tc.rcode {
			t.Errorf("%s: fate %d, rcode %d; want %d, %d", tc.label, f, rcode, tc.fate, tc.rcode)
		}
	}
}

func TestParseNames(t *testing.T) {
	ones := strings.Repeat("\x01a", 127)
	for _, tc := range []struct {
		label, wire string
		fate        Fate
		name        string // of a Simple one
	}{
		{"without end", "\x06wechat\x03com", Reject, ""}, // the type is taken for the end
		{"label beyond the end", "\x3fwechat\x00", Reject, ""},
		{"label up to the end", "\x0bwechat\x00", Reject, ""},
		{"pointer to itself", "\xc0\x0c", Reject, ""},
		{"pointer into the header", "\xc0\x04", Reject, ""},
		{"pointer behind a label", "\x06wechat\xc0\x0c", Reject, ""},
		{"pointer to the type", "\x01a\xc0\x10", Reject, ""},
		{"extended label", "\x41\x01\x00", Reject, ""},
		{"label of a reserved kind", "\x80\x01\x00", Reject, ""},
		{"label of 64 octets", "\x40" + strings.Repeat("a", 64) + "\x00", Reject, ""},
		{"label of 63 octets", "\x3f" + strings.Repeat("a", 63) + "\x00", Simple, strings.Repeat("a", 63)},
		{"root", "\x00", Simple, ""},
		{"one octet", "\x01A\x00", Simple, "a"},
		{"mixed case", "\x06WeChat\x03COM\x00", Simple, "wechat.com"},
		{"first and last letters", "\x04AZaz\x0409-_\x00", Simple, "azaz.09-_"},
		{"127 labels", ones + "\x00", Simple, strings.Repeat("a.", 126) + "a"},
		{"128 labels", ones + "\x01a\x00", Reject, ""},
		{"253 octets", nameOf(253), Simple, ""},
		{"254 octets", nameOf(254), Simple, ""},
		{"255 octets", nameOf(255), Simple, ""},
		{"256 octets", nameOf(256), Reject, ""},
		{"257 octets", nameOf(257), Reject, ""},
		{"255 octets and a label", nameOf(255)[:254] + "\x01a\x00", Reject, ""},
		{"255 octets without end", nameOf(255)[:254] + "\x01", Reject, ""},
		{"dot in a label", "\x08x.wechat\x03com\x00", Complex, ""},
		{"backslash", "\x01\\\x00", Complex, ""},
		{"zero octet", "\x01\x00\x00", Complex, ""},
		{"space", "\x03a b\x00", Complex, ""},
		{"octet above 127", "\x02\xc3\x89\x00", Complex, ""},
		{"delete", "\x01\x7f\x00", Complex, ""},
		{"asterisk", "\x01*\x03com\x00", Complex, ""},
		{"neighbours of letters", "\x01@\x01[\x01`\x01{\x01/\x01:\x00", Complex, ""},
		{"odd octet, and too long", "\x01*" + nameOf(254), Reject, ""},
	} {
		var q Query
		p := named(tc.wire)
		f, rcode := q.Parse(p)
		if f != tc.fate || (rcode == FormatError) != (f == Reject) {
			t.Errorf("%s: fate %d, rcode %d; want fate %d", tc.label, f, rcode, tc.fate)
		}
		if f != Simple {
			continue
		}
		want := tc.name
		if want == "" {
			want = text(tc.wire)
		}
		if got := q.Name(); got != want {
			t.Errorf("%s: name %q, want %q", tc.label, got, want)
		}
	}
}

// text is a name of a message as text, for names without odd octets.
func text(wire string) string {
	var labels []string
	for wire[0] != 0 {
		labels = append(labels, wire[1:1+wire[0]])
		wire = wire[1+wire[0]:]
	}
	return strings.ToLower(strings.Join(labels, "."))
}

// Every octet that is not of a host name makes a message Complex, wherever it
// stands, and no other does.
func TestParseOctets(t *testing.T) {
	const host = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	for c := range 256 {
		want := Complex
		if strings.IndexByte(host, byte(c)) >= 0 {
			want = Simple
		}
		for _, name := range []string{"\x03" + string([]byte{byte(c)}) + "aa\x00", "\x02aa\x03aa" + string([]byte{byte(c)}) + "\x00"} {
			var q Query
			if f, _ := q.Parse(named(name)); f != want {
				t.Errorf("octet %#x in %q: fate %d, want %d", c, name, f, want)
			}
		}
	}
}

// Types of data are Simple, and so is every type that nobody knows yet. What
// is never data, or has an answer of its own, is for the slow path.
func TestParseTypesAndClasses(t *testing.T) {
	special := map[uint16]bool{0: true, 41: true, 128: true}
	for typ := uint16(249); typ <= 255; typ++ { // TKEY, TSIG, IXFR, AXFR, MAILB, MAILA, ANY
		special[typ] = true
	}
	for typ := range 1 << 16 {
		want := Simple
		if special[uint16(typ)] {
			want = Complex
		}
		var q Query
		if f, _ := q.Parse(typed(uint16(typ), classINET)); f != want || f == Simple && q.Type != uint16(typ) {
			t.Errorf("type %d: fate %d, type %d; want fate %d", typ, f, q.Type, want)
		}
	}
	for class := range 1 << 16 {
		want := Complex
		if class == classINET {
			want = Simple
		}
		var q Query
		if f, _ := q.Parse(typed(typeA, uint16(class))); f != want {
			t.Errorf("class %d: fate %d, want %d", class, f, want)
		}
	}
}

// option is an EDNS option whose length is true.
func option(code uint16, data string) string {
	return string([]byte{byte(code >> 8), byte(code), byte(len(data) >> 8), byte(len(data))}) + data
}

// opt is an OPT record with those options whose length is true.
func opt(options string) string {
	return "\x00\x00\x29\x04\xd0\x00\x00\x00\x00" + string([]byte{byte(len(options) >> 8), byte(len(options))}) + options
}

func TestParseOPT(t *testing.T) {
	bare := opt("")
	change := func(i int, c byte) string {
		b := []byte(bare)
		b[i] = c
		return string(b)
	}
	for _, tc := range []struct {
		label string
		p     []byte
		fate  Fate
	}{
		{"bare", extra(1, bare), Simple},
		{"not counted", extra(0, bare), Complex},
		{"counted twice", extra(2, bare), Complex},
		{"two", extra(2, bare+bare), Complex},
		{"two, one counted", extra(1, bare+bare), Complex},
		{"with a TSIG", extra(2, bare+"\x00\x00\xfa\x00\xff\x00\x00\x00\x00\x00\x00"), Complex},
		{"another record", extra(1, change(2, 1)), Complex},
		{"a type that ends like it", extra(1, change(1, 1)), Complex},
		{"not at the root", extra(1, "\x01a"+bare), Complex},
		{"at a pointer to a root", extra(1, "\xc0\x17"+bare[1:]), Complex},
		{"version 1", extra(1, change(6, 1)), Complex},
		{"version 255", extra(1, change(6, 255)), Complex},
		{"extended rcode", extra(1, change(5, 9)), Simple},
		{"every flag", extra(1, "\x00\x00\x29\x04\xd0\x00\x00\xff\xff\x00\x00"), Simple},
		{"10 octets", extra(1, bare[:10]), Complex},
		{"one octet behind", extra(1, bare+"\x00"), Complex},
		{"a length of one too much", extra(1, change(10, 1)), Complex},
		{"a length of 256 too much", extra(1, change(9, 1)), Complex},
		{"a length of one too little", extra(1, opt("\x00\x0a\x00\x00")[:10]+"\x03\x00\x0a\x00\x00"), Complex},
		{"three octets of an option", extra(1, opt("\x00\x0a\x00")), Complex},
		{"an option longer than the record", extra(1, opt("\x00\x0a\x00\x01")), Complex},
		{"an option of 65535 octets that is not there", extra(1, opt("\x00\x0a\xff\xff")), Complex},
		{"an option, and half of one", extra(1, opt(option(10, "12345678")+"\x00\x0a")), Complex},
		{"many options", extra(1, opt(option(3, "")+option(10, "12345678")+option(12, strings.Repeat("\x00", 400)))), Simple},
		{"the same option twice", extra(1, opt(option(10, "12345678")+option(10, "12345678"))), Simple},
	} {
		var q Query
		if f, _ := q.Parse(tc.p); f != tc.fate {
			t.Errorf("%s: fate %d, want %d", tc.label, f, tc.fate)
		} else if f == Simple && !q.EDNS {
			t.Errorf("%s: no EDNS", tc.label)
		}
	}
}

// Options that clients send are passed over where they are well-formed. Others,
// which may ask for something, are for the slow path.
func TestParseOptions(t *testing.T) {
	for _, tc := range []struct {
		label string
		code  uint16
		data  string
		fate  Fate
	}{
		{"LLQ", 1, "123456789012345678", Complex},
		{"update lease", 2, "1234", Complex},
		{"NSID", 3, "", Simple},
		{"DAU", 5, "\x08\x0d", Simple},
		{"DHU", 6, "\x02", Simple},
		{"N3U", 7, "\x01", Simple},
		{"expire", 9, "", Complex},
		{"cookie of a client", 10, "12345678", Simple},
		{"cookie of both", 10, "1234567812345678", Simple},
		{"keepalive", 11, "", Simple},
		{"keepalive with a time", 11, "\x00\x64", Simple},
		{"keepalive of one octet", 11, "\x64", Complex},
		{"keepalive of three", 11, "\x00\x00\x64", Complex},
		{"padding", 12, strings.Repeat("\x00", 100), Simple},
		{"padding of nothing", 12, "", Simple},
		{"chain", 13, "\x00", Complex},
		{"key tag", 14, "\x4f\x66", Complex},
		{"extended error", 15, "\x00\x00", Complex},
		{"zone version", 19, "", Complex},
		{"local", 65001, "x", Complex},
		{"reserved", 0, "", Complex},
		{"an option that ends like padding", 0x010c, "", Complex},
		{"subnet of IPv4", 8, "\x00\x01\x18\x00\xc0\x00\x02", Simple},
		{"subnet of IPv6", 8, "\x00\x02\x38\x00\x20\x01\x0d\xb8\x00\x00\x00", Simple},
		{"subnet of none", 8, "\x00\x00\x00\x00", Simple},
		{"subnet of 0 bits", 8, "\x00\x01\x00\x00", Simple},
		{"subnet of 33 bits", 8, "\x00\x01\x21\x00\xc0\x00\x02\x01\x80", Complex},
		{"subnet of 129 bits", 8, "\x00\x02\x81\x00", Complex},
		{"subnet with a scope of 33 bits", 8, "\x00\x01\x18\x21\xc0\x00\x02", Complex},
		{"subnet of none with bits", 8, "\x00\x00\x01\x00\x80", Complex},
		{"subnet of an unknown family", 8, "\x00\x03\x00\x00", Complex},
		{"subnet of family 256", 8, "\x01\x00\x00\x00", Complex},
		{"subnet of three octets", 8, "\x00\x01\x00", Complex},
		{"subnet of nothing", 8, "", Complex},
	} {
		for _, options := range []string{option(tc.code, tc.data), option(3, "") + option(tc.code, tc.data), option(tc.code, tc.data) + option(3, "")} {
			var q Query
			if f, _ := q.Parse(extra(1, opt(options))); f != tc.fate {
				t.Errorf("%s in %q: fate %d, want %d", tc.label, options, f, tc.fate)
			}
		}
	}
}

func TestParseLimit(t *testing.T) {
	for _, tc := range []struct {
		size  uint16
		limit int
	}{{0, 512}, {1, 512}, {511, 512}, {512, 512}, {513, 513}, {1231, 1231}, {1232, 1232}, {1233, 1232}, {4096, 1232}, {65535, 1232}} {
		var q Query
		o := []byte(opt(""))
		o[3], o[4] = byte(tc.size>>8), byte(tc.size)
		if f, _ := q.Parse(extra(1, string(o))); f != Simple || q.Limit != tc.limit {
			t.Errorf("size %d: fate %d, limit %d; want %d", tc.size, f, q.Limit, tc.limit)
		}
	}
}

// A Query is used again and again: nothing of a message is left in the next,
// and Parse writes to none.
func TestParseForgets(t *testing.T) {
	full := extra(1, opt(option(10, "12345678")))
	full[3] |= bitCD | bitAD
	full[len(plainQuery())+7] = 0x80 // DO
	var q Query
	keep := bytes.Clone(full)
	if f, _ := q.Parse(full); f != Simple || !q.EDNS || !q.DO || q.Limit != MaxUDP || !q.CheckingDisabled() || !q.wantsAD() || !q.RecursionDesired() {
		t.Fatalf("fate %d, %+v", f, q)
	}
	for _, between := range [][]byte{nil, plainQuery()[:20], named("\x01*\x00"), extra(2, ""), full[:len(full)-1]} {
		q.Parse(full)
		q.Parse(between)
		p := edited(func(p []byte) { p[2] &^= bitRD })
		f, _ := q.Parse(p)
		if f != Simple || q.EDNS || q.DO || q.Limit != MinLimit || q.CheckingDisabled() || q.wantsAD() || q.RecursionDesired() || q.Name() != "wechat.com" || q.Type != typeA {
			t.Errorf("after %x: fate %d, %+v", between, f, q)
		}
	}
	if !bytes.Equal(full, keep) {
		t.Errorf("the message became %x, was %x", full, keep)
	}
}

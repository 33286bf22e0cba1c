package resolver

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// serviceData is the data of an HTTPS record, by its bytes: parameters in any
// order, as often as one likes, with any length.
func serviceData(params ...[]byte) []byte {
	return append([]byte{0, 1, 0}, slices.Concat(params...)...)
}

func param(key uint16, value string) []byte {
	b := binary.BigEndian.AppendUint16(nil, key)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(value))), value...)
}

const keyALPN, keyECH = 1, 5

// FuzzShape gives arbitrary data of HTTPS records to the road of a response. What
// comes out, read here by its bytes and leniently, has no keys of encrypted
// ClientHellos and no HTTP/3: what cannot be parsed does not pass.
func FuzzShape(f *testing.F) {
	ech, h3 := param(keyECH, "\x00\x04abcd"), param(keyALPN, "\x02h2\x02h3")
	for _, data := range [][]byte{
		serviceData(h3, ech),
		serviceData(ech, h3),
		serviceData(ech, ech),
		serviceData(param(0, "\x00\x05"), ech),
		serviceData(param(0, "\x00\x01\x00\x05"), h3, ech),
		serviceData(param(keyECH, "")),
		serviceData(param(keyALPN, "")),
		serviceData(param(keyALPN, "\x02h3"), param(2, ""), ech),
		serviceData(param(keyALPN, "\x05h3-29\x01h\x02H3")),
		serviceData(ech, []byte{0}),
		serviceData(ech)[:9],
		{0, 0, 0},
		{0, 0, 0, 0, 5, 0, 1, 1},
		serviceData(param(65535, "x"), ech),
	} {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) { shapeData(t, data) })
}

// TestShapeDamaged tries many records that are damaged a little.
func TestShapeDamaged(t *testing.T) {
	whole := serviceData(param(0, "\x00\x01\x00\x05"), param(keyALPN, "\x02h2\x02h3\x05h3-29"), param(3, "\x01\xbb"), param(4, "\xc0\x00\x02\x01"), param(keyECH, "\x00\x04abcd"))
	rnd, passed := rand.New(rand.NewPCG(1, 2)), 0
	for range 50_000 {
		data := slices.Clone(whole)
		for range rnd.IntN(4) {
			data[rnd.IntN(len(data))] ^= 1 << rnd.IntN(8)
		}
		if rnd.IntN(4) == 0 {
			data = data[:rnd.IntN(len(data))]
		}
		if shapeData(t, data) {
			passed++
		}
	}
	if passed < 5000 || passed > 45_000 {
		t.Errorf("%d records passed: nothing is tried", passed)
	}
}

// shapeData reports whether the record came out in any form.
func shapeData(t *testing.T, data []byte) (passed bool) {
	const id = 0x1234
	if len(data) > 1<<15 {
		return false
	}
	k := key{name: "a.example.", qtype: dns.TypeHTTPS, qclass: dns.ClassINET}
	raw := append([]byte{id >> 8, id & 0xff, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0}, "\x01a\x07example\x00\x00\x41\x00\x01"...)
	raw = append(raw, "\xc0\x0c\x00\x41\x00\x01\x00\x00\x00\x3c"...)
	raw = append(binary.BigEndian.AppendUint16(raw, uint16(len(data))), data...)
	m, err := parse(raw, id, k)
	if err != nil {
		return false
	}
	shape := Shape{ECH: true, H3: true}
	shape.apply(k, m)
	a := newAnswer(k, m, newClock().now)
	if a.wire.Answers == 0 {
		return false
	}
	body := a.Wire().Body // after the question: owner (compressed), type, class, TTL, length
	if len(body) < 12 || body[0] != 0xc0 || binary.BigEndian.Uint16(body[2:]) != dns.TypeHTTPS {
		t.Fatalf("%x: came out as %x", data, body)
	}
	checkService(t, data, body[12:][:binary.BigEndian.Uint16(body[10:])])
	return true
}

func checkService(t *testing.T, in, out []byte) {
	t.Helper()
	p := out[2:]
	for p[0] != 0 { // the target
		p = p[1+p[0]:]
	}
	for p = p[1:]; len(p) >= 4; {
		k, n := binary.BigEndian.Uint16(p), binary.BigEndian.Uint16(p[2:])
		if int(n) > len(p)-4 {
			t.Fatalf("%x: came out cut, %x", in, out)
		}
		value := p[4:][:n]
		p = p[4+n:]
		switch k {
		case keyECH:
			t.Fatalf("%x: has ECH, %x", in, out)
		case keyALPN:
			for len(value) > 0 {
				id := string(value[1:][:value[0]])
				value = value[1+value[0]:]
				if id == "h3" || strings.HasPrefix(id, "h3-") {
					t.Fatalf("%x: has HTTP/3, %x", in, out)
				}
			}
		}
	}
	if len(p) != 0 {
		t.Fatalf("%x: octets after the parameters, %x", in, out)
	}
}

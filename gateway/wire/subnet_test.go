package wire

import "testing"

// A question with a client subnet leaves the fast path where that is passed on, but
// for the one that says that none is to be told.
func TestParseSubnet(t *testing.T) {
	opt := func(option string) []byte {
		return extra(1, "\x00\x00\x29\x04\xd0\x00\x00\x00\x00"+string([]byte{0, byte(len(option))})+option)
	}
	some, none := opt("\x00\x08\x00\x07\x00\x01\x18\x00\xc6\x33\x64"), opt("\x00\x08\x00\x04\x00\x01\x00\x00")
	for _, tt := range []struct {
		subnets bool
		p       []byte
		want    Fate
	}{{false, some, Simple}, {true, some, Complex}, {false, none, Simple}, {true, none, Simple}} {
		q := Query{Subnets: tt.subnets}
		if got, _ := q.Parse(tt.p); got != tt.want {
			t.Errorf("%v %x: %v, want %v", tt.subnets, tt.p, got, tt.want)
		}
	}
}

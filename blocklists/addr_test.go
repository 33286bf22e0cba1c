package blocklists

import (
	"net/netip"
	"testing"
)

func TestEmbeddedIPv4(t *testing.T) {
	tests := []struct{ in, want string }{
		{"::ffff:192.0.2.33", "192.0.2.33"}, // RFC 4291, section 2.5.5.2
		{"::ffff:0:0", "0.0.0.0"},
		{"::192.0.2.33", "192.0.2.33"},        // RFC 4291, section 2.5.5.1
		{"::2", "0.0.0.2"},                    //
		{"64:ff9b::192.0.2.33", "192.0.2.33"}, // RFC 6052, section 2.4
		{"64:ff9b::7f00:1", "127.0.0.1"},      //
		{"2002:c000:221::1", "192.0.2.33"},    // RFC 3056, section 2
		{"2002:7f00:1::", "127.0.0.1"},        //
		{"2002:c000:221:1:2:3:4:5", "192.0.2.33"},
		{"2001:0:4136:e378:8000:63bf:3fff:fdd2", "192.0.2.45"}, // RFC 4380, section 4
		{"2001:0:0:0:0:0:80ff:fffe", "127.0.0.1"},
		{"fe80::5efe:192.0.2.33", "192.0.2.33"}, // RFC 5214, section 6.1
		{"2001:db8::200:5efe:c000:221", "192.0.2.33"},
		{"fe80::5efe:192.0.2.33%eth0", "192.0.2.33"},
		{"64:ff9b::c000:221%eth0", "192.0.2.33"},

		{"::", ""},
		{"::1", ""},
		{"192.0.2.33", ""},
		{"2001:db8::c000:221", ""},
		{"2001:1::c000:221", ""},
		{"64:ff9b:0:0:0:1:c000:221", ""},
		{"64:ff9a::c000:221", ""},
		{"2003:c000:221::1", ""},
		{"fe80::5eff:192.0.2.33", ""},
		{"fe80::100:5efe:192.0.2.33", ""},
		{"2606:4700::1111", ""},
	}
	for _, tt := range tests {
		got := EmbeddedIPv4(netip.MustParseAddr(tt.in))
		if want, _ := netip.ParseAddr(tt.want); got != want {
			t.Errorf("EmbeddedIPv4(%s) = %v, want %v", tt.in, got, want)
		}
	}
	if got := EmbeddedIPv4(netip.Addr{}); got.IsValid() {
		t.Errorf("EmbeddedIPv4 of no address = %v", got)
	}
}

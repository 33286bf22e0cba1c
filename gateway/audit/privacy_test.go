package audit

import (
	"net/netip"
	"strings"
	"testing"
)

func TestPrivacy(t *testing.T) {
	for _, tc := range []struct {
		privacy      Privacy
		device, id   string
		want, wantID string // wantID "hash" for a pseudonym
	}{
		{"", "10.8.0.7", "key", "10.8.0.7", "key"},
		{Full, "2001:db8::7", "", "2001:db8::7", ""},
		{Truncated, "10.8.0.7", "key", "10.8.0.0", ""},
		{Truncated, "::ffff:10.8.0.7", "", "10.8.0.0", ""},
		{Truncated, "2001:db8:1:2:3::7", "", "2001:db8:1::", ""},
		{Truncated, "fe80::1%eth0", "", "fe80::", ""},
		{Truncated, "", "key", "", ""},
		{Hashed, "10.8.0.7", "", "", "hash"},
		{Hashed, "", "", "", ""},
		{None, "10.8.0.7", "key", "", ""},
	} {
		r := Record{DeviceID: tc.id, Group: "staff", Name: "x.example"}
		if tc.device != "" {
			r.Device = netip.MustParseAddr(tc.device)
		}
		newVeil(tc.privacy).draw(&r)
		got := ""
		if r.Device.IsValid() {
			got = r.Device.String()
		}
		id := r.DeviceID
		if strings.HasPrefix(id, "hash:") {
			id = "hash"
		}
		if got != tc.want || id != tc.wantID || r.Group != "staff" || r.Name != "x.example" {
			t.Errorf("%s of %s and %q: %q, %q; want %q, %q", tc.privacy, tc.device, tc.id, got, id, tc.want, tc.wantID)
		}
	}
}

// A device has one pseudonym, whatever its address where its key is known, and
// another gateway, or the next start, knows it by another.
func TestPseudonyms(t *testing.T) {
	v, other := newVeil(Hashed), newVeil(Hashed)
	of := func(v *veil, addr, id string) string {
		r := Record{Device: netip.MustParseAddr(addr), DeviceID: id}
		v.draw(&r)
		return r.DeviceID
	}
	if of(v, "10.8.0.7", "") != of(v, "::ffff:10.8.0.7", "") || of(v, "10.8.0.7", "key") != of(v, "2001:db8::7", "key") {
		t.Error("one device, two pseudonyms")
	}
	if of(v, "10.8.0.7", "") == of(v, "10.8.0.8", "") || of(v, "10.8.0.7", "key") == of(v, "10.8.0.7", "yek") {
		t.Error("two devices, one pseudonym")
	}
	if of(v, "10.8.0.7", "") == of(other, "10.8.0.7", "") {
		t.Error("a pseudonym without a salt")
	}
}

// The record in the file has no address, though the key was found by it.
func TestPrivacyOfFile(t *testing.T) {
	path := t.TempDir() + "/audit.jsonl"
	l, err := Open(path, Options{Privacy: Hashed}, mute)
	if err != nil {
		t.Fatal(err)
	}
	l.Identify(func(netip.Addr) string { return "wireguard-key" })
	l.Put(Record{Device: netip.MustParseAddr("10.8.0.7")})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got := lines(t, path)
	if len(got) != 1 || got[0].Device.IsValid() || !strings.HasPrefix(got[0].DeviceID, "hash:") {
		t.Errorf("records %+v", got)
	}
}

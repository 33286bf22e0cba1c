package gateway

import (
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestRPZTwoZones is where Weir means to differ: other engines ask their zones in
// order and stop at the first that speaks, so that a zone can let pass what the
// next one blocks. In Weir each zone stands for a ban, and any ban blocks.
func TestRPZTwoZones(t *testing.T) {
	w, err := newWorld("up.example. A 192.0.2.1\npass.example. A 192.0.2.9\nblock.example. A 192.0.2.9\nboth.example. A 192.0.2.9\nonly.example. A 192.0.2.9\n")
	if err != nil {
		t.Fatal(err)
	}
	zones := []string{
		zoneHead + "pass.example CNAME rpz-passthru.\nblock.example CNAME .\nboth.example CNAME *.\n",
		zoneHead + "pass.example CNAME .\nblock.example CNAME rpz-passthru.\nboth.example CNAME .\nonly.example CNAME .\n",
	}
	at := w.serve(t)
	all := append(startEngines(t, at, zones), startWeirZones(t, at, zones))
	for _, tc := range []struct{ name, engines, weir string }{
		{"pass.example.", "NOERROR; pass.example. A 192.0.2.9", "NXDOMAIN"}, // the difference
		{"block.example.", "NXDOMAIN", "NXDOMAIN"},
		{"both.example.", "NOERROR", "NOERROR"}, // the first is cited
		{"only.example.", "NXDOMAIN", "NXDOMAIN"},
	} {
		for _, e := range all {
			want := tc.engines
			if e.name == "weir" {
				want = tc.weir
			}
			if got := e.ask(oracleQuestion{client: "127.0.0.1", name: tc.name, qtype: dns.TypeA}, []time.Duration{time.Second, 20 * time.Second}); got != want {
				t.Errorf("%s: %s says %q, want %q", tc.name, e.name, got, want)
			}
		}
	}
}

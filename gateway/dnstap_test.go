package gateway

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	dnstap "github.com/dnstap/golang-dnstap"
	"github.com/miekg/dns"
	"google.golang.org/protobuf/proto"
)

// A real collector, and no more of the device than the audit record has.
func TestDnstap(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	frames := make(chan []byte, 10)
	go dnstap.NewFrameStreamSockInput(l).ReadInto(frames)
	f := newFixture(t, map[string]string{"weir.yml": `
dns: {listen: ["127.0.0.1:0"], upstreams: ["UPSTREAM"], dnstap: {to: "unix:` + path + `", identity: gw}}
proxy: {listen: []}
admin: {listen: "127.0.0.1:0"}
audit: {privacy: truncated}
bans: [wechat]
`})
	if got := f.rcode("wechat.com"); got != "NXDOMAIN" {
		t.Fatal(got)
	}
	var d dnstap.Dnstap
	select {
	case b := <-frames:
		if err := proto.Unmarshal(b, &d); err != nil {
			t.Fatal(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("no frame within 20 s")
	}
	var m dns.Msg
	if err := m.Unpack(d.GetMessage().GetResponseMessage()); err != nil || m.Rcode != dns.RcodeNameError || m.Question[0].Name != "wechat.com." {
		t.Errorf("response %v, %v", &m, err)
	}
	if a := net.IP(d.GetMessage().GetQueryAddress()).String(); a != "127.0.0.0" || string(d.GetIdentity()) != "gw" || string(d.GetVersion()) != "weir test" {
		t.Errorf("address %s, identity %q, version %q", a, d.GetIdentity(), d.GetVersion())
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		metrics := f.get("/metrics")
		if strings.Contains(metrics, `weir_dnstap_messages_total{fate="written"} 1`) && strings.Contains(metrics, "weir_dnstap_connected 1") {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the metrics do not say so")
		}
	}
}

package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/gateway/policy"
)

var mmtls = []string{"bytes 1[679] f1 0[34]", "field upgrade = mmtls", "field user-agent ~ MicroMessenger", "path ^/mmtls/[0-9a-f]{8}$", "path ^/cgi-bin/micromsg-bin/"}

// What a request says of itself is judged with it, whatever host it is for.
func TestFieldSignatures(t *testing.T) {
	o := httpOrigin(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "origin") })
	h := start(t, []uint16{o.port}, nil)
	h.store.Swap(snapshot(t, 2, mmtls...))
	innocent := fmt.Sprintf("innocent.example:%d", o.port)
	bare := fmt.Sprintf("127.0.0.1:%d", o.port)
	for _, c := range []struct {
		host, path, fields, rule string
	}{
		{innocent, "/", "", ""},
		{innocent, "/", "User-Agent: Mozilla/5.0\r\nUpgrade-Insecure-Requests: 1\r\n", ""},
		{innocent, "/", "User-Agent: MicroMessenger Client\r\n", "tiktok:3"},
		{innocent, "/", "uSER-aGENT:  Mozilla/5.0 (Linux) micromessenger/8.0\r\n", "tiktok:3"},
		{bare, "/", "User-Agent: MicroMessenger Client\r\n", "tiktok:3"},
		{innocent, "/", "Connection: Upgrade\r\nUpgrade: mmtls\r\n", "tiktok:2"},
		{innocent, "/", "Upgrade: foo\r\nUpgrade: h2c, MMTLS\r\n", "tiktok:2"},
		{innocent, "/mmtls/2a9b1264", "", "tiktok:4"},
		{innocent, "/x/../MMTLS/%32a9b1264?y", "", "tiktok:4"},
		{innocent, "/cgi-bin/micromsg-bin/newgetdns?uin=0", "", "tiktok:5"},
		{innocent, "/mmtls/2a9b1264x", "", ""},
	} {
		conn := h.dial()
		conn.send(fmt.Sprintf("GET http://%s%s HTTP/1.1\r\nHost: %s\r\n%sConnection: close\r\n\r\n", c.host, c.path, c.host, c.fields))
		resp, body := conn.response("GET")
		want := http.StatusOK
		if c.rule != "" {
			want = http.StatusForbidden
		}
		if resp.StatusCode != want {
			t.Errorf("%+v: %s %q", c, resp.Status, body)
		}
		records := h.audit.all()
		r := records[len(records)-1]
		if r.RuleID != c.rule || c.rule != "" && (r.Ban != "tiktok" || r.Action != "block" || r.Path != c.path || !strings.Contains(body, c.rule)) {
			t.Errorf("%+v: record %+v", c, r)
		}
	}
}

// A tunnel that is no TLS is held back by the ban whose signature it has, and
// not only for being none; in whatever pieces it comes. The exempt may.
func TestConnectSignatures(t *testing.T) {
	o := rawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) { _, _ = io.Copy(c, br) })
	for _, portable := range []bool{false, true} {
		startPortable = portable
		h := start(t, []uint16{o.port}, nil)
		startPortable = false
		h.store.Swap(snapshotHello(t, 2, policy.HelloPolicy{}, mmtls...))
		for _, c := range []struct{ first, rule string }{
			{"\x16\xf1\x04\x00\xa1", "tiktok:1"}, {"\x19\xf1\x04\x00\xa1", "tiktok:1"}, {"\x17\xf1\x03", "tiktok:1"},
			{"\x16\xf1\x05\x00", ""}, {"SSH-2.0", ""},
		} {
			for _, piece := range []int{1, 100} {
				h.audit.clear()
				conn := h.connect(fmt.Sprintf("innocent.example:%d", o.port), "")
				for b := range slices.Chunk([]byte(c.first), piece) {
					if _, err := conn.Write(b); err != nil {
						break // it is reset already
					}
					time.Sleep(2 * time.Millisecond)
				}
				if b, _ := io.ReadAll(conn.br); len(b) > 0 {
					t.Errorf("%q came back", b)
				}
				r := h.audit.begun(t, 0)
				if r.RuleID != c.rule || c.rule != "" && (r.Action != "block" || r.Ban != "tiktok" || r.Reason != "ban") || c.rule == "" && r.Action != "block" {
					t.Errorf("portable=%t, %q by %d: %+v", portable, c.first, piece, r)
				}
			}
		}
		h.stop()
	}
}

package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
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

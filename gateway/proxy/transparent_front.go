package proxy

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/weir-gateway/weir/blocklists"
)

// setDiverted reads the target of a request that was sent to an origin: the
// Host field says whom it is for (RFC 9112, section 3.2.1), so there must be
// one of it, and the port is that of the connection. A target in absolute-form
// must say the same (section 3.2.2).
func (q *request) setDiverted(target string, hosts []string, d *diverted) *refusal {
	q.diverted, q.protocol = d, protocolHTTP
	switch {
	case q.connect():
		return refuse("CONNECT is for proxies, and this connection was not made to one")
	case len(hosts) == 0:
		return refuse("request has no Host field")
	case len(hosts) > 1:
		return refuse("request has several Host fields")
	}
	h, port, bad := parseHostField(hosts[0])
	if bad != nil {
		return bad
	}
	q.host, q.port, q.sent = h, d.dst.Port(), sentHost(h, port)
	switch {
	case strings.HasPrefix(target, "/"), target == "*" && q.method == http.MethodOptions:
		q.path = target
		return nil
	case !strings.Contains(target, "://"):
		return refuse("request target is neither a path nor an absolute http:// URL")
	}
	absolute := *q
	if bad := absolute.setTarget(target); bad != nil {
		return bad
	}
	if port == 0 {
		port = 80
	}
	if absolute.host != h || absolute.port != port {
		return refuse("Host field and request target differ")
	}
	q.path = absolute.path
	return nil
}

// sentHost is the Host field in its canonical form, with a port where the
// client gave one.
func sentHost(h blocklists.Host, port uint16) string {
	s := h.String()
	if h.Addr.Is6() {
		s = "[" + s + "]"
	}
	if port != 0 {
		s += ":" + strconv.Itoa(int(port))
	}
	return s
}

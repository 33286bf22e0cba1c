package proxy

import (
	"bytes"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/hello"
)

// A request is a request head as the front understood it. Everything behind
// the front uses these values and never reads the head again.
type request struct {
	method  string
	minor   int             // of HTTP/1.minor
	host    blocklists.Host // of the target; the Host field never counts
	port    uint16
	path    string    // path and query as they were sent, or "*"; empty for CONNECT
	fields  [2]string // field lines before and after Host, each with its CRLF
	upgrade bool      // asks for WebSocket
	length  int64     // of the content; -1 for chunked
	via     []string

	// Of transparent connections; nil and zero for others.
	diverted *diverted
	protocol protocol
	sent     string       // the Host field, in its canonical form
	hello    *hello.Hello // of protocolTLS and protocolQUIC
	first    []byte       // of protocolUnknown
}

func (q *request) connect() bool { return q.method == http.MethodConnect }

// hostPort returns the target as a CONNECT request spells it.
func (q *request) hostPort() string {
	return net.JoinHostPort(q.host.String(), strconv.Itoa(int(q.port)))
}

// authority returns what the origin is sent as Host.
func (q *request) authority() string {
	if q.sent != "" {
		return q.sent
	}
	if q.connect() || q.port != 80 {
		return q.hostPort()
	}
	if a := q.host.Addr; a.Is6() {
		return "[" + a.String() + "]"
	}
	return q.host.String()
}

// head returns the request head that net/http is given: the same fields, but
// the target and Host in their canonical form and without a path, so that no
// second parser ever interprets what the client wrote there.
func (q *request) head() []byte {
	target := q.authority()
	if !q.connect() {
		target = "http://" + target + "/"
	}
	b := make([]byte, 0, len(q.fields[0])+len(q.fields[1])+2*len(target)+len(q.method)+32)
	b = append(append(append(append(b, q.method...), ' '), target...), " HTTP/1."...)
	b = append(append(strconv.AppendInt(b, int64(q.minor), 10), "\r\nHost: "...), q.authority()...)
	b = append(append(b, "\r\n"...), q.fields[0]...)
	return append(append(b, q.fields[1]...), "\r\n"...)
}

// A refusal is why the front did not understand a request.
type refusal struct {
	method string // GET or HEAD, for the form of the response
	status int
	text   string
}

func refuse(text string) *refusal { return &refusal{status: http.StatusBadRequest, text: text} }

const help = "this is an HTTP proxy: requests need an absolute http:// target, or CONNECT host:port"

// findHead searches b, up to scan already searched, for the end of a head. It
// returns the head's length, or 0 and up to where it searched. Lines end in
// CRLF only: bare CR and bare LF are read in different ways by different
// software (RFC 9112, section 2.2).
func findHead(b []byte, scan, limit int) (end, scanned int, bad *refusal) {
	switch {
	case len(b) == 1 && b[0] == '\r':
		return 0, scan, nil // an empty line whose end is still to come
	case len(b) > 0 && b[0] != '\r' && !isTokenByte(b[0]):
		return 0, scan, refuse("this is not HTTP")
	}
	for i := scan; i < len(b); i++ {
		switch {
		case b[i] == '\n' && (i == 0 || b[i-1] != '\r'), b[i] != '\n' && i > 0 && b[i-1] == '\r':
			return 0, i, refuse("lines must end in CRLF")
		case b[i] == '\n' && i >= 3 && b[i-2] == '\n':
			return i + 1, i, nil
		}
	}
	if len(b) >= limit {
		return 0, len(b), &refusal{status: http.StatusRequestHeaderFieldsTooLarge, text: "request head is too large"}
	}
	return 0, len(b), nil
}

// parseHead reads a request head with its empty line. It is strict where
// leniency would let two readers understand two requests.
func parseHead(raw []byte) (*request, *refusal) { return parseHeadFor(raw, nil) }

// parseHeadFor is parseHead for a connection that was going to somebody else,
// unless diverted is nil.
func parseHeadFor(raw []byte, d *diverted) (*request, *refusal) {
	line, rest, ok := bytes.Cut(raw, []byte("\r\n"))
	if !ok {
		return nil, refuse("request head has no end")
	}
	q, target, bad := parseRequestLine(string(line))
	if bad != nil {
		return nil, bad
	}
	f, bad := parseFields(string(rest))
	switch {
	case bad != nil:
	case d != nil:
		bad = q.setDiverted(target, f.host, d)
	default:
		bad = q.setTarget(target)
	}
	if bad == nil {
		bad = q.setFraming(f)
	}
	if bad == nil && d == nil {
		bad = q.checkHost(f.host, target)
	}
	if bad != nil {
		if q.method == http.MethodHead {
			bad.method = q.method
		}
		return nil, bad
	}
	q.fields, q.via = f.kept(), f.via
	q.upgrade = q.method == http.MethodGet && q.minor >= 1 && q.length == 0 &&
		hasToken(f.connection, "upgrade") && hasToken(f.upgrade, "websocket")
	return q, nil
}

// parseRequestLine is RFC 9112, section 3, with single spaces only.
func parseRequestLine(line string) (*request, string, *refusal) {
	method, rest, _ := strings.Cut(line, " ")
	target, version, ok := strings.Cut(rest, " ")
	if !ok || !isToken(method) || target == "" {
		return nil, "", refuse("request line is malformed")
	}
	q := &request{method: method}
	switch version {
	case "HTTP/1.1":
		q.minor = 1
	case "HTTP/1.0":
	default:
		if strings.HasPrefix(version, "HTTP/") && isToken(strings.ReplaceAll(version[5:], ".", "")) {
			return nil, "", &refusal{status: http.StatusHTTPVersionNotSupported, text: "only HTTP/1.1 and HTTP/1.0 are spoken here"}
		}
		return nil, "", refuse("request line is malformed")
	}
	for i := 0; i < len(target); i++ {
		if target[i] <= ' ' || target[i] == 0x7f {
			return nil, "", refuse("request target has a control character")
		}
	}
	if strings.Contains(target, "#") {
		return nil, "", refuse("request target has a fragment")
	}
	return q, target, nil
}

// setTarget reads the request target: authority-form for CONNECT, absolute-form
// with the http scheme for everything else (RFC 9112, section 3.2).
func (q *request) setTarget(target string) *refusal {
	if q.connect() {
		return q.setAuthority(target, 0)
	}
	scheme, rest, ok := strings.Cut(target, "://")
	switch {
	case !ok || strings.ContainsAny(scheme, "/?"):
		return refuse(help)
	case strings.EqualFold(scheme, "https"):
		return refuse("https:// needs CONNECT; it is not fetched in the clear")
	case !strings.EqualFold(scheme, "http"):
		return refuse("only http:// targets are forwarded")
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	q.path = rest[end:]
	switch {
	case q.path == "" && q.method == http.MethodOptions:
		q.path = "*" // RFC 9112, section 3.2.4
	case !strings.HasPrefix(q.path, "/"):
		q.path = "/" + q.path
	}
	return q.setAuthority(rest[:end], 80)
}

// setAuthority reads host and port. CONNECT has no default port (RFC 9110,
// section 9.3.6).
func (q *request) setAuthority(s string, defaultPort uint16) *refusal {
	if strings.Contains(s, "@") {
		return refuse("request target has userinfo")
	}
	host, port, bad := splitAuthority(s)
	if bad != nil {
		return bad
	}
	h, err := blocklists.ParseHost(host)
	if err != nil {
		return refuse("host of the request target: " + err.Error())
	}
	if port == 0 {
		port = defaultPort
	}
	if port == 0 {
		return refuse("CONNECT needs host:port")
	}
	q.host, q.port = h, port
	return nil
}

// splitAuthority takes the port off, 0 where there is none.
func splitAuthority(s string) (host string, port uint16, bad *refusal) {
	host = s
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		host = s[:i]
		if digits := s[i+1:]; digits != "" {
			n, err := strconv.ParseUint(digits, 10, 16)
			if err != nil || n == 0 || len(digits) > 5 {
				return "", 0, refuse("port is not a number from 1 to 65535")
			}
			port = uint16(n)
		}
	}
	if strings.Contains(host, ":") && !strings.HasPrefix(host, "[") {
		return "", 0, refuse("an IPv6 address needs brackets")
	}
	return host, port, nil
}

// setFraming finds where the content ends (RFC 9112, section 6.3). What two
// readers could read in two ways is refused, not repaired.
func (q *request) setFraming(f *fields) *refusal {
	switch {
	case len(f.coding) > 0 && len(f.length) > 0:
		return refuse("request has both Transfer-Encoding and Content-Length")
	case len(f.coding) > 0 && q.minor == 0:
		return refuse("HTTP/1.0 has no Transfer-Encoding")
	case len(f.coding) > 1 || len(f.coding) == 1 && !strings.EqualFold(f.coding[0], "chunked"):
		return &refusal{status: http.StatusNotImplemented, text: "only the chunked transfer coding is known"}
	case len(f.coding) == 1:
		q.length = -1
	case len(f.length) > 1:
		return refuse("request has several Content-Length fields")
	case len(f.length) == 1:
		n, err := strconv.ParseUint(f.length[0], 10, 63)
		if err != nil {
			return refuse("Content-Length is not a number")
		}
		q.length = int64(n)
	}
	if q.length != 0 && (q.connect() || q.method == http.MethodTrace) {
		return refuse(q.method + " has no content") // RFC 9110, sections 9.3.6 and 9.3.8
	}
	return nil
}

// checkHost compares the Host field with the target. The target counts and its
// host is what the origin is sent (RFC 9112, section 3.2.2); a Host field that
// says something else is how requests are smuggled, so it is refused. CONNECT
// may come without the field, which some clients never send: its target is an
// authority already.
func (q *request) checkHost(hosts []string, target string) *refusal {
	switch {
	case len(hosts) == 1 && q.connect() && hosts[0] == target:
		return nil // most often, and then it says what the target says
	case len(hosts) > 1:
		return refuse("request has several Host fields")
	case len(hosts) == 0 && (q.minor == 0 || q.connect()):
		return nil
	case len(hosts) == 0:
		return refuse("request has no Host field")
	}
	h, port, bad := parseHostField(hosts[0])
	if bad == nil && (h != q.host || port != 0 && port != q.port) {
		bad = refuse("Host field and request target differ")
	}
	return bad
}

// parseHostField reads a Host field; the port is 0 where there is none.
func parseHostField(value string) (h blocklists.Host, port uint16, bad *refusal) {
	host, port, bad := splitAuthority(value)
	if bad != nil {
		return h, 0, refuse("Host field is malformed")
	}
	h, err := blocklists.ParseHost(host)
	if err != nil {
		return h, 0, refuse("Host field: " + err.Error())
	}
	return h, port, nil
}

// fields are the field values that the front needs, and the lines it keeps.
type fields struct {
	host, length, coding, connection, upgrade, via []string
	before, after                                  string // the lines but the Host field
}

// kept are the lines that go on. There is one Host field at the most in what is
// not refused.
func (f *fields) kept() [2]string { return [2]string{f.before, f.after} }

// maxFields bounds the number of field lines.
const maxFields = 200

// parseFields is RFC 9112, section 5, without line folding.
func parseFields(all string) (*fields, *refusal) {
	f := new(fields)
	from, b := all, all
	for n := 0; ; n++ {
		line, rest, ok := strings.Cut(b, "\r\n")
		switch {
		case !ok:
			return nil, refuse("request head has no end")
		case len(line) == 0 && len(rest) > 0:
			return nil, refuse("request head has something after its end")
		case len(line) == 0:
			f.after = from[:len(from)-len(b)]
			return f, nil
		case n == maxFields:
			return nil, &refusal{status: http.StatusRequestHeaderFieldsTooLarge, text: "request has too many fields"}
		}
		hosts := len(f.host)
		if bad := f.add(line); bad != nil {
			return nil, bad
		}
		if len(f.host) > hosts {
			f.before, from = from[:len(from)-len(b)], rest
		}
		b = rest
	}
}

func (f *fields) add(line string) *refusal {
	if line[0] == ' ' || line[0] == '\t' {
		return refuse("request has a folded field line") // RFC 9112, section 5.2
	}
	name, value, ok := strings.Cut(line, ":")
	if !ok || !isToken(name) {
		return refuse("request has a malformed field line") // also a space before the colon: section 5.1
	}
	value = strings.Trim(value, " \t")
	for i := 0; i < len(value); i++ {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return refuse("request has a field with a control character")
		}
	}
	if to := f.of(name); to != nil {
		*to = append(*to, value)
	}
	return nil
}

// of returns where the values of the field are kept, nil for one that the front
// does not need. The length comes first: most fields are none of these.
func (f *fields) of(name string) *[]string {
	for _, known := range [...]struct {
		name   string
		values *[]string
	}{
		{"host", &f.host}, {"via", &f.via}, {"upgrade", &f.upgrade}, {"connection", &f.connection},
		{"content-length", &f.length}, {"transfer-encoding", &f.coding},
	} {
		if len(name) == len(known.name) && strings.EqualFold(name, known.name) {
			return known.values
		}
	}
	return nil
}

// eachField gives the fields that were kept, in order.
func (q *request) eachField(yield func(name, value string) bool) {
	for _, lines := range q.fields {
		for line := range strings.SplitSeq(lines, "\r\n") {
			if name, value, ok := strings.Cut(line, ":"); ok && !yield(name, strings.Trim(value, " \t")) {
				return
			}
		}
	}
}

// hasToken reports whether a comma-separated list in the values has the token.
func hasToken(values []string, token string) bool {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.Trim(t, " \t"), token) {
				return true
			}
		}
	}
	return false
}

// isToken is RFC 9110, section 5.6.2.
func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		if !isTokenByte(s[i]) {
			return false
		}
	}
	return s != ""
}

func isTokenByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

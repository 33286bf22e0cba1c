package proxy

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/weir-gateway/weir/blocklists"
)

//go:embed page.html
var pageHTML string

var page = template.Must(template.New("page").Parse(pageHTML))

// pagePolicy lets the page use its one style and nothing else.
var pagePolicy = func() string {
	_, style, _ := strings.Cut(pageHTML, "<style>")
	style, _, _ = strings.Cut(style, "</style>")
	sum := sha256.Sum256([]byte(style))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}()

// A block is what the page says.
type block struct {
	Host       string
	Ban        blocklists.Ban
	Link       bool // the reference is an address that a browser can open
	Rule       string
	RuleID     string
	Via        string
	Generation uint64
	Time       string
}

func (x *exchange) page() []byte {
	v := &x.verdict
	b := block{Host: x.request.host.String(), Rule: v.Rule.String(), RuleID: v.RuleID(), Via: x.via,
		Generation: v.Generation, Time: x.start.UTC().Format(time.RFC3339)}
	if v.Ban != nil {
		b.Ban = *v.Ban
	}
	both(&b.Ban.Title, "This destination", "Cette destination")
	both(&b.Ban.Authority, "the operator of this network", "l’exploitant de ce réseau")
	both(&b.Ban.Reason, "No reason was published.", "Aucun motif n’a été publié.")
	both(&b.Ban.Contact, "Your IT service desk", "Votre centre de services informatiques")
	b.Link = strings.HasPrefix(b.Ban.Reference, "https://") || strings.HasPrefix(b.Ban.Reference, "http://")
	var out bytes.Buffer
	if err := page.Execute(&out, b); err != nil {
		return []byte(http.StatusText(http.StatusForbidden))
	}
	return out.Bytes()
}

// both fills in what a ban does not say; one language stands in for the other.
func both(t *blocklists.Text, en, fr string) {
	switch {
	case t.EN == "" && t.FR == "":
		t.EN, t.FR = en, fr
	case t.EN == "":
		t.EN = t.FR
	case t.FR == "":
		t.FR = t.EN
	}
}

// denyPlain answers a plain HTTP request that is not carried out: with the page
// where a ban holds it back, and then the connection stays if nothing of the
// request is left unread; else with one line, and the connection ends.
func (s *Server) denyPlain(w http.ResponseWriter, r *http.Request, g *gate, x *exchange, d *denial) {
	if !x.verdict.Blocked() {
		s.denyText(w, g, x, d)
		return
	}
	x.denied(d)
	keep := r.ContentLength == 0 && !x.request.upgrade
	if !keep {
		g.abandon()
	}
	body := x.page()
	h := w.Header()
	clear(h)
	h.Set("Proxy-Status", proxyStatus(d))
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Language", "en, fr")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	if !keep {
		h.Set("Connection", "close")
	}
	w.WriteHeader(d.status)
	_, _ = w.Write(body) // net/http leaves it out for HEAD
}

package resolver

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestHTTPMisbehaves(t *testing.T) {
	ca := newAuthority(t)
	conf := ca.server(t, "127.0.0.1")
	good := records(t, wwwA)
	target := listenHTTPS(t, doh(good), conf)
	var body []byte
	reply := func(typ string, change func(b []byte) []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, req *http.Request) {
			in, _ := io.ReadAll(req.Body)
			q := new(dns.Msg)
			if err := q.Unpack(in); err != nil {
				t.Error(err)
			}
			w.Header().Set("Content-Type", typ)
			_, _ = w.Write(change(pack(t, good.answer(q))))
		}
	}
	body = make([]byte, maxMsg+100)
	for name, h := range map[string]http.HandlerFunc{
		"redirect": func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, "https://"+target.String()+"/dns-query", 307)
		},
		"error":        func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 500) },
		"content type": reply("text/html", func(b []byte) []byte { return b }),
		"too long":     reply(mediaType, func(b []byte) []byte { return append(b, body...) }),
		"empty":        reply(mediaType, func([]byte) []byte { return nil }),
		"ID":           reply(mediaType, func(b []byte) []byte { b[1] = 1; return b }),
		"truncated":    reply(mediaType, func(b []byte) []byte { b[2] |= 2; return b }),
		"hangs":        func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			before := good.queries.Load()
			r := open(t, Options{Upstreams: upstreams(t, "https://"+listenHTTPS(t, h, conf).String()), TLSConfig: ca.client(), Timeout: 500 * time.Millisecond})
			if _, err := r.Resolve(t.Context(), question("www.example", dns.TypeA)); err == nil {
				t.Error("no error")
			}
			if good.queries.Load() != before {
				t.Error("a redirect was followed")
			}
		})
	}
}

func TestHTTPAge(t *testing.T) {
	ca := newAuthority(t)
	z := records(t, wwwA)
	inner := doh(z)
	addr := listenHTTPS(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Age", "100")
		inner(w, req)
	}), ca.server(t, "127.0.0.1"))
	r := open(t, Options{Upstreams: upstreams(t, "https://"+addr.String()), TLSConfig: ca.client()})
	a := resolve(t, r, "www.example", dns.TypeA)
	wantTexts(t, "answer", a.Reply(question("www.example", dns.TypeA)).Answer, "www.example. 200 IN A 192.0.2.1")
}

package resolver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"

	"github.com/miekg/dns"
)

const mediaType = "application/dns-message"

// An httpsTransport asks over HTTPS (RFC 8484), by POST, over HTTP/2 or HTTP/3. It follows no redirect
// and uses no proxy: the upstream is the one that the operator named.
type httpsTransport struct {
	url    string
	client *http.Client
	count  *counters
}

func newHTTPS(b *builder, over http.RoundTripper, u *url.URL) *httpsTransport {
	to := *u
	to.Scheme = "https"
	if to.Path == "" {
		to.Path = "/dns-query"
	}
	to.Fragment = ""
	return &httpsTransport{url: to.String(), count: b.count, client: &http.Client{
		Transport: over,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}}
}

func (t *httpsTransport) close() { t.client.CloseIdleConnections() }

func (t *httpsTransport) exchange(ctx context.Context, k key, edns bool) (*dns.Msg, error) {
	// The ID is 0, so that caches on the way see equal queries (RFC 8484,
	// section 4.1). TLS protects what the ID protects over UDP.
	out, err := k.query(0, edns).Pack()
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url, bytes.NewReader(out))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", mediaType)
	req.Header.Set("Accept", mediaType)
	req.Header.Set("User-Agent", "") // says nothing
	// A query may be sent twice: net/http repeats it where an idle connection
	// turns out to be closed. A header without value is not sent.
	req.Header["Idempotency-Key"] = nil
	resp, err := t.client.Do(req)
	if err != nil {
		return nil, orDone(ctx, unwrapURL(err))
	}
	defer func() { _ = resp.Body.Close() }()
	m, err := readHTTP(ctx, resp, k)
	if errors.Is(err, errMismatch) {
		t.count.mismatched.Add(1)
	}
	return m, err
}

func readHTTP(ctx context.Context, resp *http.Response, k key) (*dns.Msg, error) {
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("HTTP status %d", resp.StatusCode)
	}
	if typ, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || typ != mediaType {
		return nil, fmt.Errorf("content type %q is not %s", resp.Header.Get("Content-Type"), mediaType)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxMsg+1))
	if err != nil {
		return nil, orDone(ctx, err)
	}
	if len(raw) > maxMsg {
		return nil, fmt.Errorf("%w: too long", errMalformed)
	}
	m, err := parse(raw, 0, k)
	if err != nil {
		return nil, err
	}
	if m.Truncated {
		return nil, fmt.Errorf("%w: truncated over HTTPS", errMalformed)
	}
	lessAge(m, resp.Header.Get("Age"))
	return m, nil
}

// lessAge takes the time in HTTP caches off the TTLs (RFC 8484, section 5.1).
func lessAge(m *dns.Msg, header string) {
	age, err := strconv.ParseUint(header, 10, 31)
	if err != nil {
		return
	}
	for _, rrs := range [][]dns.RR{m.Answer, m.Ns} {
		for _, rr := range rrs {
			h := rr.Header()
			h.Ttl -= min(h.Ttl, uint32(age))
		}
	}
}

// unwrapURL takes method and URL off an error: the upstream is named beside it.
func unwrapURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

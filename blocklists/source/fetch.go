package source

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// A Fetcher gets lists over HTTP and HTTPS. It never uses the proxy that the
// environment names, and where Bootstrap is given never the system's resolvers:
// both may be this very gateway, which would wait for itself. The zero Fetcher
// is ready for use.
type Fetcher struct {
	UserAgent string
	Bootstrap []netip.AddrPort // resolvers for the hosts of sources; empty: the system's
	Roots     *x509.CertPool   // nil: the system's
}

// A Request says what to fetch and within which bounds.
type Request struct {
	URL string
	Validators
	Limits   FetchLimits
	Proxy    *url.URL       // nil for none
	Networks []netip.Prefix // special networks that it may lead to
}

// Validators are what a server said of a version, to be asked later whether it
// still is the newest (RFC 9110, section 8.8).
type Validators struct {
	ETag         string `json:"etag,omitempty"`
	LastModified string `json:"last_modified,omitempty"`
}

// FetchLimits bound a fetch. A field that is zero or negative means its default.
type FetchLimits struct {
	Bytes  int64         // of the list, unpacked; default 64 MiB
	Total  time.Duration // for everything; default 2 minutes
	Header time.Duration // until the header is there, of each hop; default 15 s
	Idle   time.Duration // without a byte; default 15 s
}

const (
	maxRedirects  = 5
	maxRespHeader = 64 << 10
	defaultTotal  = 2 * time.Minute
	defaultWait   = 15 * time.Second
	defaultBytes  = 64 << 20
)

func (l FetchLimits) withDefaults() FetchLimits {
	if l.Bytes <= 0 {
		l.Bytes = defaultBytes
	}
	if l.Total <= 0 {
		l.Total = defaultTotal
	}
	if l.Header <= 0 {
		l.Header = defaultWait
	}
	if l.Idle <= 0 {
		l.Idle = defaultWait
	}
	l.Header, l.Idle = min(l.Header, l.Total), min(l.Idle, l.Total)
	return l
}

// A Response is what came of a fetch.
type Response struct {
	NotModified bool // nothing was written
	Validators
	Bytes int64 // written
}

// A Reason is why a fetch failed, in a word for metrics.
type Reason string

// The reasons.
const (
	ReasonStatus    Reason = "status"    // an answer that is not the list
	ReasonTimeout   Reason = "timeout"   // too slow, or silent
	ReasonNetwork   Reason = "network"   // no connection, or a broken one
	ReasonTLS       Reason = "tls"       // the server is not who it should be
	ReasonRedirect  Reason = "redirect"  // too many, or to where none may lead
	ReasonAddress   Reason = "address"   // to a special address
	ReasonTruncated Reason = "truncated" // less than was announced
	ReasonSize      Reason = "size"      // more than the limit
	ReasonBomb      Reason = "bomb"      // packed data that unpacks to far too much
	ReasonEncoding  Reason = "encoding"  // packed in another way than gzip, or broken
	ReasonType      Reason = "type"      // a media type that no list has
)

// A FetchError says why there is no new version.
type FetchError struct {
	Reason Reason
	Msg    string
	Err    error // may be nil
}

func (e *FetchError) Error() string {
	if e.Err == nil {
		return e.Msg
	}
	return e.Msg + ": " + e.Err.Error()
}

func (e *FetchError) Unwrap() error { return e.Err }

// Fetch writes the source's bytes to w, unpacked of the encoding that they
// travelled in, unless they are what the validators say. Any error is a
// *FetchError; what was written before it is a part of a list at best.
func (f *Fetcher) Fetch(ctx context.Context, req Request, w io.Writer) (Response, error) {
	lim := req.Limits.withDefaults()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	total := time.AfterFunc(lim.Total, func() {
		cancel(&FetchError{Reason: ReasonTimeout, Msg: fmt.Sprintf("not finished after %v", lim.Total)})
	})
	defer total.Stop()
	resp, err := f.fetch(ctx, cancel, req, lim, w)
	if err == nil {
		return resp, nil
	}
	return Response{}, classify(ctx, err)
}

func (f *Fetcher) fetch(ctx context.Context, cancel context.CancelCauseFunc, req Request, lim FetchLimits, w io.Writer) (Response, error) {
	hr, err := http.NewRequestWithContext(ctx, http.MethodGet, req.URL, nil)
	if err != nil {
		return Response{}, err
	}
	hr.Header.Set("User-Agent", f.UserAgent)
	hr.Header.Set("Accept", "text/plain, application/octet-stream;q=0.9, */*;q=0.5")
	hr.Header.Set("Accept-Encoding", "gzip")
	asked := req.Validators != Validators{}
	if req.ETag != "" {
		hr.Header.Set("If-None-Match", req.ETag)
	}
	if req.LastModified != "" {
		hr.Header.Set("If-Modified-Since", req.LastModified)
	}
	t := f.transport(hr.URL, req, lim)
	defer t.CloseIdleConnections()
	resp, err := (&http.Client{Transport: t, CheckRedirect: checkRedirect}).Do(hr)
	if err != nil {
		return Response{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	out := Response{Validators: validators(resp.Header)}
	if resp.StatusCode == http.StatusNotModified && asked {
		out.NotModified, out.Validators = true, req.Validators
		return out, nil
	}
	if err := checkHeader(resp, lim.Bytes); err != nil {
		return Response{}, err
	}
	body := newIdleReader(resp.Body, lim.Idle, cancel)
	defer body.stop()
	r, err := decoded(body, resp.Header.Get("Content-Encoding"), lim.Bytes)
	if err != nil {
		return Response{}, err
	}
	out.Bytes, err = io.Copy(w, r)
	return out, err
}

// maxValidator bounds what is sent back to a server: one that says more would refuse
// the question, and the list would never be had again.
const maxValidator = 1 << 10

func validators(h http.Header) (v Validators) {
	if tag := h.Get("ETag"); len(tag) <= maxValidator {
		v.ETag = tag
	}
	if at := h.Get("Last-Modified"); len(at) <= maxValidator {
		v.LastModified = at
	}
	return v
}

// checkHeader refuses what is not a list by what its header says.
func checkHeader(resp *http.Response, limit int64) error {
	// 206 was not asked for, and the others of the class have no list in them.
	if resp.StatusCode != http.StatusOK {
		return &FetchError{Reason: ReasonStatus, Msg: fmt.Sprintf("the server answers %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))}
	}
	if resp.ContentLength > limit {
		return tooLarge(limit)
	}
	text := resp.Header.Get("Content-Type")
	media, _, _ := mime.ParseMediaType(text)
	major, _, _ := strings.Cut(media, "/")
	switch {
	case major == "image", major == "audio", major == "video", major == "font", major == "multipart",
		media == "text/html", media == "application/xhtml+xml", media == "application/json", media == "application/problem+json",
		media == "text/xml", media == "application/xml", media == "application/pdf", media == "application/zip":
		return &FetchError{Reason: ReasonType, Msg: fmt.Sprintf("the server says that it is %s, which no list is", media)}
	}
	return nil
}

// checkRedirect holds each hop to what the first one could have been.
func checkRedirect(next *http.Request, via []*http.Request) error {
	switch u := next.URL; {
	case len(via) > maxRedirects:
		return &FetchError{Reason: ReasonRedirect, Msg: fmt.Sprintf("more than %d redirects", maxRedirects)}
	case u.Scheme != "https" && u.Scheme != "http":
		return &FetchError{Reason: ReasonRedirect, Msg: fmt.Sprintf("a redirect to %s:", u.Scheme)}
	case u.Scheme == "http" && via[0].URL.Scheme == "https":
		return &FetchError{Reason: ReasonRedirect, Msg: fmt.Sprintf("a redirect from https to http, at %s", u.Host)}
	case u.User != nil:
		return &FetchError{Reason: ReasonRedirect, Msg: "a redirect with a user and a password"}
	}
	return nil
}

// transport returns one for this request alone: what may be dialled depends on
// the source, and sources are asked too seldom for a connection to be kept.
func (f *Fetcher) transport(first *url.URL, req Request, lim FetchLimits) *http.Transport {
	g := guard{first: first, networks: req.Networks}
	t := &http.Transport{
		Proxy:                  nil, // not the environment's, see Fetcher
		DialContext:            g.dialer(f.resolver(), lim.Header).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: f.Roots},
		TLSHandshakeTimeout:    lim.Header,
		ResponseHeaderTimeout:  lim.Header,
		MaxResponseHeaderBytes: maxRespHeader,
		DisableCompression:     true, // package net/http would unpack without a limit
		DisableKeepAlives:      true,
		ForceAttemptHTTP2:      true,
	}
	if req.Proxy != nil {
		t.Proxy = func(r *http.Request) (*url.URL, error) { return req.Proxy, g.checkHost(r.URL) }
		t.DialContext = (&net.Dialer{Timeout: lim.Header, Resolver: f.resolver()}).DialContext
	}
	return t
}

// resolver returns the one that asks the bootstrap resolvers, in turns.
func (f *Fetcher) resolver() *net.Resolver {
	if len(f.Bootstrap) == 0 {
		return nil
	}
	var turn atomic.Uint32
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		at := f.Bootstrap[int(turn.Add(1)-1)%len(f.Bootstrap)]
		return new(net.Dialer).DialContext(ctx, network, at.String())
	}}
}

// An idleReader cancels the exchange when no byte comes for too long.
type idleReader struct {
	r     io.Reader
	limit time.Duration
	timer *time.Timer
}

func newIdleReader(r io.Reader, limit time.Duration, cancel context.CancelCauseFunc) *idleReader {
	return &idleReader{r: r, limit: limit, timer: time.AfterFunc(limit, func() {
		cancel(&FetchError{Reason: ReasonTimeout, Msg: fmt.Sprintf("no byte for %v", limit)})
	})}
}

func (r *idleReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.timer.Reset(r.limit)
	return n, err
}

func (r *idleReader) stop() { r.timer.Stop() }

// classify makes a *FetchError of whatever ended the exchange.
func classify(ctx context.Context, err error) error {
	// What cancelled the exchange says more than what the cancelling broke.
	if fe, ok := errors.AsType[*FetchError](context.Cause(ctx)); ok {
		return fe
	}
	if fe, ok := errors.AsType[*FetchError](err); ok {
		return fe
	}
	// The URL is known to whoever asks, and would stand twice in the message.
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	var timeout interface{ Timeout() bool }
	var unknown x509.UnknownAuthorityError
	var verify *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	switch {
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &verify), errors.As(err, &unknown), errors.As(err, &record), errors.As(err, &alert):
		return &FetchError{ReasonTLS, "no trust in the server", err}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &FetchError{ReasonTruncated, "the list ends too early", err}
	case errors.As(err, &timeout) && timeout.Timeout():
		return &FetchError{ReasonTimeout, "no answer in time", err}
	}
	return &FetchError{ReasonNetwork, "no exchange with the server", err}
}

// FetchSmall fetches what is not a list, such as a signature, of a few KB.
func (f *Fetcher) FetchSmall(ctx context.Context, req Request) ([]byte, error) {
	const limit = 16 << 10
	req.Validators, req.Limits.Bytes = Validators{}, limit
	var b strings.Builder
	_, err := f.Fetch(ctx, req, &b)
	return []byte(b.String()), err
}

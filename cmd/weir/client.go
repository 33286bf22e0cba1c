package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/weir-gateway/weir/gateway"
	"github.com/weir-gateway/weir/gateway/admin"
)

// adminFlags are those of commands that ask a running gateway.
func adminFlags(more ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{
		configFlag(),
		&cli.StringFlag{Name: "admin", Usage: "ask the gateway at `URL` (https://gateway.example:8053) and not at the socket in the state folder"},
		&cli.StringFlag{Name: "token-file", Usage: "`FILE` with the token to show"},
		&cli.StringFlag{Name: "ca", Usage: "`FILE` with the certificate authority of the URL's server, PEM"},
		jsonFlag(),
	}, more...)
}

// A client asks the admin API of a running gateway.
type client struct {
	http  http.Client
	base  string // URL without a path
	where string // for errors
	token string
}

const clientTimeout = 30 * time.Second

// newClient returns a client for what the flags say: a URL, or the socket that
// the configuration's state folder has.
func newClient(c *cli.Context) (*client, error) {
	cl := &client{base: strings.TrimSuffix(c.String("admin"), "/")}
	cl.where = cl.base
	// No proxy from the environment: it could be this very gateway.
	transport := &http.Transport{DialContext: new(net.Dialer).DialContext, DisableKeepAlives: true}
	cl.http = http.Client{Transport: transport, Timeout: clientTimeout}
	if file := c.String("token-file"); file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("token: %w", err)
		}
		cl.token = strings.TrimSpace(string(b))
	}
	if cl.base != "" {
		return cl, cl.overTCP(transport, c.String("ca"))
	}
	cfg, err := loadConfig(c)
	if err != nil {
		return nil, err
	}
	path, err := gateway.SocketPath(cfg)
	if err != nil {
		return nil, err
	}
	cl.base, cl.where = "http://weir", path
	transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	return cl, nil
}

func (cl *client) overTCP(transport *http.Transport, ca string) error {
	u, err := url.Parse(cl.base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Path != "" {
		return fmt.Errorf("--admin takes a URL such as https://gateway.example:8053, got %q", cl.base)
	}
	if ip := net.ParseIP(u.Hostname()); cl.token != "" && u.Scheme == "http" && (ip == nil || !ip.IsLoopback()) {
		return errors.New("the token would cross the network readable: --admin must begin with https://")
	}
	if ca == "" {
		return nil
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return fmt.Errorf("certificate authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return fmt.Errorf("there is no certificate in %s", ca)
	}
	transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return nil
}

// errNoGateway: nothing answers.
var errNoGateway = errors.New("no gateway answers")

// get asks for an object, and returns its version.
func (cl *client) get(ctx context.Context, path string, out any) (etag string, err error) {
	return cl.call(ctx, http.MethodGet, path, "", nil, out)
}

// change asks for a change; etag is the version of the object that it is about,
// empty for none. It is done once, however often it had to be sent.
func (cl *client) change(ctx context.Context, method, path, etag string, in, out any) error {
	_, err := cl.call(ctx, method, path, etag, in, out)
	return err
}

func (cl *client) call(ctx context.Context, method, path, etag string, in, out any) (string, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return "", err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, cl.base+path, body)
	if err != nil {
		return "", err
	}
	set := func(name, value string) {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	set("If-Match", etag)
	if in != nil {
		set("Content-Type", "application/json")
	}
	if method != http.MethodGet {
		set("Idempotency-Key", rand.Text())
	}
	if cl.token != "" {
		set("Authorization", "Bearer "+cl.token)
	}
	resp, err := cl.http.Do(req)
	if err != nil {
		if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
			return "", fmt.Errorf("%w at %s (%w); start it with weir serve, or name its configuration with --config", errNoGateway, cl.where, op.Err)
		}
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	return resp.Header.Get("ETag"), decode(resp, out)
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 20

func decode(resp *http.Response, out any) error {
	d := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode >= 300 {
		var p admin.Problem
		if err := d.Decode(&p); err != nil || p.Detail == "" {
			return fmt.Errorf("what answers is no gateway: %s", resp.Status)
		}
		return &p
	}
	if out == nil || resp.StatusCode == http.StatusNoContent {
		return nil
	}
	if err := d.Decode(out); err != nil {
		return fmt.Errorf("what answers is no gateway: %w", err)
	}
	return nil
}

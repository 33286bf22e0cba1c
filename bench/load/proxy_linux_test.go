package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A proxyServer is a small real proxy with a fault.
type proxyServer struct {
	addr     string
	requests atomic.Uint64
	refuse   int // status of every CONNECT; 0: tunnels
	every    uint64
	fault    string // what happens at each every-th request
	origin   string
}

func serveProxy(t *testing.T, p *proxyServer) *proxyServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	p.addr = l.Addr().String()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	return p
}

func (p *proxyServer) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	r := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		n := p.requests.Add(1)
		fault := ""
		if p.every > 0 && n%p.every == 0 {
			fault = p.fault
		}
		switch {
		case fault == "hang up":
			return
		case fault == "silence":
			time.Sleep(time.Minute)
		case req.Method == http.MethodConnect && p.refuse > 0 && fault != "leak":
			_, _ = io.WriteString(c, "HTTP/1.1 "+strconv.Itoa(p.refuse)+" No\r\nContent-Length: 0\r\n\r\n")
			return
		case req.Method == http.MethodConnect:
			p.tunnel(c, fault)
			return
		default:
			page := string(body)
			if fault == "lie" {
				page = strings.Replace(page, "0", "1", 1)
			}
			closing := ""
			if fault == "close" {
				closing = "Connection: close\r\n"
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n"+closing+"Content-Length: 1024\r\n\r\n"+page)
			if closing != "" {
				return
			}
		}
	}
}

func (p *proxyServer) tunnel(c net.Conn, fault string) {
	o, err := net.Dial("tcp", p.origin)
	if err != nil {
		return
	}
	defer func() { _ = o.Close() }()
	_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	if fault == "lie" {
		_, _ = io.WriteString(c, strings.Repeat("x", len(ping)))
		return
	}
	go func() {
		_, _ = io.Copy(o, c)
		_ = o.Close() // or the origin would wait for ever, and so would the copy below
	}()
	if fault == "skip" {
		b := make([]byte, 1<<20)
		_, _ = io.ReadFull(o, b[:1000])
		_, _ = c.Write(b[:999])
	}
	_, _ = io.Copy(c, o)
}

func startOrigin(t *testing.T) string {
	t.Helper()
	o, addr, err := listenOrigin("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return addr
}

func TestConnect(t *testing.T) {
	p := serveProxy(t, &proxyServer{origin: startOrigin(t)})
	r := load(t, 0, "connect", "-proxy", p.addr, "-origin", p.origin, "-conns", "8", "-time", "300ms", "-pid", strconv.Itoa(os.Getpid()))
	if r.Answered == 0 || r.Lost+r.Wrong+r.Errors != 0 || r.Sent < r.Answered || r.Sent > r.Answered+8 {
		t.Errorf("report %+v", r)
	}
	if r.Setup == nil || r.Setup.P50 <= 0 || r.Setup.P50 > r.Latency.P50 || r.CPU == nil || r.CPU.PerOperation <= 0 {
		t.Errorf("set-up %+v, latency %+v, CPU %+v", r.Setup, r.Latency, r.CPU)
	}
	direct := load(t, 0, "connect", "-proxy", "", "-origin", p.origin, "-conns", "8", "-time", "200ms")
	if direct.Answered == 0 || direct.Setup != nil {
		t.Errorf("without a proxy: %+v", direct)
	}
}

func TestFaultyTunnels(t *testing.T) {
	origin := startOrigin(t)
	for fault, code := range map[string]int{"lie": exitWrong, "hang up": 0, "silence": 0} {
		timeout := "30s"
		if fault == "silence" {
			timeout = "1s"
		}
		for try := 1; ; try++ {
			p := serveProxy(t, &proxyServer{origin: origin, every: 10, fault: fault})
			r := load(t, code, "connect", "-proxy", p.addr, "-origin", origin, "-conns", "4", "-time", "2500ms", "-timeout", timeout)
			got, faults := map[string]uint64{"lie": r.Wrong, "hang up": r.Errors, "silence": r.Lost}, p.requests.Load()/10
			if try < 10 && (got[fault] == 0 || got[fault] > faults) {
				continue // the time was over at once, or some were only late
			}
			if got[fault] == 0 || got[fault] > faults {
				t.Errorf("%s: %v of %d requests", fault, got, p.requests.Load())
			}
			for other, n := range got {
				if other != fault && n > 0 {
					t.Errorf("%s also shows as %d of %s", fault, n, other)
				}
			}
			break
		}
	}
}

func TestBlockedConnect(t *testing.T) {
	list := names(t, 100)
	p := serveProxy(t, &proxyServer{refuse: 403})
	r := load(t, 0, "blocked", "-proxy", p.addr, "-names", list, "-conns", "4", "-time", "200ms")
	if r.Answered == 0 || r.Wrong+r.Errors+r.Lost != 0 {
		t.Errorf("report %+v", r)
	}
	r = longer(t, 200*time.Millisecond, func(length string) (report, error) {
		p = serveProxy(t, &proxyServer{refuse: 403, every: 10, fault: "leak", origin: startOrigin(t)})
		return loads(exitWrong, "blocked", "-proxy", p.addr, "-names", list, "-conns", "1", "-time", length)
	}, someWrong)
	// The last one may come when the time is over.
	if want := p.requests.Load() / 10; r.Wrong != want && r.Wrong+1 != want {
		t.Errorf("wrong %d, the proxy opened %d tunnels", r.Wrong, want)
	}
	p = serveProxy(t, &proxyServer{refuse: 502})
	load(t, exitWrong, "blocked", "-proxy", p.addr, "-names", list, "-conns", "1", "-time", "100ms")
}

func TestGet(t *testing.T) {
	p := serveProxy(t, &proxyServer{})
	r := load(t, 0, "get", "-proxy", p.addr, "-origin", "127.0.0.1:9", "-conns", "4", "-time", "200ms")
	if r.Answered == 0 || r.Wrong+r.Errors+r.Lost+r.Reconnects != 0 || p.requests.Load() < r.Answered {
		t.Errorf("%d requests, %+v", p.requests.Load(), r)
	}
	p = serveProxy(t, &proxyServer{every: 10, fault: "close"})
	r = load(t, 0, "get", "-proxy", p.addr, "-origin", "127.0.0.1:9", "-conns", "1", "-time", "200ms")
	// The last one may come when the time is over.
	if want := p.requests.Load() / 10; r.Reconnects != want && r.Reconnects+1 != want || r.Wrong+r.Errors != 0 {
		t.Errorf("%d reconnects, %d errors, the proxy closed %d times", r.Reconnects, r.Errors, want)
	}
	r = longer(t, 200*time.Millisecond, func(length string) (report, error) {
		p = serveProxy(t, &proxyServer{every: 10, fault: "lie"})
		return loads(exitWrong, "get", "-proxy", p.addr, "-origin", "127.0.0.1:9", "-conns", "1", "-time", length)
	}, someWrong)
	if want := p.requests.Load() / 10; r.Wrong != want && r.Wrong+1 != want {
		t.Errorf("wrong %d, the proxy lied %d times", r.Wrong, want)
	}
}

// TestOriginReadsHeadsInPieces, as some proxies write them, and several at once.
func TestOriginReadsHeadsInPieces(t *testing.T) {
	c, err := net.Dial("tcp", startOrigin(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	r := bufio.NewReader(c)
	for _, pieces := range [][]string{
		{"GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
		{"GET / HTTP/1.1\r\n", "Host: a\r\n", "\r", "\n"},
		{"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"},
	} {
		for _, piece := range pieces {
			_, _ = io.WriteString(c, piece)
			time.Sleep(5 * time.Millisecond)
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("%q: %v", pieces, err)
		}
		got, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || !bytes.Equal(got, body) {
			t.Errorf("%q: status %d, %d bytes, %v", pieces, resp.StatusCode, len(got), err)
		}
	}
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("after Connection: close: %v, want EOF", err)
	}
}

func TestBulk(t *testing.T) {
	p := serveProxy(t, &proxyServer{origin: startOrigin(t)})
	r := longer(t, 300*time.Millisecond, func(length string) (report, error) {
		return loads(0, "bulk", "-proxy", p.addr, "-origin", p.origin, "-conns", "4", "-time", length)
	}, func(r *report) bool { return r.Bytes >= 10<<20 })
	if r.Bytes < 10<<20 || r.Wrong+r.Errors != 0 {
		t.Errorf("%d bytes, %+v", r.Bytes, r)
	}
	p = serveProxy(t, &proxyServer{origin: p.origin, every: 1, fault: "skip"}) // one byte is missing
	r = longer(t, 200*time.Millisecond, func(length string) (report, error) {
		return loads(exitWrong, "bulk", "-proxy", p.addr, "-origin", p.origin, "-conns", "1", "-time", length)
	}, someWrong)
	if r.Wrong == 0 {
		t.Errorf("report %+v", r)
	}
}

func TestIdle(t *testing.T) {
	p := serveProxy(t, &proxyServer{origin: startOrigin(t)})
	r := load(t, 0, "idle", "-proxy", p.addr, "-origin", p.origin, "-conns", "300", "-time", "100ms", "-pid", strconv.Itoa(os.Getpid()))
	if r.Idle == nil || r.Idle.Tunnels != 300 || r.Idle.Alive != 300 || r.Errors+r.Wrong != 0 {
		t.Fatalf("report %+v, idle %+v", r, r.Idle)
	}
	// Generator, proxy and origin are one process here: four descriptors each.
	if r.Idle.FilesPerTunnel < 3.5 || r.Idle.FilesPerTunnel > 8 {
		t.Errorf("%v descriptors a tunnel", r.Idle.FilesPerTunnel)
	}
	bad := serveProxy(t, &proxyServer{refuse: 403})
	r = load(t, exitWrong, "idle", "-proxy", bad.addr, "-origin", p.origin, "-conns", "1000", "-time", "100ms")
	if r.Idle.Tunnels != 0 || r.Wrong < 100 || r.Sent > 100+2*maxPending {
		t.Errorf("refused: %d of %d tunnels, %d wrong; want it to stop at one in ten", r.Idle.Tunnels, r.Sent, r.Wrong)
	}
}

// load0 is load for runs that end without a report.
func load0(t *testing.T, wantCode int, args ...string) string {
	t.Helper()
	var out, errOut bytes.Buffer
	if code := run(context.Background(), args, &out, &errOut); code != wantCode {
		t.Fatalf("load %v: exit code %d, want %d\n%s%s", args, code, wantCode, &out, &errOut)
	}
	return out.String() + errOut.String()
}

func TestUsage(t *testing.T) {
	list := names(t, 1)
	for args, want := range map[string]int{
		"": exitUsage, "nothing": exitUsage, "udp -nothing": exitUsage, "udp -h": 0,
		"udp": exitFailed, "udp more": exitFailed, "udp -names /nowhere": exitFailed, "udp -names " + list + ":0": exitUsage,
		"udp -server localhost:53 -names " + list: exitFailed, "udp -flows 5000 -names " + list: exitFailed, "udp -time 2h -names " + list: exitFailed,
		"udp -type SPF -names " + list: exitFailed, "udp -rate -1 -names " + list: exitFailed, "udp -pid 0 -names " + list: exitFailed,
		"udp -rate 5 -once -names " + list: exitFailed, "udp -interval 1us -names " + list: exitFailed, "udp -pid 4194304 -names " + list: exitFailed,
		"connect -proxy 127.0.0.1:1": exitFailed, "blocked": exitFailed, "get -conns 0 -origin 127.0.0.1:1": exitFailed, "origin -listen x": exitFailed,
	} {
		if said := load0(t, want, strings.Fields(args)...); said == "" && want != exitUsage && want != 0 {
			t.Errorf("load %s says nothing", args)
		}
	}
}

package dnsserver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// closedWithin reports whether the server closes the connection in time.
func closedWithin(c net.Conn, d time.Duration) bool {
	_ = c.SetReadDeadline(time.Now().Add(d))
	_, err := io.Copy(io.Discard, c)
	var timeout net.Error
	return !errors.As(err, &timeout) || !timeout.Timeout()
}

func TestPipelining(t *testing.T) {
	r := start(t, zones, Options{})
	c := r.dial(t, "tcp")
	var all []byte
	names := []string{"a.slow.example", "good.example", "wechat.com", "b.slow.example", "cloak.example"}
	for i, n := range names {
		q := query(n, dns.TypeA)
		q.Id = uint16(i)
		all = append(all, frame(pack(t, q))...)
	}
	if _, err := c.Write(all); err != nil {
		t.Fatal(err)
	}
	got := map[uint16]int{}
	for range 3 { // the slow ones do not hold the others up
		m := readFrame(t, c, secs(30))
		if m == nil {
			t.Fatal("no answer while a slow question waits")
		}
		got[m.Id] = m.Rcode
	}
	close(r.up.gate)
	// A client that has nothing more to ask gets the rest.
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if m := readFrame(t, c, secs(30)); m != nil {
			got[m.Id] = m.Rcode
		}
	}
	for i, want := range []int{0, 0, dns.RcodeNameError, 0, dns.RcodeNameError} {
		if rcode, ok := got[uint16(i)]; !ok || rcode != want {
			t.Errorf("%s: rcode %d (answered: %v), want %d", names[i], rcode, ok, want)
		}
	}
	if !closedWithin(c, secs(30)) {
		t.Error("the connection stays open after its end")
	}
}

func TestByteByByte(t *testing.T) {
	r := start(t, "", Options{})
	c := r.dial(t, "tcp")
	for _, b := range frame(pack(t, query("wechat.com", dns.TypeA))) {
		if _, err := c.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	if m := readFrame(t, c, secs(30)); m == nil || m.Rcode != dns.RcodeNameError {
		t.Errorf("got %v, want NXDOMAIN", m)
	}
}

// The largest message there is: read whole, and judged as usual.
func TestLargestMessage(t *testing.T) {
	r := start(t, "", Options{})
	q := edns(query("wechat.com", dns.TypeA), 1232)
	q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{}}
	p := pack(t, q)
	q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{Padding: make([]byte, dns.MaxMsgSize-len(p)-1)}}
	if p = pack(t, q); len(p) != dns.MaxMsgSize-1 {
		t.Fatalf("message of %d bytes, want %d", len(p), dns.MaxMsgSize-1)
	}
	c := r.dial(t, "tcp")
	if _, err := c.Write(frame(p)); err != nil {
		t.Fatal(err)
	}
	if m := readFrame(t, c, secs(30)); m == nil || m.Rcode != dns.RcodeNameError {
		t.Errorf("got %v, want NXDOMAIN", m)
	}
}

func TestIdle(t *testing.T) {
	const idle = time.Second
	r := start(t, "", Options{Idle: idle})
	conns := uint64(0)
	var c net.Conn
	for c == nil {
		if conns++; conns > 20 {
			t.Fatal("this machine cannot ask in time")
		}
		c = inUse(t, r, idle, fmt.Sprintf("n%d.slow.example", conns))
	}
	time.Sleep(idle + idle/5)
	begin := time.Now()
	close(r.up.gate)
	if readFrame(t, c, secs(30)) == nil {
		t.Fatal("closed while a question was open")
	}
	if !closedWithin(c, secs(30)) || time.Since(begin) < idle {
		t.Errorf("idle connection closed after %v, want %v", time.Since(begin), idle)
	}
	eventually(t, "it is counted", func() bool { return r.Stats().Dropped["tcp_idle"] == conns })
}

// inUse opens a connection that questions keep open for longer than it may idle,
// and leaves it with a slow one that is open. It is nil where so much time passed between
// two of them that the server was right to close it.
func inUse(t *testing.T, r *rig, idle time.Duration, slow string) net.Conn {
	t.Helper()
	last := time.Now()
	c := r.dial(t, "tcp")
	ask := func(name string) error {
		_, err := c.Write(frame(pack(t, query(name, dns.TypeA))))
		return err
	}
	for range 6 {
		time.Sleep(idle / 5)
		now := time.Now()
		err := ask("wechat.com")
		if err == nil && readFrame(t, c, secs(30)) == nil {
			err = io.EOF
		}
		switch took := time.Since(last); {
		case err != nil && took < idle:
			t.Fatalf("closed while in use, after %v: %v", took, err)
		case err != nil:
			return nil
		}
		last = now
	}
	if ask(slow) != nil || r.up.within(2*idle, slow) == 0 { // that it was sent does not say that it was taken
		return nil
	}
	return c
}

func TestSlowClient(t *testing.T) {
	r := start(t, "", Options{ReadTimeout: 150 * time.Millisecond, Idle: secs(30)})
	c := r.dial(t, "tcp")
	p := frame(pack(t, query("wechat.com", dns.TypeA)))
	begin := time.Now()
	for _, b := range p[:len(p)-1] { // each byte in time, the message not
		if _, err := c.Write([]byte{b}); err != nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if !closedWithin(c, secs(30)) || time.Since(begin) > secs(20) {
		t.Error("a message that never ends keeps the connection")
	}
	if got := r.Stats().Dropped["tcp_slow"]; got != 1 {
		t.Errorf("%d slow connections counted, want 1", got)
	}
}

func TestBadFraming(t *testing.T) {
	r := start(t, "", Options{})
	reply := query("wechat.com", dns.TypeA)
	reply.Response = true
	for label, p := range map[string][]byte{
		"no length":   {0, 0},
		"short":       frame([]byte("12345678901")),
		"a reply":     frame(pack(t, reply)),
		"not DNS":     []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n" + strings.Repeat("x", 20000)),
		"closed half": {0, 50, 1},
	} {
		c := r.dial(t, "tcp")
		if _, err := c.Write(p); err != nil {
			t.Fatal(err)
		}
		_ = c.(*net.TCPConn).CloseWrite()
		_ = c.SetReadDeadline(time.Now().Add(secs(30)))
		got, err := io.ReadAll(c)
		var timeout net.Error
		if len(got) > 0 && label != "not DNS" || errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%s: %d bytes, %v; want the connection closed", label, len(got), err)
		}
	}
	eventually(t, "all connections are gone", func() bool { return r.Stats().Conns == 0 })
}

func TestConnectionLimits(t *testing.T) {
	r := start(t, "", Options{MaxTCP: 5, MaxTCPPerClient: 3})
	var open []net.Conn
	from := func(addr string, n int) {
		for range n {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}}
			c, err := d.Dial("tcp", r.addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			open = append(open, c)
		}
	}
	from("127.0.0.1", 3)
	eventually(t, "three are in", func() bool { return r.Stats().Conns == 3 })
	from("127.0.0.1", 2)
	eventually(t, "two are too many of one client", func() bool { return r.Stats().Dropped["tcp_client_limit"] == 2 })
	from("127.0.0.2", 2)
	eventually(t, "five are in", func() bool { return r.Stats().Conns == 5 })
	from("127.0.0.3", 1)
	eventually(t, "one is too many in all", func() bool { return r.Stats().Dropped["tcp_limit"] == 1 })
	for i, c := range open {
		in := i < 3 || i == 5 || i == 6
		_, err := c.Write(frame(pack(t, query("wechat.com", dns.TypeA))))
		if answered := err == nil && readFrame(t, c, secs(30)) != nil; answered != in {
			t.Errorf("connection %d answered %v, want %v", i, answered, in)
		}
	}
	_ = open[0].Close()
	eventually(t, "one has left", func() bool { return r.Stats().Conns == 4 })
	from("127.0.0.1", 1)
	c := open[len(open)-1]
	if _, err := c.Write(frame(pack(t, query("wechat.com", dns.TypeA)))); err != nil || readFrame(t, c, secs(30)) == nil {
		t.Error("the place of a closed connection is not free again")
	}
}

// A client that asks and never reads: it stops being read, and neither the
// workers nor other clients wait for it, however long writing may take.
func TestClientThatDoesNotRead(t *testing.T) {
	r := start(t, hugeZone(), Options{WriteTimeout: time.Hour, Workers: 4, MaxPipeline: 16})
	hogs := hog(t, r)
	for _, name := range []string{"good.example", "wechat.com", "better.example"} {
		r.ask(t, "tcp", query(name, dns.TypeA))
	}
	if got := r.Stats().Conns; got < int64(len(hogs)) {
		t.Errorf("%d connections, want those that do not read still there", got)
	}
	for _, c := range hogs {
		_ = c.Close()
	}
	eventually(t, "they are gone with their clients", func() bool { return r.Stats().Conns == 0 })
}

// The time for writing ends such a connection, and all it held.
func TestWriteTimeout(t *testing.T) {
	r := start(t, hugeZone(), Options{WriteTimeout: 200 * time.Millisecond, MaxPipeline: 16})
	r.ask(t, "udp", query("huge.example", dns.TypeTXT)) // with the upstream's connection; over UDP, where it need not come whole in time
	before := runtime.NumGoroutine()
	hogs := hog(t, r)
	eventually(t, "they are cut off", func() bool {
		st := r.Stats()
		return st.Conns == 0 && st.Dropped["write_error"] >= uint64(len(hogs))
	})
	eventually(t, "goroutines are back to their number", func() bool { return runtime.NumGoroutine() <= before+2 })
}

// hugeZone has a name whose answer is some 45 kB.
func hugeZone() string {
	var b strings.Builder
	for i := range 60 {
		fmt.Fprintf(&b, "huge.example. 300 IN TXT \"%d\" \"%s\" \"%[2]s\" \"%[2]s\"\n", i, strings.Repeat("x", 250))
	}
	return b.String()
}

// hog opens connections that ask for much, until they may ask no more, and
// read nothing.
func hog(t *testing.T, r *rig) (hogs []net.Conn) {
	t.Helper()
	p := bytes.Repeat(frame(pack(t, query("huge.example", dns.TypeTXT))), 200)
	for range 3 {
		c := r.dial(t, "tcp")
		_ = c.(*net.TCPConn).SetReadBuffer(4096)
		_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		for range 100 {
			if _, err := c.Write(p); err != nil {
				break
			}
		}
		hogs = append(hogs, c)
	}
	return hogs
}

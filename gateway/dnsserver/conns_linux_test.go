package dnsserver

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
)

// connsEnv makes the test binary a program of clients: transport, address, CA
// file and number of connections.
const connsEnv = "WEIR_TEST_CLIENTS"

// manyConns is how many connections the test opens; WEIR_TEST_CONNS changes it
// for a measurement.
func manyConns(t *testing.T) int {
	s := os.Getenv("WEIR_TEST_CONNS")
	if s == "" {
		return 300
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// What an open connection that has asked costs in resident memory: the clients
// are another process.
func TestMemoryOfConnections(t *testing.T) {
	if raceEnabled {
		t.Log("under the race detector memory means nothing; the connections are opened all the same")
	}
	n := manyConns(t)
	for _, tc := range []struct {
		transport string
		most      float64 // KB each
	}{{"tcp", 16}, {"dot", 22}, {"doh", 30}, {"doq", 80}} {
		t.Run(tc.transport, func(t *testing.T) {
			r, ca := startAll(t, zones, Options{
				MaxTCP: n + 100, MaxConns: 3 * n, MaxTCPPerClient: 3 * n, Idle: time.Hour, IdleEncrypted: time.Hour, Timeout: secs(60),
			})
			addr := map[string]string{
				"tcp": r.addr, "dot": r.DoTAddrs()[0].String(), "doh": r.DoHAddrs()[0].String(), "doq": r.DoQAddrs()[0].String(),
			}[tc.transport]
			stop := runClients(t, tc.transport, addr, ca.file, 20) // what is made once
			stop()
			before, began := resident(t), time.Now()
			eventually(t, "those are gone", func() bool { st := r.Stats(); return st.Conns+st.ConnsDoT+st.ConnsDoH+st.ConnsDoQ == 0 })
			stop = runClients(t, tc.transport, addr, ca.file, n)
			took := time.Since(began)
			// A first packet of QUIC that comes twice and late begins a handshake that
			// nobody goes on with; its connection is soon gone.
			eventually(t, "as many connections are open as there are clients", func() bool {
				st := r.Stats()
				return map[string]int64{"tcp": st.Conns, "dot": st.ConnsDoT, "doh": st.ConnsDoH, "doq": st.ConnsDoQ}[tc.transport] == int64(n)
			})
			kb := float64(resident(t)-before) / float64(n) / 1024
			t.Logf("%s: %d connections open in %v, %.1f KB each", tc.transport, n, took.Round(time.Millisecond), kb)
			if kb > tc.most && !raceEnabled {
				t.Errorf("%s: %.1f KB for each open connection, want %.0f at the most", tc.transport, kb, tc.most)
			}
			stop()
		})
	}
}

// resident is the process's resident memory when all that can be given back is.
func resident(t *testing.T) int64 {
	t.Helper()
	for range 3 {
		runtime.GC()
		debug.FreeOSMemory()
		time.Sleep(50 * time.Millisecond)
	}
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// runClients has another process open the connections, and returns when each of
// them has had an answer. The function that it returns ends the process.
func runClients(t *testing.T, transport, addr, ca string, n int) (stop func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestClients$", "-test.count=1")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s %d", connsEnv, transport, addr, ca, n))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	t.Cleanup(stop)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if lines.Text() == "open" {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return stop
		}
		t.Log(lines.Text())
	}
	t.Fatal("the clients have not opened their connections")
	return stop
}

// TestClients is the program of clients.
func TestClients(t *testing.T) {
	job := strings.Fields(os.Getenv(connsEnv))
	if len(job) != 4 {
		return // it is no test of its own
	}
	n, err := strconv.Atoi(job[3])
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(job[2])
	if err != nil {
		t.Fatal(err)
	}
	ca := &testCA{pool: x509.NewCertPool()}
	ca.pool.AppendCertsFromPEM(pem)
	var wg sync.WaitGroup
	var keep sync.Map
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < n; i += 8 {
				keep.Store(i, openClient(t, job[0], job[1], ca, i))
			}
		})
	}
	wg.Wait()
	defer keep.Range(func(_, c any) bool {
		if q, ok := c.(*quic.Conn); ok {
			_ = q.CloseWithError(0, "") // silence would not be noticed for an hour
		}
		return true
	})
	if t.Failed() {
		t.FailNow()
	}
	fmt.Println("open")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// openClient opens one connection, asks on it, and returns what keeps it open.
func openClient(t *testing.T, transport, addr string, ca *testCA, i int) any {
	if transport == "doq" {
		return askDoQ(t, addr, ca)
	}
	// Other addresses than one, for the ports are not enough.
	d := net.Dialer{Timeout: secs(60), LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i%8))}}
	raw, err := d.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return nil
	}
	_ = raw.SetDeadline(time.Now().Add(2 * time.Minute))
	defer func() { _ = raw.SetDeadline(time.Time{}) }()
	q := frame(pack(t, edns(query("wechat.com", dns.TypeA), 1232)))
	c := raw
	if transport != "tcp" {
		c = tls.Client(raw, ca.client(map[string]string{"dot": "dot", "doh": "h2"}[transport]))
	}
	if transport == "doh" {
		return askHTTP(t, c, addr, q[2:])
	}
	if _, err := c.Write(q); err != nil {
		t.Error(err)
		return c
	}
	if m := readFrame(t, c, secs(60)); m == nil || m.Rcode != dns.RcodeNameError {
		t.Errorf("got %v, want NXDOMAIN", m)
	}
	_ = c.SetDeadline(time.Time{})
	return c
}

func askHTTP(t *testing.T, c net.Conn, addr string, q []byte) any {
	tr := &http.Transport{ForceAttemptHTTP2: true, DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
	req := request(t, http.MethodPost, "https://"+addr+dohPath, q)
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Error(err)
		return nil
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 || !bytes.Contains(body, []byte("wechat")) {
		t.Errorf("%s, %v", resp.Status, err)
	}
	return tr
}

// askDoQ tries again as long as there is time: when thousands of handshakes are
// made on a busy machine a few packets too many may be lost, and that says nothing
// about what an open connection costs.
func askDoQ(t *testing.T, addr string, ca *testCA) any {
	for until := time.Now().Add(secs(60)); ; time.Sleep(50 * time.Millisecond) {
		c, err := tryDoQ(t, addr, ca)
		if err == nil {
			return c
		}
		if time.Now().After(until) {
			t.Error(err)
			return nil
		}
	}
}

func tryDoQ(t *testing.T, addr string, ca *testCA) (*quic.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), secs(10))
	defer cancel()
	c, err := quic.DialAddr(ctx, addr, ca.client("doq"), &quic.Config{MaxIdleTimeout: time.Hour, HandshakeIdleTimeout: secs(60)})
	if err != nil {
		return nil, err
	}
	s := sendDoQ(t, c, doqQuery(t, "wechat.com", dns.TypeA))
	_ = s.SetReadDeadline(time.Now().Add(secs(10)))
	m, err := readDoQ(s)
	if err == nil && m.Rcode != dns.RcodeNameError {
		t.Errorf("got %v, want NXDOMAIN", m)
	}
	if err != nil {
		_ = c.CloseWithError(0, "")
	}
	return c, err
}

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A behaviour answers a query: none, one or several messages.
type behaviour func(q []byte, n uint64) [][]byte

// right answers as the built-in upstream does.
func right(q []byte, _ uint64) [][]byte {
	return [][]byte{appendReply(append(make([]byte, 0, 600), q...), len(q))}
}

// blocked says NXDOMAIN to everything.
func blocked(q []byte, _ uint64) [][]byte {
	m := bytes.Clone(q)
	m[2], m[3] = m[2]|0x80, 0x83
	return [][]byte{m}
}

// every makes the behaviour do something else each n-th time.
func every(n uint64, b behaviour, instead behaviour) behaviour {
	return func(q []byte, i uint64) [][]byte {
		if i%n == 0 {
			return instead(q, i)
		}
		return b(q, i)
	}
}

func silent([]byte, uint64) [][]byte { return nil }

// A server is a small real one that counts what it was asked.
type server struct {
	addr  string
	asked atomic.Uint64
}

func serveUDP(t *testing.T, b behaviour) *server {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.UDPConn).SetReadBuffer(4 << 20)
	s := &server{addr: c.LocalAddr().String()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			for _, m := range b(bytes.Clone(buf[:n]), s.asked.Add(1)) {
				_, _ = c.WriteTo(m, from)
			}
		}
	}()
	t.Cleanup(func() { _ = c.Close(); <-done })
	return s
}

func serveTCP(t *testing.T, b behaviour) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{addr: l.Addr().String()}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.stream(c, b)
		}
	}()
	return s
}

// stream answers until the behaviour returns a nil message: then it hangs up.
func (s *server) stream(c net.Conn, b behaviour) {
	defer func() { _ = c.Close() }()
	for {
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		q := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, q); err != nil {
			return
		}
		for _, m := range b(q, s.asked.Add(1)) {
			if m == nil {
				return
			}
			// In two pieces, so that no reader can rely on whole messages.
			framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...)
			_, _ = c.Write(framed[:1])
			_, _ = c.Write(framed[1:])
		}
	}
}

// names writes a list of n names.
func names(t *testing.T, n int) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("# names\n\n")
	for i := range n {
		b.WriteString("n" + strconv.Itoa(i) + ".example.net\n")
	}
	file := filepath.Join(t.TempDir(), "names.txt")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// load runs the program's main function and reads its report.
func load(t *testing.T, wantCode int, args ...string) report {
	t.Helper()
	r, err := loads(wantCode, args...)
	for range 9 {
		if err == nil || !strings.Contains(err.Error(), "no answers") {
			break
		}
		r, err = loads(wantCode, args...) // it had not even time for one
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// loads is load for who can do it again. Where other programs have the processors an
// answer may come late: one is lost after a long time, unless a test is about that.
func loads(wantCode int, args ...string) (r report, err error) {
	if !slices.Contains(args, "-timeout") {
		args = append(args, "-timeout", "30s")
	}
	var out, errOut bytes.Buffer
	if code := run(context.Background(), append(args, "-json"), &out, &errOut); code != wantCode {
		return r, fmt.Errorf("load %v: exit code %d, want %d\n%s%s", args, code, wantCode, &out, &errOut)
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return r, fmt.Errorf("report of load %v: %w\n%s", args, err, &out)
	}
	return r, nil
}

// TestOrderedPassIsExact: each name once, and every answer accounted for.
func TestOrderedPassIsExact(t *testing.T) {
	s := serveUDP(t, right)
	r := load(t, 0, "udp", "-server", s.addr, "-names", names(t, 5000)+":1:allow", "-derived", "-once", "-time", "60s", "-flows", "3", "-window", "5")
	if r.Sent != 5000 || r.Answered != 5000 || r.Classes["answered"] != 5000 || r.Lost+r.Late+r.Wrong+r.Unasked+r.Unsent != 0 {
		t.Errorf("report %+v, want 5000 of 5000 answered", r)
	}
	if got := s.asked.Load(); got != 5000 {
		t.Errorf("the server was asked %d times", got)
	}
	// n0 to n4999 have 3.778 digits on average; an address record adds 16.
	if want := 12 + 1 + 1 + 3.778 + 8 + 4 + 1 + 4; math.Abs(r.QuestionSize-want) > 1e-6 || math.Abs(r.AnswerSize-want-16) > 1e-6 {
		t.Errorf("sizes %v and %v, want %v and 16 more", r.QuestionSize, r.AnswerSize, want)
	}
}

// longer runs a load for a while, and for longer where the machine had too little
// time for it: with an error or without enough in the report.
func longer(t *testing.T, length time.Duration, run func(length string) (r report, err error), enough func(*report) bool) report {
	t.Helper()
	for try := 1; ; try++ {
		r, err := run(length.String())
		switch {
		case err == nil && (enough(&r) || try == 7):
			return r
		case try == 7:
			t.Fatal(err)
		}
		length *= 2
	}
}

func someLost(r *report) bool  { return r.Lost > 0 }
func someWrong(r *report) bool { return r.Wrong > 0 }

// again runs a load until it is as it should be, a few times: where the machine was
// late, more count as lost than were.
func again(run func() (r report, right bool)) (r report) {
	for range 10 {
		var right bool
		if r, right = run(); right {
			break
		}
	}
	return r
}

// TestClosedLoop: with and without segmentation, all is right and adds up.
func TestClosedLoop(t *testing.T) {
	for _, gso := range []string{"true", "false"} {
		var s *server
		r := longer(t, 300*time.Millisecond, func(length string) (report, error) {
			s = serveUDP(t, right)
			return loads(0, "udp", "-server", s.addr, "-names", names(t, 300)+":1:allow", "-derived", "-edns", "-type", "aaaa", "-time", length, "-interval", "50ms",
				"-gso="+gso, "-pid", strconv.Itoa(os.Getpid()))
		}, func(r *report) bool { return len(r.Intervals) > 1 })
		if r.Sent == 0 || r.Sent != r.Answered || r.Lost+r.Late+r.Wrong+r.Unasked != 0 || r.Sent != s.asked.Load() {
			t.Errorf("gso %s: sent %d, answered %d, server asked %d, %+v", gso, r.Sent, r.Answered, s.asked.Load(), r)
		}
		if gso == "false" && r.Send != "sendmmsg" {
			t.Errorf("sent by %s", r.Send)
		}
		if r.Flows != 16 || r.Window != 12 || r.Latency.P50 <= 0 || r.Latency.P50 > r.Latency.P99 || r.Latency.P999 > r.Latency.Max {
			t.Errorf("flows %d, window %d, latency %+v", r.Flows, r.Window, r.Latency)
		}
		if most := int(r.Seconds/0.05) + 2; len(r.Intervals) < 2 || len(r.Intervals) > most {
			t.Errorf("%d intervals of 50 ms in %v s", len(r.Intervals), r.Seconds)
		}
		if r.CPU == nil || r.CPU.PerOperation <= 0 || r.CPU.Resident == 0 || r.CPU.Cores > 8 {
			t.Errorf("server's CPU %+v", r.CPU)
		}
	}
}

// TestWeights: nine in ten questions are from the first list.
func TestWeights(t *testing.T) {
	s := serveUDP(t, func(q []byte, n uint64) [][]byte {
		if bytes.Contains(q, []byte("n7")) {
			return blocked(q, n)
		}
		return right(q, n)
	})
	one := filepath.Join(t.TempDir(), "one.txt")
	if err := os.WriteFile(one, []byte("n7.example.org\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	few := names(t, 7) // n0 to n6
	r := longer(t, 500*time.Millisecond, func(length string) (report, error) {
		return loads(0, "udp", "-server", s.addr, "-names", few+":90:allow", "-names", one+":10:block", "-time", length)
	}, func(r *report) bool { return r.Answered >= 5000 })
	share := float64(r.Classes["nxdomain"]) / float64(r.Answered)
	if r.Answered < 5000 || share < 0.07 || share > 0.13 {
		t.Errorf("%d of %d answers are NXDOMAIN, want one in ten", r.Classes["nxdomain"], r.Answered)
	}
}

// TestLiesAreFound: each kind of wrong answer is counted exactly and fatal.
func TestLiesAreFound(t *testing.T) {
	change := func(f func(m []byte) []byte) behaviour {
		return func(q []byte, n uint64) [][]byte { return [][]byte{f(right(q, n)[0])} }
	}
	for about, lie := range map[string]behaviour{
		"leak":     change(func(m []byte) []byte { m[len(m)-1] ^= 1; return m }),
		"null":     change(func(m []byte) []byte { clear(m[len(m)-4:]); return m }),
		"nxdomain": blocked,
		"servfail": change(func(m []byte) []byte { m[3] |= 2; return m }),
		"question": change(func(m []byte) []byte { m[13] ^= 1; return m }),
		"query":    change(func(m []byte) []byte { m[2] &^= 0x80; return m }),
		"short":    change(func(m []byte) []byte { return m[:20] }),
	} {
		s := serveUDP(t, every(10, right, lie))
		r := load(t, exitWrong, "udp", "-server", s.addr, "-names", names(t, 1000)+":1:allow", "-derived", "-once", "-time", "60s")
		if r.Wrong != 100 || r.Answered != 1000 || r.Lost != 0 || len(r.Examples) == 0 || len(r.Examples) > maxExamples {
			t.Errorf("%s: wrong %d, answered %d, lost %d, examples %q; want 100 of 1000", about, r.Wrong, r.Answered, r.Lost, r.Examples)
		}
	}
}

// TestBlockedNameThatIsAnsweredIsWrong is the leak that matters.
func TestBlockedNameThatIsAnsweredIsWrong(t *testing.T) {
	s := serveUDP(t, every(4, blocked, right))
	r := load(t, exitWrong, "udp", "-server", s.addr, "-names", names(t, 400)+":1:block", "-once", "-time", "60s")
	if r.Wrong != 100 || r.Classes["nxdomain"] != 300 || r.Classes["answered"] != 100 {
		t.Errorf("wrong %d, classes %v; want 100 of 400", r.Wrong, r.Classes)
	}
}

// TestSecondAnswersAndOthersAreUnasked: what was not asked for is wrong.
func TestSecondAnswersAndOthersAreUnasked(t *testing.T) {
	twice := func(q []byte, n uint64) [][]byte { return append(right(q, n), right(q, n)...) }
	s := serveUDP(t, every(10, right, twice))
	r := load(t, exitWrong, "udp", "-server", s.addr, "-names", names(t, 1000)+":1:allow", "-once", "-time", "60s", "-flows", "1", "-window", "4")
	// The second of the last pair may come after the run.
	if r.Answered != 1000 || r.Unasked < 98 || r.Unasked > 100 || r.Wrong != 0 {
		t.Errorf("answered %d, unasked %d, wrong %d; want 1000, 100, 0", r.Answered, r.Unasked, r.Wrong)
	}
	r = again(func() (report, bool) {
		s := serveUDP(t, every(10, right, func(q []byte, n uint64) [][]byte {
			m := right(q, n)[0]
			m[0] ^= 0x80 // an ID half the space away
			return [][]byte{m}
		}))
		r := load(t, exitWrong, "udp", "-server", s.addr, "-names", names(t, 100)+":1:allow", "-once", "-time", "60s", "-timeout", "2s")
		return r, r.Lost == 10
	})
	if r.Answered != 90 || r.Unasked != 10 || r.Lost != 10 {
		t.Errorf("answered %d, unasked %d, lost %d; want 90, 10, 10", r.Answered, r.Unasked, r.Lost)
	}
}

// TestLossIsCounted: one in five is never answered, and that is no wrong answer.
func TestLossIsCounted(t *testing.T) {
	r := again(func() (report, bool) {
		s := serveUDP(t, every(5, right, silent))
		r := load(t, 0, "udp", "-server", s.addr, "-names", names(t, 1000)+":1:allow", "-once", "-time", "60s", "-timeout", "2s")
		return r, r.Lost == 200
	})
	if r.Sent != 1000 || r.Answered != 800 || r.Lost != 200 || r.Wrong+r.Unasked+r.Late != 0 {
		t.Errorf("sent %d, answered %d, lost %d, %+v; want 1000, 800, 200", r.Sent, r.Answered, r.Lost, r)
	}
}

// TestLateAnswersAreLostAndLate: an answer after the timeout does not unlose.
func TestLateAnswersAreLostAndLate(t *testing.T) {
	r := again(func() (report, bool) {
		s := serveUDP(t, every(20, right, func(q []byte, n uint64) [][]byte {
			time.Sleep(150 * time.Millisecond)
			return right(q, n)
		}))
		r := load(t, 0, "udp", "-server", s.addr, "-names", names(t, 60)+":1:allow", "-once", "-time", "60s", "-timeout", "60ms", "-flows", "1", "-window", "1")
		return r, r.Late > 0
	})
	if r.Lost == 0 || r.Late == 0 || r.Late > r.Lost || r.Answered+r.Lost != 60 {
		t.Errorf("answered %d, lost %d, late %d; want 60 in all, some of them late", r.Answered, r.Lost, r.Late)
	}
}

func TestNobodyThere(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := c.LocalAddr().String()
	_ = c.Close()
	r := load(t, exitFailed, "udp", "-server", addr, "-names", names(t, 10), "-time", "200ms", "-timeout", "50ms")
	if r.Answered != 0 || r.Sent == 0 || r.Lost+r.Unsent == 0 {
		t.Errorf("report %+v", r)
	}
}

// TestOpenLoopKeepsItsRate, and counts latency from when a question was due: a
// server that stalls for 200 ms delays everything that was due meanwhile.
func TestOpenLoopKeepsItsRate(t *testing.T) {
	s := serveUDP(t, every(1000, right, func(q []byte, n uint64) [][]byte {
		time.Sleep(200 * time.Millisecond)
		return right(q, n)
	}))
	var r report
	for range 20 { // where other programs have the processors it cannot keep it
		r = load(t, 0, "udp", "-server", s.addr, "-names", names(t, 100)+":1:allow", "-rate", "2000", "-time", "1s")
		if r.Sent >= 1900 {
			break
		}
	}
	if r.Sent < 1900 || r.Sent > 2010 || r.Answered != r.Sent || r.Lost != 0 || r.Window != 0 {
		t.Errorf("sent %d, answered %d, lost %d, window %d; want 2000 all answered", r.Sent, r.Answered, r.Lost, r.Window)
	}
	if r.Latency.Max < 190_000 || r.Latency.P99 < 100_000 {
		t.Errorf("latency %+v: a stall of 200 ms does not show", r.Latency)
	}
}

// TestUpstream runs the built-in upstream, junk included.
func TestUpstream(t *testing.T) {
	fd, addr, err := listenUDP("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serveUpstream(ctx, fd) }()
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		_, _ = c.Write([]byte("junk"))
	}
	_ = c.Close()
	r := load(t, 0, "udp", "-server", addr, "-names", names(t, 2000)+":1:allow", "-derived", "-once", "-time", "60s")
	if r.Answered != 2000 || r.Wrong+r.Lost+r.Unasked != 0 {
		t.Errorf("report %+v", r)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestTCP(t *testing.T) {
	s := serveTCP(t, right)
	r := load(t, 0, "tcp", "-server", s.addr, "-names", names(t, 500)+":1:allow", "-derived", "-time", "400ms", "-flows", "4", "-window", "20")
	if r.Sent == 0 || r.Sent != r.Answered || r.Lost+r.Wrong+r.Unasked+r.Reconnects != 0 || r.Sent != s.asked.Load() {
		t.Errorf("sent %d, answered %d, server asked %d, %+v", r.Sent, r.Answered, s.asked.Load(), r)
	}
	r = load(t, 0, "tcp", "-server", s.addr, "-names", names(t, 500)+":1:allow", "-time", "400ms", "-flows", "4", "-window", "3", "-per-conn", "10")
	if r.Lost != 0 || r.Answered == 0 || r.Reconnects < r.Answered/10-8 || r.Reconnects > r.Answered/10+8 {
		t.Errorf("%d connections for %d answers at 10 each, %d lost", r.Reconnects, r.Answered, r.Lost)
	}
}

func TestTCPLiesAndHangUps(t *testing.T) {
	var s *server
	r := longer(t, 300*time.Millisecond, func(length string) (report, error) {
		s = serveTCP(t, every(10, right, blocked))
		return loads(exitWrong, "tcp", "-server", s.addr, "-names", names(t, 500)+":1:allow", "-time", length, "-flows", "1")
	}, someWrong)
	if asked := s.asked.Load(); r.Wrong != asked/10 || r.Answered != asked {
		t.Errorf("wrong %d of %d, the server lied in %d of %d", r.Wrong, r.Answered, asked/10, asked)
	}
	r = longer(t, 300*time.Millisecond, func(length string) (report, error) {
		s = serveTCP(t, every(100, right, func([]byte, uint64) [][]byte { return [][]byte{nil} }))
		return loads(0, "tcp", "-server", s.addr, "-names", names(t, 500)+":1:allow", "-time", length, "-flows", "1", "-window", "1")
	}, someLost)
	if r.Lost == 0 || r.Lost != r.Reconnects || r.Answered+r.Lost != r.Sent {
		t.Errorf("sent %d, answered %d, lost %d, reconnects %d", r.Sent, r.Answered, r.Lost, r.Reconnects)
	}
}

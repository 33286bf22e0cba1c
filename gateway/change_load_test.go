package gateway

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

const (
	loadSockets = 8
	loadWindow  = 32 // questions of a socket without an answer: no queue of the system overflows
)

// A dnsLoad asks for one name at a rate, over several sockets, and counts what
// comes back. What is slow makes it slower, and never loses a question.
type dnsLoad struct {
	asked, answered, wrong atomic.Int64
	wg                     sync.WaitGroup
}

func (l *dnsLoad) run(ctx context.Context, t *testing.T, to, name string, rate int) {
	q, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	for range loadSockets {
		c, err := net.Dial("udp", to)
		if err != nil {
			t.Fatal(err)
		}
		window := make(chan struct{}, loadWindow)
		l.wg.Go(func() { l.receive(c, window) })
		l.wg.Go(func() { l.send(ctx, c, slices.Clone(q), window, rate/loadSockets) })
	}
}

func (l *dnsLoad) send(ctx context.Context, c net.Conn, q []byte, window chan struct{}, rate int) {
	began := time.Now()
	for n := 0; ctx.Err() == nil; n++ {
		if due := time.Until(began.Add(time.Duration(n) * time.Second / time.Duration(rate))); due > time.Millisecond {
			time.Sleep(due)
		}
		select {
		case window <- struct{}{}:
		case <-ctx.Done():
			continue
		}
		binary.BigEndian.PutUint16(q, uint16(n))
		if _, err := c.Write(q); err != nil {
			<-window
			continue
		}
		l.asked.Add(1)
	}
	for end := time.Now().Add(time.Minute); len(window) > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	_ = c.Close()
}

func (l *dnsLoad) receive(c net.Conn, window chan struct{}) {
	var b [512]byte
	for {
		n, err := c.Read(b[:])
		if err != nil {
			return
		}
		<-window
		l.answered.Add(1)
		if n < 12 || b[3]&0xF != dns.RcodeSuccess || binary.BigEndian.Uint16(b[6:]) != 1 {
			l.wrong.Add(1)
		}
	}
}

// tunnels opens tunnels to a name one after the other, and counts those that do
// not carry.
func (w *exemptWorld) tunnels(ctx context.Context, name string, opened, broken *atomic.Int64) {
	for ctx.Err() == nil {
		opened.Add(1)
		c, status := w.tunnelTo(name)
		if c == nil || status != 200 {
			broken.Add(1)
			continue
		}
		_, _ = io.WriteString(c, "ping")
		if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
			broken.Add(1)
		}
		_ = c.Close()
		time.Sleep(5 * time.Millisecond)
	}
}

// tunnelTo opens a tunnel to the origin by that name.
func (w *exemptWorld) tunnelTo(name string) (c net.Conn, status int) {
	c, err := net.Dial("tcp", w.ProxyAddrs()[0].String())
	if err != nil {
		return nil, 0
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	host := name + w.origin[strings.LastIndex(w.origin, ":"):]
	_, _ = fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", host)
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err != nil {
		_ = c.Close()
		return nil, 0
	}
	_, _ = fmt.Sscanf(line, "HTTP/1.1 %d", &status)
	for line != "\r\n" && err == nil {
		line, err = r.ReadString('\n')
	}
	return c, status
}

// One name that is added by the API is held back on both planes as soon as the
// API has answered, cached answers and open tunnels too, while 20,000 questions a
// second and tunnels come in, of which none is lost.
func TestChangeUnderLoad(t *testing.T) {
	rate, changes := 20_000, 20
	if underRace {
		rate, changes = 1000, 5
	}
	w := newExemptWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	var load dnsLoad
	var opened, broken atomic.Int64
	load.run(ctx, t, w.DNSAddrs()[0].String(), "fine.example.", rate)
	for range 2 {
		load.wg.Go(func() { w.tunnels(ctx, "fine.example", &opened, &broken) })
	}
	began := time.Now()
	// Others may have the processors now and then: most of the changes of a round say
	// how long it takes, and a round is measured again.
	limit := 100 * time.Millisecond
	if underRace || os.Getenv("WEIR_REQUIRE") != "all" {
		limit = time.Second
	}
	var took []time.Duration
	for round := range 4 {
		took = w.changeOften(changes, round)
		t.Logf("%d changes, each asked for and seen on both planes: median %v, longest %v", changes, took[changes/2], took[changes-1])
		if took[changes/2] <= limit || t.Failed() {
			break
		}
	}
	cancel()
	load.wg.Wait()
	elapsed := time.Since(began)
	t.Logf("beside %.0f questions/s and %d tunnels in %v", float64(load.asked.Load())/elapsed.Seconds(), opened.Load(), elapsed)
	if lost := load.asked.Load() - load.answered.Load(); lost != 0 || load.wrong.Load() > 0 || broken.Load() > 0 {
		t.Errorf("lost %d, wrong %d of %d questions; %d of %d tunnels broken", lost, load.wrong.Load(), load.asked.Load(), broken.Load(), opened.Load())
	}
	if took[changes/2] > limit {
		t.Errorf("half of the changes took %v or longer, want %v", took[changes/2], limit)
	}
}

// changeOften adds names by the API and returns how long each took to be seen on
// both planes, sorted.
func (w *exemptWorld) changeOften(changes, round int) (took []time.Duration) {
	t := w.t
	for i := range changes {
		name := fmt.Sprintf("n%d-%d.example", i, round)
		if got := w.rcode(name); got != "NOERROR" { // into the cache
			t.Fatalf("%s before: %s", name, got)
		}
		c, status := w.tunnelTo(name)
		if status != 200 {
			t.Fatalf("tunnel to %s before: %d", name, status)
		}
		at := time.Now()
		if status, text := w.as("op", "PUT", "/v1/rules/block/own/"+name, "", `{"reason":"r"}`, nil); status != 200 {
			t.Fatalf("rule: %d %s", status, text)
		}
		if got := w.rcode(name); got != "NXDOMAIN" {
			t.Errorf("%s after the change: %s", name, got)
		}
		if _, status := w.tunnelTo(name); status != 403 {
			t.Errorf("CONNECT to %s after the change: %d", name, status)
		}
		took = append(took, time.Since(at))
		w.cutWithin(c, 20*time.Second)
		time.Sleep(50 * time.Millisecond)
	}
	slices.Sort(took)
	return took
}

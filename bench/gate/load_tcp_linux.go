package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// clients is how many connections are in use at a time.
const clients = 64

// patience bounds each step of an operation.
const patience = 5 * time.Second

// A step is one operation of one client. It keeps its connection for the next
// operation where the protocol does.
type step func(c *client) error

// errWrong is an answer that is not the right one; every other error of a step
// is a loss.
var errWrong = errors.New("wrong answer")

// A client does one operation after the other. It is used by one goroutine.
type client struct {
	proxy  netip.AddrPort
	origin *origin
	names  []string
	number int
	turn   int
	conn   net.Conn
	in     *bufio.Reader
	buf    []byte
}

// runClients has all clients repeat the step for d and returns what came of it.
func runClients(ctx context.Context, d time.Duration, proxy netip.AddrPort, o *origin, names []string, do step) (tally, error) {
	var total tally
	var mu sync.Mutex
	var wg sync.WaitGroup
	var over atomic.Bool
	stop := time.AfterFunc(d, func() { over.Store(true) })
	defer stop.Stop()
	for i := range clients {
		wg.Go(func() {
			c := &client{proxy: proxy, origin: o, names: names, number: i, turn: i * 7919, in: bufio.NewReaderSize(nil, 4096), buf: make([]byte, 0, 512)}
			t := c.run(ctx, &over, do)
			mu.Lock()
			defer mu.Unlock()
			total.add(t)
		})
	}
	wg.Wait()
	return total, ctx.Err()
}

func (c *client) run(ctx context.Context, over *atomic.Bool, do step) (t tally) {
	defer c.hangUp()
	for !over.Load() && ctx.Err() == nil {
		c.turn++
		err := do(c)
		switch {
		case err == nil:
			t.ops++
			continue
		case errors.Is(err, errWrong):
			t.wrong++
		default:
			t.lost++
		}
		if t.detail == "" {
			t.detail = err.Error()
		}
		c.hangUp()
	}
	return t
}

func (c *client) hangUp() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// dial connects to the proxy from one of many loopback addresses: with a single
// one the ports would be used up by connections that wait to be forgotten.
func (c *client) dial() error {
	d := net.Dialer{
		Timeout:   patience,
		KeepAlive: -1,
		LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(c.number), byte(1+c.turn%200))},
		Control: func(_, _ string, rc syscall.RawConn) error {
			var err error
			cerr := rc.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
			})
			return errors.Join(err, cerr)
		},
	}
	conn, err := d.Dial("tcp4", c.proxy.String())
	if err != nil {
		return err
	}
	c.conn = conn
	c.in.Reset(conn)
	return conn.SetDeadline(time.Now().Add(patience))
}

// ask sends a request and returns the status of the answer, with the head read.
func (c *client) ask(format string, args ...any) (status string, length int, err error) {
	c.buf = fmt.Appendf(c.buf[:0], format, args...)
	if _, err := c.conn.Write(c.buf); err != nil {
		return "", 0, err
	}
	line, err := c.in.ReadSlice('\n')
	if err != nil || len(line) < 12 {
		return "", 0, fmt.Errorf("status line %q: %w", line, errors.Join(err, io.ErrUnexpectedEOF))
	}
	status = string(line[9:12])
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return "", 0, err
		}
		if len(line) <= 2 {
			return status, length, nil
		}
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			length = number(v)
		}
	}
}

// number reads the digits that b begins with.
func number(b []byte) (n int) {
	for _, c := range b {
		if c < '0' || c > '9' {
			break
		}
		n = 10*n + int(c-'0')
	}
	return n
}

// refused asks for a tunnel to a blocked name: the answer is 403, at once.
func refused(c *client) error {
	defer c.hangUp()
	if err := c.dial(); err != nil {
		return err
	}
	name := c.names[c.turn*31%len(c.names)]
	status, _, err := c.ask("CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\n\r\n", name, name)
	if err == nil && status != "403" {
		err = fmt.Errorf("%w: CONNECT to blocked %s: status %s", errWrong, name, status)
	}
	return err
}

// ping is what goes through a new tunnel, there and back.
const ping = "0123456789012345678901234567890123456789012345678901234567890123"

// setUp opens a tunnel, sees bytes through it both ways, and closes it.
func setUp(c *client) error {
	defer c.hangUp()
	if err := c.dial(); err != nil {
		return err
	}
	host := c.origin.host(c.turn)
	status, _, err := c.ask("CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", host, host)
	if err != nil {
		return err
	}
	if status != "200" {
		return fmt.Errorf("%w: CONNECT %s: status %s", errWrong, host, status)
	}
	if _, err := io.WriteString(c.conn, ping); err != nil {
		return err
	}
	var back [len(ping)]byte
	if _, err := io.ReadFull(c.in, back[:]); err != nil {
		return err
	}
	if string(back[:]) != ping {
		return fmt.Errorf("%w: the tunnel changed the bytes", errWrong)
	}
	return nil
}

// get fetches the page over a connection that is kept.
func get(c *client) error {
	if c.conn == nil {
		if err := c.dial(); err != nil {
			return err
		}
	}
	host := c.origin.host(c.number)
	if c.turn%256 == 0 {
		_ = c.conn.SetDeadline(time.Now().Add(patience))
	}
	status, length, err := c.ask("GET http://%s/ HTTP/1.1\r\nHost: %s\r\n\r\n", host, host)
	if err != nil {
		return err
	}
	if status != "200" || length != pageSize {
		return fmt.Errorf("%w: GET: status %s, %d bytes", errWrong, status, length)
	}
	body, err := c.in.Peek(length)
	if err != nil {
		return err
	}
	if want := page[len(page)-pageSize:]; !bytes.Equal(body, want) {
		return fmt.Errorf("%w: GET: another page", errWrong)
	}
	_, err = c.in.Discard(length)
	return err
}

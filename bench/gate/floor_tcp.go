package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
)

// floorHead is the longest request head that the floor reads.
const floorHead = 4096

var floorHeads = sync.Pool{New: func() any { return new([floorHead]byte) }}

// A tunneller is the least that a Go program can be as a proxy: it reads heads
// by hand, believes every one of them, and leaves the copying to io.Copy. It
// limits nothing, counts nothing, and looks at no answer.
type tunneller struct{ blocked map[string]struct{} }

// floorTCP is a proxy for the names in a file until it is killed.
func floorTCP(file string) error {
	names, err := readLines(file)
	if err != nil {
		return err
	}
	t := tunneller{make(map[string]struct{}, len(names))}
	for _, n := range names {
		t.blocked[n] = struct{}{}
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err == nil {
			go t.serve(c)
		}
	}
}

func (t *tunneller) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	b := floorHeads.Get().(*[floorHead]byte)
	n, ok := readHead(c, b[:])
	head := string(b[:n])
	floorHeads.Put(b)
	if !ok {
		return
	}
	if target, ok := strings.CutPrefix(head, "CONNECT "); ok {
		t.connect(c, target[:max(0, strings.IndexByte(target, ' '))])
		return
	}
	t.get(c, head)
}

// readHead reads until an empty line and returns how much there is.
func readHead(c net.Conn, b []byte) (int, bool) {
	n := 0
	for !bytes.HasSuffix(b[:n], []byte("\r\n\r\n")) {
		k, err := c.Read(b[n:])
		if n += k; err != nil || n == len(b) {
			return n, false
		}
	}
	return n, true
}

func (t *tunneller) has(host string) bool {
	for {
		if _, ok := t.blocked[host]; ok {
			return true
		}
		i := strings.IndexByte(host, '.')
		if i < 0 {
			return false
		}
		host = host[i+1:]
	}
}

// connect opens a tunnel, or refuses it.
func (t *tunneller) connect(c net.Conn, target string) {
	host, _, _ := strings.Cut(target, ":")
	if t.has(strings.ToLower(host)) {
		_, _ = io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return
	}
	o, err := net.Dial("tcp4", target)
	if err != nil {
		return
	}
	defer func() { _ = o.Close() }()
	if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(o, c)
		_ = o.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(c, o)
}

// get relays requests for one origin over one connection to it: the first head
// says which, and each page has the length that the origin's have.
func (t *tunneller) get(c net.Conn, head string) {
	var o net.Conn
	b := make([]byte, floorHead)
	for {
		rest, ok := strings.CutPrefix(head, "GET http://")
		i := strings.IndexByte(rest, '/')
		if !ok || i < 0 {
			return
		}
		if o == nil {
			var err error
			if o, err = net.Dial("tcp4", rest[:i]); err != nil {
				return
			}
			defer func() { _ = o.Close() }()
		}
		if _, err := io.WriteString(o, "GET "+rest[i:]); err != nil {
			return
		}
		if _, err := io.ReadFull(o, b[:len(page)]); err != nil {
			return
		}
		if _, err := c.Write(b[:len(page)]); err != nil {
			return
		}
		n, ok := readHead(c, b)
		if !ok {
			return
		}
		head = string(b[:n])
	}
}

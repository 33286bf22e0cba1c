package proxy

import (
	"bufio"
	"bytes"
	"net"
	"net/textproto"
	"sync"
)

// An originConn is a connection of the transport's pool that keeps the head of
// the response it reads. net/http takes a Connection field with "close" out of
// a response, and with it the names of the other fields that end here.
type originConn struct {
	*net.TCPConn
	mu   sync.Mutex
	head []byte
	on   bool // the head of the final response is still to come
	said bool // something has come since arm
}

// maxKeptHead is more than the transport accepts as a head.
const maxKeptHead = 512 << 10

// arm begins to keep a head; the transport is about to send a request.
func (c *originConn) arm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.head, c.on, c.said = c.head[:0], true, false
}

// Read implements net.Conn.
func (c *originConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.said = c.said || n > 0
	if c.on {
		c.keep(p[:n])
	}
	return n, err
}

func (c *originConn) keep(b []byte) {
	c.head = append(c.head, b...)
	for {
		end := headEnd(c.head)
		if end < 0 {
			c.on = len(c.head) < maxKeptHead
			return
		}
		if !isInterim(c.head) {
			c.head, c.on = c.head[:end], false
			return
		}
		c.head = c.head[end:]
	}
}

// headEnd finds the empty line, as leniently as net/http reads responses.
func headEnd(b []byte) int {
	for i := 0; i < len(b); i++ {
		if b[i] != '\n' {
			continue
		}
		if rest := b[i+1:]; bytes.HasPrefix(rest, []byte("\n")) {
			return i + 2
		} else if bytes.HasPrefix(rest, []byte("\r\n")) {
			return i + 3
		}
	}
	return -1
}

// isInterim reports a 1xx response other than 101.
func isInterim(head []byte) bool {
	_, status, _ := bytes.Cut(head, []byte(" "))
	status = bytes.TrimLeft(status, " ")
	return bytes.HasPrefix(status, []byte("1")) && !bytes.HasPrefix(status, []byte("101"))
}

// spoke reports whether anything has come since arm.
func (c *originConn) spoke() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said
}

// options returns the values of the Connection fields of the response.
func (c *originConn) options() []string {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !containsFold(c.head, "connection") {
		return nil // most responses; a second reading of the head is not for free
	}
	r := textproto.NewReader(bufio.NewReader(bytes.NewReader(c.head)))
	if _, err := r.ReadLine(); err != nil {
		return nil
	}
	h, _ := r.ReadMIMEHeader() // what could be read is what net/http read, too
	return h["Connection"]
}

// containsFold reports whether b has the word, which is in lower-case letters,
// in whatever case.
func containsFold(b []byte, word string) bool {
	for ; len(b) >= len(word); b = b[1:] {
		if b[0]|0x20 == word[0] && bytes.EqualFold(b[:len(word)], []byte(word)) {
			return true
		}
	}
	return false
}

package main

import (
	"crypto/tls"
	"encoding/binary"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serveTLS is serveTCP over TLS, with the certificate of a server for tests.
func serveTLS(t *testing.T, b behaviour) *server {
	t.Helper()
	web := httptest.NewUnstartedServer(nil)
	web.StartTLS()
	cert := web.TLS.Certificates[0]
	web.Close()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"dot"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	s := &server{addr: l.Addr().String()}
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

// authority is a file with the certificate that servers for tests have.
func authority(t *testing.T) string {
	t.Helper()
	web := httptest.NewUnstartedServer(nil)
	web.StartTLS()
	defer web.Close()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// serveWeb answers DNS over HTTPS as net/http does, and counts the questions; one
// in every is refused.
func serveWeb(t *testing.T, every uint64) *server {
	t.Helper()
	s := new(server)
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q, err := io.ReadAll(r.Body)
		n := s.asked.Add(1)
		if err != nil || r.Method != http.MethodPost || r.URL.Path != "/dns-query" || r.Header.Get("Content-Type") != "application/dns-message" || n%every == 0 {
			http.Error(w, "no", http.StatusBadRequest)
			return
		}
		reply := right(q, n)[0]
		w.Header().Set("Content-Type", "application/dns-message")
		if n%3 == 0 { // in two frames
			_, _ = w.Write(reply[:5])
			w.(http.Flusher).Flush()
			reply = reply[5:]
		}
		_, _ = w.Write(reply)
	}))
	web.EnableHTTP2 = true
	web.StartTLS()
	t.Cleanup(web.Close)
	s.addr = strings.TrimPrefix(web.URL, "https://")
	return s
}

func TestDoT(t *testing.T) {
	s := serveTLS(t, right)
	r := load(t, 0, "dot", "-server", s.addr, "-ca", authority(t), "-names", names(t, 500)+":1:allow", "-derived", "-time", "400ms", "-flows", "4", "-window", "20")
	if r.Sent == 0 || r.Sent != r.Answered || r.Lost+r.Wrong+r.Unasked+r.Reconnects != 0 || r.Sent != s.asked.Load() || !strings.HasPrefix(r.Send, "TLS 1.3") {
		t.Errorf("sent %d, answered %d, server asked %d, %+v", r.Sent, r.Answered, s.asked.Load(), r)
	}
	r = longer(t, 300*time.Millisecond, func(length string) (report, error) {
		s = serveTLS(t, every(10, right, blocked))
		return loads(exitWrong, "dot", "-server", s.addr, "-ca", authority(t), "-names", names(t, 500)+":1:allow", "-time", length, "-flows", "1")
	}, someWrong)
	if asked := s.asked.Load(); r.Wrong != asked/10 || r.Answered != asked {
		t.Errorf("wrong %d of %d, the server lied in %d of %d", r.Wrong, r.Answered, asked/10, asked)
	}
	r = longer(t, 300*time.Millisecond, func(length string) (report, error) {
		s = serveTLS(t, every(100, right, func([]byte, uint64) [][]byte { return [][]byte{nil} }))
		return loads(0, "dot", "-server", s.addr, "-ca", authority(t), "-names", names(t, 500)+":1:allow", "-time", length, "-flows", "1", "-window", "1")
	}, someLost)
	if r.Lost == 0 || r.Lost != r.Reconnects || r.Answered+r.Lost != r.Sent {
		t.Errorf("sent %d, answered %d, lost %d, reconnects %d", r.Sent, r.Answered, r.Lost, r.Reconnects)
	}
}

func TestDoH(t *testing.T) {
	s := serveWeb(t, 1<<62)
	r := load(t, 0, "doh", "-server", s.addr, "-ca", authority(t), "-names", names(t, 500)+":1:allow", "-derived", "-time", "400ms", "-flows", "4", "-window", "20")
	if r.Sent == 0 || r.Sent != r.Answered || r.Lost+r.Wrong+r.Unasked+r.Reconnects != 0 || r.Sent != s.asked.Load() {
		t.Errorf("sent %d, answered %d, server asked %d, %+v", r.Sent, r.Answered, s.asked.Load(), r)
	}
	r = longer(t, 400*time.Millisecond, func(length string) (report, error) {
		s = serveWeb(t, 50)
		return loads(0, "doh", "-server", s.addr, "-ca", authority(t), "-names", names(t, 500)+":1:allow", "-time", length, "-flows", "1", "-window", "1")
	}, someLost)
	if r.Lost == 0 || r.Lost != r.Reconnects || r.Answered+r.Lost != r.Sent {
		t.Errorf("sent %d, answered %d, lost %d, reconnects %d", r.Sent, r.Answered, r.Lost, r.Reconnects)
	}
}

// TestFramesInPieces: whatever the cuts between reads, the answers are the same.
func TestFramesInPieces(t *testing.T) {
	answer := appendFrame(nil, frameSettings, 0, 0, []byte{0, maxStreamsSetting, 0, 0, 0, 7})
	answer = appendFrame(answer, framePing, 0, 0, make([]byte, 8))
	answer = appendFrame(answer, frameHeaders, flagEndHeaders, 1, []byte{0x88}) // :status 200, RFC 7541 appendix A
	answer = appendFrame(answer, frameData, 0, 1, []byte("half"))
	answer = appendFrame(answer, frameHeaders, flagEndHeaders, 3, []byte{0x88})
	answer = appendFrame(answer, frameData, flagEndStream, 3, []byte("whole"))
	answer = appendFrame(answer, frameData, flagEndStream, 1, []byte(" and half"))
	for piece := 1; piece <= len(answer); piece++ {
		h := newH2("x")
		h.open = 2

		var all []string
		var in, out []byte
		for at := 0; at < len(answer); at += piece {
			in = append(in, answer[at:min(at+piece, len(answer))]...)
			used, said, err := h.take(in, func(m []byte) { all = append(all, string(m)) })
			if err != nil {
				t.Fatalf("in pieces of %d: %v", piece, err)
			}
			in, out = in[used:], append(out, said...)
		}
		if strings.Join(all, "|") != "whole|half and half" || h.open != 0 || h.most != 7 || len(out) != 2*frameHead+8 {
			t.Fatalf("in pieces of %d: %q, %d open, at most %d, said %x", piece, all, h.open, h.most, out)
		}
	}
	for _, bad := range [][]byte{
		appendFrame(nil, frameReset, 0, 1, make([]byte, 4)), appendFrame(nil, frameGoAway, 0, 0, make([]byte, 8)),
		appendFrame(nil, frameHeaders, flagEndHeaders, 1, []byte{0x8d}), // 404
		appendFrame(nil, frameHeaders, 0, 1, []byte{0x88}), binary.BigEndian.AppendUint64(nil, 1<<63-1),
	} {
		if _, _, err := newH2("x").take(append(bad, 0), func([]byte) {}); err == nil {
			t.Errorf("%x is taken", bad)
		}
	}
}

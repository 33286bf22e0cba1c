package proxy

import (
	"net"
	"slices"
	"testing"

	"github.com/quic-go/quic-go"

	"github.com/weir-gateway/weir/gateway/audit"
)

// TestQUICPanic: a fault on a path, found by what a device sends or by what it
// asks for, is the end of that path and of nothing else.
func TestQUICPanic(t *testing.T) {
	w, h := newQUICWorld(t)
	if w == nil {
		return
	}
	h.names.setHook(func(name string) {
		if name == "panic.example" {
			panic("resolver is broken")
		}
	})
	lucky, err := dialQUIC(w.quicSocket(), quicSite, "other.example", quic.Version1)
	if err != nil {
		t.Fatal(err)
	}
	tr := w.quicSocket()
	if _, err := dialQUIC(tr, quicSite, "site.example", quic.Version1); err != nil {
		t.Fatal(err)
	}
	carried := h.s.quic.all()
	if len(carried) != 2 {
		t.Fatalf("%d paths, want 2", len(carried))
	}
	for _, p := range carried {
		if p.ends.device.Port() == portOf(lucky) {
			continue
		}
		func() {
			defer p.recovered()
			p.mu.Lock()
			defer p.mu.Unlock()
			panic("what the device sent is not understood")
		}()
	}
	eventually(t, "the end of the path on record", func() bool {
		return h.s.QUICStats().Paths == 1 && slices.ContainsFunc(h.audit.all(), func(r audit.Record) bool { return r.Result == string(endBroken) })
	})
	unlucky := w.quicSocket()
	go func() { // it tries until its socket is closed
		if _, err := dialQUIC(unlucky, quicSite, "panic.example", quic.Version1); err == nil {
			t.Error("a name that cannot be judged was let through")
		}
	}()
	eventually(t, "two panics are counted", func() bool { return h.s.Stats().Panics >= 2 })
	for name, ask := range map[string]func() error{
		"the other path": func() error { _, _, err := ask(lucky, []byte("x")); return err },
		"the same socket": func() error {
			_, err := dialQUIC(tr, quicSite, "site.example", quic.Version1)
			return err
		},
	} {
		if err := ask(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func portOf(c *quic.Conn) uint16 { return c.LocalAddr().(*net.UDPAddr).AddrPort().Port() }

package dnsserver

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/gateway/tap"
)

// taps is a Tap that keeps everything.
type taps struct {
	mu  sync.Mutex
	all []tap.Message
}

func (t *taps) Put(m tap.Message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = append(t.all, m)
}

func (t *taps) take() []tap.Message {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.all
	t.all = nil
	return all
}

// Every question is told once, whichever road it took, as it was asked and
// answered.
func TestTap(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		var seen taps
		r := start(t, zones, Options{portable: portable, Tap: &seen})
		var want []string
		ask := func(network, name string) {
			q := edns(query(name, dns.TypeA), 1232)
			m := r.ask(t, network, q)
			want = append(want, fmt.Sprintf("%s %s. %s", network, name, dns.RcodeToString[m.Rcode]))
		}
		for _, network := range transports {
			ask(network, "wechat.com")   // the hot path
			ask(network, "good.example") // the exit, then the cache
			ask(network, "good.example")
			ask(network, "cloak.example")
		}
		c := r.dial(t, "udp")
		if _, err := c.Write(pack(t, query("m-drop.example", dns.TypeA))); err != nil {
			t.Fatal(err)
		}
		want = append(want, "udp m-drop.example. no reply")
		var got []string
		eventually(t, "all are told", func() bool {
			for _, m := range seen.take() {
				got = append(got, inWords(t, &m))
			}
			return len(got) >= len(want)
		})
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
	})
}

func inWords(t *testing.T, m *tap.Message) string {
	t.Helper()
	var q, a dns.Msg
	if err := q.Unpack(m.Query); err != nil || m.Client.String() != "127.0.0.1" || m.Asked.IsZero() {
		t.Errorf("message %+v: %v", m, err)
		return ""
	}
	result := "no reply"
	if len(m.Reply) > 0 {
		if err := a.Unpack(m.Reply); err != nil || a.Id != q.Id || m.Answered.Before(m.Asked) {
			t.Errorf("message %+v: %v", m, err)
		}
		result = dns.RcodeToString[a.Rcode]
	}
	return fmt.Sprintf("%s %s %s", m.Transport, q.Question[0].Name, result)
}

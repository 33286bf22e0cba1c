package corpus

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/miekg/dns"
)

// A Misdeed is how a Culprit answers: with what, and from where.
type Misdeed struct {
	Name string
	// UDP and TCP return what is sent for a query whose right response is m, when
	// it is time to. Each call has a goroutine of its own.
	UDP, TCP func(c *Culprit, q, m *dns.Msg) [][]byte
	spoofed  bool // from another address
}

// Both is a misdeed over UDP and TCP.
func Both(name string, f func(c *Culprit, q, m *dns.Msg) [][]byte) Misdeed {
	return Misdeed{Name: name, UDP: f, TCP: f}
}

// Tail is an upstream that takes so long for one question in so many.
func Tail(one int, long time.Duration) Misdeed {
	return Both("tail", func(c *Culprit, q, m *dns.Msg) [][]byte {
		if rand.IntN(one) == 0 {
			time.Sleep(long)
		}
		return honest(c, q, m)
	})
}

func (c *Culprit) pack(m *dns.Msg) []byte {
	b, err := m.Pack()
	if err != nil {
		c.tb.Error(err)
	}
	return b
}

func (c *Culprit) poison(owner string) dns.RR {
	rr, err := dns.NewRR(fmt.Sprintf("%s 86400 IN A %s", owner, Poison))
	if err != nil {
		c.tb.Error(err)
	}
	return rr
}

func honest(c *Culprit, _, m *dns.Msg) [][]byte { return [][]byte{c.pack(m)} }

func nothing(*Culprit, *dns.Msg, *dns.Msg) [][]byte { return nil }

// forged returns an answer that would lead astray, changed.
func forged(change func(m *dns.Msg)) func(*Culprit, *dns.Msg, *dns.Msg) [][]byte {
	return func(c *Culprit, q, m *dns.Msg) [][]byte {
		m.Answer = []dns.RR{c.poison(q.Question[0].Name)}
		change(m)
		return [][]byte{c.pack(m)}
	}
}

// Victims are names that the misdeed "poisoned additional" speaks about unasked.
var Victims = []string{"victim.example.", "www.victim.example.", "ns.evil.test."}

// PoisonedAdditional answers as it should and says more than it was asked.
func PoisonedAdditional(c *Culprit, _, m *dns.Msg) [][]byte {
	for _, v := range Victims {
		m.Answer = append(m.Answer, c.poison(v))
		m.Extra = append(m.Extra, c.poison(v))
	}
	for _, text := range []string{"www.victim.example. 86400 IN CNAME evil.test.", "victim.example. 86400 IN NS ns.evil.test.", "victim.example. 86400 IN SOA ns.evil.test. a.evil.test. 1 2 3 4 5"} {
		rr, err := dns.NewRR(text)
		if err != nil {
			c.tb.Error(err)
		}
		if m.Ns = append(m.Ns, rr); rr.Header().Rrtype == dns.TypeCNAME {
			m.Answer = append(m.Answer, rr)
		}
	}
	return [][]byte{c.pack(m)}
}

// bloated answers with more records than any size that was announced has room for.
func bloated(c *Culprit, _, m *dns.Msg) [][]byte {
	m.Extra = slices.Repeat([]dns.RR{c.poison(Victims[0])}, 500)
	m.Compress = true
	return [][]byte{c.pack(m)}
}

func slow(c *Culprit, q, m *dns.Msg) [][]byte {
	time.Sleep(1500 * time.Millisecond)
	return honest(c, q, m)
}

func halfOfThem(c *Culprit, q, m *dns.Msg) [][]byte {
	if rand.IntN(2) == 0 {
		return nil
	}
	return honest(c, q, m)
}

func nowAndThen(c *Culprit, q, m *dns.Msg) [][]byte {
	if time.Now().UnixMilli()/150%2 == 0 {
		return nil
	}
	return honest(c, q, m)
}

func garbage(c *Culprit, _, m *dns.Msg) [][]byte {
	b, head := bytes.Repeat([]byte{0xa5}, 600), c.pack(m)[:12]
	return [][]byte{{}, {1}, b, append(slices.Clone(head), b...), append(head, bytes.Repeat([]byte{0xc0, 0x0c}, 300)...)}
}

// padded is a failure with more behind it than a message may have.
func padded(c *Culprit, _, m *dns.Msg) [][]byte {
	m.Answer, m.Rcode = nil, dns.RcodeServerFailure
	return [][]byte{append(c.pack(m), make([]byte, 60_000)...)}
}

func truncated(c *Culprit, q, m *dns.Msg) [][]byte {
	m.Truncated, m.Answer = true, nil
	return honest(c, q, m)
}

func endsEarly(c *Culprit, _, m *dns.Msg) [][]byte {
	b := c.pack(m)
	return [][]byte{b[:len(b)-3]}
}

// Misdeeds are what upstreams do that fail, and what attackers do beside them.
func Misdeeds() []Misdeed {
	failing := func(code int) func(*dns.Msg) {
		return func(m *dns.Msg) { m.Answer, m.Rcode = nil, code }
	}
	return []Misdeed{
		Both("dead", nothing),
		Both("slow", slow),
		Both("lossy", halfOfThem),
		Both("flapping", nowAndThen),
		Both("wrong ID", forged(func(m *dns.Msg) { m.Id++ })),
		Both("lying: wrong question", forged(func(m *dns.Msg) { m.Question[0].Name = "other.example." })),
		Both("lying: wrong type", forged(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA })),
		Both("lying: no question", forged(func(m *dns.Msg) { m.Question = nil })),
		Both("lying: another's answer", forged(func(m *dns.Msg) { m.Answer[0].Header().Name = "other.example." })),
		Both("lying: a query", forged(func(m *dns.Msg) { m.Response = false })),
		{Name: "lying: spoofed source", UDP: forged(func(*dns.Msg) {}), TCP: nothing, spoofed: true},
		Both("poisoned additional", PoisonedAdditional),
		Both("TC loop", truncated),
		Both("SERVFAIL", forged(failing(dns.RcodeServerFailure))),
		Both("REFUSED", forged(failing(dns.RcodeRefused))),
		Both("ends early", endsEarly),
		Both("garbage", garbage),
		Both("oversized", bloated),
		Both("oversized: zeros", padded),
	}
}

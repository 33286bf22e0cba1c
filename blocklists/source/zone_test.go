package source

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

var zoneKey = &ZoneKey{Name: "xfr.example", Algorithm: "hmac-sha256", Secret: []byte("0123456789abcdef0123456789abcdef")}

// A primary is a server of the zone feed.example that says what it is told to
// say: for each type of question, the messages of the answer.
type primary struct {
	t      *testing.T
	listen net.Listener
	done   sync.WaitGroup
	mu     sync.Mutex
	says   map[uint16][]message
	asked  []string
}

// A message of an answer, in a notation of its own: records apart by "; ", each
// "SOA n", or an owner, a type and data; and what is done besides.
type message struct {
	text  string
	rcode int
	sign  func(m *dns.Msg, mac string, later bool, bare []byte) (wire []byte, next string) // nil: not at all
	cut   int                                                                              // so many octets of it, then the end
	id    uint16                                                                           // added to the right one
	mess  func(m *dns.Msg)
	hang  bool // before it
}

func newPrimary(t *testing.T) *primary {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &primary{t: t, listen: l, says: map[uint16][]message{}}
	p.done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.done.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.done.Wait()
	})
	return p
}

func (p *primary) say(qtype uint16, ms ...message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.says[qtype] = ms
}

func (p *primary) questions() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := strings.Join(p.asked, " ")
	p.asked = nil
	return s
}

func (p *primary) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return
	}
	wire := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, wire); err != nil {
		return
	}
	q := new(dns.Msg)
	if err := q.Unpack(wire); err != nil {
		p.t.Errorf("question: %v", err)
		return
	}
	p.mu.Lock()
	p.asked = append(p.asked, dns.TypeToString[q.Question[0].Qtype])
	ms := p.says[q.Question[0].Qtype]
	p.mu.Unlock()
	mac, later := "", false
	if t := q.IsTsig(); t != nil {
		mac = t.MAC
	}
	var bare []byte
	for i, m := range ms {
		if m.hang {
			_, _ = c.Read(size[:]) // until the asker gives up
			return
		}
		out := p.message(q, m, i == 0)
		wire, err := out.Pack()
		if err != nil {
			p.t.Errorf("answer: %v", err)
			return
		}
		if m.sign != nil {
			wire, mac = m.sign(out, mac, later, bare)
			bare, later = nil, true
		} else {
			bare = append(bare, wire...)
		}
		framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...)
		if m.cut > 0 {
			framed = framed[:m.cut]
		}
		if _, err := c.Write(framed); err != nil || m.cut > 0 {
			return
		}
	}
}

func (p *primary) message(q *dns.Msg, m message, first bool) *dns.Msg {
	out := new(dns.Msg).SetReply(q)
	out.Id += m.id
	out.Rcode = m.rcode
	if !first {
		out.Question = nil
	}
	for _, text := range strings.Split(m.text, "; ") {
		if text != "" {
			out.Answer = append(out.Answer, record(text))
		}
	}
	if m.mess != nil {
		m.mess(out)
	}
	return out
}

func record(text string) dns.RR {
	if n, ok := strings.CutPrefix(text, "SOA "); ok {
		text = "feed.example. 60 IN SOA ns.example. root.example. " + n + " 100 20 3000 60"
	} else if fields := strings.Fields(text); !strings.HasSuffix(fields[0], ".") {
		text = fields[0] + ".feed.example. 60 IN " + strings.Join(fields[1:], " ")
	}
	rr, err := dns.NewRR(text)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", text, err))
	}
	return rr
}

// sign signs as key says; the messages before that are bare are covered.
func sign(key *ZoneKey) func(*dns.Msg, string, bool, []byte) ([]byte, string) {
	return func(m *dns.Msg, mac string, later bool, bare []byte) ([]byte, string) {
		m.SetTsig(dns.CanonicalName(key.Name), dns.Fqdn(key.Algorithm), tsigFudge, time.Now().Unix())
		out, next, err := dns.TsigGenerateWithProvider(m, chain{key, &verifier{mac: mac, bare: bare}}, mac, later)
		if err != nil {
			panic(err)
		}
		return out, next
	}
}

func says(texts ...string) []message {
	var out []message
	for _, text := range texts {
		out = append(out, message{text: text})
	}
	return out
}

// fetch takes the zone, with a copy or "" for none, and returns what was written
// in the notation of message.
func (p *primary) fetch(key *ZoneKey, copied string, change func(*Zone)) (ZoneUpdate, string, error) {
	z := &Zone{URL: "rpz://" + p.listen.Addr().String() + "/feed.example", Key: key, ZoneLimits: ZoneLimits{Idle: time.Minute}}
	if change != nil {
		change(z)
	}
	var have io.ReadSeeker
	if copied != "" {
		have = strings.NewReader(zoneText(copied))
	}
	var out bytes.Buffer
	u, err := z.Fetch(context.Background(), have, &out)
	return u, notation(out.String()), err
}

func zoneText(notation string) string {
	var b strings.Builder
	for _, text := range strings.Split(notation, "; ") {
		b.WriteString(record(text).String() + "\n")
	}
	return b.String()
}

func notation(text string) string {
	var out []string
	for line := range strings.Lines(text) {
		rr, err := dns.NewRR(line)
		if err != nil {
			panic(err)
		}
		if soa, ok := rr.(*dns.SOA); ok {
			out = append(out, fmt.Sprintf("SOA %d", soa.Serial))
			continue
		}
		f := strings.Fields(rr.String())
		out = append(out, strings.TrimSuffix(f[0], ".feed.example.")+" "+strings.Join(f[3:], " "))
	}
	return strings.Join(out, "; ")
}

func TestZoneFetch(t *testing.T) {
	for name, tc := range map[string]struct {
		soa, ixfr, axfr []message
		copied          string
		want            string
		changes         int
		asked           string
	}{
		"the first copy": {
			soa: says("SOA 7"), axfr: says("SOA 7; feed.example. 60 IN NS ns.example.; a CNAME .", "b.c CNAME *.; A CNAME rpz-DROP.; SOA 7"),
			want: "SOA 7; feed.example. NS ns.example.; a CNAME .; b.c CNAME *.; a CNAME rpz-drop.", changes: -1, asked: "SOA AXFR",
		},
		"nothing new":        {soa: says("SOA 7"), copied: "SOA 7; a CNAME .", asked: "SOA"},
		"nothing new, raced": {soa: says("SOA 8"), ixfr: says("SOA 7"), copied: "SOA 7; a CNAME .", asked: "SOA IXFR"},
		"changes": {
			soa: says("SOA 9"), copied: "SOA 7; a CNAME .; b CNAME .; c A 192.0.2.1",
			ixfr: says("SOA 9; SOA 7; a CNAME .; SOA 8; d CNAME .", "SOA 8; d CNAME .; c A 192.0.2.1; SOA 9; c A 192.0.2.2; a CNAME *.; SOA 9"),
			want: "SOA 9; b CNAME .; a CNAME *.; c A 192.0.2.2", changes: 5, asked: "SOA IXFR",
		},
		"changes, one record a message": {
			soa: says("SOA 8"), copied: "SOA 7; a CNAME .", ixfr: says("SOA 8", "SOA 7", "SOA 8", "b CNAME .", "SOA 8"),
			want: "SOA 8; a CNAME .; b CNAME .", changes: 1, asked: "SOA IXFR",
		},
		"over the end of serials": {
			soa: says("SOA 3"), copied: "SOA 4294967290; a CNAME .", ixfr: says("SOA 3; SOA 4294967290; a CNAME .; SOA 3; b CNAME .; SOA 3"),
			want: "SOA 3; b CNAME .", changes: 2, asked: "SOA IXFR",
		},
		"the whole zone in place of changes": {
			soa: says("SOA 9"), copied: "SOA 7; a CNAME .", ixfr: says("SOA 9; b CNAME .", "SOA 9"),
			want: "SOA 9; b CNAME .", changes: -1, asked: "SOA IXFR",
		},
		"a primary without IXFR": {
			soa: says("SOA 9"), copied: "SOA 7; a CNAME .", ixfr: []message{{rcode: dns.RcodeNotImplemented}}, axfr: says("SOA 9; b CNAME .; SOA 9"),
			want: "SOA 9; b CNAME .", changes: -1, asked: "SOA IXFR AXFR",
		},
		"changes of another copy": {
			soa: says("SOA 9"), copied: "SOA 7; a CNAME .", ixfr: says("SOA 9; SOA 7; x CNAME .; SOA 9; b CNAME .; SOA 9"), axfr: says("SOA 9; b CNAME .; SOA 9"),
			want: "SOA 9; b CNAME .", changes: -1, asked: "SOA IXFR AXFR",
		},
		"what comes is there": {
			soa: says("SOA 9"), copied: "SOA 7; a CNAME .", ixfr: says("SOA 9; SOA 7; SOA 9; a CNAME .; SOA 9"), axfr: says("SOA 9; b CNAME .; SOA 9"),
			want: "SOA 9; b CNAME .", changes: -1, asked: "SOA IXFR AXFR",
		},
		"comes twice": {
			soa: says("SOA 9"), copied: "SOA 7; a CNAME .", ixfr: says("SOA 9; SOA 7; SOA 8; b CNAME .; SOA 8; SOA 9; b CNAME .; SOA 9"), axfr: says("SOA 9; b CNAME .; SOA 9"),
			want: "SOA 9; b CNAME .", changes: -1, asked: "SOA IXFR AXFR",
		},
		"changes from another serial": {
			soa: says("SOA 9"), copied: "SOA 7; a CNAME .", ixfr: says("SOA 9; SOA 6; a CNAME .; SOA 9; SOA 9"), axfr: says("SOA 9; b CNAME .; SOA 9"),
			want: "SOA 9; b CNAME .", changes: -1, asked: "SOA IXFR AXFR",
		},
		"a gap in the changes": {
			soa: says("SOA 9"), copied: "SOA 6; a CNAME .", ixfr: says("SOA 9; SOA 6; SOA 7; b CNAME .; SOA 8; SOA 9; SOA 9"), axfr: says("SOA 9; b CNAME .; SOA 9"),
			want: "SOA 9; b CNAME .", changes: -1, asked: "SOA IXFR AXFR",
		},
		"changes that go back": {
			soa: says("SOA 9"), copied: "SOA 7; a CNAME .", ixfr: says("SOA 9; SOA 7; SOA 5; SOA 5; SOA 9; SOA 9"), axfr: says("SOA 9; b CNAME .; SOA 9"),
			want: "SOA 9; b CNAME .", changes: -1, asked: "SOA IXFR AXFR",
		},
		"a copy that is broken": {soa: says("SOA 9"), copied: "a CNAME .", axfr: says("SOA 9; b CNAME .; SOA 9"), want: "SOA 9; b CNAME .", changes: -1, asked: "SOA AXFR"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPrimary(t)
			p.say(dns.TypeSOA, tc.soa...)
			p.say(dns.TypeIXFR, tc.ixfr...)
			p.say(dns.TypeAXFR, tc.axfr...)
			u, got, err := p.fetch(nil, tc.copied, nil)
			if err != nil || !strings.HasPrefix(got, tc.want) || u.Changes != tc.changes || u.Newest != (tc.want == "") {
				t.Errorf("got %q, %+v, %v, want %q with %d changes", got, u, err, tc.want, tc.changes)
			}
			if u.Refresh != 100*time.Second || u.Retry != 20*time.Second || u.Expire != 3000*time.Second {
				t.Errorf("timers %+v", u)
			}
			if asked := p.questions(); asked != tc.asked {
				t.Errorf("asked %s, want %s", asked, tc.asked)
			}
		})
	}
}

// TestZoneFaults: whatever a primary does wrong is an error that says what, and
// nothing of it stays behind.
func TestZoneFaults(t *testing.T) {
	const copied = "SOA 7; a CNAME ."
	soa, good := says("SOA 9"), says("SOA 9; b CNAME .; SOA 9")
	refused := []message{{rcode: dns.RcodeRefused}}
	before := runtime.NumGoroutine()
	for name, tc := range map[string]struct {
		soa, ixfr, axfr []message
		want            string
	}{
		"refused":                {refused, nil, nil, "the primary answers REFUSED"},
		"no SOA":                 {says("a CNAME ."), nil, nil, "does not say what version"},
		"the SOA of another":     {says("example. 60 IN SOA . . 9 1 1 1 1"), nil, nil, "does not say what version"},
		"another question's":     {[]message{{text: "SOA 9", id: 1}}, nil, nil, "not an answer to the question"},
		"a question":             {[]message{{text: "SOA 9", mess: func(m *dns.Msg) { m.Response = false }}}, nil, nil, "not an answer"},
		"about another zone":     {[]message{{text: "SOA 9", mess: func(m *dns.Msg) { m.Question[0].Name = "b." }}}, nil, nil, "not an answer"},
		"truncated":              {[]message{{text: "SOA 9", mess: func(m *dns.Msg) { m.Truncated = true }}}, nil, nil, "not an answer"},
		"cut":                    {[]message{{text: "SOA 9", cut: 20}}, nil, nil, "unexpected EOF"},
		"silent":                 {nil, nil, nil, "unexpected EOF"},
		"the serial goes back":   {says("SOA 6"), nil, nil, "the serial has gone back: from 7 to 6"},
		"far back":               {says("SOA 2147483655"), nil, nil, "the serial has gone back"},
		"back while asked":       {soa, says("SOA 6; b CNAME .; SOA 6"), nil, "the serial has gone back: from 7 to 6 while"},
		"AXFR is older":          {soa, refused, says("SOA 7; b CNAME .; SOA 7"), "the serial has gone back"},
		"AXFR refused":           {soa, refused, refused, "the primary answers REFUSED"},
		"no SOA in front":        {soa, refused, says("b CNAME .; SOA 9"), "does not begin with an SOA"},
		"two SOAs early":         {soa, refused, says("SOA 9; SOA 9"), "no record but its SOA"},
		"another SOA at the end": {soa, refused, says("SOA 9; b CNAME .; SOA 10"), "begins with serial 9 and ends with 10"},
		"records behind it":      {soa, refused, says("SOA 9; b CNAME .; SOA 9; c CNAME ."), "behind the last SOA"},
		"dies in the middle":     {soa, refused, says("SOA 9; b CNAME ."), "unexpected EOF"},
		"dies within a message":  {soa, refused, []message{{text: "SOA 9; b CNAME ."}, {text: "c CNAME .; SOA 9", cut: 31}}, "unexpected EOF"},
		"of another zone":        {soa, refused, says("SOA 9; b.example. 60 IN CNAME .; SOA 9"), "b.example. is not of the zone"},
		"of another class":       {soa, refused, says("SOA 9; b.feed.example. 60 CH TXT x; SOA 9"), "not of the zone"},
		"an SOA inside":          {soa, refused, says("SOA 9; b.feed.example. 60 IN SOA . . 9 1 1 1 1; SOA 9"), "an SOA at b.feed.example."},
		"no records":             {soa, refused, says("SOA 9; b CNAME .", "", "SOA 9"), "a message has no records"},
		"changes die":            {soa, says("SOA 9; SOA 7; a CNAME ."), good, "unexpected EOF"},
		"the whole dies":         {soa, says("SOA 9; b CNAME ."), good, "unexpected EOF"},
		"the whole is bad":       {soa, says("SOA 9; b CNAME .; SOA 8"), good, "ends with 8"},
		"hangs":                  {soa, refused, []message{{text: "SOA 9; b CNAME ."}, {hang: true}}, "i/o timeout"},
		"hangs at the start":     {[]message{{hang: true}}, nil, nil, "i/o timeout"},
		"an empty alias":         {soa, refused, []message{{text: "SOA 9; b CNAME .; SOA 9", mess: func(m *dns.Msg) { m.Answer[1] = &dns.RFC3597{Hdr: *m.Answer[1].Header()} }}}, "b.feed.example. has no data"},
		"garbage":                {soa, refused, []message{{text: "SOA 9; b CNAME .", mess: func(m *dns.Msg) { m.Answer[1] = &dns.RFC3597{Hdr: *m.Answer[1].Header(), Rdata: "ff"} }}}, "a message cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPrimary(t)
			p.say(dns.TypeSOA, tc.soa...)
			p.say(dns.TypeIXFR, tc.ixfr...)
			p.say(dns.TypeAXFR, tc.axfr...)
			_, _, err := p.fetch(nil, copied, func(z *Zone) {
				if strings.HasPrefix(name, "hangs") {
					z.Idle = 100 * time.Millisecond
				}
			})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %s", err, tc.want)
			}
			// It converges as soon as the primary is well.
			p.say(dns.TypeSOA, says("SOA 11")...)
			p.say(dns.TypeIXFR, says("SOA 11; SOA 7; SOA 11; c CNAME .; SOA 11")...)
			if _, got, err := p.fetch(nil, copied, nil); err != nil || got != "SOA 11; a CNAME .; c CNAME ." {
				t.Errorf("afterwards: %q, %v", got, err)
			}
		})
	}
	for end := time.Now().Add(time.Minute); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines before, %d after", before, runtime.NumGoroutine())
		}
	}
}

// TestZoneIsBounded: a primary that never stops is stopped.
func TestZoneIsBounded(t *testing.T) {
	var endless []message
	endless = append(endless, message{text: "SOA 9; b CNAME ."})
	text := strings.TrimSuffix(strings.Repeat("x CNAME .; ", 200), "; ")
	for range 200 {
		endless = append(endless, message{text: text})
	}
	p := newPrimary(t)
	p.say(dns.TypeSOA, says("SOA 9")...)
	p.say(dns.TypeAXFR, endless...)
	if _, _, err := p.fetch(nil, "", func(z *Zone) { z.Bytes = 100_000 }); err == nil || !strings.Contains(err.Error(), "more than 100000 bytes") {
		t.Errorf("endless zone: %v", err)
	}
	var names []string
	for i := range 200 {
		names = append(names, fmt.Sprintf("x%d CNAME .", i))
	}
	p.say(dns.TypeIXFR, says("SOA 9; SOA 7; SOA 9; "+strings.Join(names, "; ")+"; SOA 9")...)
	p.say(dns.TypeAXFR, message{rcode: dns.RcodeRefused})
	p.questions()
	if _, _, err := p.fetch(nil, "SOA 7; a CNAME .", func(z *Zone) { z.Changes = 100 }); err == nil || p.questions() != "SOA IXFR AXFR" {
		t.Errorf("endless changes: %v", err)
	}
	p.say(dns.TypeAXFR, message{text: "SOA 9; b CNAME ."}, message{hang: true})
	began := time.Now()
	if _, _, err := p.fetch(nil, "", func(z *Zone) { z.Total = 200 * time.Millisecond }); err == nil || time.Since(began) > 50*time.Second {
		t.Errorf("an endless transfer ended after %v: %v", time.Since(began), err)
	}
	// The copy must have place for what a disk has not.
	p.say(dns.TypeAXFR, says("SOA 9; b CNAME .; SOA 9")...)
	z := &Zone{URL: "rpz://" + p.listen.Addr().String() + "/feed.example"}
	if _, err := z.Fetch(context.Background(), nil, full{}); !errors.Is(err, errFull) {
		t.Errorf("a full disk: %v", err)
	}
}

var errFull = errors.New("no space left")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }

func TestZoneSignatures(t *testing.T) {
	wrong := *zoneKey
	wrong.Secret = []byte("0123456789abcdef0123456789abcdeX")
	other := *zoneKey
	other.Name = "other.example"
	weak := *zoneKey
	weak.Algorithm = "hmac-sha1"
	s, bad := sign(zoneKey), sign(&wrong)
	old := func(m *dns.Msg, mac string, later bool, _ []byte) ([]byte, string) {
		m.SetTsig("xfr.example.", dns.HmacSHA256, tsigFudge, time.Now().Add(-time.Hour).Unix())
		out, next, _ := dns.TsigGenerate(m, zoneKey.secret(), mac, later)
		return out, next
	}
	badKey := func(m *dns.Msg, mac string, later bool, _ []byte) ([]byte, string) {
		m.Rcode = dns.RcodeNotAuth
		m.SetTsig("xfr.example.", dns.HmacSHA256, tsigFudge, time.Now().Unix())
		m.Extra[0].(*dns.TSIG).Error = dns.RcodeBadKey
		out, next, _ := dns.TsigGenerate(m, zoneKey.secret(), mac, later)
		return out, next
	}
	changed := func(m *dns.Msg, mac string, later bool, bare []byte) ([]byte, string) {
		out, next := s(m, mac, later, bare)
		out[len(out)/4] ^= 1
		return out, next
	}
	soa := []message{{text: "SOA 9", sign: s}}
	first := message{text: "SOA 9; b CNAME .", sign: s}
	bare := message{text: "c CNAME ."}
	many := append([]message{first}, slices.Repeat([]message{bare}, 120)...)
	for name, tc := range map[string]struct {
		key       *ZoneKey
		soa, axfr []message
		want      string
	}{
		"all are signed":           {zoneKey, soa, []message{first, {text: "c CNAME .", sign: s}, {text: "SOA 9", sign: s}}, ""},
		"some are":                 {zoneKey, soa, append(slices.Clone(many[:90]), message{text: "SOA 9", sign: s}), ""},
		"none is":                  {zoneKey, says("SOA 9"), nil, "the answer has none"},
		"none was asked for":       {nil, soa, nil, "unsigned question"},
		"by a wrong secret":        {zoneKey, []message{{text: "SOA 9", sign: bad}}, nil, "it is wrong"},
		"by another key":           {zoneKey, []message{{text: "SOA 9", sign: sign(&other)}}, nil, "by another key"},
		"by a weak algorithm":      {zoneKey, []message{{text: "SOA 9", sign: sign(&weak)}}, nil, "by another key"},
		"of another time":          {zoneKey, []message{{text: "SOA 9", sign: old}}, nil, "more than 300 s from ours"},
		"the primary knows no key": {zoneKey, []message{{text: "", sign: badKey}}, nil, "the primary says BADKEY"},
		"the transfer has none":    {zoneKey, soa, says("SOA 9; b CNAME .; SOA 9"), "the answer has none"},
		"the last has none":        {zoneKey, soa, []message{first, {text: "SOA 9"}}, "the last message has none"},
		"too many have none":       {zoneKey, soa, many, "100 messages in a row"},
		"one in the middle is bad": {zoneKey, soa, []message{first, {text: "c CNAME .", sign: bad}, {text: "SOA 9", sign: s}}, "it is wrong"},
		"a bare one was changed": {zoneKey, soa, []message{first, bare, {text: "SOA 9", sign: func(m *dns.Msg, mac string, later bool, _ []byte) ([]byte, string) {
			return s(m, mac, later, []byte("x"))
		}}}, "it is wrong"},
		"a signed one was changed": {zoneKey, soa, []message{{text: "SOA 9; b CNAME .; c CNAME .; d CNAME .; SOA 9", sign: changed}}, "zone transfer"},
		"what another was told": {zoneKey, soa, []message{{text: "SOA 9; b CNAME .; SOA 9", sign: func(m *dns.Msg, _ string, later bool, b []byte) ([]byte, string) {
			return s(m, strings.Repeat("00", 32), later, b)
		}}}, "it is wrong"},
		"there are two signatures":    {zoneKey, []message{{text: "SOA 9", mess: func(m *dns.Msg) { m.SetTsig("x.", dns.HmacSHA256, 300, 1) }, sign: s}}, nil, "there are two"},
		"behind it is another record": {zoneKey, []message{{text: "SOA 9", mess: func(m *dns.Msg) { m.SetTsig("xfr.example.", dns.HmacSHA256, 300, 1); m.SetEdns0(1232, false) }}}, nil, "not the last record"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPrimary(t)
			p.say(dns.TypeSOA, tc.soa...)
			p.say(dns.TypeAXFR, tc.axfr...)
			_, got, err := p.fetch(tc.key, "", nil)
			if tc.want == "" && (err != nil || !strings.HasPrefix(got, "SOA 9; b CNAME .; c CNAME .")) {
				t.Errorf("got %.80q, %v", got, err)
			}
			if tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
}

func TestParseZone(t *testing.T) {
	for text, want := range map[string]string{
		"rpz://192.0.2.1/feed.example":        "192.0.2.1:53 192.0.2.1 feed.example. false",
		"rpz://[2001:db8::1]:5300/RPZ.":       "[2001:db8::1]:5300 2001:db8::1 rpz. false",
		"rpzs://ns.example/feed.example":      "ns.example:853 ns.example feed.example. true",
		"rpzs://ns.example:8853/feed.example": "ns.example:8853 ns.example feed.example. true",
		"rpz://192.0.2.1":                     "", "rpz://192.0.2.1/": "", "rpz:///feed.example": "", "http://192.0.2.1/feed.example": "",
		"rpz://192.0.2.1/a/b": "", "rpz://192.0.2.1/a..b": "", "rpz://%zz/": "",
	} {
		addr, host, zone, secure, err := ParseZone(text)
		got := fmt.Sprint(addr, " ", host, " ", zone, " ", secure)
		if want == "" && err == nil || want != "" && got != want {
			t.Errorf("%s: got %q, %v, want %q", text, got, err, want)
		}
	}
}

// TestZoneManyIncrements: a thousand increments come as one change.
func TestZoneManyIncrements(t *testing.T) {
	p := newPrimary(t)
	p.say(dns.TypeSOA, says("SOA 1007")...)
	answer := []message{{text: "SOA 1007"}}
	for i := 7; i < 1007; i++ {
		answer = append(answer, message{text: fmt.Sprintf("SOA %d; n%d CNAME .; SOA %d; n%d CNAME .; x%d CNAME *.", i, i, i+1, i+1, i%10)})
		if i >= 17 { // what came ten increments ago goes
			answer[len(answer)-1].text = fmt.Sprintf("SOA %d; n%d CNAME .; x%d CNAME *.; SOA %d; n%d CNAME .; x%d CNAME *.", i, i, i%10, i+1, i+1, i%10)
		}
	}
	answer = append(answer, message{text: "SOA 1007"})
	p.say(dns.TypeIXFR, answer...)
	u, got, err := p.fetch(nil, "SOA 7; a CNAME .; n7 CNAME .", nil)
	want := "SOA 1007; a CNAME .; n1007 CNAME ."
	for i := range 10 {
		want += fmt.Sprintf("; x%d CNAME *.", i)
	}
	if err != nil || got != want || u.Serial != 1007 {
		t.Errorf("got %q, %+v, %v, want %q", got, u, err, want)
	}
}

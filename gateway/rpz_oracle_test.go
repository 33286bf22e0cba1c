package gateway

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// oracleQuestions is how many questions each engine is asked.
const oracleQuestions = 20_000

// An oracleDice makes a world, a policy zone and questions that meet.
type oracleDice struct{ *rand.Rand }

func (d oracleDice) pick(words ...string) string { return words[d.IntN(len(words))] }

// name is one of some hundred, often under another.
func (d oracleDice) name() string {
	name := d.pick("alfa.example", "bravo.example", "charlie.example")
	for range d.IntN(4) {
		name = d.pick("a", "b", "c", "www") + "." + name
	}
	return name
}

func (d oracleDice) addr4() string { return fmt.Sprintf("198.51.%d.%d", 100+d.IntN(2), d.IntN(64)) }
func (d oracleDice) addr6() string { return fmt.Sprintf("2001:db8:%x::%x", d.IntN(4), d.IntN(16)) }

// client is an address of loopback to ask from.
func (d oracleDice) client() string {
	return fmt.Sprintf("127.%d.%d.%d", 1+d.IntN(3), d.IntN(2), 1+d.IntN(6))
}

// world is what there would be without a policy.
func (d oracleDice) world() string {
	var b strings.Builder
	b.WriteString("up.example. A 192.0.2.1\nwalled.example. A 192.0.2.2\nwalled.example. AAAA 2001:db8:ffff::2\n")
	seen := map[string]bool{}
	for range 250 {
		name := d.name()
		if seen[name] {
			continue
		}
		seen[name] = true
		if d.IntN(5) == 0 {
			fmt.Fprintf(&b, "%s. CNAME target%d.example.\n", name, d.IntN(40))
			continue
		}
		d.records(&b, name)
		fmt.Fprintf(&b, "%s.garden.example. A 192.0.2.3\n", name)
	}
	for i := range 40 {
		name := fmt.Sprintf("target%d.example", i)
		if d.IntN(4) == 0 {
			fmt.Fprintf(&b, "%s. CNAME deep%d.example.\n", name, i)
			name = fmt.Sprintf("deep%d.example", i)
		}
		d.records(&b, name)
	}
	return b.String()
}

func (d oracleDice) records(b *strings.Builder, name string) {
	seen := map[string]bool{}
	for range 1 + d.IntN(3) {
		if a := d.addr4(); !seen[a] {
			seen[a] = true
			fmt.Fprintf(b, "%s. A %s\n", name, a)
		}
	}
	if d.IntN(2) == 0 {
		fmt.Fprintf(b, "%s. AAAA %s\n", name, d.addr6())
	}
	if d.IntN(2) == 0 {
		fmt.Fprintf(b, "%s. TXT \"text of %s\"\n", name, name)
	}
}

const zoneHead = "$TTL 60\n@ SOA ns.example. host.example. 1 3600 600 86400 60\n@ NS ns.example.\n"

// zone is a policy with every trigger and action.
func (d oracleDice) zone() string {
	var b strings.Builder
	b.WriteString(zoneHead)
	seen := map[string]bool{}
	trigger := func(owner string) {
		if !seen[owner] {
			seen[owner] = true
			d.action(&b, owner)
		}
	}
	for range 70 {
		trigger(d.name())
	}
	for range 30 {
		trigger("*." + d.name())
	}
	for range 12 {
		trigger(fmt.Sprintf("target%d.example", d.IntN(40)))
		trigger(fmt.Sprintf("deep%d.example", d.IntN(40)))
	}
	for range 25 {
		trigger(rpzOwner(netip.PrefixFrom(netip.MustParseAddr(d.addr4()), 32-d.IntN(4)).Masked()) + ".rpz-ip")
	}
	for range 8 {
		trigger(rpzOwner(netip.PrefixFrom(netip.MustParseAddr(d.addr6()), 128-4*d.IntN(2)).Masked()) + ".rpz-ip")
	}
	for range 6 {
		trigger(rpzOwner(netip.PrefixFrom(netip.MustParseAddr(d.client()), 32-d.IntN(2)).Masked()) + ".rpz-client-ip")
	}
	return b.String()
}

// rpzOwner writes a prefix as the labels of a trigger.
func rpzOwner(p netip.Prefix) string {
	words := strings.Split(p.Addr().String(), ".")
	if p.Addr().Is6() {
		text := strings.Replace(p.Addr().String(), "::", ":zz:", 1)
		words = strings.Split(strings.Trim(text, ":"), ":")
	}
	slices.Reverse(words)
	return fmt.Sprintf("%d.%s", p.Bits(), strings.Join(words, "."))
}

func (d oracleDice) action(b *strings.Builder, owner string) {
	switch d.IntN(24) {
	case 0, 1, 2, 3, 4:
		fmt.Fprintf(b, "%s CNAME .\n", owner)
	case 5, 6, 7:
		fmt.Fprintf(b, "%s CNAME *.\n", owner)
	case 8, 9, 10, 11, 12:
		fmt.Fprintf(b, "%s CNAME rpz-passthru.\n", owner)
	case 13:
		fmt.Fprintf(b, "%s CNAME rpz-drop.\n", owner)
	case 14, 15:
		if strings.HasPrefix(owner, "target") || strings.HasPrefix(owner, "deep") {
			d.action(b, owner) // unbound ends on it: see RPZ.md
			return
		}
		fmt.Fprintf(b, "%s CNAME rpz-tcp-only.\n", owner)
	case 16, 17:
		fmt.Fprintf(b, "%s CNAME walled.example.\n", owner)
	case 18, 19:
		fmt.Fprintf(b, "%s CNAME *.garden.example.\n", owner)
	default:
		for i := range 1 + d.IntN(2) {
			fmt.Fprintf(b, "%s A 192.0.2.%d\n", owner, 100*i+d.IntN(100))
		}
		if d.IntN(2) == 0 {
			fmt.Fprintf(b, "%s AAAA 2001:db8:ffff::%x\n", owner, d.IntN(100))
		}
		if d.IntN(2) == 0 {
			fmt.Fprintf(b, "%s TXT \"policy\"\n", owner)
		}
	}
}

// An oracleQuestion is one question, the same for everybody.
type oracleQuestion struct {
	client, name string
	qtype        uint16
	tcp          bool
}

func (q oracleQuestion) String() string {
	network := "udp"
	if q.tcp {
		network = "tcp"
	}
	return fmt.Sprintf("%s %s %s from %s", network, q.name, dns.Type(q.qtype), q.client)
}

func (d oracleDice) question() oracleQuestion {
	q := oracleQuestion{client: d.client(), name: d.name() + ".", qtype: dns.TypeA, tcp: d.IntN(10) == 0}
	if d.IntN(12) == 0 {
		q.name = fmt.Sprintf("%s%d.example.", d.pick("target", "deep"), d.IntN(40))
	}
	switch d.IntN(8) {
	case 0, 1:
		q.qtype = dns.TypeAAAA
	case 2:
		q.qtype = dns.TypeTXT
	case 3:
		if d.IntN(3) == 0 {
			q.qtype = dns.TypeMX
		}
	}
	return q
}

// oraclePatience is how long an answer may take; after the last there is none.
// Where one alone says nothing, it is asked again with the longer one.
var (
	oraclePatience = []time.Duration{400 * time.Millisecond, 1200 * time.Millisecond}
	longPatience   = []time.Duration{2 * time.Second, 4 * time.Second}
)

const silence = "no answer"

// ask returns the answer in words: TC, or rcode and the answer section in order of
// text, without TTLs.
func (e rpzEngine) ask(q oracleQuestion, patience []time.Duration) string {
	m := new(dns.Msg).SetQuestion(q.name, q.qtype)
	m.SetEdns0(1232, false)
	c := dns.Client{Dialer: &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(q.client)}}}
	if q.tcp {
		c.Net, c.Dialer.LocalAddr = "tcp", &net.TCPAddr{IP: net.ParseIP(q.client)}
	}
	for _, wait := range patience {
		c.Timeout = wait
		if reply, _, err := c.Exchange(m, e.addr); err == nil {
			return inWords(reply)
		}
	}
	return silence
}

func inWords(m *dns.Msg) string {
	if m.Truncated {
		return "TC" // whatever else it says is not the answer
	}
	words := []string{dns.RcodeToString[m.Rcode]}
	for _, rr := range m.Answer {
		h := rr.Header()
		words = append(words, fmt.Sprintf("%s %s %s", strings.ToLower(h.Name), dns.Type(h.Rrtype), strings.TrimPrefix(rr.String(), h.String())))
	}
	slices.Sort(words[1:])
	return strings.Join(words, "; ")
}

// askAll asks the engine all questions.
func (e rpzEngine) askAll(questions []oracleQuestion, patience []time.Duration) []string {
	out := make([]string, len(questions))
	next := make(chan int)
	var wg sync.WaitGroup
	for range 128 { // most wait for an answer that does not come
		wg.Go(func() {
			for i := range next {
				out[i] = e.ask(questions[i], patience)
			}
		})
	}
	for i := range questions {
		next <- i
	}
	close(next)
	wg.Wait()
	return out
}

// TestRPZOracle asks Weir and three engines the same of one policy zone. Where
// they differ, the reason must be one of rpzKinds.
func TestRPZOracle(t *testing.T) {
	t.Parallel()
	seed := oracleSeed(t)
	t.Logf("seed %d: WEIR_SEED=%d repeats it", seed, seed)
	d := oracleDice{rand.New(rand.NewPCG(seed, 0))}
	w, err := newWorld(d.world())
	if err != nil {
		t.Fatal(err)
	}
	zone := d.zone()
	questions := make([]oracleQuestion, oracleQuestions)
	for i := range questions {
		questions[i] = d.question()
	}
	at := w.serve(t)
	engines := append(startEngines(t, at, []string{zone}), startWeirZones(t, at, []string{zone}))
	answers := make([][]string, len(engines))
	var wg sync.WaitGroup
	for i, e := range engines {
		wg.Go(func() { answers[i] = e.askAll(questions, oraclePatience) })
	}
	wg.Wait()
	askLate(engines, questions, answers)
	tally := newRPZTally(w, zone)
	for i, q := range questions {
		said := map[string]string{}
		for k, e := range engines {
			said[e.name] = answers[k][i]
		}
		tally.add(q, said, func() map[string]string { return askAgain(engines, q) })
	}
	tally.report(t)
}

// askAgain asks all of them, once what they may know of a failure is forgotten.
func askAgain(engines []rpzEngine, q oracleQuestion) map[string]string {
	time.Sleep(2 * time.Second)
	said := map[string]string{}
	for _, e := range engines {
		said[e.name] = e.ask(q, longPatience)
	}
	return said
}

// askLate asks those once more who said nothing where somebody said something: on
// a busy machine they may only have been late.
func askLate(engines []rpzEngine, questions []oracleQuestion, answers [][]string) {
	for k, e := range engines {
		var late []int
		var again []oracleQuestion
		for i, q := range questions {
			spoken := false
			for other := range engines {
				spoken = spoken || answers[other][i] != silence
			}
			if spoken && answers[k][i] == silence {
				late, again = append(late, i), append(again, q)
			}
		}
		for n, words := range e.askAll(again, longPatience) {
			answers[k][late[n]] = words
		}
	}
}

// startWeirZones runs a gateway with a ban whose lists are the zones.
func startWeirZones(t *testing.T, world netip.AddrPort, zones []string) rpzEngine {
	t.Helper()
	files, lists := map[string]string{}, ""
	for i, z := range zones {
		files[zoneFile(i)] = z
		lists += fmt.Sprintf("      - {name: %s, source: \"file:%s\", format: rpz}\n", zoneFile(i), zoneFile(i))
	}
	files["weir.yml"] = `
dns: {listen: ["127.0.0.1:0"], upstreams: ["udp://` + world.String() + `"]}
proxy: {listen: ["127.0.0.1:0"]}
admin: {listen: "127.0.0.1:0"}
bans:
  - id: zone
    title: {en: "Zone", fr: "Zone"}
    authority: "test"
    reference: "https://example.org/"
    lists:
` + lists
	f := newFixture(t, files)
	return rpzEngine{"weir", f.DNSAddrs()[0].String()}
}

// oracleSeed is that of the environment, or a new one.
func oracleSeed(t *testing.T) uint64 {
	t.Helper()
	s := os.Getenv("WEIR_SEED")
	if s == "" {
		return uint64(time.Now().UnixNano())
	}
	seed, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return seed
}

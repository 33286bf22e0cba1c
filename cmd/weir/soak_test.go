package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/bench/corpus"
)

// soakRate is how many questions a second are asked in all, so that a soak can
// run beside other work.
const soakRate = 2000

// soakTime is $WEIR_SOAK, or as long as is bearable in every run.
func soakTime(t *testing.T) time.Duration {
	t.Helper()
	v := os.Getenv("WEIR_SOAK")
	if v == "" {
		return 15 * time.Second
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 5*time.Second {
		t.Fatalf("WEIR_SOAK is %q; want a time of at least 5s, such as 30m", v)
	}
	return d
}

const soakYML = `
dns:
  listen: ["DNS"]
  upstreams: ["udp://FLAPPING", "udp://STEADY"]
  cache: {entries: 20000} # full within minutes, so that memory has its size then
  routes: [{names: [faulty.example], upstreams: ["udp://FAULTY"]}]
  tls: {cert: cert.pem, key: key.pem}
  dot: {listen: ["DOT"]}
  doh: {listen: ["DOH"]}
  doq: {listen: ["DOQ"]}
proxy:
  listen: ["PROXY"]
  connect_ports: [443, ORIGIN]
  allow_networks: [127.0.0.0/8]
  sni: {missing: allow, mismatch: allow, ech: allow, not_tls: allow, malformed: allow, timeout: allow}
bans:
  - id: soak
    title: {en: "Soak", fr: "Trempage"}
    authority: "a test"
    reference: "cmd/weir/soak_test.go"
    lists: [{name: soak, source: "file:blocked.txt", format: domains}]
admin: {listen: "ADMIN"}
state: "STATE"
log: {level: error}
`

// A soak is one run: a gateway in a process of its own, and everything that asks
// it, changes it and fails it.
type soak struct {
	t                      *testing.T
	dir                    string
	weir                   *process
	ca                     *soakCA
	at                     map[string]string // addresses by the words of soakYML
	up                     map[string]*soakUpstream
	tallies                map[string]*soakTally
	fresh                  atomic.Uint64
	reloads, swaps, faults atomic.Uint64
	samples                []soakSample
}

// A soakTally counts one path. Every question is in one of the last three.
type soakTally struct {
	asked, right, wrong, lost atomic.Uint64
	failed                    atomic.Uint64 // that no upstream answered in time, and were asked again
	dials                     atomic.Uint64
	mu                        sync.Mutex
	first                     string // wrong or lost
}

func (c *soakTally) note(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first == "" {
		c.first = time.Now().UTC().Format("15:04:05.000 ") + what
	}
}

// TestSoak has all transports and the proxy under load for a while, with reloads,
// new certificates and failing upstreams: what is asked on a healthy path gets its
// answer, and the right one, and nothing grows.
func TestSoak(t *testing.T) {
	length := soakTime(t)
	s := startSoak(t)
	base := s.sample()
	ctx, stop := context.WithTimeout(t.Context(), length)
	defer stop()
	var wg sync.WaitGroup
	for _, transport := range soakTransports {
		for i := range soakClients {
			wg.Go(func() { s.client(ctx, transport, i) })
		}
	}
	for i := range 4 {
		wg.Go(func() { s.tunnels(ctx, i) })
	}
	wg.Go(func() { s.askFaulty(ctx) })
	wg.Go(func() { s.every(ctx, 5*time.Second, s.reload) })
	wg.Go(func() { s.every(ctx, 7*time.Second, s.swapCertificate) })
	wg.Go(func() { s.every(ctx, 3*time.Second, s.fail) })
	wg.Go(func() { s.every(ctx, max(min(10*time.Second, length/30), time.Second), s.keepSample) })
	wg.Wait()
	s.heal()
	s.report(base, length)
}

func startSoak(t *testing.T) *soak {
	t.Helper()
	s := &soak{t: t, dir: t.TempDir(), ca: newSoakCA(t), at: map[string]string{}, up: map[string]*soakUpstream{}, tallies: map[string]*soakTally{}}
	for _, name := range []string{"FLAPPING", "STEADY", "FAULTY"} {
		s.up[name] = startUpstream(t)
		s.at[name] = s.up[name].addr
	}
	for i, a := range ports(t, 6) {
		s.at[[]string{"DNS", "DOT", "DOH", "DOQ", "PROXY", "ADMIN"}[i]] = a
	}
	s.at["STATE"] = filepath.Join(s.dir, "state")
	s.at["ECHO"] = corpus.Echo(t)
	_, s.at["ORIGIN"], _ = net.SplitHostPort(s.at["ECHO"])
	var pairs []string
	for word, a := range s.at {
		pairs = append(pairs, word, a)
	}
	for _, path := range append(slices.Clone(soakTransports), "tunnel", "long tunnel", "blocked tunnel", "faulty") {
		s.tallies[path] = new(soakTally)
	}
	s.writeList(0)
	s.swapCertificate()
	s.write("weir.yml", strings.NewReplacer(pairs...).Replace(soakYML))
	s.weir = startWeir(t, s.at["ADMIN"], "serve", "--config", filepath.Join(s.dir, "weir.yml"))
	return s
}

func (s *soak) write(name, text string) {
	tmp := filepath.Join(s.dir, name+".new")
	if err := errors.Join(os.WriteFile(tmp, []byte(text), 0o600), os.Rename(tmp, filepath.Join(s.dir, name))); err != nil {
		s.t.Error(err)
	}
}

// soakBlocked is how many names the list has, each of which is asked for.
const soakBlocked = 20_000

// writeList writes the list with a name more that changes each time.
func (s *soak) writeList(round uint64) {
	var b strings.Builder
	for i := range soakBlocked {
		fmt.Fprintf(&b, "n%d.blocked.example\n", i)
	}
	fmt.Fprintf(&b, "round%d.blocked.example\n", round)
	s.write("blocked.txt", b.String())
}

func (s *soak) every(ctx context.Context, d time.Duration, f func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f()
		case <-ctx.Done():
			return
		}
	}
}

func (s *soak) reload() {
	s.writeList(s.reloads.Add(1))
	_ = s.weir.cmd.Process.Signal(syscall.SIGHUP)
}

func (s *soak) swapCertificate() {
	cert, key := s.ca.leaf(s.t)
	s.write("key.pem", key)
	s.write("cert.pem", cert)
	s.swaps.Add(1)
}

// fail has the first upstream be silent two times in three, and the one of the
// faulty path each time fail in another way.
func (s *soak) fail() {
	n := s.faults.Add(1)
	s.up["FLAPPING"].mode.Store([]int64{answers, silent, fails}[n%3])
	s.up["FAULTY"].mode.Store([]int64{silent, fails, lies, answers}[n%4])
}

func (s *soak) heal() {
	for _, u := range s.up {
		u.mode.Store(answers)
	}
}

// question draws a question and says what its answer is.
func (s *soak) question(rnd *rand.Rand) (q *dns.Msg, blocked bool) {
	name := fmt.Sprintf("c%d.cached.example.", rnd.IntN(200))
	switch rnd.IntN(20) {
	case 0: // one that nobody has asked for
		name = fmt.Sprintf("u%d.fresh.example.", s.fresh.Add(1))
	case 1, 2, 3, 4, 5:
		name, blocked = fmt.Sprintf("n%d.blocked.example.", rnd.IntN(soakBlocked)), true
	}
	q = new(dns.Msg).SetQuestion(name, dns.TypeA)
	if rnd.IntN(2) == 0 {
		q.SetEdns0(1232, false)
	}
	return q, blocked
}

// judge says what is wrong with an answer; empty for nothing.
func judge(q *dns.Msg, blocked bool, reply []byte) string {
	m := new(dns.Msg)
	if err := m.Unpack(reply); err != nil {
		return err.Error()
	}
	name := q.Question[0].Name
	switch {
	case m.Id != q.Id || !m.Response || len(m.Question) != 1 || m.Question[0] != q.Question[0]:
		return fmt.Sprintf("%s: an answer to something else: %v", name, m)
	case blocked && m.Rcode == dns.RcodeNameError, !blocked && m.Rcode == dns.RcodeSuccess && len(m.Answer) == 1 && soakAddress(name).Equal(m.Answer[0].(*dns.A).A):
		return ""
	}
	return fmt.Sprintf("%s: %s, %v", name, dns.RcodeToString[m.Rcode], m.Answer)
}

// failed reports whether an answer is that of an upstream that had no time to give one:
// it shares the processors with all else.
func failed(reply []byte) bool { return len(reply) > 3 && reply[3]&0xF == dns.RcodeServerFailure }

const (
	soakClients  = 3
	soakPerConn  = 700 // questions, then a client comes back with a new connection
	soakPatience = 30 * time.Second
)

// client asks over one transport at its pace. The first client of each keeps its
// connection for as long as the soak lasts.
func (s *soak) client(ctx context.Context, transport string, n int) {
	tally, rnd := s.tallies[transport], rand.New(rand.NewPCG(uint64(n), 1))
	pace := time.NewTicker(time.Second * time.Duration(soakClients*len(soakTransports)) / soakRate)
	defer pace.Stop()
	var conn soakConn
	defer func() {
		if conn != nil {
			conn.close()
		}
	}()
	for i := 0; ctx.Err() == nil; i++ {
		if conn != nil && n > 0 && i%soakPerConn == 0 {
			conn.close()
			conn = nil
		}
		if conn == nil {
			var err error
			if conn, err = s.dial(transport); err != nil {
				tally.asked.Add(1)
				tally.lost.Add(1)
				tally.note("dial: " + err.Error())
				continue
			}
			tally.dials.Add(1)
		}
		q, blocked := s.question(rnd)
		if transport == "doq" || strings.HasPrefix(transport, "doh") {
			q.Id = 0 // RFC 9250, section 4.2.1; RFC 8484, section 4.1
		}
		p, err := q.Pack()
		if err != nil {
			s.t.Error(err)
			return
		}
		tally.asked.Add(1)
		reply, err := conn.ask(p)
		for tries := 0; err == nil && !blocked && tries < 3 && failed(reply); tries++ {
			tally.failed.Add(1)
			time.Sleep(time.Second)
			reply, err = conn.ask(p)
		}
		if err != nil {
			tally.lost.Add(1)
			tally.note(q.Question[0].Name + " lost: " + err.Error())
			conn.close()
			conn = nil
		} else if why := judge(q, blocked, reply); why != "" {
			tally.wrong.Add(1)
			tally.note(why)
		} else {
			tally.right.Add(1)
		}
		<-pace.C
	}
}

// askFaulty asks where answers are not owed; that they are right if there are any
// is.
func (s *soak) askFaulty(ctx context.Context) {
	tally := s.tallies["faulty"]
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for i := 0; ctx.Err() == nil; i++ {
		<-pace.C
		q := new(dns.Msg).SetQuestion(fmt.Sprintf("f%d.faulty.example.", i), dns.TypeA)
		tally.asked.Add(1)
		m, _, err := (&dns.Client{Timeout: soakPatience}).Exchange(q, s.at["DNS"])
		switch {
		case err != nil || m.Rcode == dns.RcodeServerFailure:
			tally.lost.Add(1)
		case m.Rcode == dns.RcodeSuccess && len(m.Answer) == 1 && soakAddress(q.Question[0].Name).Equal(m.Answer[0].(*dns.A).A):
			tally.right.Add(1)
		default:
			tally.wrong.Add(1)
			tally.note(m.String())
		}
	}
}

// tunnels opens tunnels one after the other, or the first one for as long as the
// soak lasts, and now and then one that is blocked.
func (s *soak) tunnels(ctx context.Context, n int) {
	tally := s.tallies["tunnel"]
	if n == 0 {
		tally = s.tallies["long tunnel"]
	}
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for ctx.Err() == nil {
		if n > 0 {
			s.blockedTunnel()
		}
		c, err := s.connect(s.at["ECHO"], "200")
		if err != nil {
			tally.asked.Add(1)
			tally.lost.Add(1)
			tally.note(err.Error())
			<-pace.C
			continue
		}
		tally.dials.Add(1)
		for i := 0; ctx.Err() == nil && (n == 0 || i < 50); i++ {
			tally.asked.Add(1)
			if err := ping(c, i); err != nil {
				tally.lost.Add(1)
				tally.note(err.Error())
				break
			}
			tally.right.Add(1)
			<-pace.C
		}
		_ = c.Close()
	}
}

func (s *soak) blockedTunnel() {
	tally := s.tallies["blocked tunnel"]
	tally.asked.Add(1)
	c, err := s.connect("n1.blocked.example:443", "403")
	if err != nil {
		tally.wrong.Add(1)
		tally.note(err.Error())
		return
	}
	tally.right.Add(1)
	_ = c.Close()
}

// connect asks the proxy for a tunnel and wants that status.
func (s *soak) connect(target, status string) (net.Conn, error) {
	c, err := net.DialTimeout("tcp", s.at["PROXY"], soakPatience)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(soakPatience))
	head := make([]byte, 12)
	_, err = fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target)
	if err == nil {
		_, err = io.ReadFull(c, head)
	}
	if err == nil && string(head[9:]) != status {
		err = fmt.Errorf("CONNECT %s: %q, want %s", target, head, status)
	}
	for end := ""; err == nil && status == "200" && end != "\r\n\r\n"; {
		b := make([]byte, 1)
		_, err = io.ReadFull(c, b)
		end = (end + string(b))[max(len(end)-3, 0):]
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func ping(c net.Conn, i int) error {
	_ = c.SetDeadline(time.Now().Add(soakPatience))
	line := fmt.Sprintf("ping %10d\n", i)
	got := make([]byte, len(line))
	if _, err := io.WriteString(c, line); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != line {
		return fmt.Errorf("the echo of %q is %q", line, got)
	}
	return nil
}

// A soakSample is what the gateway uses.
type soakSample struct {
	at                                time.Time
	resident, heap, goroutines, files float64
}

func (s *soak) sample() soakSample {
	m := soakSample{at: time.Now()}
	resp, err := http.Get("http://" + s.at["ADMIN"] + "/metrics")
	if err != nil {
		s.t.Error(err)
		return m
	}
	defer func() { _ = resp.Body.Close() }()
	into := map[string]*float64{
		"process_resident_memory_bytes": &m.resident, "go_memstats_heap_inuse_bytes": &m.heap, "go_goroutines": &m.goroutines, "process_open_fds": &m.files,
	}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if to := into[name]; to != nil {
			*to, _ = strconv.ParseFloat(value, 64)
		}
	}
	return m
}

func (s *soak) keepSample() {
	s.samples = append(s.samples, s.sample())
	if m := s.samples[len(s.samples)-1]; len(s.samples)%6 == 0 {
		var asked, bad uint64
		for path, c := range s.tallies {
			if path != "faulty" {
				asked, bad = asked+c.asked.Load(), bad+c.wrong.Load()+c.lost.Load()
			}
		}
		s.t.Logf("%s asked %d, wrong or lost %d; resident %.1f MB, heap %.1f MB, %.0f goroutines, %.0f descriptors",
			m.at.UTC().Format(time.TimeOnly), asked, bad, m.resident/1e6, m.heap/1e6, m.goroutines, m.files)
	}
}

// report says what was counted, and fails for what is not as it should be.
func (s *soak) report(base soakSample, length time.Duration) {
	s.t.Helper()
	total := uint64(0)
	for _, path := range append(slices.Clone(soakTransports), "tunnel", "long tunnel", "blocked tunnel", "faulty") {
		c := s.tallies[path]
		asked, right, wrong, lost := c.asked.Load(), c.right.Load(), c.wrong.Load(), c.lost.Load()
		total += asked
		s.t.Logf("%-14s asked %d, right %d, wrong %d, lost %d, failed at first %d, connections %d", path, asked, right, wrong, lost, c.failed.Load(), c.dials.Load())
		if c.failed.Load() > asked/100+10 {
			s.t.Errorf("%s: %d of %d failed at first", path, c.failed.Load(), asked)
		}
		if wrong > 0 || lost > 0 && path != "faulty" || asked == 0 || path == "faulty" && lost == 0 {
			s.t.Errorf("%s: %d wrong and %d lost of %d; first %s", path, wrong, lost, asked, c.first)
		}
	}
	s.t.Logf("%d in %v, beside %d reloads, %d certificates, %d faults", total, length, s.reloads.Load(), s.swaps.Load(), s.faults.Load())
	if got := s.weir.status(); got.Generation < s.reloads.Load()/2 || got.LastError != "" {
		s.t.Errorf("after %d reloads the generation is %d, the last error %q", s.reloads.Load(), got.Generation, got.LastError)
	}
	s.flat(length)
	var last soakSample
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		if last = s.sample(); last.goroutines <= base.goroutines+5 && last.files <= base.files+5 {
			break
		}
	}
	s.t.Logf("at first %.0f goroutines and %.0f descriptors, at last %.0f and %.0f", base.goroutines, base.files, last.goroutines, last.files)
	if last.goroutines > base.goroutines+5 || last.files > base.files+5 {
		s.t.Error("goroutines or descriptors are left")
	}
}

// flat compares the last third of the samples with the second. What a soak of
// seconds uses still grows into its caches, so it only says so.
func (s *soak) flat(length time.Duration) {
	s.t.Helper()
	n := len(s.samples) / 3
	if n == 0 {
		return
	}
	for what, of := range map[string]func(soakSample) float64{
		"resident MB": func(m soakSample) float64 { return m.resident / 1e6 }, "heap MB": func(m soakSample) float64 { return m.heap / 1e6 },
		"goroutines": func(m soakSample) float64 { return m.goroutines }, "descriptors": func(m soakSample) float64 { return m.files },
	} {
		middle := func(v []soakSample) float64 {
			x := make([]float64, len(v))
			for i := range v {
				x[i] = of(v[i])
			}
			slices.Sort(x)
			return x[len(x)/2]
		}
		second, last := middle(s.samples[n:2*n]), middle(s.samples[2*n:])
		s.t.Logf("%-12s median of the second third %.1f, of the last %.1f", what, second, last)
		if length >= 5*time.Minute && last > second*1.05+2 {
			s.t.Errorf("%s grows: %.1f, then %.1f", what, second, last)
		}
	}
}

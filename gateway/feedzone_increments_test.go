package gateway

import (
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/bench/corpus"
)

const (
	increments = 1000
	keptNames  = 500 // names that are there at once; older ones go
)

// An updater makes increments of a zone at its primary, one by one (RFC 2136).
type updater struct {
	t    *testing.T
	addr string
}

// step adds the name of that number, takes an old one out, and returns when the
// primary has said that it is done.
func (u *updater) step(n int) {
	u.t.Helper()
	m := new(dns.Msg).SetUpdate("policy.weir.")
	rr := func(n int) []dns.RR {
		rr, err := dns.NewRR(fmt.Sprintf("n%d.example.policy.weir. 60 IN CNAME .", n))
		if err != nil {
			u.t.Fatal(err)
		}
		return []dns.RR{rr}
	}
	m.Insert(rr(n))
	if n > keptNames {
		m.Remove(rr(n - keptNames))
	}
	m.SetTsig("xfr.example.", dns.HmacSHA256, 300, time.Now().Unix())
	c := dns.Client{Timeout: 30 * time.Second, TsigSecret: map[string]string{"xfr.example.": zoneSecret}}
	r, _, err := c.Exchange(m, u.addr)
	if err != nil || r.Rcode != dns.RcodeSuccess {
		u.t.Fatalf("increment %d: %v %v", n, r, err)
	}
}

// startPrimary runs named as the primary of a zone that may be updated, and tells
// the follower of changes.
func startPrimary(t *testing.T, port, follower uint16) *updater {
	t.Helper()
	dir := t.TempDir()
	var zone strings.Builder
	zone.WriteString("$TTL 60\n@ IN SOA localhost. root.localhost. 1 60 30 3600 60\n@ IN NS localhost.\n")
	for i := range 2000 {
		fmt.Fprintf(&zone, "base-%d.example CNAME .\n", i)
	}
	writeText(t, filepath.Join(dir, "zone"), zone.String())
	writeText(t, filepath.Join(dir, "named.conf"), fmt.Sprintf(`
options { directory %q; pid-file none; session-keyfile none; recursion no; listen-on-v6 { none; }; dnssec-validation no;
	listen-on port %d { 127.0.0.1; }; notify explicit; notify-delay 1; };
controls { };
key "xfr.example" { algorithm hmac-sha256; secret %q; };
zone "policy.weir" { type primary; file "zone"; allow-update { key "xfr.example"; }; allow-transfer { key "xfr.example"; };
	also-notify { 127.0.0.1 port %d key "xfr.example"; }; serial-update-method increment; };
`, dir, port, zoneSecret, follower))
	corpus.Serve(t, corpus.Tool(t, "named"), "-g", "-n", "1", "-c", filepath.Join(dir, "named.conf"))
	u := &updater{t, fmt.Sprintf("127.0.0.1:%d", port)}
	until(t, "named", func() bool {
		c, err := net.Dial("tcp", u.addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return u
}

// probe asks the follower for the newest name that the primary has acknowledged
// until it has it, again and again, and keeps the longest time that took.
func probe(f *fixture, acked *atomic.Int64, stop <-chan struct{}) (longest time.Duration, samples int) {
	for {
		select {
		case <-stop:
			return longest, samples
		case <-time.After(20 * time.Millisecond):
		}
		n, began := acked.Load(), time.Now()
		if n == 0 {
			continue
		}
		has := func(n int64) bool { return f.rcodeAndData(fmt.Sprintf("n%d.example", n)) == "NXDOMAIN" }
		for !has(n) && !has(acked.Load()) { // the one may have gone again
			if time.Since(began) > time.Minute {
				return time.Hour, samples
			}
			time.Sleep(20 * time.Millisecond)
		}
		longest, samples = max(longest, time.Since(began)), samples+1
	}
}

// burst makes the increments after that one, ten milliseconds apart where there is
// the time, and waits until the follower has the last.
func (u *updater) burst(f *fixture, after int) (took, longest time.Duration, samples int) {
	u.t.Helper()
	var acked atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { longest, samples = probe(f, &acked, stop) })
	began := time.Now()
	for n := 1; n <= increments; n++ {
		u.step(after + n)
		acked.Store(int64(after + n))
		time.Sleep(time.Until(began.Add(time.Duration(n) * 10 * time.Millisecond)))
	}
	took = time.Since(began)
	until(u.t, "the last increment", func() bool {
		return f.rcodeAndData(fmt.Sprintf("n%d.example", after+increments)) == "NXDOMAIN"
	})
	close(stop)
	wg.Wait()
	return took, longest, samples
}

// TestZoneThousandIncrements: a real primary makes a thousand increments in less
// than a minute and tells of them. The follower takes them by IXFR, some at once,
// is never far behind, ends with exactly what the primary has, and keeps nothing
// of the work.
func TestZoneThousandIncrements(t *testing.T) {
	from, to := corpus.Port(t).Port(), corpus.Port(t).Port()
	primary := startPrimary(t, from, to)
	f := newFixture(t, map[string]string{"weir.yml": fmt.Sprintf(followerConfig, from, to), "xfr.key": zoneSecret})
	until(t, "the first copy", func() bool { return f.rcodeAndData("base-1.example") == "NXDOMAIN" })
	goroutines, heap := quiet()

	// Where other programs have the processors, it is done and measured again.
	begun, looks := time.Now(), f.feedLooks()
	last := 0
	for round := 1; ; round++ {
		took, longest, samples := primary.burst(f, last)
		last += increments
		t.Logf("%d increments acknowledged in %v; an acknowledged name was in force %v later at the most (%d samples)", increments, took, longest, samples)
		if took <= time.Minute && longest <= 20*time.Second && samples >= 3 {
			break
		}
		if round == 3 {
			t.Errorf("took %v, %v behind, %d samples, in the last of %d rounds", took, longest, samples, round)
			break
		}
	}
	for n := 1; n <= last; n++ {
		if blocked := f.store.Load().Mentions(fmt.Sprintf("n%d.example", n)); blocked != (n > last-keptNames) {
			t.Errorf("n%d.example is in force: %v", n, blocked)
		}
	}
	if looks = f.feedLooks() - looks; looks > uint64(time.Since(begun)/leastGap)+3 {
		t.Errorf("%d looks in %v", looks, time.Since(begun))
	}
	if f.feedFailures() > 0 || f.ready() != nil {
		t.Errorf("%d failures, ready %v", f.feedFailures(), f.ready())
	}
	until(t, "as many goroutines as before", func() bool { return runtime.NumGoroutine() <= goroutines+5 })
	until(t, "as much memory as before", func() bool {
		_, after := quiet()
		return after <= heap+8<<20
	})
}

// quiet returns how many goroutines there are and how many bytes are in use.
func quiet() (goroutines int, heap uint64) {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return runtime.NumGoroutine(), m.HeapAlloc
}

package gateway

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/bench/corpus"
)

const primaryConfig = `
dns: {listen: ["127.0.0.1:0"], upstreams: [UPSTREAM]}
proxy: {listen: []}
admin: {listen: ""}
state: state
bans:
  - {id: a, title: A, authority: A, reason: A, reference: A, effective: 2020-01-01, answer: nodata, lists: [{name: a, source: "file:a.txt", format: domains}]}
rpz:
  listen: ["127.0.0.1:%d"]
  zone: policy.weir
  keys: [{name: xfr.example, algorithm: hmac-sha256, secret_file: xfr.key}]
  allow_transfer: [127.0.0.1]
  notify: [{address: "127.0.0.1:%d", key: xfr.example}]
`

const followerConfig = `
dns: {listen: ["127.0.0.1:0"], upstreams: [UPSTREAM]}
proxy: {listen: []}
admin: {listen: ""}
state: state
bans:
  - id: b
    title: B
    authority: B
    reason: B
    reference: B
    effective: 2020-01-01
    lists: [{name: b, source: "rpz://127.0.0.1:%d/policy.weir", format: rpz, key: xfr.example, interval: 1h}]
rpz:
  listen: ["127.0.0.1:%d"]
  keys: [{name: xfr.example, algorithm: hmac-sha256, secret_file: xfr.key}]
`

// pair is a gateway and one that follows its policy as a zone.
func pair(t *testing.T, list string) (primary, follower *fixture, restart func() *fixture) {
	t.Helper()
	from, to := corpus.Port(t).Port(), corpus.Port(t).Port()
	files := map[string]string{"weir.yml": fmt.Sprintf(primaryConfig, from, to), "xfr.key": zoneSecret, "a.txt": list}
	start := func() *fixture { return newFixture(t, files) }
	primary = start()
	until(t, "the first version", func() bool { return primary.zone.Counts().Serial != 0 })
	follower = newFixture(t, map[string]string{"weir.yml": fmt.Sprintf(followerConfig, from, to), "xfr.key": zoneSecret})
	return primary, follower, start
}

// TestZoneIsFollowed: a gateway takes another's policy as a list, is told of
// changes, and takes only what has changed.
func TestZoneIsFollowed(t *testing.T) {
	t.Parallel()
	primary, follower, _ := pair(t, "one.example\ntwo.example\n=three.example\n")
	until(t, "the first copy", func() bool { return follower.rcodeAndData("x.one.example") == "NOERROR" })
	for i := range 3 {
		primary.write("a.txt", fmt.Sprintf("one.example\ntwo.example\n=three.example\nnew-%d.example\n", i))
		until(t, fmt.Sprintf("change %d", i), func() bool {
			return follower.rcodeAndData(fmt.Sprintf("x.new-%d.example", i)) == "NOERROR" && follower.rcodeAndData(fmt.Sprintf("new-%d.example", i-1)) != "NOERROR"
		})
	}
	if got := follower.rcodeAndData("x.three.example"); got != "NOERROR 192.0.2.1" {
		t.Errorf("x.three.example: %s", got)
	}
	// What was sent is counted when it has been.
	until(t, "the counts", func() bool {
		n := primary.zone.Counts()
		return n.Full >= 1 && n.Changes >= 3 && n.Notifies >= 3 && follower.zone.Counts().Notified >= 3
	})
	if n := primary.zone.Counts(); n.Full != 1 {
		t.Errorf("primary %+v", n)
	}
	st := follower.Status().Lists
	var feed *FeedStatus
	for _, l := range st {
		if l.Name == "b" {
			feed = l.Feed
		}
	}
	if feed == nil || feed.State != feedOK || follower.ready() != nil {
		t.Errorf("status %+v, ready %v", feed, follower.ready())
	}
	// It is asked again when the zone says so, not after the list's hour.
	if wait := time.Until(feed.Next); wait > 70*time.Second {
		t.Errorf("the next look is in %v", wait)
	}
}

// rcodeAndData is the rcode, and the addresses if there are any.
func (f *fixture) rcodeAndData(name string) string {
	return strings.TrimSpace(reply(f.DNSAddrs()[0].String(), name))
}

// TestZoneIsKept: what was transferred is in force after a restart without the
// primary, and a primary that nobody knows changes nothing.
func TestZoneIsKept(t *testing.T) {
	from, to := corpus.Port(t).Port(), corpus.Port(t).Port()
	text := fmt.Sprintf(followerConfig, from, to)
	dir := t.TempDir()
	copyOf := filepath.Join(dir, "state", "feeds", "b")
	if err := os.MkdirAll(copyOf, 0o700); err != nil {
		t.Fatal(err)
	}
	zone := "policy.weir.\t60\tIN\tSOA\tlocalhost. root.localhost. 7 60 30 2592000 60\none.example.policy.weir.\t60\tIN\tCNAME\t*.\n"
	if err := os.WriteFile(filepath.Join(copyOf, "list"), []byte(zone), 0o600); err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, map[string]string{"weir.yml": strings.Replace(text, "state: state", "state: "+filepath.Join(dir, "state"), 1), "xfr.key": zoneSecret})
	if got := f.rcodeAndData("one.example"); got != "NOERROR" {
		t.Errorf("one.example: %s", got)
	}
	until(t, "a failure", func() bool { return f.feedFailures() > 0 })
	if got := f.rcodeAndData("one.example"); got != "NOERROR" {
		t.Errorf("without the primary, one.example: %s", got)
	}
	// A NOTIFY that is not signed, or of another zone, is not taken.
	c := dns.Client{Timeout: 20 * time.Second}
	for _, name := range []string{"policy.weir.", "other.weir."} {
		r, _, err := c.Exchange(new(dns.Msg).SetNotify(name), f.RPZAddrs()[0].String())
		if err != nil || r.Rcode != dns.RcodeNotAuth {
			t.Errorf("NOTIFY of %s: %v, %v", name, r, err)
		}
	}
}

func (f *fixture) feedFailures() int {
	n := 0
	for _, l := range f.Status().Lists {
		if l.Feed != nil {
			n += l.Feed.Failures
		}
	}
	return n
}

// TestZoneManyNotifies: a thousand changes that a primary tells of are a few
// looks, the last of which has seen the last change, and leave nothing behind.
func TestZoneManyNotifies(t *testing.T) {
	primary, follower, _ := pair(t, "one.example\ntwo.example\nthree.example\n")
	until(t, "the first copy", func() bool { return follower.rcodeAndData("one.example") == "NOERROR" })
	runtime.GC()
	goroutines := runtime.NumGoroutine()
	began, looks := time.Now(), follower.feedLooks()
	c := dns.Client{Timeout: 20 * time.Second, TsigSecret: map[string]string{"xfr.example.": zoneSecret}}
	for i := range 1000 {
		if i%100 == 0 {
			primary.write("a.txt", fmt.Sprintf("one.example\ntwo.example\nthree.example\nstep-%d.example\n", i/100))
		}
		m := new(dns.Msg).SetNotify("policy.weir.")
		m.SetTsig("xfr.example.", dns.HmacSHA256, 300, time.Now().Unix())
		r, _, err := c.Exchange(m, follower.RPZAddrs()[0].String())
		if err != nil || r.Rcode != dns.RcodeSuccess {
			t.Fatalf("NOTIFY %d: %v, %v", i, r, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
	until(t, "the last change", func() bool { return follower.rcodeAndData("step-9.example") == "NOERROR" })
	took := time.Since(began)
	if n := follower.feedLooks() - looks; n > uint64(took/leastGap)+3 {
		t.Errorf("%d looks in %v", n, took)
	}
	until(t, "as many goroutines as before", func() bool { return runtime.NumGoroutine() <= goroutines+5 })
}

func (f *fixture) feedLooks() uint64 {
	var n uint64
	for _, l := range f.Status().Lists {
		if l.Feed != nil {
			n += l.Feed.Looks
		}
	}
	return n
}

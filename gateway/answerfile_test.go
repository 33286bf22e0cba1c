package gateway

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/bench/corpus"
)

const persistConfig = `
dns:
  listen: ["127.0.0.1:0"]
  upstreams: ["UP"]
  rebinding: {block: false}
  cache: {persist: true, stale: {max: 1h, wait: 200ms}}
proxy: {listen: []}
admin: {listen: "127.0.0.1:0"}
bans: BANS
`

func persisting(up, bans string) string {
	return strings.NewReplacer("UP", up, "BANS", bans).Replace(persistConfig)
}

// again ends the gateway and starts another one on its folder.
func (f *fixture) again() {
	f.t.Helper()
	f.stop()
	if err := f.start(); err != nil {
		f.t.Fatal(err)
	}
}

// until waits until the metrics match.
func (f *fixture) until(metric string) {
	f.t.Helper()
	re := regexp.MustCompile(metric)
	for deadline := time.Now().Add(time.Minute); !re.MatchString(f.get("/metrics")); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("no %q in the metrics", metric)
		}
	}
}

func (f *fixture) answersFile() string { return filepath.Join(f.dir, "state", answersFile) }

// ask returns the reply to a question over UDP, nil for none.
func (f *fixture) ask(name string, qtype uint16) *dns.Msg {
	f.t.Helper()
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	q.SetEdns0(1232, false)
	return f.exchange(&dns.Client{Timeout: 20 * time.Second}, q)
}

// looked waits until the gateway has looked for saved answers: before, it saves none.
func (f *fixture) looked() {
	f.t.Helper()
	waitFor(f.t, "the look for saved answers", f.answers.whole.Load)
}

// TestCacheSurvivesRestart: with a dead upstream, what was known is answered from
// the file, and not what was banned while Weir was down: by its name, by the name
// or the address that it leads to, by the hints of a service.
func TestCacheSurvivesRestart(t *testing.T) {
	up := upstream(t)
	f := newFixture(t, map[string]string{"weir.yml": persisting(up, "[]")})
	f.looked()
	kinds := map[string]uint16{"plain.example": dns.TypeA, "missing.example": dns.TypeA, "www.wechat.com": dns.TypeA,
		"cname.example": dns.TypeA, "addr.example": dns.TypeA, "svcb.example": dns.TypeHTTPS, "hint.example": dns.TypeHTTPS}
	for name, qtype := range kinds {
		if m := f.ask(name, qtype); len(m.Answer) == 0 && name != "missing.example" || edeCode(m) != 0 {
			t.Errorf("before: %v", m)
		}
	}
	f.again()
	f.until(`weir_resolver_cache_restored_total [56]\n`) // an NXDOMAIN without SOA is not kept
	f.looked()
	if m := f.ask("www.wechat.com", dns.TypeA); len(m.Answer) != 1 {
		t.Errorf("without a ban: %v", m)
	}
	f.stop()
	if st, err := os.Stat(f.answersFile()); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("file: %v, %v", st, err)
	}
	f.write("weir.yml", persisting(up, "[wechat, tiktok]"))
	if err := f.start(); err != nil {
		t.Fatal(err)
	}
	f.until(`weir_resolver_cache_restored_total [56]\n`)
	for name, qtype := range kinds {
		m := f.ask(name, qtype)
		if name == "plain.example" {
			if len(m.Answer) != 1 || edeCode(m) != 0 {
				t.Errorf("not banned: %v", m)
			}
		} else if name != "missing.example" && (m.Rcode != dns.RcodeNameError || edeCode(m) != dns.ExtendedErrorCodeBlocked) {
			t.Errorf("banned while down: %v", m)
		}
	}
}

// TestCacheSurvivesWithoutUpstream: after a restart during an outage names that
// were known are still answered: those whose TTL is over as stale answers.
func TestCacheSurvivesWithoutUpstream(t *testing.T) {
	brief, long := corpus.NewCulprit(t, 1), corpus.NewCulprit(t, 600)
	config := persisting("udp://"+long.Addr.String(), "[]")
	config = strings.Replace(config, "  cache:", "  routes: [{names: [brief.test], upstreams: [\"udp://"+brief.Addr.String()+"\"]}]\n  cache:", 1)
	r := &faultRig{fixture: newFixture(t, map[string]string{"weir.yml": config})}
	r.looked()
	names := append(namesUnder("brief.test", 200), namesUnder("long.example", 200)...)
	r.knowAll(names, 20)
	r.stop()
	for _, c := range []*corpus.Culprit{brief, long} {
		c.Do(corpus.Misdeeds()[0]) // dead
	}
	time.Sleep(1100 * time.Millisecond) // the TTL
	asked := long.Queries.Load()
	if err := r.start(); err != nil {
		t.Fatal(err)
	}
	r.until(`weir_resolver_cache_restored_total 400\n`)
	c := r.count(names, 100)
	t.Logf("%d asked, %d answered, %d stale, %d wrong, slowest %v", c.asked, c.answered, c.stale, c.wrong, c.at(1000))
	if c.answered != 400 || c.stale != 200 || c.wrong != 0 {
		t.Errorf("%d answered, %d stale, %d wrong, want 400, 200, 0", c.answered, c.stale, c.wrong)
	}
	if n := long.Queries.Load(); n != asked {
		t.Errorf("%d questions whose answers hold were asked", n-asked)
	}
}

// TestDamagedAnswerFile: a file that is not as it was written keeps Weir from
// nothing; it is counted, and replaced.
func TestDamagedAnswerFile(t *testing.T) {
	f := newFixture(t, map[string]string{"weir.yml": persisting(upstream(t), "[wechat]")})
	f.looked()
	f.rcode("plain.example")
	f.stop()
	whole, err := os.ReadFile(f.answersFile())
	if err != nil {
		t.Fatal(err)
	}
	whole[len(whole)/2] ^= 1
	for _, b := range [][]byte{whole, whole[:len(whole)/2], []byte("<html>"), {}} {
		if err := os.WriteFile(f.answersFile(), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := f.start(); err != nil {
			t.Fatal(err)
		}
		f.until(`weir_resolver_cache_file_total{outcome="damaged"} 1\n`)
		f.looked()
		if f.rcode("plain.example") != "NOERROR" || f.rcode("www.wechat.com") != "NXDOMAIN" {
			t.Error("with a damaged file")
		}
		f.again()
		f.until(`weir_resolver_cache_restored_total 1\n`)
		f.stop()
	}
	if err := f.start(); err != nil {
		t.Fatal(err)
	}
}

// TestAnswerFileIsForgotten: what is flushed does not come back, and where the
// cache is not to survive there is no file.
func TestAnswerFileIsForgotten(t *testing.T) {
	up := upstream(t)
	f := newFixture(t, map[string]string{"weir.yml": persisting(up, "[]")})
	gone := func() bool {
		_, err := os.Stat(f.answersFile())
		return os.IsNotExist(err)
	}
	f.rcode("plain.example")
	f.until(`weir_resolver_cache_entries 1\n`)
	f.looked()
	f.answers.save()
	if gone() {
		t.Fatal("it is not saved")
	}
	if _, err := f.FlushCache(CacheFlush{Name: "bad name..", Under: ""}); err == nil || gone() {
		t.Error("a flush of no name removes it")
	}
	for _, flush := range []CacheFlush{{Name: "plain.example"}, {Under: "example"}, {All: true}} {
		f.answers.save()
		if _, err := f.FlushCache(flush); err != nil || !gone() {
			t.Errorf("%+v: %v, the file is gone %t", flush, err, gone())
		}
	}
	f.again()
	if gone() {
		t.Fatal("it is not saved at the end")
	}
	if err := f.rewrite("weir.yml", strings.Replace(persisting(up, "[]"), "persist: true", "persist: false", 1)); err != nil {
		t.Fatal(err)
	}
	f.again()
	if !gone() {
		t.Error("it is there though it is not wanted")
	}
}

// TestAnswerFileOutlivesAStop: a gateway that ends while it still reads the file
// does not replace it by the part that it has.
func TestAnswerFileOutlivesAStop(t *testing.T) {
	f := newFixture(t, map[string]string{"weir.yml": persisting(upstream(t), "[]")})
	f.looked()
	f.rcode("plain.example")
	f.stop()
	before, err := os.ReadFile(f.answersFile())
	if err != nil {
		t.Fatal(err)
	}
	if err := f.start(); err != nil {
		t.Fatal(err)
	}
	f.until(`weir_resolver_cache_restored_total 1\n`)
	if _, err := f.resolver.p.Load().Forget("plain.example", false); err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	half := newAnswerFile(f.folder, &f.resolver, slog.New(slog.DiscardHandler))
	half.wanted.Store(true)
	half.restore(ended)
	half.save()
	if after, err := os.ReadFile(f.answersFile()); err != nil || !bytes.Equal(after, before) {
		t.Errorf("%d octets were replaced by %d, %v", len(before), len(after), err)
	}
	if n := half.written.Load() + half.damaged.Load(); n != 0 {
		t.Errorf("%d outcomes are counted", n)
	}
}

package vpn

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/policy"
)

// A book is a log that may be read while it is written.
type book struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *book) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// A kept is a Keeper under test and what it keeps.
type kept struct {
	*Keeper
	store policy.Store
	cfg   *config.Config
	log   book
}

// newKept returns a Keeper of the kernel of the calling thread.
func newKept(t *testing.T, text string) *kept {
	t.Helper()
	fd, err := unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	k := &kept{cfg: parse(t, text)}
	k.Keeper = NewKeeper(Options{
		Version: "v1", Kernel: Kernel{NetNS: fd}, Log: slog.New(slog.NewTextHandler(&k.log, nil)),
		InForce: func() (*config.Config, *policy.Snapshot) { return k.cfg, k.store.Load() },
	})
	return k
}

var generations uint64

// put puts a policy in force: bans that are effective at a time, with prefixes,
// and exemptions.
func (k *kept) put(t *testing.T, effective time.Time, exemptions []policy.Exemption, prefixes ...netip.Prefix) {
	t.Helper()
	var b blocklists.Builder
	for i, p := range prefixes {
		if err := b.Add(0, blocklists.Rule{Kind: blocklists.Prefix, Action: blocklists.Block, Prefix: p, Line: i + 1}); err != nil {
			t.Fatal(err)
		}
	}
	generations++
	s, err := policy.NewSnapshot(policy.Spec{
		Generation: generations, Set: b.Build(), Lists: []policy.List{{Name: "l"}},
		Bans: []*blocklists.Ban{{ID: "app", Effective: effective}}, Exemptions: exemptions,
	})
	if err != nil {
		t.Fatal(err)
	}
	k.store.Swap(s)
}

// equal wants the kernel to be as the policy in force says.
func (k *kept) equal(t *testing.T, now time.Time) {
	t.Helper()
	cfg, s := k.opts.InForce()
	if d, err := k.opts.Kernel.Compare(Rules("v1", cfg, Bans(s, now))); err != nil || !d.Empty() {
		t.Errorf("the kernel differs from the policy: %v\n%s", err, d.String())
	}
}

func (k *kept) steps(t *testing.T, now time.Time) time.Time {
	t.Helper()
	next, err := k.step(now)
	k.report(err)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

var anyTime = time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)

func TestKeeperFollows(t *testing.T) {
	ownNetwork(t)
	k := newKept(t, configs["default"])
	now := anyTime
	a, b := netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8:bad::/48")
	k.put(t, time.Time{}, nil, a)
	k.steps(t, now)
	k.equal(t, now)
	k.put(t, now.Add(time.Minute), []policy.Exemption{
		{ID: "EX", Ban: "app", Device: netip.MustParsePrefix("10.8.0.9/32"), Until: now.Add(2 * time.Minute)},
	}, a, b)
	if next := k.steps(t, now); next.After(now.Add(lookEvery)) {
		t.Errorf("the next step is at %v", next)
	}
	k.equal(t, now)
	// Time alone: the ban takes effect, the exemption ends, each at its moment.
	at := now.Add(time.Minute - lookEvery/2)
	if next := k.steps(t, at); !next.Equal(now.Add(time.Minute)) {
		t.Errorf("the next step is at %v, want when the ban takes effect", next)
	}
	before := k.Stats()
	k.steps(t, now.Add(time.Minute))
	k.equal(t, now.Add(time.Minute))
	k.steps(t, now.Add(2*time.Minute))
	k.equal(t, now.Add(2*time.Minute))
	st := k.Stats()
	if st.Updates != before.Updates+2 || st.Repairs != 0 || st.Failures != 0 || st.Generation != generations || st.LastError != "" || st.Elements == 0 {
		t.Errorf("stats %+v, before %+v", st, before)
	}
	// Nothing to do costs no transaction.
	generation, _ := k.opts.Kernel.generation()
	k.steps(t, now.Add(3*time.Minute))
	if again, _ := k.opts.Kernel.generation(); again != generation {
		t.Error("there was nothing to do, and something was written")
	}
	// Another configuration, while it runs.
	k.cfg = parse(t, configs["tproxy"])
	k.steps(t, now.Add(3*time.Minute))
	k.equal(t, now.Add(3*time.Minute))
}

func TestKeeperRepairs(t *testing.T) {
	ownNetwork(t)
	k := newKept(t, configs["default"])
	k.put(t, time.Time{}, nil, netip.MustParsePrefix("203.0.113.0/24"))
	now := anyTime
	k.steps(t, now)
	for i, command := range []string{
		"nft flush ruleset", "nft delete table inet weir", "nft flush chain inet weir outbound",
		"nft flush set inet weir banned-app-v4", "nft insert rule inet weir guard accept",
	} {
		run(t, command)
		now = now.Add(time.Hour)
		k.steps(t, now)
		k.equal(t, now)
		if st := k.Stats(); st.Repairs != uint64(i+1) {
			t.Errorf("%s: stats %+v", command, st)
		}
	}
	if !strings.Contains(k.log.String(), "was changed by others") {
		t.Errorf("log: %s", k.log.String())
	}
	// What others do beside the table is not repaired.
	run(t, "nft add table inet other")
	k.steps(t, now.Add(time.Hour))
	if st := k.Stats(); st.Repairs != 5 {
		t.Errorf("stats %+v", st)
	}
}

// TestKeeperLeavesForeignRules: whoever runs "weir vpn apply" with other rules
// keeps them, and the sets follow the policy all the same.
func TestKeeperLeavesForeignRules(t *testing.T) {
	ownNetwork(t)
	k := newKept(t, configs["default"])
	a, b := netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("198.51.100.0/24")
	k.put(t, time.Time{}, nil, a)
	now := anyTime
	k.steps(t, now)
	foreign := Rules("v1", k.cfg, Bans(k.store.Load(), now)).Without("guard/quic")
	if _, err := k.opts.Kernel.Apply(foreign); err != nil {
		t.Fatal(err)
	}
	k.put(t, time.Time{}, nil, a, b)
	for range 3 {
		now = now.Add(time.Hour)
		k.steps(t, now)
	}
	foreign = Rules("v1", k.cfg, Bans(k.store.Load(), now)).Without("guard/quic")
	if d, err := k.opts.Kernel.Compare(foreign); err != nil || !d.Empty() {
		t.Errorf("%v\n%s", err, d.String())
	}
	if !k.Stats().Foreign {
		t.Error("it is not said that the rules are others'")
	}
	k.put(t, time.Time{}, nil, b)
	k.steps(t, now.Add(time.Hour))
	foreign = Rules("v1", k.cfg, Bans(k.store.Load(), now)).Without("guard/quic")
	if d, err := k.opts.Kernel.Compare(foreign); err != nil || !d.Empty() {
		t.Errorf("after one more policy: %v\n%s", err, d.String())
	}
}

// TestKeeperRun: within a second of a change, with 100,000 prefixes, and errors
// are counted and over when they are.
func TestKeeperRun(t *testing.T) {
	ownNetwork(t)
	run(t, "nft add table inet weir") // a stranger's
	k := newKept(t, configs["default"])
	var many []netip.Prefix
	for _, r := range manyRanges(100_000) {
		many = append(many, netip.PrefixFrom(r.First, 25))
	}
	k.put(t, time.Time{}, nil, many[:1]...)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = k.Run(ctx) })
	defer func() { cancel(); wg.Wait() }()
	reaches := func(what string, ok func(Stats) bool) time.Duration {
		t.Helper()
		began := time.Now()
		for !ok(k.Stats()) {
			if time.Since(began) > longWait {
				t.Fatalf("%s: not within %v; stats %+v\n%s", what, longWait, k.Stats(), k.log.String())
			}
			time.Sleep(5 * time.Millisecond)
		}
		return time.Since(began)
	}
	reaches("the stranger's table is an error", func(st Stats) bool {
		return st.Failures > 0 && strings.Contains(st.LastError, "Weir has not made it")
	})
	run(t, "nft delete table inet weir")
	reaches("the error is over", func(st Stats) bool { return st.LastError == "" && st.Generation == generations })
	worst := time.Hour
	for round := 0; worst > slower*time.Second && round < 5; round++ { // a machine that does something else beside is no proof
		worst = 0
		for i, n := range []int{100_000, 50_000, 100_000, 0} {
			k.put(t, time.Time{}, nil, many[:n]...)
			k.Wake()
			took := reaches(fmt.Sprintf("change %d", i), func(st Stats) bool { return st.Generation == generations })
			t.Logf("%d prefixes: the kernel has them after %v", n, took)
			worst = max(worst, took)
			k.equal(t, anyTime)
		}
	}
	if worst > slower*time.Second {
		t.Errorf("the kernel has a change after %v, want at most %v", worst, slower*time.Second)
	}
	if st := k.Stats(); st.Repairs != 0 || !strings.Contains(k.log.String(), "equal to the policy again") {
		t.Errorf("stats %+v\n%s", st, k.log.String())
	}
	cancel()
	wg.Wait()
	k.equal(t, anyTime) // a gateway that stops leaves the filter
	var none *Keeper
	none.Wake()
}

// TestKeeperIdles: while nothing changes, a step makes nothing anew, however
// many prefixes there are.
func TestKeeperIdles(t *testing.T) {
	ownNetwork(t)
	k := newKept(t, configs["default"])
	var many []netip.Prefix
	for _, r := range manyRanges(20_000) {
		many = append(many, netip.PrefixFrom(r.First, 25))
	}
	k.put(t, time.Time{}, nil, many...)
	k.steps(t, anyTime)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const steps = 10
	for i := range steps {
		k.steps(t, anyTime.Add(time.Duration(i)*time.Second))
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / steps; each > 256<<10 {
		t.Errorf("a step allocates %d bytes, for 20,000 prefixes that did not change", each)
	}
}

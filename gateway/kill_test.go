package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/blocklists/bans"
	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/generation"
	"github.com/weir-gateway/weir/gateway/policy"
)

// killChild names the folder in the environment of the process that TestKill
// kills: the test's own program, as a gateway that changes its policy.
const killChild = "WEIR_TEST_KILL_CHILD"

// TestKill kills a gateway at random instants while lists change and generations
// come back, and looks at what the next one starts with: one whole generation,
// and none older than the last that was acknowledged. WEIR_KILLS=1000 kills it so
// often; without it, as often as fits into a run of all tests.
func TestKill(t *testing.T) {
	kills := 60
	if s := os.Getenv("WEIR_KILLS"); s != "" {
		var err error
		if kills, err = strconv.Atoi(s); err != nil {
			t.Fatalf("WEIR_KILLS: %v", err)
		}
	}
	v := &victim{t: t, dir: t.TempDir(), tokens: map[uint64]string{}}
	v.write("weir.yml", killConfig)
	v.write("short.txt", killShort(0))
	v.write("big.txt", killBig(0))
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 1))
	for i := range kills {
		v.live(i, time.Duration(rnd.IntN(120))*time.Millisecond)
		if t.Failed() {
			t.Fatalf("after %d kills, seed %d", i+1, seed)
		}
	}
	t.Logf("%d kills, %d changes acknowledged, %d starts, generation %d, %d before the start was through", kills, v.acks, v.starts, v.last, v.early)
	if v.acks < kills/4 {
		t.Errorf("only %d changes were acknowledged: it was killed too early", v.acks)
	}
}

const killConfig = `
dns: {listen: [], upstreams: ["udp://127.0.0.1:9"]}
proxy: {listen: []}
admin: {listen: ""}
state: state
bans:
  - id: big
    title: {en: "Big", fr: "Grand"}
    authority: "test"
    reference: "https://ban.example/"
    effective: 2023-10-30T00:00:00-04:00
    lists:
      - {name: big, source: "file:big.txt", format: domains}
      - {name: short, source: "file:short.txt", format: domains}
`

// killShort and killBig are lists that say which they are, at both ends.
func killShort(n int) string { return fmt.Sprintf("first-%d.example\nlast-%d.example\n", n, n) }

func killBig(n int) string {
	return fmt.Sprintf("big-first-%d.example\n%sbig-last-%d.example\n", n, text(bigList(5000)), n)
}

// A victim is the folder of a gateway that is killed again and again.
type victim struct {
	t      *testing.T
	dir    string
	last   uint64            // acknowledged
	tokens map[uint64]string // what each acknowledged generation said
	acks   int
	starts int
	early  int
}

func (v *victim) write(name, text string) {
	v.t.Helper()
	if err := replaceFile(filepath.Join(v.dir, name), text); err != nil {
		v.t.Fatal(err)
	}
}

func replaceFile(path, text string) error {
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// live runs one life: from the start to a kill so long after the gateway said
// the first time what it has in force, or, in every fifth life, after its start.
func (v *victim) live(life int, after time.Duration) {
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), killChild+"="+v.dir, fmt.Sprintf("WEIR_TEST_KILL_LIFE=%d", life))
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		v.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		v.t.Fatal(err)
	}
	kill := func() { _ = cmd.Process.Kill() }
	if life%5 == 4 {
		time.AfterFunc(after, kill)
	}
	before := v.starts
	v.listen(out, func() {
		if life%5 != 4 {
			time.AfterFunc(after, kill)
		}
	})
	_ = cmd.Wait()
	if v.starts == before {
		v.early++
	}
	if cmd.ProcessState.Exited() {
		v.t.Errorf("the gateway ended by itself: %v\n%s", cmd.ProcessState, errs.String())
	}
	if v.last > 0 {
		v.examine()
	}
}

// listen reads what the gateway says until it is killed: "start NUMBER TOKEN" or
// "ack NUMBER TOKEN".
func (v *victim) listen(out io.Reader, started func()) {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var what, token string
		var n uint64
		if _, err := fmt.Sscanf(lines.Text(), "%s %d %s", &what, &n, &token); err != nil {
			continue // a line that the kill has cut
		}
		if n < v.last {
			v.t.Errorf("%s: generation %d was acknowledged before", lines.Text(), v.last)
		}
		if was, known := v.tokens[n]; known && was != token {
			v.t.Errorf("%s: it said %s when it was acknowledged", lines.Text(), was)
		}
		v.last, v.tokens[n] = n, token
		if what == "start" {
			v.starts++
			started()
		} else {
			v.acks++
		}
	}
}

// examine looks at the folder as the kill has left it.
func (v *victim) examine() {
	s, err := generation.Open(filepath.Join(v.dir, "state", "generations"), generation.DefaultLimits)
	if err != nil {
		v.t.Fatal(err)
	}
	g, rules, err := s.Newest()
	if err != nil || g == nil {
		v.t.Fatalf("the newest generation cannot be read: %v", err)
	}
	set, _, err := restore(g, rules)
	if err == nil {
		err = set.number(g.Number)
	}
	if err != nil {
		v.t.Fatal(err)
	}
	token, err := killToken(set.snapshot)
	if err != nil {
		v.t.Errorf("generation %d: %v", g.Number, err)
	}
	if g.Number < v.last {
		v.t.Errorf("generation %d is the newest, %d was acknowledged", g.Number, v.last)
	}
	if was, known := v.tokens[g.Number]; known && was != token {
		v.t.Errorf("generation %d says %s, and said %s", g.Number, token, was)
	}
}

// killToken says which lists a policy was made of, or that it is between two.
func killToken(s *policy.Snapshot) (string, error) {
	find := func(first, last string) (string, error) {
		found := ""
		for n := range killStates {
			a := s.Name(policy.Subject{}, fmt.Sprintf("%s-%d.example", first, n), time.Now())
			b := s.Name(policy.Subject{}, fmt.Sprintf("%s-%d.example", last, n), time.Now())
			if a.Blocked() != b.Blocked() || a.Blocked() && found != "" {
				return "", fmt.Errorf("it is between two: %s-%d", first, n)
			}
			if a.Blocked() {
				found = strconv.Itoa(n)
			}
		}
		if found == "" {
			return "", fmt.Errorf("no %s is in it", first)
		}
		return found, nil
	}
	short, err := find("first", "last")
	if err != nil {
		return "", err
	}
	big, err := find("big-first", "big-last")
	return short + "/" + big, err
}

const killStates = 40

// runVictim is the process that is killed. It never returns.
func runVictim(dir string) {
	fail := func(err error) {
		_, _ = fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	load := func() (*config.Config, error) { return config.Load(filepath.Join(dir, "weir.yml"), bans.FS) }
	cfg, err := load()
	if err != nil {
		fail(err)
	}
	g, err := New(cfg, Options{Version: "test", Load: load, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		fail(err)
	}
	say := func(what string) {
		s := g.store.Load()
		token, err := killToken(s)
		if err != nil {
			fail(err)
		}
		fmt.Printf("%s %d %s\n", what, s.Generation(), token)
	}
	ctx := context.Background()
	say("start")
	go func() { fail(fmt.Errorf("run: %w", g.Run(ctx))) }()
	life, _ := strconv.Atoi(os.Getenv("WEIR_TEST_KILL_LIFE"))
	for step := 0; ; step++ {
		if err := g.killStep(ctx, dir, (life*7+step)%killStates, step); err != nil {
			fail(err)
		}
		say("ack")
	}
}

// killStep makes one change: mostly of a short list, sometimes of a long one, and
// every third is a rollback.
func (g *Gateway) killStep(ctx context.Context, dir string, n, step int) error {
	if step%3 == 2 {
		return g.Rollback(ctx, 0, "test", "")
	}
	name, list := "short.txt", killShort(n)
	if step%4 == 1 {
		name, list = "big.txt", killBig(n)
	}
	if err := replaceFile(filepath.Join(dir, name), list); err != nil {
		return err
	}
	return g.Update(ctx, "test", "")
}

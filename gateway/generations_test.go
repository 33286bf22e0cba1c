package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/admin"
	"github.com/weir-gateway/weir/gateway/generation"
)

// restart stops the gateway and starts another one on the same files.
func (f *fixture) restart() {
	f.t.Helper()
	f.stop()
	if err := f.start(); err != nil {
		f.t.Fatal(err)
	}
}

// rewrite2 writes a file and reloads twice, so that what the second keeps was not
// changed shortly before it was read.
func (f *fixture) rewrite2(name, text string) {
	f.t.Helper()
	f.settled()
	err := f.rewrite(name, text)
	f.settled()
	if err = errors.Join(err, f.Reload(f.t.Context())); err != nil {
		f.t.Fatal(err)
	}
	f.settled()
}

func (f *fixture) history() []generation.Header {
	f.t.Helper()
	h, err := f.History()
	if err != nil {
		f.t.Fatal(err)
	}
	return h
}

func generationFiles(ban string) map[string]string {
	return map[string]string{"weir.yml": fmt.Sprintf(editConfig, ""), "big.txt": text(bigList(20_000)), "short.txt": ban + "\n"}
}

// Numbers go on over restarts, and a start with nothing new is no new
// generation: what was compiled is in force again.
func TestGenerationsOutliveTheProcess(t *testing.T) {
	f := newFixture(t, generationFiles("one.example"))
	f.rewrite2("short.txt", "two.example\n")
	for range 2 {
		f.restart()
		st := f.Status()
		if st.Generation != 3 || st.Kind != "reload" || st.Who != "operator" {
			t.Errorf("after a restart: generation %d by %s (%s), want 3 as it was", st.Generation, st.Who, st.Kind)
		}
		if got := f.rcode("two.example"); got != "NXDOMAIN" {
			t.Errorf("after a restart: %s", got)
		}
	}
	f.stop()
	f.write("short.txt", "three.example\n")
	if err := f.start(); err != nil {
		t.Fatal(err)
	}
	if st := f.Status(); st.Generation != 4 || st.Kind != "start" {
		t.Errorf("a start with another list: generation %d (%s), want 4", st.Generation, st.Kind)
	}
	if f.rcode("three.example") != "NXDOMAIN" || f.rcode("two.example") != "NOERROR" {
		t.Error("the new list is not in force")
	}
	h := f.history()
	if len(h) != 4 || h[0].Parent != 3 {
		t.Errorf("history: %+v", h)
	}
	for _, h := range h {
		if h.Base != "00000001.set" {
			t.Errorf("one name of 20,000 was edited: generation %d has its own base %s", h.Number, h.Base)
		}
	}
}

// Long lists are found again after a restart, so that the next edit of one is
// one.
func TestEditAfterRestart(t *testing.T) {
	lines := bigList(20_000)
	f := newFixture(t, generationFiles("one.example"))
	f.rewrite2("short.txt", "one.example\n")
	f.restart()
	// The owner looks into long files before it takes the first change.
	if err := f.change(t.Context(), change{do: func() error { return nil }}); err != nil {
		t.Fatal(err)
	}
	if err := f.rewrite("big.txt", text(append(lines[:7:7], lines[8:]...))); err != nil {
		t.Fatal(err)
	}
	if f.compiled.built {
		t.Error("an edit after a restart compiled everything")
	}
	if f.rcode(lines[7]) != "NOERROR" || f.rcode(lines[8]) != "NXDOMAIN" {
		t.Error("the edit is not in force")
	}
	f.same("after a restart and an edit")
}

// A rollback is a new generation that says the same as the old one; it is held,
// over a restart, too, until somebody asks for more.
func TestRollback(t *testing.T) {
	f := newFixture(t, generationFiles("one.example"))
	if err := f.rewrite("short.txt", "two.example\n"); err != nil {
		t.Fatal(err)
	}
	if err := f.Rollback(t.Context(), 0, "alice", "two was wrong"); err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		st := f.Status()
		if st.Generation != 3 || st.Held != 1 || st.Who != "alice" || st.Why != "two was wrong" || st.Kind != "rollback" {
			t.Errorf("%s: %+v", when, st)
		}
		if f.rcode("one.example") != "NXDOMAIN" || f.rcode("two.example") != "NOERROR" {
			t.Errorf("%s: the old policy is not in force", when)
		}
	}
	check("after a rollback")
	f.write("short.txt", "three.example\n")
	if err := f.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "held at generation 1") {
		t.Errorf("a reload while it is held: %v", err)
	}
	check("after a reload that was refused")
	f.restart()
	check("after a restart")
	if err := f.Rollback(t.Context(), 99, "alice", ""); err == nil || !strings.Contains(err.Error(), "generation 99: no such generation is kept") {
		t.Errorf("to one that never was: %v", err)
	}
	check("after one that never was")
	f.write("short.txt", "")
	if err := f.Update(t.Context(), "bob", "go on"); err == nil {
		t.Error("an update with an empty list")
	}
	check("after an update that failed")
	f.write("short.txt", "three.example\n")
	if err := f.Update(t.Context(), "bob", "go on"); err != nil {
		t.Fatal(err)
	}
	if st := f.Status(); st.Generation != 4 || st.Held != 0 || st.Who != "bob" || f.rcode("three.example") != "NXDOMAIN" {
		t.Errorf("after an update: %+v", st)
	}
}

// Rollbacks without a number go on from where the last went, and say so when
// there is nothing more.
func TestRollbackSteps(t *testing.T) {
	f := newFixture(t, generationFiles("n1.example"))
	for i := 2; i <= 4; i++ {
		if err := f.rewrite("short.txt", fmt.Sprintf("n%d.example\n", i)); err != nil {
			t.Fatal(err)
		}
	}
	for want := uint64(3); want >= 1; want-- {
		if err := f.Rollback(t.Context(), 0, "alice", ""); err != nil {
			t.Fatal(err)
		}
		if st := f.Status(); st.Held != want || f.rcode(fmt.Sprintf("n%d.example", want)) != "NXDOMAIN" {
			t.Errorf("held at %d, want %d", st.Held, want)
		}
	}
	if err := f.Rollback(t.Context(), 0, "alice", ""); err == nil {
		t.Error("there was nothing before the first")
	}
}

// Who is exempt does not come back with an old list.
func TestRollbackKeepsExemptions(t *testing.T) {
	files := generationFiles("one.example")
	with := files["weir.yml"] + "exemptions: [{id: EX-1, device: 127.0.0.1, ban: big, until: " + time.Now().AddDate(0, 0, 7).Format(time.DateOnly) + ", ticket: T-1, requested_by: a, approved_by: b, reason: c}]\n"
	without := files["weir.yml"]
	files["weir.yml"] = with
	f := newFixture(t, files)
	if f.rcode("one.example") != "NOERROR" {
		t.Fatal("the exemption does not hold")
	}
	if err := f.rewrite("weir.yml", strings.ReplaceAll(without, "UPSTREAM", f.compiledUpstream())); err != nil {
		t.Fatal(err)
	}
	if err := f.Rollback(t.Context(), 1, "alice", ""); err != nil {
		t.Fatal(err)
	}
	if f.rcode("one.example") != "NXDOMAIN" {
		t.Error("an exemption that was revoked came back with a rollback")
	}
}

// Where a list is broken at the start, what it said last is in force, loudly, with all
// else that has changed meanwhile, and the mended list is taken.
func TestStartWithBrokenList(t *testing.T) {
	f := newFixture(t, generationFiles("one.example"))
	f.stop()
	if err := os.Remove(filepath.Join(f.dir, "short.txt")); err != nil {
		t.Fatal(err)
	}
	f.write("big.txt", text(append(bigList(20_000), "meanwhile.example")))
	if err := f.start(); err != nil {
		t.Fatal(err)
	}
	if st := f.Status(); st.Generation != 2 || !strings.Contains(st.LastError, "short.txt") || f.rcode("one.example") != "NXDOMAIN" || f.rcode("meanwhile.example") != "NXDOMAIN" {
		t.Errorf("with a list missing: %+v", st)
	}
	f.write("short.txt", "two.example\n")
	mended := func() bool { st := f.Status(); return st.Generation != 2 && st.LastError == "" }
	for end := time.Now().Add(time.Minute); !mended() && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
	if st := f.Status(); st.Generation != 3 || st.LastError != "" || f.rcode("two.example") != "NXDOMAIN" {
		t.Errorf("after it was mended: %+v", st)
	}
}

// A generation that cannot be read is not in force: everything is compiled.
func TestStartWithDamagedGeneration(t *testing.T) {
	f := newFixture(t, generationFiles("one.example"))
	f.stop()
	damage(t, filepath.Join(f.dir, "state", "generations", "00000001.set"))
	if err := f.start(); err != nil {
		t.Fatal(err)
	}
	if st := f.Status(); st.Generation != 2 || f.rcode("one.example") != "NXDOMAIN" {
		t.Errorf("with a damaged generation: %+v", st)
	}
}

func damage(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Another version of the program may read lists otherwise, so it compiles them.
func TestStartOfAnotherVersion(t *testing.T) {
	f := newFixture(t, generationFiles("one.example"))
	f.stop()
	f.version = "another"
	if err := f.start(); err != nil {
		t.Fatal(err)
	}
	if st := f.Status(); st.Generation != 2 || !f.compiled.built {
		t.Errorf("%+v", st)
	}
}

// A disk that takes nothing leaves the policy in force, and the asker knows.
func TestGenerationNotWritten(t *testing.T) {
	t.Parallel()
	f := newFixture(t, generationFiles("one.example"))
	dir := filepath.Join(f.dir, "state", "generations")
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	err := f.rewrite("short.txt", "two.example\n")
	if err == nil || !strings.Contains(err.Error(), "in force, but not on disk") {
		t.Errorf("a reload that cannot be kept: %v", err)
	}
	_, err = f.afterChange(err)
	if p, ok := errors.AsType[*admin.Problem](err); !ok || p.Status != http.StatusConflict || !p.InForce {
		t.Errorf("the API says %+v", p)
	}
	if f.rcode("two.example") != "NXDOMAIN" {
		t.Error("the policy is not in force")
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); len(f.history()) < 2 && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
	}
	if h := f.history(); len(h) != 2 || h[0].Number != 2 || h[0].Kind != "reload" {
		t.Errorf("it was not tried again: %+v", h)
	}
}

// Without a folder there are no generations, and everything else.
func TestWithoutState(t *testing.T) {
	cfg := &config.Config{Bans: nil}
	g, err := New(cfg, Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	if _, err := g.History(); err == nil {
		t.Error("a history without a folder")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Update(ctx, "alice", ""); err == nil {
		t.Error("an update of a gateway that does not run")
	}
}

// Who is exempt may change while no gateway runs: then what is held is another
// generation, because what was decided under the old one was decided otherwise.
func TestHeldWithOtherExemptions(t *testing.T) {
	f := newFixture(t, generationFiles("one.example"))
	if err := f.rewrite("short.txt", "two.example\n"); err != nil {
		t.Fatal(err)
	}
	if err := f.Rollback(t.Context(), 0, "alice", ""); err != nil {
		t.Fatal(err)
	}
	f.restart()
	if st := f.Status(); st.Generation != 3 {
		t.Errorf("after a restart: generation %d, want 3 as it was", st.Generation)
	}
	f.stop()
	f.write("weir.yml", f.read("weir.yml")+"exemptions:\n- {id: EX-1, device: 10.8.0.7, ban: big, until: "+
		time.Now().AddDate(0, 1, 0).Format(time.DateOnly)+", ticket: T-1, approved_by: \"The chief\", reason: \"Liaison\"}\n")
	for range 2 {
		if err := f.start(); err != nil {
			t.Fatal(err)
		}
		if st := f.Status(); st.Generation != 4 || st.Held != 1 || st.Kind != "start" {
			t.Errorf("with an exemption: generation %d (%s), held at %d, want 4, held at 1", st.Generation, st.Kind, st.Held)
		}
		if f.rcode("one.example") != "NXDOMAIN" || f.rcode("two.example") != "NOERROR" {
			t.Error("what was rolled back to is not in force")
		}
		f.stop()
	}
}

package gateway

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/gateway/generation"
)

// killChild names the folder in the environment of the process that TestKill
// kills: the test's own program, as a gateway that changes its policy.
const (
	killChild  = "WEIR_TEST_KILL_CHILD"
	killSeed   = "WEIR_TEST_KILL_SEED"   // of what it does
	killHead   = "WEIR_TEST_KILL_HEAD"   // of the record of changes, as last acknowledged
	killOrigin = "WEIR_TEST_KILL_ORIGIN" // of the list that is fetched
)

// TestKill kills a gateway at random instants while lists and feeds change, a group
// goes ahead, generations come back, and rules and exemptions come and go, and
// looks at what the next one starts with: one whole generation, none older than the
// last that was acknowledged, with every rule and exemption that was, and a record
// of changes that verifies up to there. WEIR_KILLS=1000 kills it so often; without
// it, as often as fits into a run of all tests.
func TestKill(t *testing.T) {
	t.Parallel()
	kills, most := 60, 2*time.Minute
	if s := os.Getenv("WEIR_KILLS"); s != "" {
		most = 24 * time.Hour
		var err error
		if kills, err = strconv.Atoi(s); err != nil {
			t.Fatalf("WEIR_KILLS: %v", err)
		}
	}
	v := &victim{t: t, dir: t.TempDir(), tokens: map[uint64]string{}, origin: newOrigin(t, false)}
	v.offer(0)
	v.write("weir.yml", strings.NewReplacer("ORIGIN", v.origin.URL, "OPERATOR", killHash(killOperator), "APPROVER", killHash(killApprover)).Replace(killConfig))
	v.write("short.txt", killShort(0))
	v.write("big.txt", killBig(0))
	seed := uint64(time.Now().UnixNano())
	v.seed = seed
	rnd := rand.New(rand.NewPCG(seed, 1))
	slower := 1 // so that there are changes to lose where the machine is busy
	began := time.Now()
	for i := range kills {
		if i >= 20 && time.Since(began) > most {
			kills = i
			break
		}
		v.live(i, time.Duration(slower*rnd.IntN(150))*time.Millisecond)
		if v.acks < i/2 && slower < 20 {
			slower++
		}
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
admin:
  listen: "127.0.0.1:0"
  tokens:
    - {name: op, role: operator, sha256: OPERATOR}
    - {name: boss, role: approver, sha256: APPROVER}
state: state
groups: [{name: pilot, devices: [10.8.0.0/24]}]
` + bigBan + `      - {name: feed, source: "ORIGIN/list.txt", format: domains, interval: 30d}
`

// killShort and killBig are lists that say which they are, at both ends.
func killShort(n int) string {
	return fmt.Sprintf("first-%d.example\nalways.example\nlast-%d.example\n", n, n)
}

func killBig(n int) string {
	return fmt.Sprintf("big-first-%d.example\n%sbig-last-%d.example\n", n, text(bigList(5000)), n)
}

// A victim is the folder of a gateway that is killed again and again.
type victim struct {
	t      *testing.T
	dir    string
	origin *origin
	seed   uint64
	last   uint64            // acknowledged
	token  string            // what that said
	head   string            // of the record of changes then
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

// offer has the origin have that version of its list, until somebody asks for
// another.
func (v *victim) offer(n int) {
	v.origin.has(fmt.Sprintf("feed-first-%d.example\nfeed-last-%d.example\n", n, n))
	list := *v.origin.handler.Load()
	v.origin.does(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			list(w, r)
			return
		}
		n, err := strconv.Atoi(r.URL.Query().Get("n"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		v.offer(n)
	})
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
	cmd.Env = append(os.Environ(), killChild+"="+v.dir, killHead+"="+v.head, killOrigin+"="+v.origin.URL,
		fmt.Sprintf("%s=%d", killSeed, v.seed+uint64(life)))
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

// listen reads what the gateway says until it is killed: "start" or "ack", the
// generation, what it says, and the head of the record of changes.
func (v *victim) listen(out io.Reader, started func()) {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var what, token, head string
		var n uint64
		if _, err := fmt.Sscanf(lines.Text(), "%s %d %s %s", &what, &n, &token, &head); err != nil || len(head) != 64 {
			continue // a line that the kill has cut
		}
		if n < v.last {
			v.t.Errorf("%s: generation %d was acknowledged before", lines.Text(), v.last)
		}
		says, _, _ := strings.Cut(token, ",kept=")
		if was, known := v.tokens[n]; known && was != says {
			v.t.Errorf("%s: it said %s when it was acknowledged", lines.Text(), was)
		}
		if err := killDiffers(v.token, token); err != nil && v.token != "" {
			v.t.Errorf("%s %d: %v", what, n, err)
		}
		v.last, v.tokens[n], v.token, v.head = n, says, token, head
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

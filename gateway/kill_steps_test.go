package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-gateway/weir/blocklists/bans"
	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/ledger"
	"github.com/weir-gateway/weir/gateway/policy"
)

// What the victim of TestKill does, in its own process, as its users would: by the
// API, by files and by what the origin of a list has.

const (
	killStates = 40 // that a list can be in
	killRules  = 12 // names for which there may be a rule
	killExempt = 12 // devices that may be exempt

	killOperator, killApprover = "operator", "approver"
)

func killHash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// A steps is the process that is killed.
type steps struct {
	*Gateway
	dir    string
	origin string
	rnd    *rand.Rand
}

// runVictim never returns.
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
	if err := g.killVerify(cfg.State, os.Getenv(killHead)); err != nil {
		fail(err)
	}
	say := func(what string) {
		token, err := killToken(g.store.Load())
		if err != nil {
			fail(err)
		}
		var rules []string
		for _, r := range g.local.Load().rules {
			rules = append(rules, strings.TrimSuffix(strings.TrimPrefix(r.Name, "rule-"), ".example"))
		}
		slices.Sort(rules)
		kept, held := strings.Join(rules, "."), g.Status().Held != 0
		if of := killParts(token)["rules"]; !held && of != kept {
			fail(fmt.Errorf("the rules are %s, in force are %s", kept, of))
		}
		fmt.Printf("%s %d %s,kept=%s %s\n", what, g.store.Load().Generation(), token, kept, g.Status().Ledger.Hash)
	}
	say("start")
	go func() { fail(fmt.Errorf("run: %w", g.Run(context.Background()))) }()
	seed, _ := strconv.ParseUint(os.Getenv(killSeed), 10, 64)
	s := &steps{Gateway: g, dir: dir, origin: os.Getenv(killOrigin), rnd: rand.New(rand.NewPCG(seed, 2))}
	for {
		what, err := s.step(context.Background())
		if err == nil {
			// The owner says it: what the clock has had fetched meanwhile is in force and
			// on disk then, or neither.
			err = g.change(context.Background(), change{do: func() error { say("ack"); return nil }})
		}
		if err != nil {
			fail(fmt.Errorf("%s: %w", what, err))
		}
	}
}

// killVerify is weir audit verify, with the last head that was noted.
func (g *Gateway) killVerify(state, head string) error {
	files, err := ledger.Files(state)
	if err == nil {
		_, err = ledger.Verify(files, head)
	}
	if err == nil && g.record.bad.Load() {
		err = fmt.Errorf("the ledger did not verify at the start")
	}
	return err
}

// step makes one change, of a kind that can be now.
func (s *steps) step(ctx context.Context) (string, error) {
	st, n := s.Status(), s.rnd.IntN(killStates)
	switch kind := s.rnd.IntN(10); {
	case kind == 0:
		return "big list", s.list(ctx, "big.txt", killBig(n))
	case kind == 1 && st.Canary == nil:
		err := s.Rollback(ctx, 0, "test", "")
		if errors.Is(err, errNoneBefore) {
			return "rollback", nil // so early there is nowhere to go back to
		}
		return "rollback", err
	case kind == 2 && st.Canary == nil:
		return "canary", s.Canary(ctx, "pilot", "test", "")
	case kind == 2 && n%2 == 0:
		return "promote", s.Promote(ctx, "test", "")
	case kind == 2:
		return "drop", s.Drop(ctx, "test", "")
	case kind == 3:
		return "feed", s.feed(ctx, n)
	case kind == 4 && st.Held == 0:
		return "rule", s.rule(n % killRules)
	case kind == 5:
		return "exemption", s.exemption(n % killExempt)
	}
	return "short list", s.list(ctx, "short.txt", killShort(n))
}

func (s *steps) list(ctx context.Context, name, text string) error {
	if err := replaceFile(filepath.Join(s.dir, name), text); err != nil {
		return err
	}
	return s.Update(ctx, "test", "")
}

// feed has the origin offer another version, and looks at it.
func (s *steps) feed(ctx context.Context, n int) error {
	if _, err := s.call(http.MethodPost, s.origin+fmt.Sprintf("/set?n=%d", n), "", "", nil); err != nil {
		return err
	}
	r, err := s.UpdateFeeds(ctx, "feed")
	if err == nil && r[0].Outcome == "failed" {
		err = fmt.Errorf("%+v", r)
	}
	return err
}

// rule adds the rule of that number, or removes it where it is there.
func (s *steps) rule(n int) error {
	path := fmt.Sprintf("/v1/rules/block/big/rule-%d.example", n)
	for _, r := range s.local.Load().rules {
		if r.Name == fmt.Sprintf("rule-%d.example", n) {
			_, err := s.api(http.MethodDelete, path, killOperator, r.ETag(), nil)
			return err
		}
	}
	_, err := s.api(http.MethodPut, path, killOperator, "", RuleRequest{Reason: "a test"})
	return err
}

// exemption has the device of that number exempt, or no more where it is. Of two
// people, one requests and the other approves.
func (s *steps) exemption(n int) error {
	device := netip.PrefixFrom(killDevice(n), 32)
	for _, e := range s.local.Load().exemptions {
		if e.Device != device || e.State != stateApproved && e.State != stateRequested {
			continue
		}
		verb, who := "revoke", killOperator
		if e.State == stateRequested {
			verb, who = "approve", killApprover // the kill came between the two
		}
		_, err := s.api(http.MethodPost, "/v1/exemptions/"+e.ID+"/"+verb, who, e.ETag(), ExemptionDecision{Why: "a test"})
		return err
	}
	body := map[string]any{"ban": "big", "device": device, "until": time.Now().Add(time.Hour).Format(time.RFC3339), "ticket": "T-1", "reason": "a test"}
	text, err := s.api(http.MethodPost, "/v1/exemptions", killOperator, "", body)
	if err != nil {
		return err
	}
	var e Exemption
	if err := json.Unmarshal(text, &e); err != nil {
		return err
	}
	_, err = s.api(http.MethodPost, "/v1/exemptions/"+e.ID+"/approve", killApprover, e.ETag(), ExemptionDecision{})
	return err
}

func (s *steps) api(method, path, who, etag string, body any) ([]byte, error) {
	return s.call(method, "http://"+s.AdminAddr().String()+path, who, etag, body)
}

func (s *steps) call(method, url, who, etag string, body any) ([]byte, error) {
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		in = strings.NewReader(string(b))
	}
	req, err := http.NewRequestWithContext(context.Background(), method, url, in)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if who != "" {
		req.Header.Set("Authorization", "Bearer "+who)
	}
	if etag != "" {
		req.Header.Set("If-Match", `"`+etag+`"`)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, text)
	}
	return text, err
}

func killDevice(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, 0, byte(n + 1)}) }

// killToken says what a policy is made of, or that it is between two: the lists of
// all, those of the group that may go ahead, whether it does, the rules of all, and
// who is exempt.
func killToken(s *policy.Snapshot) (string, error) {
	all, err := killLists(s, policy.Subject{})
	if err != nil {
		return "", err
	}
	pilot, err := killLists(s, policy.Subject{Addr: netip.MustParseAddr("10.8.0.1")})
	if err != nil {
		return "", fmt.Errorf("pilot: %w", err)
	}
	canary, _ := s.Canary()
	if canary == nil && pilot != all {
		return "", fmt.Errorf("no canary runs, and the group has %s, others %s", pilot, all)
	}
	var rules, exempt []string
	for n := range killRules {
		if v := s.Name(policy.Subject{}, fmt.Sprintf("rule-%d.example", n), time.Now()); v.Blocked() {
			rules = append(rules, strconv.Itoa(n))
		}
	}
	slices.Sort(rules)
	for n := range killExempt {
		if v := s.Name(policy.Subject{Addr: killDevice(n)}, "always.example", time.Now()); !v.Blocked() {
			exempt = append(exempt, strconv.Itoa(n))
		}
	}
	if v := s.Name(policy.Subject{}, "always.example", time.Now()); !v.Blocked() {
		return "", fmt.Errorf("always.example passes: %+v", v)
	}
	return fmt.Sprintf("all=%s,pilot=%s,canary=%v,rules=%s,exempt=%s", all, pilot, canary != nil, strings.Join(rules, "."), strings.Join(exempt, ".")), nil
}

func killLists(s *policy.Snapshot, sub policy.Subject) (string, error) {
	var out []string
	for _, list := range [][2]string{{"first", "last"}, {"big-first", "big-last"}, {"feed-first", "feed-last"}} {
		n, err := killList(s, sub, list[0], list[1])
		if err != nil {
			return "", err
		}
		out = append(out, n)
	}
	return strings.Join(out, "/"), nil
}

// killList says which version of a list it is, by its first name and its last.
func killList(s *policy.Snapshot, sub policy.Subject, first, last string) (string, error) {
	found := "none"
	for n := range killStates {
		a := s.Name(sub, fmt.Sprintf("%s-%d.example", first, n), time.Now())
		b := s.Name(sub, fmt.Sprintf("%s-%d.example", last, n), time.Now())
		if a.Blocked() != b.Blocked() || a.Blocked() && found != "none" {
			return "", fmt.Errorf("it is between two: %s-%d", first, n)
		}
		if a.Blocked() {
			found = strconv.Itoa(n)
		}
	}
	if found == "none" && !strings.HasPrefix(first, "feed") {
		return "", fmt.Errorf("no %s is in it", first)
	}
	return found, nil
}

// killDiffers reports whether two tokens differ in more than one rule that is kept,
// exemption or canary, which is what one change can do beside the lists.
func killDiffers(was, is string) error {
	a, b := killParts(was), killParts(is)
	changed := 0
	for _, part := range []string{"kept", "exempt"} {
		x, y := strings.Split(a[part], "."), strings.Split(b[part], ".")
		count := func(of, in []string) (n int) {
			for _, s := range of {
				if s != "" && !slices.Contains(in, s) {
					n++
				}
			}
			return n
		}
		changed += count(x, y) + count(y, x)
	}
	if a["canary"] != b["canary"] {
		changed++
	}
	if changed > 1 {
		return fmt.Errorf("what was acknowledged is not there: %s, then %s", was, is)
	}
	return nil
}

func killParts(token string) map[string]string {
	parts := make(map[string]string)
	for _, p := range strings.Split(token, ",") {
		name, value, _ := strings.Cut(p, "=")
		parts[name] = value
	}
	return parts
}

package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/policy"
)

var (
	at   = time.Date(2026, 3, 1, 12, 30, 15, 123456789, time.UTC)
	edt  = time.FixedZone("EDT", -4*3600)
	mute = slog.New(slog.DiscardHandler)
)

// The golden lines are the schema. A change here is a change for everyone who
// reads these records: fields are added, never renamed or removed.
const (
	goldenFull = `{"time":"2026-03-01T08:30:15.123456789-04:00","plane":"dns","transport":"udp","device":"10.8.0.7","group":"staff","name":"x.wechat.example","type":"A","port":443,"path":"/app","action":"block","reason":"ban","via":"CNAME x.wechat.example","ban":"wechat","authority":"Chief Information Officer","reference":"https://ban.example/1","list":"wechat-app","line":12,"rule":"*.wechat.example","rule_id":"wechat-app:12","exemption":"EX-1","signal":"app","generation":7,"result":"NXDOMAIN","event":"close","bytes_in":1,"bytes_out":2,"duration_ns":1500000000}`
	goldenZero = `{"time":"0001-01-01T00:00:00Z","plane":"","transport":"","device":"","name":"","action":"","reason":"","generation":0}`
)

func verdict() *policy.Verdict {
	return &policy.Verdict{
		Action: policy.Block, Reason: policy.ReasonBan, Generation: 7, Group: "staff",
		Ban:       &blocklists.Ban{ID: "wechat", Authority: blocklists.Text{EN: "Chief Information Officer", FR: "Dirigeant principal de l'information"}, Reference: "https://ban.example/1"},
		List:      "wechat-app",
		Rule:      blocklists.Rule{Kind: blocklists.Under, Action: blocklists.Block, Name: "wechat.example", Line: 12},
		Exemption: &policy.Exemption{ID: "EX-1"},
		Signal:    blocklists.SignalApp,
	}
}

func TestSchema(t *testing.T) {
	full := Record{
		Time: at.In(edt), Plane: "dns", Transport: "udp", Device: netip.MustParseAddr("10.8.0.7"), Name: "x.wechat.example",
		Type: "A", Port: 443, Path: "/app", Via: "CNAME x.wechat.example", Result: "NXDOMAIN",
		Event: "close", BytesIn: 1, BytesOut: 2, Duration: 1500 * time.Millisecond,
	}
	full.SetVerdict(verdict())
	for _, tt := range []struct {
		r    Record
		want string
	}{{full, goldenFull}, {Record{}, goldenZero}} {
		got, err := json.Marshal(tt.r)
		if err != nil || string(got) != tt.want {
			t.Errorf("error %v\n got %s\nwant %s", err, got, tt.want)
		}
		var back Record
		if err := json.Unmarshal([]byte(tt.want), &back); err != nil {
			t.Error(err)
		} else if again, _ := json.Marshal(back); string(again) != tt.want {
			t.Errorf("read back:\n got %s\nwant %s", again, tt.want)
		}
	}
}

func TestSetVerdict(t *testing.T) {
	var r Record
	r.SetVerdict(new(policy.Verdict))
	if want := (Record{Action: "undecided", Reason: "none"}); r != want {
		t.Errorf("of the zero verdict: got %+v", r)
	}
	r.SetVerdict(&policy.Verdict{Action: policy.Allow, Reason: policy.ReasonOperator, List: "operator", Rule: blocklists.Rule{Kind: blocklists.Exact, Action: blocklists.Allow, Name: "a.example", Line: 3}})
	if want := (Record{Action: "allow", Reason: "operator allows", List: "operator", Line: 3, Rule: "@@=a.example", RuleID: "operator:3"}); r != want {
		t.Errorf("of an operator's rule: got %+v", r)
	}
}

func open(t *testing.T, path string) *Log {
	t.Helper()
	l, err := Open(path, Options{}, mute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// lines reads a file of records and checks that each is whole.
func lines(t *testing.T, path string) []Record {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, b)
}

func decode(t *testing.T, b []byte) []Record {
	t.Helper()
	var out []Record
	for line := range strings.Lines(string(b)) {
		var r Record
		if err := json.Unmarshal([]byte(line), &r); err != nil || !strings.HasSuffix(line, "}\n") {
			t.Errorf("line %q: %v", line, err)
			continue
		}
		out = append(out, r)
	}
	return out
}

// eventually waits for what another goroutine does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s does not come", what)
		}
	}
}

func TestCloseWritesWhatIsBuffered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path)
	const n = 5000
	for i := range n {
		l.Put(Record{Time: at, Name: fmt.Sprintf("n%d.example", i)})
	}
	for range 2 { // closing twice does no harm
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	got := lines(t, path)
	if len(got) != n {
		t.Fatalf("%d records, want %d", len(got), n)
	}
	for i, r := range got {
		if r.Name != fmt.Sprintf("n%d.example", i) {
			t.Fatalf("record %d is %s", i, r.Name)
		}
	}
	l.Put(Record{})
	if s := l.Stats(); s != (Stats{Written: n, Dropped: 1}) {
		t.Errorf("stats %+v, want %d written and the late one dropped", s, n)
	}
	if err := l.Reopen(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Reopen after Close: %v", err)
	}
}

func TestRecordsComeWithoutClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path)
	l.Put(Record{Name: "a.example"})
	eventually(t, "the record", func() bool { return l.Stats().Written == 1 })
	if got := lines(t, path); len(got) != 1 || got[0].Name != "a.example" {
		t.Errorf("got %+v", got)
	}
}

func TestOpenAppendsForItsOwnerOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	for range 2 {
		l := open(t, path)
		l.Put(Record{Name: "a.example"})
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got := lines(t, path); len(got) != 2 {
		t.Errorf("%d records, want 2", len(got))
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	if l, err := Open(filepath.Join(path, "x"), Options{}, mute); err == nil || l != nil || !strings.HasPrefix(err.Error(), "audit file: ") {
		t.Errorf("Open under a file: %v, %v", l, err)
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none", "x"), Options{}, mute); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open in no folder: %v", err)
	}
}

func TestReopenAfterRename(t *testing.T) {
	dir := t.TempDir()
	path, old := filepath.Join(dir, "audit.jsonl"), filepath.Join(dir, "audit.jsonl.1")
	l := open(t, path)
	put := func(n int, name string) {
		for range n {
			l.Put(Record{Name: name})
		}
	}
	put(100, "before.example")
	eventually(t, "the first", func() bool { return l.Stats().Written == 100 })
	if err := os.Rename(path, old); err != nil {
		t.Fatal(err)
	}
	put(50, "renamed.example")
	eventually(t, "the second", func() bool { return l.Stats().Written == 150 })
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	put(30, "after.example")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if a, b := lines(t, old), lines(t, path); len(a) != 150 || len(b) != 30 || b[0].Name != "after.example" {
		t.Errorf("%d and %d records, want 150 and 30", len(a), len(b))
	}
	if s := l.Stats(); s != (Stats{Written: 180}) {
		t.Errorf("stats %+v", s)
	}
}

func TestReopenKeepsTheOldFileOnError(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l := open(t, filepath.Join(dir, "audit.jsonl"))
	l.Put(Record{Name: "before.example"})
	moved := dir + ".1"
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Reopen in no folder: %v", err)
	}
	l.Put(Record{Name: "after.example"})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := lines(t, filepath.Join(moved, "audit.jsonl")); len(got) != 2 {
		t.Errorf("%d records, want both", len(got))
	}
}

// A disk is a file with faults. While held, writes wait.
type disk struct {
	mu     sync.Mutex
	held   chan struct{} // nil: not held
	waits  int
	room   int // bytes until it is full
	data   bytes.Buffer
	closed error
}

func (d *disk) Write(b []byte) (int, error) {
	d.mu.Lock()
	held := d.held
	d.waits++
	d.mu.Unlock()
	if held != nil {
		<-held
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(b) > d.room {
		n, _ := d.data.Write(b[:d.room])
		d.room = 0
		return n, errors.New("no space left on device")
	}
	d.room -= len(b)
	return d.data.Write(b)
}

func (d *disk) Close() error { return d.closed }

func (d *disk) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

func TestDropsAreCounted(t *testing.T) {
	d := &disk{held: make(chan struct{}), room: 1 << 30}
	l := start("x", d, Options{}, mute)
	l.Put(Record{Name: "first.example"})
	eventually(t, "a write", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.waits == 1
	})
	const n = 3 * buffer
	begin := time.Now()
	for range n {
		l.Put(Record{Name: "a.example"})
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("Put waited for the disk: %v", took)
	}
	if s := l.Stats(); s != (Stats{Dropped: n - buffer}) {
		t.Errorf("stats %+v, want %d dropped", s, n-buffer)
	}
	close(d.held)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if s := l.Stats(); s != (Stats{Written: buffer + 1, Dropped: n - buffer}) {
		t.Errorf("stats %+v", s)
	}
	if got := decode(t, d.data.Bytes()); len(got) != buffer+1 {
		t.Errorf("%d records in the file, want %d", len(got), buffer+1)
	}
}

// TestFailureIsCountedAndToldOnce fills the disk in the middle of a line and
// then makes room: each record is counted once, the operator hears of it once,
// and no later record is glued to the torn line.
func TestFailureIsCountedAndToldOnce(t *testing.T) {
	var told bytes.Buffer
	line, err := json.Marshal(Record{Name: "a.example"})
	if err != nil {
		t.Fatal(err)
	}
	d := &disk{room: 2*len(line) + 2 + 10} // two lines and a piece
	d.held = make(chan struct{})
	l := start("audit.jsonl", d, Options{}, slog.New(slog.NewTextHandler(&told, nil)))
	for range 5 {
		l.Put(Record{Name: "a.example"})
	}
	close(d.held)
	eventually(t, "the failure", func() bool { return l.Stats() == Stats{Written: 2, Failed: 3} })
	for i := range 3 { // nothing fits
		l.Put(Record{Name: "a.example"})
		eventually(t, "the next failure", func() bool { return l.Stats() == Stats{Written: 2, Failed: uint64(4 + i)} })
	}
	d.set(func() { d.room = 1 }) // the new line only
	l.Put(Record{Name: "a.example"})
	eventually(t, "the failure after the end of the torn line", func() bool { return l.Stats() == Stats{Written: 2, Failed: 7} })
	d.set(func() { d.room = 1 << 20 })
	l.Put(Record{Name: "b.example"})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if s := l.Stats(); s != (Stats{Written: 3, Failed: 7}) {
		t.Errorf("stats %+v", s)
	}
	got := strings.Split(d.data.String(), "\n")
	if len(got) != 5 || got[0] != string(line) || got[1] != string(line) || got[2] != string(line[:10]) || !strings.Contains(got[3], "b.example") || got[4] != "" {
		t.Errorf("file:\n%s", d.data.String())
	}
	if n := strings.Count(told.String(), "audit record is not being written"); n != 1 || !strings.Contains(told.String(), "no space left") {
		t.Errorf("told %d times: %s", n, told.String())
	}
}

func TestTornLineIsEndedOnce(t *testing.T) {
	d := &disk{room: 5}
	l := start("x", d, Options{}, mute)
	l.Put(Record{Name: "a.example"})
	eventually(t, "the failure", func() bool { return l.Stats().Failed == 1 })
	d.set(func() { d.room = 20 }) // the end of the torn line, and a second tear
	l.Put(Record{Name: "b.example"})
	eventually(t, "the second", func() bool { return l.Stats() == Stats{Failed: 2} })
	d.set(func() { d.room = 1 << 20 })
	l.Put(Record{Name: "c.example"})
	l.Put(Record{Name: "d.example"})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(d.data.String(), "\n"); len(got) != 5 || len(got[0]) != 5 || len(got[1]) != 19 || !strings.Contains(got[2], "c.example") || !strings.Contains(got[3], "d.example") {
		t.Errorf("file:\n%s", d.data.String())
	}
}

func TestRecordThatIsNoJSON(t *testing.T) {
	d := &disk{room: 1 << 20}
	l := start("x", d, Options{}, mute)
	l.Put(Record{Time: time.Date(12026, 1, 1, 0, 0, 0, 0, time.UTC)})
	l.Put(Record{Name: "a\xff\n\"b"})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if s := l.Stats(); s != (Stats{Written: 1, Failed: 1}) {
		t.Errorf("stats %+v", s)
	}
	if got := decode(t, d.data.Bytes()); len(got) != 1 || got[0].Name != "a\ufffd\n\"b" {
		t.Errorf("got %+v", got)
	}
}

func TestCloseErrorIsTold(t *testing.T) {
	var told bytes.Buffer
	l := start("x", &disk{closed: errors.New("quota exceeded")}, Options{}, slog.New(slog.NewTextHandler(&told, nil)))
	_ = l.Close()
	if !strings.Contains(told.String(), "quota exceeded") {
		t.Errorf("told %q", told.String())
	}
}

// TestEveryRecordIsInOneCounter puts from many goroutines while the file is
// reopened and closed.
func TestEveryRecordIsInOneCounter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path)
	const writers, each = 8, 4000
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				l.Put(Record{Name: "a.example"})
			}
		})
	}
	for range 20 {
		if err := l.Reopen(); err != nil {
			t.Fatal(err)
		}
	}
	_ = l.Close()
	wg.Wait()
	s := l.Stats()
	if s.Written+s.Dropped+s.Failed != writers*each || s.Failed != 0 {
		t.Errorf("%+v of %d records", s, writers*each)
	}
	if got := lines(t, path); uint64(len(got)) != s.Written {
		t.Errorf("%d records in the file, %d counted", len(got), s.Written)
	}
}

func TestDiscard(t *testing.T) {
	var s Sink = Discard{}
	if n := testing.AllocsPerRun(10, func() { s.Put(Record{}) }); n != 0 {
		t.Errorf("%v allocations for nothing", n)
	}
}

type nowhere struct{ io.Writer }

func (nowhere) Close() error { return nil }

func BenchmarkPut(b *testing.B) {
	l := start("x", nowhere{io.Discard}, Options{}, mute)
	defer func() { _ = l.Close() }()
	r := Record{Time: at, Plane: "dns", Transport: "udp", Name: "x.wechat.example", Type: "A"}
	r.SetVerdict(verdict())
	b.ReportAllocs()
	for b.Loop() {
		l.Put(r)
	}
	b.ReportMetric(float64(l.Stats().Dropped)/float64(b.N), "dropped/op")
}

// Records name the device by its key where it is known.
func TestIdentify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l, err := Open(path, Options{}, mute)
	if err != nil {
		t.Fatal(err)
	}
	known := netip.MustParseAddr("10.8.0.7")
	l.Identify(func(a netip.Addr) string { return map[netip.Addr]string{known: "key="}[a] })
	l.Put(Record{Device: known})
	l.Put(Record{Device: known.Next()})
	l.Put(Record{Device: known, DeviceID: "other"})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(b)) {
		var r Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		got = append(got, r.DeviceID)
	}
	if want := []string{"key=", "", "other"}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("device ids %q, want %q", got, want)
	}
}

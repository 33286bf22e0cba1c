package audit

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Recent reads what was recorded since then, however the file is damaged, and
// from as many bytes as it may.
func TestRecent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	now := time.Now().UTC()
	line := func(age time.Duration, name string) string {
		return fmt.Sprintf("{\"time\":%q,\"plane\":\"dns\",\"device\":\"10.8.0.7\",\"name\":%q}\n", now.Add(-age).Format(time.RFC3339Nano), name)
	}
	text := line(48*time.Hour, "old.example") + line(3*time.Hour, "a.example") + "{broken\n" +
		strings.Repeat("x", 3*maxLine) + "\n" + strings.Replace(line(time.Hour, "b.example"), `"10.8.0.7"`, `"","device_id":"hash:1"`, 1) + `{"time":"cut`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	read := func(most int64) (names []string, first time.Time) {
		first, err := Recent(path, now.Add(-24*time.Hour), most, func(a Asked) {
			if a.Device != netip.MustParseAddr("10.8.0.7") && a.DeviceID != "hash:1" {
				t.Errorf("device %v", a)
			}
			names = append(names, a.Name)
		})
		if err != nil {
			t.Fatal(err)
		}
		return names, first
	}
	if got, first := read(1 << 30); !slices.Equal(got, []string{"a.example", "b.example"}) || !first.Equal(now.Add(-3*time.Hour)) {
		t.Errorf("%v since %v", got, first)
	}
	if got, first := read(int64(maxLine)); !slices.Equal(got, []string{"b.example"}) || !first.Equal(now.Add(-time.Hour)) {
		t.Errorf("of the end: %v since %v", got, first)
	}
	if got, first := read(5); got != nil || !first.IsZero() {
		t.Errorf("of nothing: %v since %v", got, first)
	}
	if _, err := Recent(path+".none", now, 10, nil); err == nil {
		t.Error("a file that is not there")
	}
}

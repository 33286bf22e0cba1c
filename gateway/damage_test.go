package gateway

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestDamagedExemption: a file that is damaged holds up neither the gateway nor other
// exemptions; the device is not exempt, and the number is not used again.
func TestDamagedExemption(t *testing.T) {
	w := newExemptWorld(t)
	for range 2 {
		e := w.request("op", time.Now().Add(time.Hour), "")
		if status, text := w.approve("boss", &e, `{}`); status != http.StatusOK {
			t.Fatalf("approve: %d %s", status, text)
		}
	}
	w.stop()
	if err := os.WriteFile(filepath.Join(w.state, exemptionsFolder, "W-2.json"), []byte("{\"id\": \"W-2"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.start(); err != nil {
		t.Fatal(err)
	}
	var all Exemptions
	if status, text := w.as("op", http.MethodGet, "/v1/exemptions", "", "", &all); status != http.StatusOK || !strings.Contains(text, `"W-1"`) || strings.Contains(text, `"W-2"`) {
		t.Errorf("exemptions: %d %s", status, text)
	}
	if e := w.request("op", time.Now().Add(time.Hour), ""); e.ID != "W-3" {
		t.Errorf("the next is %s, want W-3", e.ID)
	}
	found := false
	for _, e := range w.changes() {
		found = found || e.What == "exemption damaged" && strings.Contains(e.Why, "W-2.json")
	}
	if !found {
		t.Error("it is not on the record of changes")
	}
}

// TestRecordGone: a record of changes that somebody has taken away, or written anew,
// is an alarm as long as the gateway runs.
func TestRecordGone(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"gone":    os.Remove,
		"emptied": func(path string) error { return os.Truncate(path, 0) },
		"changed": func(path string) error {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, []byte(strings.Replace(string(b), "gateway", "somebody", 1)), 0o600)
		},
	} {
		f := newFixture(t, generationFiles("one.example"))
		f.stop()
		if err := spoil(filepath.Join(f.dir, "state", "ledger.jsonl")); err != nil {
			t.Fatal(err)
		}
		if err := f.start(); err != nil {
			t.Fatal(err)
		}
		if err := f.rewrite("short.txt", "two.example\n"); err != nil {
			t.Fatal(err)
		}
		if m := f.get("/metrics"); !strings.Contains(m, "weir_ledger_last_successful 0\n") {
			t.Errorf("%s: the metrics do not show it", name)
		}
	}
}

// TestDeviceIsAnAddress: the API takes a device as everything else does.
func TestDeviceIsAnAddress(t *testing.T) {
	for text, want := range map[string]string{
		"10.8.0.7": "10.8.0.7/32", "::ffff:10.8.0.7": "10.8.0.7/32", "10.8.0.0/30": "10.8.0.0/30", "2001:db8::7": "2001:db8::7/128",
		"fe80::1%eth0": "", "10.8.0": "", "": "", "laptop": "",
	} {
		var d Device
		err := d.UnmarshalText([]byte(text))
		got, _ := d.MarshalText()
		if (err == nil) != (want != "") || want != "" && string(got) != want {
			t.Errorf("%q: %s, %v, want %s", text, got, err, want)
		}
	}
}

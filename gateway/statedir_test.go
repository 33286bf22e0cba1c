package gateway

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weir-gateway/weir/config"
)

// One folder belongs to one gateway: a second one is refused where the
// configuration names the folder, and runs in memory where it does not.
func TestStateFolder(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	quiet := slog.New(slog.DiscardHandler)
	named := &config.Config{State: filepath.Join(t.TempDir(), "state")}
	for name, cfg := range map[string]*config.Config{"named": named, "default": {}} {
		s, err := openState(cfg, quiet)
		if err != nil || s == nil {
			t.Fatalf("%s: %v", name, err)
		}
		dir, err := s.folder("generations")
		if st, serr := os.Stat(dir); err != nil || serr != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%s: folder in it: %v, %v, want mode 0700", name, err, serr)
		}
		second, err := openState(cfg, quiet)
		switch {
		case second != nil:
			t.Errorf("%s: two gateways have the folder", name)
		case name == "default" && err != nil:
			t.Errorf("default: %v, want to run without", err)
		case name == "named" && (err == nil || !strings.Contains(err.Error(), "in use by another gateway")):
			t.Errorf("named: %v, want an error", err)
		}
		s.close()
		if s, err = openState(cfg, quiet); s == nil {
			t.Errorf("%s: after the first has gone: %v", name, err)
		}
		s.close()
	}
}

func TestStateFolderThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openState(&config.Config{State: filepath.Join(file, "state")}, slog.New(slog.DiscardHandler)); err == nil || !strings.HasPrefix(err.Error(), "state: ") {
		t.Errorf("below a file: %v, want an error that names the key", err)
	}
}

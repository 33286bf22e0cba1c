package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the messages of testdata/bad/*.yml anew; read each of them afterwards")

// bundles are the built-in bans of these tests. The real ones have their own.
var bundles = os.DirFS("testdata/bundles")

// TestBad pins every bad file to all of its messages.
func TestBad(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yml")
	if err != nil || len(files) < 60 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	for _, file := range files {
		base := strings.TrimSuffix(filepath.Base(file), ".yml")
		t.Run(base, func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			c, err := Parse(filepath.Base(file), data, bundles)
			if err == nil {
				t.Fatal("the file is accepted")
			}
			if c != nil {
				t.Error("there is a Config beside the error")
			}
			var all Errors
			if !errors.As(err, &all) {
				t.Fatalf("%T: %v", err, err)
			}
			golden := filepath.Join("testdata/bad", base+".err")
			if *update {
				if err := os.WriteFile(golden, []byte(err.Error()+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got := all.Error() + "\n"; got != string(want) {
				t.Errorf("got:\n%swant:\n%s", got, want)
			}
		})
	}
}

package main

import (
	"strings"
	"testing"
)

func TestCacheFlushCommand(t *testing.T) {
	file, _ := served(t, "")
	for _, tt := range []struct {
		args []string
		want string
		ok   bool
	}{
		{[]string{"www.example.org"}, "forgot 0 answers\n", true},
		{[]string{"--under", "example.org"}, "forgot 0 answers\n", true},
		{[]string{"--all", "--json"}, `"removed": 0`, true},
		{[]string{"a..b"}, "is no name", false},
		{nil, "weir: give a name, --under NAME or --all", false},
		{[]string{"--all", "www.example.org"}, "weir: give a name, --under NAME or --all", false},
	} {
		out, ok := asWeir(t, append([]string{"cache", "flush", "--config", file}, tt.args...)...)
		if ok != tt.ok || !strings.Contains(out, tt.want) {
			t.Errorf("%v: %v, %s, want %q", tt.args, ok, out, tt.want)
		}
	}
}

package gateway

import (
	"os"
	"testing"
)

// Tests leave nothing in the user's folders: a gateway whose test names no
// folder for its state has none.
func TestMain(m *testing.M) {
	if dir := os.Getenv(killChild); dir != "" {
		runVictim(dir)
	}
	_ = os.Setenv("XDG_CACHE_HOME", os.DevNull+"/none")
	os.Exit(m.Run())
}

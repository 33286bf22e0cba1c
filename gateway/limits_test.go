package gateway

import "testing"

func TestClientLimit(t *testing.T) {
	for _, tt := range []struct {
		files uint64
		want  int
	}{{0, 1}, {3, 1}, {64, 16}, {1024, 256}, {20000, 8464}, {1 << 20, 16384}, {1<<64 - 1, 16384}} {
		if got := clientLimit(tt.files); got != tt.want {
			t.Errorf("clientLimit(%d) = %d, want %d", tt.files, got, tt.want)
		}
	}
	if openFiles() == 0 {
		t.Error("the process may open no file")
	}
}

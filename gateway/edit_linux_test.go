package gateway

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// An edit of one line reads the file to find the line, and once more, when it is
// in force, for the digest that is kept: all else is known of a long list already.
func TestEditReadsTwice(t *testing.T) {
	big := text(bigList(200_000))
	f := newFixture(t, map[string]string{
		"weir.yml": fmt.Sprintf(editConfig, ""), "big.txt": big, "short.txt": "short.example\n",
	})
	f.settled()
	before := bytesRead(t)
	if err := f.rewrite("big.txt", big+"new.example\n"); err != nil {
		t.Fatal(err)
	}
	read := bytesRead(t) - before
	if f.compiled.built || f.rcode("new.example") != "NXDOMAIN" {
		t.Errorf("built anew: %v; the new name: %s", f.compiled.built, f.rcode("new.example"))
	}
	if most := int64(len(big)) * 5 / 2; read > most {
		t.Errorf("%d bytes were read for a line at the end of %d, want %d at the most", read, len(big), most)
	}
}

// bytesRead is how many bytes this process has read so far.
func bytesRead(t *testing.T) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "rchar: ")
	n, _, _ := strings.Cut(rest, "\n")
	read, err := strconv.ParseInt(n, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return read
}

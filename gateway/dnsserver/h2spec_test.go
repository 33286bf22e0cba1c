package dnsserver

import (
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/bench/corpus"
)

// h2spec's tests that fail, and why they are to. It is of RFC 7540, which RFC 9113 has
// replaced.
var h2specFails = []string{
	// RFC 9113, section 5.3.2, has dropped priorities: what they say is ignored.
	"http2/5.3.1/1", "http2/5.3.1/2",
}

// An independent suite of HTTP/2 and HPACK finds nothing but that.
func TestH2Spec(t *testing.T) {
	h2spec := findH2Spec(t)
	r, _ := startAll(t, zones, Options{})
	failed, ran, out := runH2Spec(t, h2spec, r)
	if ran < 145 || !slices.Equal(failed, h2specFails) {
		t.Errorf("of %d tests there failed %v, want %v\n%s", ran, failed, h2specFails, out)
	}
}

// findH2Spec returns the program. It is no package of Debian's, so where nothing may be
// skipped and it is not there it is built, as it is pinned beside .ci/run.
func findH2Spec(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("h2spec"); err == nil || os.Getenv("WEIR_REQUIRE") != "all" {
		return corpus.Tool(t, "h2spec")
	}
	program := filepath.Join(t.TempDir(), "h2spec")
	out, err := exec.Command("go", "build", "-C", "../../.ci/h2spec", "-buildvcs=false", "-o", program, "github.com/summerwind/h2spec/cmd/h2spec").CombinedOutput()
	if err != nil {
		t.Fatalf("h2spec is not there and cannot be built: %v\n%s", err, out)
	}
	return program
}

// runH2Spec runs the suite with requests for a name that is blocked.
func runH2Spec(t *testing.T, h2spec string, r *rig) (failed []string, ran int, out []byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "report.xml")
	q := base64.RawURLEncoding.EncodeToString(pack(t, query("wechat.com", dns.TypeA)))
	args := []string{"--tls", "--insecure", "--timeout", "5", "--junit-report", file,
		"--host", "127.0.0.1", "--port", fmt.Sprint(r.DoHAddrs()[0].Port()), "--path", dohPath + "?dns=" + q}
	out, _ = exec.Command(h2spec, args...).CombinedOutput() // fails where a test does
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var report struct {
		Suites []struct {
			Section string `xml:"package,attr"`
			Tests   []struct {
				Failure *struct{} `xml:"failure"`
				Skipped *struct{} `xml:"skipped"`
				Error   *struct{} `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b, &report); err != nil {
		t.Fatal(err)
	}
	for _, s := range report.Suites {
		for i, tc := range s.Tests {
			if ran++; tc.Failure != nil || tc.Skipped != nil || tc.Error != nil {
				failed = append(failed, fmt.Sprintf("%s/%d", s.Section, i+1))
			}
		}
	}
	return failed, ran, out
}

package gateway

import (
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/blocklists/source"
)

// stayConfig has two lists in one ban and one in another, with vectors.
const stayConfig = `
dns: {listen: ["127.0.0.1:0"], upstreams: ["UPSTREAM"]}
proxy: {listen: []}
admin: {listen: "127.0.0.1:0"}
state: "state"
bans:
- id: own
  title: {en: "Own", fr: "Propre"}
  authority: "test"
  reference: "https://ban.example/"
  effective: 2023-10-30T00:00:00-04:00
  vectors: "file:vectors.txt"
  lists:
  - {name: first, source: "file:first.txt", format: rpz}
  - {name: second, source: "file:second.txt", format: domains}
- id: other
  title: {en: "Other", fr: "Autre"}
  authority: "test"
  reference: "https://ban.example/"
  effective: 2023-10-30T00:00:00-04:00
  lists: [{name: third, source: "file:third.txt", format: domains}]
`

const stayZone = `$ORIGIN policy.example.
@ 60 IN SOA . . 1 60 60 60 60
first.example CNAME .
24.0.100.51.198.rpz-ip CNAME .
32.9.0.0.127.rpz-client-ip CNAME .
local.example A 192.0.2.77
`

func newStayWorld(t *testing.T) *fixture {
	t.Helper()
	return newFixture(t, map[string]string{
		"weir.yml": stayConfig, "first.txt": stayZone, "second.txt": "second.example\n",
		"third.txt": text(append(bigList(6000), "third.example")), "vectors.txt": "block second.example\n",
	})
}

// TestEachFileFailsAlone: whatever becomes of one file, its old rules stay and all
// else that has changed is in force, by whichever way it is compiled; and one that is
// put right is taken.
func TestEachFileFailsAlone(t *testing.T) {
	f := newStayWorld(t)
	// All of a long list anew is compiled as a whole.
	rest := func(i string) string {
		return text(slices.Concat(bigList(10_000)[5000:], []string{"third.example", "rest" + i + ".example"}))
	}
	for i, tt := range []struct {
		name, list, text, reason string
	}{
		{"a web page", "first.txt", "<!DOCTYPE html><html><body>404</body></html>\n", "html"},
		{"emptied", "second.txt", "# nothing\n", reasonDialect},
		{"gone", "first.txt", "", reasonMissing},
		{"against the vectors", "second.txt", "elsewhere.example\n", reasonVectors},
		{"a well-known name", "second.txt", "second.example\ngoogle.com\n", reasonProtected},
		{"half of an archive", "second.txt", "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", "gzip"},
	} {
		for _, way := range []string{"short", "long"} {
			mark := string(rune('a'+i)) + way
			old := f.read(tt.list)
			if f.write(tt.list, tt.text); tt.text == "" {
				if err := os.Remove(filepath.Join(f.dir, tt.list)); err != nil {
					t.Fatal(err)
				}
			}
			if f.write("third.txt", rest(mark)); way == "short" {
				f.write("third.txt", f.read("third.txt")+"\n")
			}
			err := f.Reload(t.Context())
			list := strings.TrimSuffix(tt.list, ".txt")
			if err == nil || !strings.Contains(err.Error(), list) || !strings.Contains(err.Error(), "in force") {
				t.Errorf("%s, %s: %v", tt.name, way, err)
			}
			for name, want := range map[string]string{
				"first.example": "NXDOMAIN", "local.example": "NOERROR", "second.example": "NXDOMAIN", "third.example": "NXDOMAIN",
				"rest" + mark + ".example": "NXDOMAIN", "google.com": "NOERROR", "elsewhere.example": "NOERROR",
			} {
				if got := f.rcode(name); got != want {
					t.Errorf("%s, %s: %s is %s, want %s", tt.name, way, name, got, want)
				}
			}
			st := f.Status()
			at := slices.IndexFunc(st.Lists, func(l ListStatus) bool { return l.Name == list })
			if s := st.Lists[at].Feed; s == nil || s.Reason != tt.reason || st.Lists[at].Rules == 0 {
				t.Errorf("%s, %s: status %+v", tt.name, way, s)
			}
			if !strings.Contains(f.get("/metrics"), `weir_list_file_refused{list="`+list+`",reason="`+tt.reason+`"} 1`) {
				t.Errorf("%s, %s: the metrics do not say it", tt.name, way)
			}
			if bad := st.LastError != ""; bad != (tt.reason != reasonProtected) {
				t.Errorf("%s, %s: last error %q", tt.name, way, st.LastError)
			}
			f.write(tt.list, old)
			if err := f.Reload(t.Context()); err != nil {
				t.Fatalf("%s, %s: put right: %v", tt.name, way, err)
			}
			if st := f.Status(); st.Lists[at].Feed != nil || st.LastError != "" {
				t.Errorf("%s, %s: put right: %+v, %q", tt.name, way, st.Lists[at].Feed, st.LastError)
			}
		}
	}
}

// TestStayKeepsAllKinds: the rules that stay are all of them, when the rest is
// compiled anew: names, addresses, who asks, and local data.
func TestStayKeepsAllKinds(t *testing.T) {
	f := newStayWorld(t)
	before := f.compiled.set.RulesOf(slices.IndexFunc(f.compiled.parts, func(p part) bool { return p.status.Name == "first" }))
	f.write("first.txt", "<html>\n")
	if err := f.rewrite("third.txt", text(append(bigList(12_000)[6000:], "third.example"))); !isPartial(err) {
		t.Fatal(err)
	}
	i := slices.IndexFunc(f.compiled.parts, func(p part) bool { return p.status.Name == "first" })
	if got := f.compiled.set.RulesOf(i); got != before || !f.compiled.set.HasClients() {
		t.Errorf("%d rules stay of %d, about who asks: %t", got, before, f.compiled.set.HasClients())
	}
	if st := f.Status(); !strings.Contains(st.LastError, "weir.yml:14:") {
		t.Errorf("where the list is named: %q", st.LastError)
	}
}

// TestGuardOfAnotherVersion: a file that was changed while another version of the
// program took the place of the old one is held to what was in force.
func TestGuardOfAnotherVersion(t *testing.T) {
	f := newStayWorld(t)
	f.stop()
	f.version = "another"
	f.write("second.txt", "second.example\nnext.example\ngoogle.com\n")
	f.write("third.txt", "next.example\n"+f.read("third.txt"))
	e := f.explainerHere()
	ex, err := e.Explain(t.Context(), "google.com", netip.Addr{}, time.Now())
	if err != nil || ex.Blocked || !strings.Contains(e.basis, "list second") {
		t.Errorf("explained without a gateway: %+v, %v; %s", ex, err, e.basis)
	}
	if err := f.start(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"google.com": "NOERROR", "second.example": "NXDOMAIN", "next.example": "NXDOMAIN", "first.example": "NXDOMAIN"} {
		if got := f.rcode(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	st := f.Status()
	at := slices.IndexFunc(st.Lists, func(l ListStatus) bool { return l.Name == "second" })
	if s := st.Lists[at].Feed; s == nil || s.Reason != reasonProtected || s.Held == nil {
		t.Errorf("status: %+v", s)
	}
}

// TestRulesBesideABrokenList: a rule of the API is in force whatever the files are
// like, and so is an exemption's ban's list.
func TestRulesBesideABrokenList(t *testing.T) {
	w := newCanaryWorld(t)
	w.write("own.txt", "<html>\n")
	w.call(http.StatusOK, http.MethodPut, "/v1/rules/block/own/urgent.example", `{"reason":"incident"}`)
	w.sees("a rule beside it", "urgent.example", true, true)
	w.sees("a rule beside it", "banned.example", true, true)
	w.refused("html")
	if status, text := w.as("op", http.MethodPost, "/v1/lists/own/approve", `"x"`, "", nil); status != http.StatusConflict || !strings.Contains(text, "own.txt right") {
		t.Errorf("approve of a broken file: %d %s", status, text)
	}
}

// TestPageInAFile: a file into which an error page has got is not taken as it is.
func TestPageInAFile(t *testing.T) {
	f := newStayWorld(t)
	f.write("second.txt", "second.example\nthird.example\n<html><body>502 Bad Gateway</body></html>\n")
	if err := f.Reload(t.Context()); !isPartial(err) || !strings.Contains(err.Error(), "1 lines are markup, the first in line 3") {
		t.Errorf("Reload: %v", err)
	}
	if st := f.Status(); st.LastError != "" || f.rcode("second.example") != "NXDOMAIN" {
		t.Errorf("it waits for approval: %q", st.LastError)
	}
}

// TestCopyGone: a fetched list whose copy somebody has removed keeps its rules, and
// is fetched again in full, whatever validators there were.
func TestCopyGone(t *testing.T) {
	o := newOrigin(t, false)
	o.has(names(base))
	f := newFeedFixture(t, o, "")
	f.update()
	if err := os.RemoveAll(filepath.Join(f.dir, "state", "feeds", "feed")); err != nil {
		t.Fatal(err)
	}
	err := f.Reload(t.Context())
	if err == nil || !strings.Contains(err.Error(), "is gone from the state folder") || f.Status().LastError == "" {
		t.Errorf("Reload: %v, last error %q", err, f.Status().LastError)
	}
	f.blocks("n0001.example")
	if r := f.update(); r.Outcome == "failed" || !f.feeds.store.Has("feed", source.Good) || o.header.Load().Get("If-None-Match") != "" || f.Status().LastError != "" {
		t.Errorf("fetched again: %+v, asked with %q, last error %q", r, o.header.Load().Get("If-None-Match"), f.Status().LastError)
	}
	f.blocks("n0001.example")
}

// TestFeedBesideABrokenFile: an update of a list is in force, whatever the files are
// like.
func TestFeedBesideABrokenFile(t *testing.T) {
	o := newOrigin(t, false)
	o.has(names(base))
	f := newFeedFixture(t, o, "")
	f.update()
	f.write("own.txt", "<html>\n")
	o.has(names(base, "fresh.example"))
	f.taken("fresh.example")
	f.blocks("banned.example")
	f.write("own.txt", "banned.example\n")
	if err := f.Reload(t.Context()); err != nil || f.Status().LastError != "" {
		t.Errorf("put right: %v, last error %q", err, f.Status().LastError)
	}
}

// TestCanaryBesideABrokenList: a group goes ahead although a file waits to be put
// right, and whoever asked for it is told of the file.
func TestCanaryBesideABrokenList(t *testing.T) {
	w := newCanaryWorld(t)
	w.write("own.txt", "<html>\n")
	w.refused("html")
	if text := w.call(http.StatusConflict, http.MethodPost, "/v1/canary", `{"group":"two"}`); !strings.Contains(text, "is in force, with the old rules") || !strings.Contains(text, `"in_force": true`) {
		t.Errorf("%s", text)
	}
	if w.Status().Canary == nil {
		t.Fatal("no canary runs")
	}
	w.write("own.txt", "banned.example\nnext.example\n")
	waitFor(t, "the list put right", func() bool { return w.held("own") == nil })
	w.sees("ahead", "next.example", true, false)
}

// TestBrokenVectors: vectors that are broken, while their ban is what it was, hold up
// no other change; but nothing of their ban may change until they are put right.
func TestBrokenVectors(t *testing.T) {
	f := newStayWorld(t)
	for i, text := range []string{"blok x\n", "block never.example\n", ""} {
		if f.write("vectors.txt", text); text == "" {
			if err := os.Remove(filepath.Join(f.dir, "vectors.txt")); err != nil {
				t.Fatal(err)
			}
		}
		fresh := fmt.Sprintf("fresh%d.example", i)
		f.write("third.txt", f.read("third.txt")+fresh+"\n")
		f.write("second.txt", "second.example\nunchecked.example\n")
		if err := f.Reload(t.Context()); !isPartial(err) || !strings.Contains(err.Error(), "vectors") {
			t.Errorf("%q: %v", text, err)
		}
		for name, want := range map[string]string{fresh: "NXDOMAIN", "second.example": "NXDOMAIN", "unchecked.example": "NOERROR"} {
			if got := f.rcode(name); got != want {
				t.Errorf("%q: %s is %s, want %s", text, name, got, want)
			}
		}
		if !strings.Contains(f.get("/metrics"), `weir_list_file_refused{list="vectors of own",reason="vectors"} 1`) || f.Status().LastError == "" {
			t.Errorf("%q: it is not to be seen", text)
		}
	}
	f.restart()
	if f.rcode("second.example") != "NXDOMAIN" || f.rcode("fresh2.example") != "NXDOMAIN" || f.Status().LastError == "" {
		t.Error("after a restart")
	}
	f.write("vectors.txt", "block second.example\n")
	if err := f.Reload(t.Context()); err != nil || f.rcode("unchecked.example") != "NXDOMAIN" || f.Status().LastError != "" {
		t.Errorf("put right: %v", err)
	}
}

package gateway

import (
	"net/http"
	"strings"
	"testing"
)

// TestFeedCanary: each new version of a list with a canary is in force for its group
// first, over a restart, too; a broken one begins none.
func TestFeedCanary(t *testing.T) {
	o := newOrigin(t, false)
	o.has(names(base))
	w := newCanaryWorld(t)
	const own = `  - {name: own, source: "file:own.txt", format: domains}`
	w.write("weir.yml", strings.Replace(w.read("weir.yml"), own, own+"\n  - {name: feed, source: \""+o.URL+"/list.txt\", format: domains, interval: 30d, canary: two}", 1))
	if err := w.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the first version", func() bool { return w.Status().Canary != nil })
	w.sees("the first version", "n0001.example", true, false)
	if c := w.Status().Canary; c.Group != "two" || c.Who != whoGateway || c.Why != "update of list feed" {
		t.Errorf("canary %+v", c)
	}
	w.restart()
	w.sees("after a restart", "n0001.example", true, false)
	o.has(names(base, "second.example"))
	w.call(http.StatusOK, http.MethodPost, "/v1/lists/fetch", `{}`)
	w.sees("the next version", "second.example", true, false)
	w.call(http.StatusOK, http.MethodPost, "/v1/canary/promote", `{}`)
	w.sees("promoted", "second.example", true, true)
	w.sees("promoted", "n0001.example", true, true)
	before := w.Status().Generation
	o.has(names(base, "second.example", "google.com"))
	w.call(http.StatusOK, http.MethodPost, "/v1/lists/fetch", `{}`)
	o.has("wechat.com\n")
	w.call(http.StatusOK, http.MethodPost, "/v1/lists/fetch", `{}`)
	if st := w.Status(); st.Canary != nil || st.Generation != before || w.compiled.canary != nil {
		t.Errorf("a version that is refused: generation %d, canary %+v", st.Generation, st.Canary)
	}
	o.has(names(base, "third.example"))
	w.call(http.StatusOK, http.MethodPost, "/v1/lists/fetch", `{}`)
	w.sees("another", "third.example", true, false)
	w.call(http.StatusOK, http.MethodPost, "/v1/canary/drop", `{}`)
	w.sees("dropped", "third.example", false, false)
	w.sees("dropped", "second.example", true, true)
}

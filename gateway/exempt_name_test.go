package gateway

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// An exemption for a name lifts what holds back that name and what is under it,
// and nothing else, on both planes, for whom it is only; and it ends on the
// second, with it what it opened and what clients may keep of it.
func TestExemptionForName(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ about, whom string }{
		{"a device", `"device":"127.0.0.2/32"`},
		{"a group", `"group":"two"`},
	} {
		t.Run(tt.about, func(t *testing.T) {
			t.Parallel()
			w := newExemptWorld(t)
			longEnough(t, func(long time.Duration) bool { return w.liftsName(tt.whom, long) })
		})
	}
}

// liftsName reports whether there was the time to look at all of it.
func (w *exemptWorld) liftsName(whom string, long time.Duration) bool {
	t := w.t
	t.Helper()
	until := time.Now().Add(long)
	over := func() bool { return !time.Now().Before(until) }
	var e Exemption
	body := fmt.Sprintf(`{"name":"Banned.Example.",%s,"until":%q,"ticket":"T-1","reason":"a test"}`, whom, until.Format(time.RFC3339Nano))
	if status, text := w.as("op", "POST", "/v1/exemptions", "", body, &e); status != 201 || e.Name != "banned.example" || e.Ban != "" {
		t.Fatalf("request: %d %s", status, text)
	}
	w.expect("requested", map[string]string{"banned.example": "NXDOMAIN"})
	status, text := w.approve("boss", &e, `{}`)
	unlike := w.unlike(map[string]string{
		"banned.example": "NOERROR", "a.b.banned.example": "NOERROR", "other.example": "NXDOMAIN", "notbanned.example": "NOERROR",
	})
	c, err := w.tryConnect("127.0.0.2")
	another := w.connect("127.0.0.1")
	shown := w.usedOnBothPlanes(e.ID, over)
	switch {
	case over():
		t.Logf("%v were not enough; %s", long, shown)
		return false
	case status != 200:
		t.Fatalf("approve: %d %s", status, text)
	case len(unlike) > 0:
		t.Fatalf("approved: %s", strings.Join(unlike, "; "))
	case c == nil || another != nil:
		t.Fatalf("tunnel of the device %v, %v, and of another one %v", c, err, another)
	case shown != "":
		t.Fatal(shown)
	}
	if !w.keepsNoLonger(until) {
		return false
	}
	w.cutWithin(c, time.Until(until)+20*time.Second)
	if !over() {
		t.Error("the tunnel ended before the exemption")
	}
	w.expect("over", map[string]string{"banned.example": "NXDOMAIN", "a.b.banned.example": "NXDOMAIN"})
	if c := w.connect("127.0.0.2"); c != nil {
		t.Error("the proxy lets it through after the end")
	}
	return true
}

// expect asks for the names from the device; for another one, what is banned is
// banned throughout.
func (w *exemptWorld) expect(when string, want map[string]string) {
	w.t.Helper()
	for _, what := range w.unlike(want) {
		w.t.Errorf("%s, %s", when, what)
	}
}

// unlike returns what is not as expect wants it.
func (w *exemptWorld) unlike(want map[string]string) (out []string) {
	w.t.Helper()
	for name, rcode := range want {
		if got := dns.RcodeToString[w.answer("127.0.0.2", name+".").Rcode]; got != rcode {
			out = append(out, fmt.Sprintf("%s for the device: %s, want %s", name, got, rcode))
		}
		banned := strings.HasSuffix("."+name, ".banned.example") || name == "other.example"
		if got := dns.RcodeToString[w.answer("127.0.0.1", name+".").Rcode]; banned != (got == "NXDOMAIN") {
			out = append(out, fmt.Sprintf("%s for another device: %s", name, got))
		}
	}
	return out
}

// keepsNoLonger asks again and again until the end, cached answers too: no
// answer may be kept beyond it, although the zone says a minute. It reports whether
// there was the time for some.
func (w *exemptWorld) keepsNoLonger(until time.Time) bool {
	w.t.Helper()
	for asked := 0; ; asked++ {
		before := time.Now() // when it was answered, at the earliest
		m := w.answer("127.0.0.2", "banned.example.")
		now := time.Now()
		if !now.Before(until) {
			return asked >= 3
		}
		if len(m.Answer) != 1 {
			w.t.Fatalf("%v before the end: %v", until.Sub(now), m)
		}
		if kept := before.Add(time.Duration(m.Answer[0].Header().Ttl) * time.Second); kept.After(until.Add(100 * time.Millisecond)) {
			w.t.Fatalf("an answer is kept %v beyond the end", kept.Sub(until))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// usedOnBothPlanes waits for a use on each plane, on the audit record and in the
// report. It returns what is shown if it is not.
func (w *exemptWorld) usedOnBothPlanes(id string, over func() bool) string {
	w.t.Helper()
	var all Exemptions
	var record string
	for ; !over(); time.Sleep(20 * time.Millisecond) {
		record = w.read("audit.jsonl")
		w.as("op", "GET", "/v1/exemptions", "", "", &all)
		report := all.Exemptions[len(all.Exemptions)-1]
		if used(record, id, "dns") && used(record, id, "proxy") && report.Live && report.ID == id && report.Uses >= 3 {
			return ""
		}
	}
	return fmt.Sprintf("the uses of %s are not shown: %+v\n%s", id, all, record)
}

func used(record, id, plane string) bool {
	for line := range strings.Lines(record) {
		if strings.Contains(line, `"plane":"`+plane+`"`) && strings.Contains(line, `"reason":"exemption"`) &&
			strings.Contains(line, `"exemption":"`+id+`"`) && strings.Contains(line, `"ban":"own"`) {
			return true
		}
	}
	return false
}

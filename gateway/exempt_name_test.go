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
			until := time.Now().Add(10 * time.Second)
			var e Exemption
			body := fmt.Sprintf(`{"name":"Banned.Example.",%s,"until":%q,"ticket":"T-1","reason":"a test"}`, tt.whom, until.Format(time.RFC3339Nano))
			if status, text := w.as("op", "POST", "/v1/exemptions", "", body, &e); status != 201 || e.Name != "banned.example" || e.Ban != "" {
				t.Fatalf("request: %d %s", status, text)
			}
			w.expect("requested", map[string]string{"banned.example": "NXDOMAIN"})
			if status, text := w.approve("boss", &e, `{}`); status != 200 {
				t.Fatalf("approve: %d %s", status, text)
			}
			w.expect("approved", map[string]string{
				"banned.example": "NOERROR", "a.b.banned.example": "NOERROR", "other.example": "NXDOMAIN", "notbanned.example": "NOERROR",
			})
			c := w.connect("127.0.0.2")
			if c == nil || w.connect("127.0.0.1") != nil {
				t.Fatalf("tunnel of the device %v, and of another one", c)
			}
			w.usedOnBothPlanes(e.ID)
			w.keepsNoLonger(until)
			w.cutWithin(c, time.Until(until)+10*time.Second)
			if time.Now().Before(until) {
				t.Error("the tunnel ended before the exemption")
			}
			w.expect("over", map[string]string{"banned.example": "NXDOMAIN", "a.b.banned.example": "NXDOMAIN"})
			if c := w.connect("127.0.0.2"); c != nil {
				t.Error("the proxy lets it through after the end")
			}
		})
	}
}

// expect asks for the names from the device; for another one, what is banned is
// banned throughout.
func (w *exemptWorld) expect(when string, want map[string]string) {
	w.t.Helper()
	for name, rcode := range want {
		if got := dns.RcodeToString[w.answer("127.0.0.2", name+".").Rcode]; got != rcode {
			w.t.Errorf("%s, %s for the device: %s, want %s", when, name, got, rcode)
		}
		banned := strings.HasSuffix("."+name, ".banned.example") || name == "other.example"
		if got := dns.RcodeToString[w.answer("127.0.0.1", name+".").Rcode]; banned != (got == "NXDOMAIN") {
			w.t.Errorf("%s, %s for another device: %s", when, name, got)
		}
	}
}

// keepsNoLonger asks again and again until the end, cached answers too: no
// answer may be kept beyond it, although the zone says a minute.
func (w *exemptWorld) keepsNoLonger(until time.Time) {
	w.t.Helper()
	for asked := 0; ; asked++ {
		m := w.answer("127.0.0.2", "banned.example.")
		now := time.Now()
		if !now.Before(until) {
			if asked < 3 {
				w.t.Errorf("asked %d times only", asked)
			}
			return
		}
		if len(m.Answer) != 1 {
			w.t.Fatalf("%v before the end: %v", until.Sub(now), m)
		}
		if kept := now.Add(time.Duration(m.Answer[0].Header().Ttl) * time.Second); kept.After(until.Add(100 * time.Millisecond)) {
			w.t.Fatalf("an answer is kept %v beyond the end", kept.Sub(until))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// usedOnBothPlanes waits for a use on each plane, on the audit record and in the
// report.
func (w *exemptWorld) usedOnBothPlanes(id string) {
	w.t.Helper()
	var all Exemptions
	var record string
	for end := time.Now().Add(8 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		record = w.read("audit.jsonl")
		w.as("op", "GET", "/v1/exemptions", "", "", &all)
		report := all.Exemptions[len(all.Exemptions)-1]
		if used(record, id, "dns") && used(record, id, "proxy") && report.Live && report.ID == id && report.Uses >= 3 {
			return
		}
	}
	w.t.Errorf("the uses of %s are not shown: %+v\n%s", id, all, record)
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

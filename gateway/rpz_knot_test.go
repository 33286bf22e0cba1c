package gateway

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/bench/corpus"
)

// Knot Resolver takes policy zones from files only. Knot DNS, the server of its
// makers, is the secondary that has them.
const knotConf = `
server:
    listen: 127.0.0.1@PORT
    rundir: "DIR"
log:
  - target: stderr
    any: info
database:
    storage: "DIR"
key:
  - id: xfr.example
    algorithm: hmac-sha256
    secret: SECRET
remote:
  - id: weir
    address: 127.0.0.1@PRIMARY
    key: xfr.example
acl:
  - id: told
    address: 127.0.0.1
    key: xfr.example
    action: notify
  - id: asked
    address: 127.0.0.1
    action: transfer
zone:
  - domain: policy.weir
    storage: "DIR"
    file: policy.zone
    master: weir
    acl: [told, asked]
`

// zoneOf returns the records of the policy's zone that a server has, sorted. SOA
// says which version it is.
func zoneOf(server string) (serial uint32, records []string, err error) {
	c, err := (&dns.Transfer{DialTimeout: 30 * time.Second, ReadTimeout: 30 * time.Second}).In(new(dns.Msg).SetAxfr("policy.weir."), server)
	if err != nil {
		return 0, nil, err
	}
	for e := range c {
		if e.Error != nil {
			return 0, nil, e.Error
		}
		for _, rr := range e.RR {
			if soa, ok := rr.(*dns.SOA); ok {
				serial = soa.Serial
				continue
			}
			records = append(records, rr.String())
		}
	}
	slices.Sort(records)
	return serial, records, nil
}

// TestKnotFollows: Knot DNS follows the policy's zone by NOTIFY and IXFR, all
// signed, and has the same records as the gateway after every change.
func TestKnotFollows(t *testing.T) {
	t.Parallel()
	knotd, dir := corpus.Tool(t, "knotd"), t.TempDir()
	addr := corpus.Port(t).String()
	_, port, _ := net.SplitHostPort(addr)
	files := map[string]string{"xfr.key": zoneSecret + "\n", "weir.yml": zoneConfig + fmt.Sprintf("  notify: [{address: %q, key: xfr.example}]\n", addr)}
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		files[name+".txt"] = name + ".example\n@@not." + name + ".example\n"
	}
	f := newFixture(t, files)
	_, primary, _ := net.SplitHostPort(f.RPZAddrs()[0].String())
	conf := strings.NewReplacer("DIR", dir, "PORT", port, "PRIMARY", primary, "SECRET", zoneSecret).Replace(knotConf)
	writeText(t, filepath.Join(dir, "knot.conf"), conf)
	corpus.Serve(t, knotd, "-c", filepath.Join(dir, "knot.conf"))
	const rounds = 5
	for round := range rounds {
		mark := fmt.Sprintf("mark-%d.example", round)
		if round > 0 {
			f.write("b.txt", mark+"\nb.example\n")
		}
		var want, got []string
		until(t, fmt.Sprintf("knotd in round %d", round), func() bool {
			serial, records, err := zoneOf(f.RPZAddrs()[0].String())
			if err != nil || round > 0 && !slices.ContainsFunc(records, func(r string) bool { return strings.HasPrefix(r, mark) }) {
				return false
			}
			at, copied, err := zoneOf(addr)
			want, got = records, copied
			return err == nil && at == serial
		})
		if !slices.Equal(got, want) || len(got) < 20 {
			t.Fatalf("round %d: knotd has %d records, the gateway %d:\n%s\n\n%s", round, len(got), len(want), strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if round == 0 {
			continue
		}
		// It answers with them, too.
		c := dns.Client{Timeout: 20 * time.Second}
		m, _, err := c.Exchange(new(dns.Msg).SetQuestion("x."+mark+".policy.weir.", dns.TypeCNAME), addr)
		if err != nil || len(m.Answer) != 1 || m.Answer[0].(*dns.CNAME).Target != "." {
			t.Errorf("round %d: knotd says %v %v", round, m, err)
		}
	}
	// The file is what Knot Resolver reads.
	until(t, "the file of the zone", func() bool {
		b, err := os.ReadFile(filepath.Join(dir, "policy.zone"))
		return err == nil && strings.Contains(string(b), fmt.Sprintf("mark-%d.example", rounds-1))
	})
	until(t, "each change by IXFR", func() bool { return f.zone.Counts().Changes >= rounds-1 })
	n := f.zone.Counts()
	t.Logf("%+v", n)
	if n.Unheard > 0 || n.BadSignature > 0 {
		t.Errorf("want each NOTIFY answered: %+v", n)
	}
}

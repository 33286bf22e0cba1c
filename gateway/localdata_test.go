package gateway

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/config"
)

const withLocal = `
dns:
  listen: ["127.0.0.1:0"]
  upstreams: ["UPSTREAM"]
  rebinding: {block: true}
  hosts: hosts
  records: ["nas.example.org. A 10.0.0.9", "alias.example.org. CNAME www.wechat.com.", "www.wechat.com. A 10.0.0.66"]
proxy: {listen: ["127.0.0.1:0"]}
admin: {listen: "127.0.0.1:0"}
bans: [wechat]
`

// answer asks for a name and returns the rcode and the data of the answer.
func (f *fixture) answer(name string, qtype uint16) string {
	f.t.Helper()
	m := f.exchange(&dns.Client{Timeout: 20 * time.Second}, new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype))
	out := dns.RcodeToString[m.Rcode]
	for _, rr := range m.Answer {
		out += " " + strings.TrimPrefix(rr.String(), rr.Header().String())
	}
	return out
}

func TestLocalData(t *testing.T) {
	f := newFixture(t, map[string]string{"weir.yml": withLocal, "hosts": "10.0.0.1 router.example.org wechat.com\n"})
	check := func(name string, qtype uint16, want string) {
		t.Helper()
		if got := f.answer(name, qtype); got != want {
			t.Errorf("%s %s: %s, want %s", name, dns.Type(qtype), got, want)
		}
	}
	check("router.example.org", dns.TypeA, "NOERROR 10.0.0.1")
	check("router.example.org", dns.TypeAAAA, "NOERROR")
	check("nas.example.org", dns.TypeA, "NOERROR 10.0.0.9")
	check("9.0.0.10.in-addr.arpa", dns.TypePTR, "NOERROR nas.example.org.")
	check("8.0.0.10.in-addr.arpa", dns.TypePTR, "NXDOMAIN")
	check("localhost", dns.TypeA, "NOERROR 127.0.0.1")
	check("secret.onion", dns.TypeA, "NXDOMAIN")
	check("else.example.org", dns.TypeA, "NOERROR 192.0.2.1")
	// What is banned stays so, by name and by what it leads to.
	check("wechat.com", dns.TypeA, "NXDOMAIN")
	check("alias.example.org", dns.TypeA, "NXDOMAIN")
	if n := strings.Count(f.get("/metrics"), "\nweir_resolver_local_total "); n != 1 {
		t.Errorf("local answers are in %d metrics", n)
	}

	until := func(name, want string) {
		t.Helper()
		for end := time.Now().Add(time.Minute); f.answer(name, dns.TypeA) != want; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: %s, want %s", name, f.answer(name, dns.TypeA), want)
			}
		}
	}
	f.write("hosts", "10.0.0.2 router.example.org\n10.0.0.3 else.example.org\n")
	until("router.example.org", "NOERROR 10.0.0.2")
	check("else.example.org", dns.TypeA, "NOERROR 10.0.0.3") // which was in the cache
	f.write("weir.yml", strings.ReplaceAll(f.read("weir.yml"), "www.wechat.com. A 10.0.0.66", "nas2.example.org. A 10.0.0.8"))
	if err := f.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "dns.records: local record alias.example.org.") {
		t.Errorf("an alias to nowhere: %v", err)
	}
	check("nas.example.org", dns.TypeA, "NOERROR 10.0.0.9")
	if err := f.rewrite("weir.yml", strings.ReplaceAll(f.read("weir.yml"), `"alias.example.org. CNAME www.wechat.com.", `, "")); err != nil {
		t.Fatal(err)
	}
	check("nas2.example.org", dns.TypeA, "NOERROR 10.0.0.8")
	if err := os.Remove(filepath.Join(f.dir, "hosts")); err != nil {
		t.Fatal(err)
	}
	if err := f.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "dns.hosts: ") {
		t.Errorf("a hosts file that is gone: %v", err)
	}
	check("router.example.org", dns.TypeA, "NOERROR 10.0.0.2")
}

func TestLocalDataRefuses(t *testing.T) {
	for name, text := range map[string]string{"none": "", "folder": "", "long": "10.0.0.1 " + strings.Repeat("a ", 50_000)} {
		file := filepath.Join(t.TempDir(), name)
		switch name {
		case "folder":
			if err := os.Mkdir(file, 0o700); err != nil {
				t.Fatal(err)
			}
		case "long":
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cfg := &config.Config{DNS: config.DNS{Hosts: file}}
		if _, err := localData(cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.HasPrefix(err.Error(), "dns.hosts: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

package dnsserver

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-gateway/weir/bench/corpus"
)

// startResolved runs systemd-resolved with that configuration in the network of
// the test's thread, and in a file system that has its user, its folder and
// nothing of the machine's resolver. It needs no bus: without one it goes on. What
// it says is returned.
func startResolved(t *testing.T, ca *testCA, conf string) (said func() string) {
	t.Helper()
	program, dir := corpus.Tool(t, "systemd-resolved"), t.TempDir()
	script := `
for f in passwd group; do cp /etc/$f $DIR/$f; done
echo 'systemd-resolve:x:64321:64321::/:/usr/sbin/nologin' >>$DIR/passwd
echo 'systemd-resolve:x:64321:' >>$DIR/group
mount --make-rprivate /
for f in passwd group; do mount --bind $DIR/$f /etc/$f; done
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/resolve /run/systemd/resolved.conf.d
chown 64321:64321 /run/systemd/resolve
cp $DIR/conf /run/systemd/resolved.conf.d/test.conf
exec $PROGRAM
`
	// Who drops to another user reads the CA after that.
	for _, d := range []string{dir, filepath.Dir(dir), filepath.Dir(ca.file)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(ca.file, 0o644); err != nil {
		t.Fatal(err)
	}
	text := "[Resolve]\nCache=no\nDNSSEC=no\nLLMNR=no\nMulticastDNS=no\nDomains=~.\n" + conf
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-ec", script)
	cmd.Env = append(os.Environ(), "DIR="+dir, "PROGRAM="+program, "SSL_CERT_FILE="+ca.file, "SYSTEMD_LOG_LEVEL=debug", "SYSTEMD_LOG_TARGET=console")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said = func() string {
		b, _ := os.ReadFile(log.Name()) // what cannot be read is shown by its absence
		return string(b)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
		if text := said(); t.Failed() {
			t.Logf("systemd-resolved:\n%s", text[max(0, len(text)-6000):])
		}
	})
	return said
}

// atStub asks the stub of systemd-resolved, as programs do, until it is there, or
// until something else comes true.
func atStub(t *testing.T, args string, or func() bool) string {
	t.Helper()
	dig := corpus.Tool(t, "dig")
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		out, err := exec.Command(dig, append([]string{"@127.0.0.53", "+tries=1", "+time=10"}, strings.Fields(args)...)...).CombinedOutput()
		if err == nil || or() {
			return string(out)
		}
		if time.Now().After(deadline) {
			t.Errorf("dig %s: %v\n%s", args, err, out)
			return ""
		}
	}
}

// TestSystemdResolved: the resolver of most Linux devices finds what is allowed,
// and not what is blocked: in the clear, over TLS without a name (as Android does,
// too, where nobody gave it one), and over TLS with one that it verifies. Where the
// name is another one's it takes nothing.
func TestSystemdResolved(t *testing.T) {
	corpus.Tool(t, "systemd-resolved")
	res := startUpstream(t, zones).resolver(t) // out there
	for _, c := range []struct {
		name, conf     string
		secure, answer bool
	}{
		{"plain", "DNS=UDP\nDNSOverTLS=no\n", false, true},
		{"opportunistic", "DNS=DOT\nDNSOverTLS=opportunistic\n", true, true},
		{"strict", "DNS=DOT#" + resolverName + "\nDNSOverTLS=yes\n", true, true},
		{"strict, another name", "DNS=DOT#other.example\nDNSOverTLS=yes\n", true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			ownNetwork(t)
			ca := newCA(t)
			r := start(t, "", Options{Resolver: res, Listen: addrPorts("192.0.2.53:0"), DoT: addrPorts("192.0.2.53:0"), Certs: newCerts(t, ca.server(t, t.TempDir()))})
			said := startResolved(t, ca, strings.NewReplacer("UDP", r.Addrs()[0].String(), "DOT", r.DoTAddrs()[0].String()).Replace(c.conf))
			refused := func() bool { return strings.Contains(said(), "certificate verify failed") }
			allowed := atStub(t, "good.example A", refused)
			if !c.answer {
				if st := r.Stats(); !refused() || strings.Contains(allowed, "192.0.2.10") || st.DoT+st.UDP+st.TCP != 0 {
					t.Errorf("a resolver of another name is believed: %+v\n%s", st, allowed)
				}
				return
			}
			blocked := atStub(t, "www.wechat.com A", refused)
			for _, want := range []string{"status: NOERROR", "192.0.2.10"} {
				if !strings.Contains(allowed, want) {
					t.Errorf("no %q in\n%s", want, allowed)
				}
			}
			if !strings.Contains(blocked, "status: NXDOMAIN") {
				t.Errorf("a blocked name:\n%s", blocked)
			}
			if https := atStub(t, "www.wechat.com TYPE65", refused); !strings.Contains(https, "status: NXDOMAIN") {
				t.Errorf("a blocked service:\n%s", https)
			}
			if st := r.Stats(); (st.DoT > 0) != c.secure || (st.UDP > 0) == c.secure || st.Blocked == 0 {
				t.Errorf("stats %+v", st)
			}
		})
	}
}

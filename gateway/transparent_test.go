package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-gateway/weir/bench/corpus"
	"github.com/weir-gateway/weir/gateway/policy"
	"github.com/weir-gateway/weir/gateway/proxy"
)

// The transparent listeners of a configuration: they stand without the explicit
// proxy, refuse what nobody diverted, are on the metrics, and are changed by a
// restart only; what they do with unusual connections, by a reload.
func TestTransparentConfigured(t *testing.T) {
	at := corpus.Port(t).String()
	text := `
dns: {listen: [], upstreams: [UPSTREAM]}
proxy: {listen: []}
transparent: {listen: ["%s"], unknown: %s}
admin: {listen: "127.0.0.1:0"}
`
	f := newFixture(t, map[string]string{"weir.yml": fmt.Sprintf(text, at, "block")})
	if got := f.TransparentAddrs(); len(got) != 1 || got[0].String() != at || f.ProxyAddrs() != nil {
		t.Errorf("listens at %v, the proxy at %v", got, f.ProxyAddrs())
	}
	c, err := net.Dial("tcp", at)
	if err == nil {
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		_, err = c.Read(make([]byte, 1))
		_ = c.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection to the listener itself: %v", err)
	}
	resp, err := http.Get("http://" + f.AdminAddr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	if want := `weir_transparent_refused_total{reason="direct"} 1`; !strings.Contains(string(body), want) {
		t.Errorf("metrics have no %s", want)
	}
	f.write("weir.yml", strings.ReplaceAll(fmt.Sprintf(text, at, "allow"), "[UPSTREAM]", "[]"))
	if err := f.Reload(context.Background()); err != nil {
		t.Errorf("another word for unknown protocols: %v", err)
	}
	f.write("weir.yml", strings.ReplaceAll(fmt.Sprintf(text, corpus.Port(t), "allow"), "[UPSTREAM]", "[]"))
	if err := f.Reload(context.Background()); err == nil || !strings.Contains(err.Error(), "transparent.listen has changed: restart weir") {
		t.Errorf("another listener: %v", err)
	}
}

// Two gateways cannot have one listener, and the error names the key.
func TestTransparentTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	err = listenError("transparent.listen", fmt.Errorf("%w %s: %w", proxy.ErrTransparent, l.Addr(), syscall.EADDRINUSE))
	if want := "another program listens there; end it, or change transparent.listen"; !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
}

// Every counter of the transparent listeners is a metric, and no two are mixed
// up.
func TestTransparentMetricsAreComplete(t *testing.T) {
	var st proxy.TransparentStats
	v := reflect.ValueOf(&st).Elem()
	want := map[float64]string{}
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Int64 {
			f.SetInt(int64(1000 + i))
		} else {
			f.SetUint(uint64(1000 + i))
		}
		want[float64(1000+i)] = v.Type().Field(i).Name
	}
	for name, value := range gather(t, func(e emitter) { transparentMetrics(e, st) }) {
		if want[value] == "" {
			t.Errorf("%s is %v, which is nothing or there already", name, value)
		}
		delete(want, value)
	}
	if len(want) > 0 {
		t.Errorf("not on the metrics: %v", want)
	}
}

// A ban of one's own recognises a protocol, bad lines are counted, and a change
// of the list is in force without compiling what has not changed.
func TestOwnSignatures(t *testing.T) {
	f := newFixture(t, map[string]string{
		"weir.yml": listeners + `
bans:
  - wechat
  - id: own
    title: "Own"
    authority: "Me"
    reference: "here"
    lists: [{name: own-signatures, source: "file:own.txt", format: signatures, signal: app}]
`,
		"own.txt": "bytes 4f 57 4e\npath ^/own/[0-9]+$\nbytes 16 03 01\nnonsense\n",
	})
	begins := func(first string) string {
		v, _ := f.store.Load().Flow(policy.Subject{}, []byte(first), time.Now())
		return v.Action.String() + " " + v.RuleID()
	}
	for first, want := range map[string]string{"OWN!": "block own-signatures:1", "\x16\xf1\x04": "block wechat-signatures:9", "OWL": "allow ", "OW": "undecided "} {
		if got := begins(first); got != want {
			t.Errorf("%q: %s, want %s", first, got, want)
		}
	}
	for _, l := range f.Status().Lists {
		if l.Name == "own-signatures" && (l.Rules != 2 || l.Report.Skips["everything"] != 1 || l.Report.Skips["syntax"] != 1 || l.Report.Kinds.Signature != 2) {
			t.Errorf("status: %+v", l.Report)
		}
	}
	if err := f.rewrite("own.txt", "# moved\nbytes 4f 57 4c\n"); err != nil {
		t.Fatal(err)
	}
	for first, want := range map[string]string{"OWN!": "allow ", "OWL": "block own-signatures:2", "\x16\xf1\x04": "block wechat-signatures:9"} {
		if got := begins(first); got != want {
			t.Errorf("after the change, %q: %s, want %s", first, got, want)
		}
	}
}

package main

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test program be a floor, as the gate itself is.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == floorArg {
		fail(runFloor(os.Args[2], os.Args[3]))
		return
	}
	os.Exit(m.Run())
}

func TestSyntheticList(t *testing.T) {
	l, again := syntheticList(5000), syntheticList(5000)
	if len(l.blocked) != 5000 || len(l.allowed) != allowedNames {
		t.Fatalf("%d blocked, %d allowed", len(l.blocked), len(l.allowed))
	}
	set := newSuffixes(l.blocked)
	for i, n := range l.blocked {
		if n != again.blocked[i] {
			t.Fatalf("name %d is %s and then %s", i, n, again.blocked[i])
		}
	}
	for _, n := range l.allowed {
		q, err := question(make([]byte, 0, 600), n)
		if err != nil {
			t.Fatal(err)
		}
		if size := set.answer(q[:600], len(q)); size == 0 || q[3]&15 != 5 {
			t.Fatalf("%s is covered by a blocked name", n)
		}
	}
}

// floorProcess starts this program as a floor for the names.
func floorProcess(t *testing.T, kind string, names ...string) (*process, netip.AddrPort) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "names")
	if err := writeNames(file, names); err != nil {
		t.Fatal(err)
	}
	cpus, err := twoProcessors()
	if err != nil {
		t.Fatal(err)
	}
	n, err := newNursery(cpus.server)
	if err != nil {
		t.Fatal(err)
	}
	var at netip.AddrPort
	p, err := n.start("the floor", false, func(line []byte) bool { at, err = netip.ParseAddrPort(string(line)); return err == nil },
		os.Args[0], floorArg, kind, file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	if err := p.pinnedTo(cpus.server); err != nil {
		t.Error(err)
	}
	return p, at
}

func blastFor(t *testing.T, tries int, at netip.AddrPort, w want, names ...string) tally {
	t.Helper()
	d, err := newDeck(names, w, 1)
	if err != nil {
		t.Fatal(err)
	}
	var got tally
	for range tries { // the server may have to wait for a processor
		b, err := newBlaster(at, 1, true) // a new one: answers to the last may be on their way
		if err != nil {
			t.Fatal(err)
		}
		got, err = b.run(context.Background(), 100*time.Millisecond, d)
		b.close()
		if err != nil {
			t.Fatal(err)
		}
		if got.ops >= 100 && got.lost == 0 {
			break
		}
	}
	return got
}

// The load believes no answer: what the floor has no address for is wrong.
func TestBlastOnFloor(t *testing.T) {
	p, at := floorProcess(t, "udp", "blocked.example")
	before, err := p.cpu()
	if err != nil {
		t.Fatal(err)
	}
	if got := blastFor(t, 20, at, wantZero, "blocked.example", "www.Blocked.example"); got.ops < 100 || got.wrong != 0 || got.lost != 0 {
		t.Errorf("right answers: %+v", got)
	}
	after, err := p.cpu()
	if err != nil || after <= before {
		t.Errorf("processor time %v and then %v (%v)", before, after, err)
	}
	for name, w := range map[string]want{"other.example": wantZero, "blocked.example": wantNXDomain, "www.blocked.example": wantAddress} {
		if got := blastFor(t, 20, at, w, name); got.ops == 0 || got.wrong != got.ops || got.detail == "" {
			t.Errorf("%s, want %d: %+v", name, w, got)
		}
	}
}

// A server that says nothing loses what it was asked; the load ends all the same.
func TestBlastOnSilence(t *testing.T) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	got := blastFor(t, 1, c.LocalAddr().(*net.UDPAddr).AddrPort(), wantZero, "a.example")
	if got.ops != 0 || got.lost != flows*inFlight {
		t.Errorf("%+v, want %d lost", got, flows*inFlight)
	}
}

func TestTunnelFloor(t *testing.T) {
	_, at := floorProcess(t, "tcp", "blocked.example")
	o, err := startOrigin()
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	for _, tc := range []struct {
		label string
		do    step
		names []string
		wrong bool
	}{
		{"blocked", refused, []string{"www.blocked.example"}, false},
		{"not blocked", refused, []string{"127.0.0.1"}, true},
		{"set-up", setUp, nil, false},
		{"get", get, nil, false},
	} {
		var got tally
		for range 20 { // the floor may have to wait for a processor
			if got, err = runClients(context.Background(), 100*time.Millisecond, at, o, tc.names, tc.do); err != nil {
				t.Fatal(err)
			}
			if got.ops >= 10 && got.lost == 0 || got.wrong > 0 {
				break
			}
		}
		if tc.wrong {
			if got.ops > 0 || got.wrong+got.lost == 0 {
				t.Errorf("%s: %+v", tc.label, got)
			}
		} else if got.ops < 10 || got.wrong+got.lost > 0 {
			t.Errorf("%s: %+v", tc.label, got)
		}
	}
}

// The upstream's answers are those that the load takes for right.
func TestWarm(t *testing.T) {
	o, err := startOrigin()
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	if err := askEach(context.Background(), o.dnsAddr, []string{"a.example", "ok-b.example"}); err != nil {
		t.Error(err)
	}
	_, floor := floorProcess(t, "udp", "blocked.example")
	if err := askEach(context.Background(), floor, []string{"a.example"}); err == nil || !strings.Contains(err.Error(), "a.example") {
		t.Errorf("a refusal warms the cache: %v", err)
	}
}

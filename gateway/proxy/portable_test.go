package proxy

import "testing"

// The portable way of accepting and of tunnelling is the same to clients and
// origins as the engine's.
func TestPortable(t *testing.T) {
	startPortable = true
	defer func() { startPortable = false }()
	for name, f := range map[string]func(*testing.T){
		"early bytes":         TestConnectEarlyBytesAndHalfClose,
		"half-close at once":  TestConnectHalfCloseAtOnce,
		"origin's half-close": TestConnectOriginHalfClose,
		"bulk":                TestConnectBulk,
		"blocked":             TestConnectBlocked,
		"limit":               TestConnectLimit,
		"dial errors":         TestConnectDialErrors,
		"recheck":             TestRecheckCutsOnlyBanned,
		"policy changes":      TestPolicyChangesBeforeDial,
		"no policy":           TestNoPolicy,
		"idle":                TestTunnelIdle,
		"drain":               TestDrain,
		"next address":        TestDialNextAddress,
		"dial timeout":        TestDialTimeout,
		"self":                TestSelfIsNoDestination,
		"after plain HTTP":    TestConnectAfterPlainRequest,
		"back-pressure":       TestTunnelBackPressure,
		"stays half open":     TestTunnelHalfOpenThenCut,
		"hello":               TestPeekVerdicts,
		"hello intact":        TestPeekIntact,
		"hello cut later":     TestPeekRecheck,
		"hello, late":         TestPeekTimeout,
		"origin speaks first": TestPeekOriginFirst,
		"hello after GET":     TestPeekAfterPlainRequest,
	} {
		t.Run(name, f)
	}
}

package gateway

import (
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/durable"
	"github.com/weir-gateway/weir/gateway/rpz"
)

// bindZone makes the primary of the policy's response policy zone, if there is
// to be one.
func (g *Gateway) bindZone() error {
	c := &g.cfg.RPZ
	if len(c.Listen) == 0 {
		return nil
	}
	opts := rpz.Options{
		Listen: c.Listen, Zone: c.Zone, Group: c.Group, Keys: g.keys, Allow: c.AllowTransfer,
		UnsignedLoopback: c.UnsignedLoopback, Notified: g.feeds.notified, Pace: newPace, Log: g.log,
	}
	if g.folder != nil {
		file := filepath.Join(g.folder.path, serialFile)
		opts.Serial = readSerial(file)
		opts.Keep = func(serial uint32) error {
			return durable.WriteBytes(file, []byte(strconv.FormatUint(uint64(serial), 10)+"\n"))
		}
	}
	for _, s := range c.Notify {
		opts.Notify = append(opts.Notify, rpz.Peer{Addr: s.Address, Key: s.Key})
	}
	zone, err := rpz.Listen(opts)
	if err != nil {
		return listenError("rpz.listen", err)
	}
	g.zone = zone
	g.zone.Publish(g.store.Load())
	return nil
}

// serialFile is where the last serial of the zone is, in the state folder: so the
// next one is later even if the clock was set back, and who follows the zone
// does not wait for it to come round.
const serialFile = "rpz-serial"

// readSerial returns the serial in a file, 0 for none.
func readSerial(file string) uint32 {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	serial, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil {
		return 0
	}
	return uint32(serial)
}

const (
	maxSecretFile = 4 << 10
	// minSecret is how many octets a secret must have: less can be found by trying
	// (RFC 8945, section 8, wants as many as the hash has).
	minSecret = 16
)

// tsigKeys reads the secrets of the keys.
func tsigKeys(of []config.TSIGKey) ([]rpz.Key, error) {
	var out []rpz.Key
	for _, k := range of {
		secret, err := readSecret(k.SecretFile)
		if err != nil {
			return nil, fmt.Errorf("rpz.keys: %s: %w", k.Name, err)
		}
		out = append(out, rpz.Key{Name: k.Name, Algorithm: k.Algorithm, Secret: secret})
	}
	return out, nil
}

// readSecret reads a file that holds a secret in base64. No error repeats what
// is in it.
func readSecret(file string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxSecretFile))
	if err != nil {
		return nil, err
	}
	secret, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("%s does not hold a secret in base64 and nothing else", file)
	}
	if len(secret) < minSecret {
		return nil, fmt.Errorf("the secret in %s has %d octets; it needs %d at the least, and 32 are better", file, len(secret), minSecret)
	}
	return secret, nil
}

// zone renders what the primary of the response policy zone counts.
func (c collector) zone(e emitter) {
	if c.g.zone == nil {
		return
	}
	n := c.g.zone.Counts()
	e.gauge("weir_rpz_serial", "Serial of the response policy zone that is served; 0 before the first.", float64(n.Serial))
	e.gauge("weir_rpz_records", "Records of the zone that say the policy.", float64(n.Records))
	e.gauge("weir_rpz_left_out", "Owners that the zone has no room for, or no way to say.", float64(n.LeftOut))
	e.gauge("weir_rpz_build_seconds", "How long the newest version took to make.", n.Took.Seconds())
	e.counter("weir_rpz_versions_total", "Versions of the zone.", float64(n.Versions))
	e.counter("weir_rpz_requests_total", "Requests to the zone's listener.", float64(n.Requests))
	e.counters("weir_rpz_refused_total", "Requests and connections turned away.", "reason",
		series{"signature", n.BadSignature}, series{"other", n.Refused - n.BadSignature}, series{"overload", n.Overload})
	e.counters("weir_rpz_transfers_total", "Transfers by what was sent, and those that did not come to their end.", "kind",
		series{"axfr", n.Full}, series{"ixfr", n.Changes}, series{"current", n.Same}, series{"failed", n.Failed})
	e.counters("weir_rpz_notifies_total", "Secondaries told of a version, and those that did not answer.", "fate",
		series{"answered", n.Notifies}, series{"unheard", n.Unheard})
	e.counter("weir_rpz_notified_total", "NOTIFYs taken from the primaries of zones that lists follow.", float64(n.Notified))
}

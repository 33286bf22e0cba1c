package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/audit"
	"github.com/weir-gateway/weir/gateway/dnsserver"
)

// bindDNS makes the DNS plane of the configuration, if it has one.
func (g *Gateway) bindDNS(sink audit.Sink) error {
	c := &g.cfg.DNS
	opts := dnsserver.Options{
		Listen: c.Listen, DoT: c.DoT.Listen, DoH: c.DoH.Listen, DoQ: c.DoQ.Listen, HTTP3: c.DoH.HTTP3, Name: c.TLS.Name, Proxies: c.Proxies,
		Policy: &g.store, Resolver: &g.resolver,
		Limits: dnsLimits(g.cfg), Audit: sink, Log: g.log, Drain: drain, MaxConns: encryptedLimit(openFiles()),
		Structured: structured(&c.Structured), Subnets: c.Subnet.Mode == config.SubnetPass,
	}
	if hasEncrypted(c) {
		certs, err := dnsserver.NewCerts(certFiles(c))
		if err != nil {
			return fmt.Errorf("dns.tls: %w", err)
		}
		g.certs, opts.Certs = newCertKeeper(certs, c, g.log), certs
	}
	if len(c.Listen) == 0 && !hasEncrypted(c) {
		return nil
	}
	var err error
	if opts.Cookies, err = newCookies(g.cfg, g.log); err != nil {
		return err
	}
	if opts.Tap, err = g.openTap(); err != nil {
		return err
	}
	if g.dns, err = dnsserver.Listen(opts); err != nil {
		return listenError(listenKeys(c), err)
	}
	g.dns.SetIdentities(identities(c))
	return nil
}

// identities are the devices that are known by more than their address.
func identities(c *config.DNS) *dnsserver.Identities {
	if len(c.Identities) == 0 {
		return nil
	}
	ids := &dnsserver.Identities{Certificates: map[string]netip.Addr{}, Tokens: map[string]netip.Addr{}}
	for _, i := range c.Identities {
		if i.Token != "" {
			ids.Tokens[i.Token] = i.Device
			continue
		}
		ids.Certificates[i.Certificate] = i.Device
	}
	return ids
}

// listenKeys are the keys that give the DNS plane its addresses.
func listenKeys(c *config.DNS) string {
	var keys []string
	for key, addrs := range dnsListeners(c) {
		if len(addrs) > 0 {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return strings.Join(keys, " or ")
}

func dnsListeners(c *config.DNS) map[string][]netip.AddrPort {
	return map[string][]netip.AddrPort{"dns.listen": c.Listen, "dns.dot.listen": c.DoT.Listen, "dns.doh.listen": c.DoH.Listen, "dns.doq.listen": c.DoQ.Listen}
}

func hasEncrypted(c *config.DNS) bool {
	return len(c.DoT.Listen)+len(c.DoH.Listen)+len(c.DoQ.Listen) > 0
}

func certFiles(c *config.DNS) dnsserver.CertFiles {
	return dnsserver.CertFiles{Cert: c.TLS.Cert, Key: c.TLS.Key, ClientCA: c.TLS.ClientCA, Name: c.TLS.Name}
}

// encryptedFiles is how many descriptors the connections of encrypted listeners
// may take.
func (g *Gateway) encryptedFiles() uint64 {
	if !hasEncrypted(&g.cfg.DNS) {
		return 0
	}
	files := openFiles() // DoT and DoH; QUIC has one socket for all
	return min(uint64(2*encryptedLimit(files)), files/2)
}

// DoTAddrs returns where DNS is answered over TLS.
func (g *Gateway) DoTAddrs() []netip.AddrPort { return g.encryptedAddrs((*dnsserver.Server).DoTAddrs) }

// DoHAddrs returns where DNS is answered over HTTPS.
func (g *Gateway) DoHAddrs() []netip.AddrPort { return g.encryptedAddrs((*dnsserver.Server).DoHAddrs) }

// DoQAddrs returns where DNS is answered over QUIC.
func (g *Gateway) DoQAddrs() []netip.AddrPort { return g.encryptedAddrs((*dnsserver.Server).DoQAddrs) }

func (g *Gateway) encryptedAddrs(of func(*dnsserver.Server) []netip.AddrPort) []netip.AddrPort {
	if g.dns == nil {
		return nil
	}
	return of(g.dns)
}

// A certKeeper keeps the certificates equal to their files. Nil is none.
type certKeeper struct {
	certs   *dnsserver.Certs
	log     *slog.Logger
	files   []string // sources, as look takes them
	ok      atomic.Uint64
	failed  atomic.Uint64
	current atomic.Bool // whether what is in force is what the files hold
}

func newCertKeeper(certs *dnsserver.Certs, c *config.DNS, log *slog.Logger) *certKeeper {
	k := &certKeeper{certs: certs, log: log}
	for _, f := range []string{c.TLS.Cert, c.TLS.Key, c.TLS.ClientCA} {
		if f != "" {
			k.files = append(k.files, "file:"+f)
		}
	}
	k.current.Store(true)
	return k
}

// run is a goroutine. A change is acted on when two looks agree, and what could
// not be read is tried again: a certificate and its key are two files, which
// change one after the other.
func (k *certKeeper) run(ctx context.Context) error {
	seen := make(revisions, len(k.files))
	for _, f := range k.files {
		seen[f] = look(f)
	}
	w := watcher{seen: seen}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var retry time.Time
	var said string
	_, _ = k.certs.Reload() // what has changed since the start and before the first look
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if !w.changed() && (retry.IsZero() || time.Now().Before(retry)) {
			continue
		}
		retry = time.Time{}
		if err := k.reload(); err != nil {
			retry = time.Now().Add(retryEvery)
			if err.Error() != said {
				k.log.Error("new certificate rejected, the one in force stays", "expires", k.certs.Leaf().NotAfter, "error", err)
			}
			said = err.Error()
			continue
		}
		said = ""
	}
}

func (k *certKeeper) reload() error {
	changed, err := k.certs.Reload()
	k.current.Store(err == nil)
	if err != nil {
		k.failed.Add(1)
		return err
	}
	if changed {
		k.ok.Add(1)
		leaf := k.certs.Leaf()
		k.log.Info("certificate in force", "names", leaf.DNSNames, "serial", leaf.SerialNumber, "expires", leaf.NotAfter)
	}
	return nil
}

func (k *certKeeper) metrics(e emitter) {
	if k == nil {
		return
	}
	current := 0.0
	if k.current.Load() {
		current = 1
	}
	e.counters("weir_dns_certificate_reloads_total", "Changes of the certificate files, by result.", "result",
		series{"success", k.ok.Load()}, series{"failure", k.failed.Load()})
	e.gauge("weir_dns_certificate_current", "Whether the certificate in force is the one of the files.", current)
	e.gauge("weir_dns_certificate_expiry_timestamp_seconds", "When the certificate in force ends.", float64(k.certs.Leaf().NotAfter.Unix()))
}

// structured translates what blocked answers say to programs; nil for nothing.
func structured(c *config.StructuredErrors) *dnsserver.Structured {
	if !c.Enabled {
		return nil
	}
	return &dnsserver.Structured{Option: c.Option, Contact: c.Contact, Organization: c.Organization, French: c.Language == config.French}
}

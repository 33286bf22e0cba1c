package gateway

import (
	"fmt"
	"log/slog"
	"slices"

	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/dnsserver"
)

// CheckFiles reports why a gateway of that configuration would not start: what is
// wrong with its local data, and with the files that it names beside its lists, of
// which NewExplainer speaks.
func CheckFiles(cfg *config.Config) []error {
	log := slog.New(slog.DiscardHandler)
	_, local := localData(cfg, log)
	_, cookies := newCookies(cfg, log)
	_, keys := tsigKeys(cfg.RPZ.Keys)
	_, admin := adminTLS(&cfg.Admin.TLS)
	return slices.DeleteFunc([]error{checkCertificates(cfg), local, cookies, keys, admin}, func(err error) bool { return err == nil })
}

// checkCertificates looks at those of the encrypted listeners.
func checkCertificates(cfg *config.Config) error {
	if !hasEncrypted(&cfg.DNS) {
		return nil
	}
	if _, err := dnsserver.NewCerts(certFiles(&cfg.DNS)); err != nil {
		return fmt.Errorf("dns.tls: %w", err)
	}
	return nil
}

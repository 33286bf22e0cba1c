package gateway

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/resolver"
)

// maxHostsFile bounds the size of a hosts file.
const maxHostsFile = 64 << 20

// localData is what the configuration has nobody asked for. Its own records come
// before those of the hosts file, so that they name an address.
func localData(cfg *config.Config, log *slog.Logger) (*resolver.Local, error) {
	var records []dns.RR
	for _, s := range cfg.DNS.Records {
		rr, err := dns.NewRR(s)
		if err != nil {
			return nil, fmt.Errorf("dns.records: %w", err)
		}
		records = append(records, rr)
	}
	hosts, err := readHosts(cfg.DNS.Hosts, log)
	if err != nil {
		return nil, fmt.Errorf("dns.hosts: %w", err)
	}
	special := make([]resolver.Special, len(cfg.DNS.Special))
	for i, s := range cfg.DNS.Special {
		special[i] = resolver.Special(s)
	}
	l, err := resolver.NewLocal(append(records, hosts...), special...)
	if err != nil {
		return nil, fmt.Errorf("dns.records: %w", err)
	}
	return l, nil
}

// readHosts reads the hosts file, if there is one.
func readHosts(file string, log *slog.Logger) ([]dns.RR, error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() || st.Size() > maxHostsFile {
		return nil, fmt.Errorf("%s is not a file of at most %d bytes", file, maxHostsFile)
	}
	records, wrong, first, err := resolver.ReadHosts(io.LimitReader(f, maxHostsFile))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if wrong > 0 {
		log.Warn("lines of the hosts file are not used: no address, or no name", "file", file, "lines", wrong, "first", first)
	}
	return records, nil
}

// withHosts adds the hosts file to the revisions, as it is before it is read.
func withHosts(read revisions, cfg *config.Config) revisions {
	if cfg.DNS.Hosts == "" {
		return read
	}
	all := lookFile(cfg.DNS.Hosts)
	maps.Copy(all, read)
	return all
}

package resolver

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/blocklists"
)

// maxHostNames bounds the names of a hosts file.
const maxHostNames = 1_000_000

// ReadHosts reads a hosts file (hosts(5)): an address and its names on each line,
// the first of them the one that the address has. Lines that are wrong are left
// out and counted, with the number of the first.
func ReadHosts(r io.Reader) (records []dns.RR, wrong, first int, err error) {
	s := bufio.NewScanner(r)
	for n := 1; s.Scan(); n++ {
		line, _, _ := strings.Cut(strings.TrimPrefix(s.Text(), "\ufeff"), "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		rrs, ok := hostRecords(f)
		if !ok {
			wrong++
			if first == 0 {
				first = n
			}
		}
		if records = append(records, rrs...); len(records) > maxHostNames {
			return nil, 0, 0, fmt.Errorf("more than %d names", maxHostNames)
		}
	}
	return records, wrong, first, s.Err()
}

// hostRecords returns the records of one line. It is not ok where something in
// it is neither an address nor a name.
func hostRecords(f []string) (rrs []dns.RR, ok bool) {
	a, err := netip.ParseAddr(f[0])
	if err != nil || len(f) < 2 {
		return nil, false
	}
	a, ok = a.WithZone("").Unmap(), true
	for _, name := range f[1:] {
		c, err := blocklists.CanonicalName(name)
		if err != nil {
			ok = false
			continue
		}
		h := dns.RR_Header{Name: dns.Fqdn(c), Class: dns.ClassINET, Ttl: localTTL}
		if a.Is4() {
			h.Rrtype = dns.TypeA
			rrs = append(rrs, &dns.A{Hdr: h, A: a.AsSlice()})
		} else {
			h.Rrtype = dns.TypeAAAA
			rrs = append(rrs, &dns.AAAA{Hdr: h, AAAA: a.AsSlice()})
		}
	}
	return rrs, ok
}

package config

import (
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// specialNames are the kinds of names that are answered here by their meaning.
var specialNames = []string{"localhost", "invalid", "test", "onion", "home.arpa", "private-reverse"}

// localTypes are the types of records that a name may have here: data, and not
// what makes a zone or signs one.
var localTypes = []uint16{
	dns.TypeA, dns.TypeAAAA, dns.TypeCNAME, dns.TypeMX, dns.TypeTXT, dns.TypeSRV, dns.TypePTR,
	dns.TypeHTTPS, dns.TypeSVCB, dns.TypeCAA, dns.TypeNAPTR, dns.TypeSSHFP, dns.TypeTLSA, dns.TypeURI,
}

// record returns a record in the syntax of zone files, with its name in full and
// a TTL of 300 where there is none.
func (v value) record() (string, bool) {
	s, ok := v.text()
	if !ok {
		return "", false
	}
	if strings.HasPrefix(s, "$") || strings.HasPrefix(s, ";") {
		v.fail("want a record such as %s, got %s", quote("printer.example.org. A 10.0.0.5"), quote(s))
		return "", false
	}
	z := dns.NewZoneParser(strings.NewReader(s+"\n"), ".", "")
	z.SetDefaultTTL(300)
	rr, _ := z.Next()
	if rr == nil || z.Err() != nil {
		v.fail("%s is not a record: %s", quote(s), recordError(z.Err()))
		return "", false
	}
	if next, _ := z.Next(); next != nil {
		v.fail("there is more than one record in %s", quote(s))
		return "", false
	}
	h := rr.Header()
	switch {
	case h.Class != dns.ClassINET:
		v.fail("a record of class %s is never asked for; leave the class out", dns.Class(h.Class))
		return "", false
	case !slices.Contains(localTypes, h.Rrtype):
		v.fail("a record of type %s is not for local data; want one of %s", dns.Type(h.Rrtype), typeWords(localTypes))
		return "", false
	}
	return rr.String(), true
}

// recordError says what is wrong, without the place that the parser knows of:
// there is one line.
func recordError(err error) string {
	if err == nil {
		return "want a name, a type and data"
	}
	s := strings.TrimPrefix(err.Error(), "dns: ")
	s, _, _ = strings.Cut(s, " at line: ")
	return s
}

func typeWords(types []uint16) string {
	words := make([]string, len(types))
	for i, t := range types {
		words[i] = dns.Type(t).String()
	}
	return strings.Join(words, ", ")
}

// specials returns the kinds of special names, each once.
func (v value) specials() ([]string, bool) {
	list, ok := listOf(word(specialNames...))(v)
	if ok {
		v.unique(len(list), func(i int) any { return list[i] })
	}
	return list, ok
}

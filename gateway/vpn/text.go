package vpn

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/weir-gateway/weir/gateway/policy"
)

// text returns the rule as nft reads it, without its name.
func (r Rule) text() string {
	var words []string
	for _, p := range r.match {
		words = append(words, p.text())
	}
	words = append(words, "counter")
	for _, p := range r.do {
		words = append(words, p.text())
	}
	return strings.Join(words, " ")
}

// Text returns the ruleset in the language of nft, as a file that replaces the
// table in one transaction.
func (rs Ruleset) Text() string {
	var b strings.Builder
	for _, n := range rs.Notes {
		fmt.Fprintf(&b, "# note: %s\n", n)
	}
	fmt.Fprintf(&b, "table inet %s\ndelete table inet %s\ntable inet %s {\n", Table, Table, Table)
	for i := range rs.Sets {
		rs.Sets[i].write(&b)
	}
	fmt.Fprintf(&b, "\tchain %s {\n\t\tcounter comment %s\n\t}\n", markChain, strconv.Quote(rs.mark()))
	for _, c := range rs.Chains {
		c.write(&b)
	}
	b.WriteString("}\n")
	return b.String()
}

func (s *Set) write(b *strings.Builder) {
	fmt.Fprintf(b, "\t# %s\n\tset %s {\n\t\ttype %s\n", s.Why, s.Name, s.Type)
	if s.Type != Port {
		b.WriteString("\t\tflags interval\n")
	}
	if s.Len() > 0 {
		b.WriteString("\t\telements = {")
		for _, p := range s.Ports {
			fmt.Fprintf(b, " %d,", p)
		}
		for _, r := range s.Ranges {
			fmt.Fprintf(b, "\n\t\t\t%s,", spell(r))
		}
		b.WriteString(" }\n")
	}
	b.WriteString("\t}\n")
}

func (c Chain) write(b *strings.Builder) {
	fmt.Fprintf(b, "\tchain %s {\n", c.Name)
	if c.Type != "" {
		fmt.Fprintf(b, "\t\ttype %s hook %s priority %d; policy accept;\n", c.Type, c.Hook, c.Priority)
	}
	for _, r := range c.Rules {
		if r.Why != "" {
			fmt.Fprintf(b, "\t\t# %s\n", r.Why)
		}
		fmt.Fprintf(b, "\t\t%s comment %s\n", r.text(), strconv.Quote(r.Name))
	}
	b.WriteString("\t}\n")
}

// spell returns the range as an address or a network where it is one.
func spell(r policy.Range) string {
	if r.First == r.Last {
		return r.First.String()
	}
	a, b := r.First.AsSlice(), r.Last.AsSlice()
	bits := 0
	for bits < len(a)*8 && (a[bits/8]^b[bits/8])>>(7-bits%8)&1 == 0 {
		bits++
	}
	p := netip.PrefixFrom(r.First, bits)
	if p.Masked() == p && lastOf(p) == r.Last {
		return p.String()
	}
	return r.First.String() + "-" + r.Last.String()
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}

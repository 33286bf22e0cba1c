// Package vpn makes the gateway unavoidable for the devices behind one VPN
// interface, and says who is behind an address.
//
// It renders an nftables ruleset from the configuration and the compiled policy
// (Rules, a pure function), and keeps the kernel equal to it: one table, inet
// weir, put in place in one transaction, whose sets follow the policy in force.
// From the interface's devices it brings DNS to the gateway's resolver and TCP
// to its transparent listener, refuses what would go around them, and holds
// back banned addresses on every port. IPv6 is treated exactly as IPv4.
//
// What it does not do: it touches no other interface and no other table, gives
// devices no route and no address translation to the world, loads no kernel
// module and sets no sysctl; it looks into no packet, that is the work of the
// proxy; and it sees no packet that a device sends outside of the VPN.
package vpn

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/weir-gateway/weir/gateway/policy"
)

// Table is the name of the table, of the family inet.
const Table = "weir"

// A Ban is what the filter knows of one: the addresses that it holds back, and
// the devices for which it does not hold now. Both are in order and disjoint.
type Ban struct {
	ID     string
	Banned []policy.Range
	Spared []policy.Range
}

// A Ruleset is the content of the table. The zero Ruleset has no rule. It must
// not be changed once made: copies share it.
type Ruleset struct {
	Version string // of the program that made it, for the mark in the table
	Sets    []Set
	Chains  []Chain
	// Mark is what diverted packets carry in tproxy mode, and how they find their
	// way to this machine; 0 for no such route.
	Mark uint32
	// Notes are what the configuration leaves undone, for the operator.
	Notes []string
}

// A SetType is what the elements of a Set are.
type SetType string

// The types have nft's names.
const (
	IPv4 SetType = "ipv4_addr"
	IPv6 SetType = "ipv6_addr"
	Port SetType = "inet_service"
)

// A Set is a named set of addresses or ports.
type Set struct {
	Name   string
	Type   SetType
	Why    string
	Ranges []policy.Range // of addresses, in order, disjoint
	Ports  []uint16       // of ports, in order
}

// Len returns the number of elements.
func (s *Set) Len() int { return len(s.Ranges) + len(s.Ports) }

// A Chain is a list of rules, on a hook or called by other chains.
type Chain struct {
	Name     string
	Type     string // filter or nat; empty for a chain without a hook
	Hook     string // prerouting, input or forward
	Priority int
	Rules    []Rule
}

// A Rule does something to what matches.
type Rule struct {
	Name  string // one of its kind in its chain
	Why   string
	match []part
	do    []part
}

// Names returns the names of all rules as CHAIN/RULE, in order.
func (rs Ruleset) Names() []string {
	var out []string
	for _, c := range rs.Chains {
		for _, r := range c.Rules {
			out = append(out, c.Name+"/"+r.Name)
		}
	}
	return out
}

// Without returns the ruleset without the rule of that name, CHAIN/RULE. It is
// for proofs that each rule is needed.
func (rs Ruleset) Without(name string) Ruleset {
	rs.Chains = slices.Clone(rs.Chains)
	for i, c := range rs.Chains {
		rs.Chains[i].Rules = slices.DeleteFunc(slices.Clone(c.Rules), func(r Rule) bool { return c.Name+"/"+r.Name == name })
	}
	return rs
}

// Elements returns how many elements all sets have.
func (rs Ruleset) Elements() int {
	n := 0
	for i := range rs.Sets {
		n += rs.Sets[i].Len()
	}
	return n
}

// Digest identifies all but the elements of address sets, which follow the
// policy.
func (rs Ruleset) Digest() string {
	h := sha256.New()
	// Writing to a hash cannot fail.
	_, _ = fmt.Fprintln(h, rs.Mark)
	for i := range rs.Sets {
		s := rs.Sets[i]
		_, _ = fmt.Fprintln(h, s.Name, s.Type, s.Ports)
	}
	for _, c := range rs.Chains {
		_, _ = fmt.Fprintln(h, c.Name, c.Type, c.Hook, c.Priority)
		for _, r := range c.Rules {
			_, _ = fmt.Fprintln(h, r.Name, r.text())
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// The mark says that the table is Weir's, in a rule that no packet meets: a
// comment is all that nft shows of such things.
const (
	markChain  = "about"
	markPrefix = "weir "
)

// mark is the comment of the mark's rule.
func (rs Ruleset) mark() string {
	// nft has room for 128 bytes.
	version := rs.Version
	if len(version) > 64 {
		version = version[:64]
	}
	return markPrefix + version + " rules " + rs.Digest()
}

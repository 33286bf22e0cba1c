package vpn

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// families returns those in which the ruleset diverts packets as they are.
func (rs Ruleset) families() []uint8 {
	var out []uint8
	for _, c := range rs.Chains {
		for _, r := range c.Rules {
			for _, p := range r.do {
				if t, ok := p.(tproxy); ok && !slices.Contains(out, familyAF(t.to.Addr().Is6())) {
					out = append(out, familyAF(t.to.Addr().Is6()))
				}
			}
		}
	}
	return out
}

func familyAF(six bool) uint8 {
	if six {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// A route is one of the two that belong to a family: the rule or the route.
type route struct {
	family uint8
	rule   bool
}

func (r route) String() string {
	name := map[uint8]string{unix.AF_INET: "ip", unix.AF_INET6: "ip -6"}[r.family]
	if r.rule {
		return fmt.Sprintf("%s rule priority %d fwmark %#x lookup %d", name, routeTable, Mark, routeTable)
	}
	return fmt.Sprintf("%s route local default dev lo table %d", name, routeTable)
}

// wanted returns the routes of the ruleset in the order in which they must
// come: no rule leads to an empty table.
func (rs Ruleset) routes() []route {
	var out []route
	for _, f := range rs.families() {
		out = append(out, route{f, false}, route{f, true})
	}
	return out
}

func (k Kernel) compareRoutes(rs Ruleset) ([]string, error) {
	have, err := k.routes()
	if err != nil {
		return nil, err
	}
	want := rs.routes()
	var out []string
	for _, r := range want {
		if !slices.Contains(have, r) {
			out = append(out, "+ "+r.String())
		}
	}
	for _, r := range have {
		if !slices.Contains(want, r) {
			out = append(out, "- "+r.String())
		}
	}
	return out, nil
}

func (k Kernel) addRoutes(rs Ruleset) error {
	return k.change(rs.routes(), func(want, have []route) []route {
		return slices.DeleteFunc(slices.Clone(want), func(r route) bool { return slices.Contains(have, r) })
	}, unix.RTM_NEWROUTE, unix.RTM_NEWRULE, netlink.Create|netlink.Excl)
}

// dropRoutes drops those that the ruleset does not need, rules first.
func (k Kernel) dropRoutes(rs Ruleset) error {
	return k.change(rs.routes(), func(want, have []route) []route {
		extra := slices.DeleteFunc(slices.Clone(have), func(r route) bool { return slices.Contains(want, r) })
		slices.SortStableFunc(extra, func(a, b route) int { return map[bool]int{true: -1}[a.rule] + map[bool]int{true: 1}[b.rule] })
		return extra
	}, unix.RTM_DELROUTE, unix.RTM_DELRULE, 0)
}

func (k Kernel) change(want []route, what func(want, have []route) []route, routeType, ruleType netlink.HeaderType, flags netlink.HeaderFlags) error {
	have, err := k.routes()
	if err != nil {
		return err
	}
	todo := what(want, have)
	if len(todo) == 0 {
		return nil
	}
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: k.NetNS})
	if err != nil {
		return explain(err)
	}
	defer func() { _ = c.Close() }()
	for _, r := range todo {
		m := netlink.Message{Header: netlink.Header{Type: routeType, Flags: netlink.Request | netlink.Acknowledge | flags}}
		if r.rule {
			m.Header.Type = ruleType
			m.Data = ruleMessage(r.family)
		} else if m.Data, err = k.routeMessage(r.family); err != nil {
			return err
		}
		// Another Weir may have been faster.
		_, err := c.Execute(m)
		if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%s: %w", r, explain(err))
		}
	}
	return nil
}

func attributes(fill func(*netlink.AttributeEncoder)) []byte {
	ae := netlink.NewAttributeEncoder()
	fill(ae)
	b, err := ae.Encode()
	if err != nil {
		panic(err) // numbers only: they fit
	}
	return b
}

// ruleMessage is struct fib_rule_hdr and its attributes.
func ruleMessage(family uint8) []byte {
	head := []byte{family, 0, 0, 0, unix.RT_TABLE_UNSPEC, 0, 0, unix.FR_ACT_TO_TBL, 0, 0, 0, 0}
	return append(head, attributes(func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.FRA_PRIORITY, routeTable)
		ae.Uint32(unix.FRA_FWMARK, Mark)
		ae.Uint32(unix.FRA_TABLE, routeTable)
	})...)
}

// routeMessage is struct rtmsg and its attributes.
func (k Kernel) routeMessage(family uint8) ([]byte, error) {
	head := []byte{family, 0, 0, 0, unix.RT_TABLE_UNSPEC, unix.RTPROT_STATIC, unix.RT_SCOPE_HOST, unix.RTN_LOCAL, 0, 0, 0, 0}
	if family == unix.AF_INET6 {
		head[6] = unix.RT_SCOPE_UNIVERSE
	}
	// lo is the first interface of every namespace.
	const loopback = 1
	if lo, err := net.InterfaceByIndex(loopback); k.NetNS == 0 && (err != nil || lo.Flags&net.FlagLoopback == 0) {
		return nil, fmt.Errorf("interface %d is not lo: %v", loopback, err)
	}
	return append(head, attributes(func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.RTA_TABLE, routeTable)
		ae.Uint32(unix.RTA_OIF, loopback)
	})...), nil
}

// routes returns what the kernel has of ours.
func (k Kernel) routes() ([]route, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: k.NetNS})
	if err != nil {
		return nil, explain(err)
	}
	defer func() { _ = c.Close() }()
	var out []route
	for _, r := range []route{{unix.AF_INET, false}, {unix.AF_INET, true}, {unix.AF_INET6, false}, {unix.AF_INET6, true}} {
		m := netlink.Message{Header: netlink.Header{Type: unix.RTM_GETROUTE, Flags: netlink.Request | netlink.Dump}, Data: make([]byte, unix.SizeofRtMsg)}
		table := uint16(unix.RTA_TABLE)
		if r.rule {
			m.Header.Type, table = unix.RTM_GETRULE, unix.FRA_TABLE
		}
		m.Data[0] = r.family
		msgs, err := c.Execute(m)
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // a kernel without IPv6, or without rules
		}
		if err != nil {
			return nil, explain(err)
		}
		for _, m := range msgs {
			if attribute(m, table) == routeTable {
				out = append(out, r)
				break
			}
		}
	}
	return out, nil
}

// attribute returns a number of the message, 0 for none. Both kinds of messages
// have a head of the same length.
func attribute(m netlink.Message, kind uint16) uint32 {
	if len(m.Data) < unix.SizeofRtMsg {
		return 0
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[unix.SizeofRtMsg:])
	if err != nil {
		return 0
	}
	for ad.Next() {
		if ad.Type() == kind {
			return ad.Uint32()
		}
	}
	return 0
}

package vpn

import (
	"fmt"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Where the fields that rules look at stand, RFC 791, 8200, 9293 and 768.
const (
	offsetLength4, offsetSource4, offsetDestination4 = 2, 12, 16
	offsetLength6, offsetSource6, offsetDestination6 = 4, 8, 24
	offsetPort                                       = 2
)

// The register that conditions use, and the second one of two.
const reg, reg2 = 1, 2

// exprs returns the rule as the kernel reads it.
func (r Rule) exprs() ([]expr.Any, error) {
	var out []expr.Any
	known := false // the family
	for _, p := range r.match {
		es, ok := condition(p)
		if !ok {
			return nil, fmt.Errorf("rule %s: no expression for %q", r.Name, p.text())
		}
		if m, is := es[0].(*expr.Meta); is && m.Key == expr.MetaKeyNFPROTO {
			if known {
				es = es[2:] // nft does not ask twice either
			}
			known = true
		}
		out = append(out, es...)
	}
	out = append(out, &expr.Counter{})
	for _, p := range r.do {
		es, ok := action(p)
		if !ok {
			return nil, fmt.Errorf("rule %s: no expression for %q", r.Name, p.text())
		}
		out = append(out, es...)
	}
	return out, nil
}

func condition(p part) ([]expr.Any, bool) {
	switch p := p.(type) {
	case iif:
		return equals(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg}, ifname(p.name)), true
	case oif:
		return equals(&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg}, ifname(p.name)), true
	case ipv:
		return isFamily(p.six), true
	case l4:
		return isProto(p.proto), true
	case port:
		return append(isProto(p.proto), equals(payload(expr.PayloadBaseTransportHeader, offsetPort, 2), be16(p.n))...), true
	case ports:
		return append(isProto(p.proto), payload(expr.PayloadBaseTransportHeader, offsetPort, 2), &expr.Lookup{SourceRegister: reg, SetName: p.set}), true
	case addr:
		return append(isFamily(p.six), p.field(), &expr.Lookup{SourceRegister: reg, SetName: p.set, Invert: p.not}), true
	case local:
		return equals(&expr.Fib{Register: reg, FlagDADDR: true, ResultADDRTYPE: true}, host32(unix.RTN_LOCAL)), true
	case homeless:
		return equals(&expr.Fib{Register: reg, FlagSADDR: true, FlagIIF: true, FlagPRESENT: true, ResultOIF: true}, host32(0)), true
	case leads:
		return equals(&expr.Fib{Register: reg, FlagDADDR: true, ResultOIFNAME: true}, ifname(p.name)), true
	case reply:
		return equals(&expr.Ct{Key: expr.CtKeyDIRECTION, Register: reg}, []byte{1}), true
	case diverted:
		return hasStatus(1 << 5), true // IPS_DST_NAT
	case icmp:
		return p.exprs(), true
	case size:
		return p.exprs(), true
	case rate:
		return []expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(p.perSecond), Unit: expr.LimitTimeSecond, Burst: p.burst}}, true
	case marked:
		return equals(&expr.Meta{Key: expr.MetaKeyMARK, Register: reg}, host32(p.mark)), true
	}
	return nil, false
}

func action(p part) ([]expr.Any, bool) {
	switch p := p.(type) {
	case accept:
		return verdict(expr.VerdictAccept, ""), true
	case drop:
		return verdict(expr.VerdictDrop, ""), true
	case back:
		return verdict(expr.VerdictReturn, ""), true
	case jump:
		return verdict(expr.VerdictJump, p.chain), true
	case leave:
		return verdict(expr.VerdictGoto, p.chain), true
	case reset:
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}, true
	case prohibited:
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}, true
	case redirect:
		return []expr.Any{
			&expr.Immediate{Register: reg, Data: be16(p.port)},
			&expr.Redir{RegisterProtoMin: reg, RegisterProtoMax: reg, Flags: unix.NF_NAT_RANGE_PROTO_SPECIFIED},
		}, true
	case dnat:
		return []expr.Any{
			&expr.Immediate{Register: reg, Data: p.to.Addr().AsSlice()}, &expr.Immediate{Register: reg2, Data: be16(p.to.Port())},
			&expr.NAT{
				Type: expr.NATTypeDestNAT, Family: uint32(familyOf(p.to.Addr().Is6())), Specified: true,
				RegAddrMin: reg, RegAddrMax: reg, RegProtoMin: reg2, RegProtoMax: reg2,
			},
		}, true
	case tproxy:
		return p.exprs(), true
	case mark:
		return []expr.Any{
			&expr.Immediate{Register: reg, Data: host32(p.mark)},
			&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg},
		}, true
	}
	return nil, false
}

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

func equals(load expr.Any, to []byte) []expr.Any {
	return []expr.Any{load, &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: to}}
}

func hasStatus(bit uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: reg},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: host32(bit), Xor: host32(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: host32(0)},
	}
}

func payload(base expr.PayloadBase, offset, length uint32) expr.Any {
	return &expr.Payload{OperationType: expr.PayloadLoad, DestRegister: reg, Base: base, Offset: offset, Len: length}
}

func familyOf(six bool) byte {
	if six {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

func isFamily(six bool) []expr.Any {
	return equals(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg}, []byte{familyOf(six)})
}

func isProto(proto uint8) []expr.Any {
	return equals(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, []byte{proto})
}

func (p addr) field() expr.Any {
	switch {
	case p.six && p.source:
		return payload(expr.PayloadBaseNetworkHeader, offsetSource6, 16)
	case p.six:
		return payload(expr.PayloadBaseNetworkHeader, offsetDestination6, 16)
	case p.source:
		return payload(expr.PayloadBaseNetworkHeader, offsetSource4, 4)
	}
	return payload(expr.PayloadBaseNetworkHeader, offsetDestination4, 4)
}

func (p icmp) exprs() []expr.Any {
	out := append(append(isFamily(p.six), isProto(icmpProto(p.six))...), payload(expr.PayloadBaseTransportHeader, 0, 1))
	if p.first == p.last {
		return append(out, &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{p.first}})
	}
	return append(out,
		&expr.Cmp{Op: expr.CmpOpGte, Register: reg, Data: []byte{p.first}},
		&expr.Cmp{Op: expr.CmpOpLte, Register: reg, Data: []byte{p.last}})
}

// exprs does not say the family: an icmp condition stands before it.
func (p size) exprs() []expr.Any {
	op, offset := expr.CmpOpLte, uint32(offsetLength4)
	if p.over {
		op = expr.CmpOpGt
	}
	if p.six {
		offset = offsetLength6
	}
	return []expr.Any{payload(expr.PayloadBaseNetworkHeader, offset, 2), &expr.Cmp{Op: op, Register: reg, Data: be16(p.bytes())}}
}

func (p tproxy) exprs() []expr.Any {
	t := &expr.TProxy{Family: familyOf(p.to.Addr().Is6()), TableFamily: unix.NFPROTO_INET, RegPort: reg}
	var out []expr.Any
	if !p.to.Addr().IsUnspecified() {
		t.RegAddr, t.RegPort = reg, reg2
		out = append(out, &expr.Immediate{Register: reg, Data: p.to.Addr().AsSlice()})
	}
	return append(out, &expr.Immediate{Register: t.RegPort, Data: be16(p.to.Port())}, t)
}

// ifname is the name of an interface as the kernel keeps it.
func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func be16(n uint16) []byte   { return binaryutil.BigEndian.PutUint16(n) }
func host32(n uint32) []byte { return binaryutil.NativeEndian.PutUint32(n) }

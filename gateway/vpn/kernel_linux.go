package vpn

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-gateway/weir/gateway/policy"
)

const (
	// perMessage is how many elements one message carries: the attribute that
	// holds them has a length of 16 bits, and one element is at most 40 bytes.
	perMessage = 1000
	// A transaction is one write, so the socket must have room for all of it.
	bytesPerElement, bytesForRest = 48, 1 << 20
	// readBuffer is room for the acknowledgements of a transaction.
	readBuffer = 8 << 20
	// patience bounds the wait for the kernel.
	patience = 30 * time.Second
)

// A Kernel is the packet filter of a network namespace; the zero Kernel is that
// of the calling thread. It keeps no state and may be used by many at once.
type Kernel struct {
	// NetNS is a descriptor of another network namespace, or 0.
	NetNS int
}

// conn returns a connection with room for a transaction of that many elements.
func (k Kernel) conn(elements int) (*nftables.Conn, error) {
	c, err := nftables.New(nftables.WithNetNSFd(k.NetNS), nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetWriteBuffer(bytesForRest+bytesPerElement*elements), c.SetReadBuffer(readBuffer),
			c.SetDeadline(time.Now().Add(patience)), largeReads(c))
	}))
	return c, explain(err)
}

// getGeneration asks for the number that every change of the packet filter
// changes.
var getGeneration = netlink.Message{
	Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
	Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0},
}

// largeReads makes the kernel dump in messages of 32 KB, the most that it does:
// it takes the longest read so far for its measure, and the library's first are
// of a page. A dump of a set begins anew at its first element for each message,
// so that with pages 100,000 prefixes take seconds.
func largeReads(c *netlink.Conn) error {
	if _, err := c.Send(getGeneration); err != nil {
		return err
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var rerr error
	buf := make([]byte, 32<<10)
	err = raw.Read(func(fd uintptr) bool {
		_, _, rerr = unix.Recvfrom(int(fd), buf, 0)
		return !errors.Is(rerr, unix.EAGAIN)
	})
	return errors.Join(err, rerr)
}

// explain says what to do about an error of the kernel.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("packet filter: CAP_NET_ADMIN is missing: run as root, or give the service AmbientCapabilities=CAP_NET_ADMIN (%w)", err)
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("packet filter: this kernel has no nftables (CONFIG_NF_TABLES): load nf_tables or use another kernel (%w)", err)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOPROTOOPT):
		return fmt.Errorf("packet filter: this kernel lacks a feature: load nf_tables, nft_ct, nft_fib_inet, nft_limit, nft_nat, nft_redir, nft_reject_inet, and nft_tproxy for vpn.divert: tproxy and quic.mode: inspect (%w)", err)
	}
	return fmt.Errorf("packet filter: %w", err)
}

var errForeign = fmt.Errorf("table inet %s is there and Weir has not made it: look at it with nft list table inet %s, and delete it if nothing needs it", Table, Table)

// Apply makes the kernel equal to the ruleset in one transaction, and returns
// what that changed. Where there is nothing to change it writes nothing.
func (k Kernel) Apply(rs Ruleset) (Difference, error) {
	d, err := k.Compare(rs)
	if err != nil {
		return d, err
	}
	return d, k.write(rs, &d)
}

// write carries out the difference.
func (k Kernel) write(rs Ruleset, d *Difference) error {
	if d.Empty() {
		return nil
	}
	// The way of diverted packets is there before the rules that divert them.
	if err := k.addRoutes(rs); err != nil {
		return err
	}
	var err error
	switch {
	case !d.setsOnly():
		err = k.replace(rs)
	case len(d.Sets) > 0:
		err = k.update(rs.setTypes(), d.Sets)
	}
	if err != nil {
		return err
	}
	return k.dropRoutes(rs)
}

// Remove takes away the table and what belongs to it, and reports whether
// anything was there.
func (k Kernel) Remove() (bool, error) {
	st, err := k.read(false)
	if err != nil {
		return false, err
	}
	if st != nil {
		if st.mark == "" {
			return false, errForeign
		}
		c, err := k.conn(0)
		if err != nil {
			return false, err
		}
		c.DelTable(inet)
		if err := c.Flush(); err != nil {
			return false, explain(err)
		}
	}
	routes, err := k.routes()
	if err != nil {
		return st != nil, err
	}
	return st != nil || len(routes) > 0, k.dropRoutes(Ruleset{})
}

var inet = &nftables.Table{Name: Table, Family: nftables.TableFamilyINet}

// replace puts the ruleset in the place of whatever is there.
func (k Kernel) replace(rs Ruleset) error {
	c, err := k.conn(2 * rs.Elements())
	if err != nil {
		return err
	}
	// Making it first lets the deletion find one.
	c.AddTable(inet)
	c.DelTable(inet)
	c.AddTable(inet)
	if err := addSets(c, rs); err != nil {
		return err
	}
	chains, err := addChains(c, rs)
	if err != nil {
		return err
	}
	for i, ch := range rs.Chains {
		for _, r := range ch.Rules {
			es, err := r.exprs()
			if err != nil {
				return err
			}
			c.AddRule(&nftables.Rule{Table: inet, Chain: chains[i], Exprs: es, UserData: comment(r.Name)})
		}
	}
	return explain(c.Flush())
}

func comment(s string) []byte { return userdata.AppendString(nil, userdata.TypeComment, s) }

func addSets(c *nftables.Conn, rs Ruleset) error {
	for i := range rs.Sets {
		s := &rs.Sets[i]
		ns := kernelSet(s.Name, s.Type)
		ns.ID = uint32(i + 1) // the library would count in a variable that all share
		if err := c.AddSet(ns, nil); err != nil {
			return fmt.Errorf("set %s: %w", s.Name, err)
		}
		if err := addElements(c, ns, elementsOf(s)); err != nil {
			return err
		}
	}
	return nil
}

func kernelSet(name string, t SetType) *nftables.Set {
	s := &nftables.Set{Table: inet, Name: name, Interval: t != Port}
	switch t {
	case IPv4:
		s.KeyType = nftables.TypeIPAddr
	case IPv6:
		s.KeyType = nftables.TypeIP6Addr
	case Port:
		s.KeyType = nftables.TypeInetService
	}
	return s
}

// elementsOf are the elements as the kernel has them: a range is where it
// begins, and where it is over.
func elementsOf(s *Set) []nftables.SetElement {
	out := rangeElements(s.Ranges)
	for _, p := range s.Ports {
		out = append(out, nftables.SetElement{Key: be16(p)})
	}
	return out
}

func rangeElements(rs []policy.Range) []nftables.SetElement {
	out := make([]nftables.SetElement, 0, 2*len(rs))
	for _, r := range rs {
		out = append(out, nftables.SetElement{Key: r.First.AsSlice()})
		if end := r.Last.Next(); end.IsValid() {
			out = append(out, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return out
}

func addElements(c *nftables.Conn, s *nftables.Set, es []nftables.SetElement) error {
	for len(es) > 0 {
		n := min(len(es), perMessage)
		if err := c.SetAddElements(s, es[:n]); err != nil {
			return fmt.Errorf("set %s: %w", s.Name, err)
		}
		es = es[n:]
	}
	return nil
}

// update changes elements of sets in one transaction.
func (k Kernel) update(types map[string]SetType, sets []SetDifference) error {
	n := 0
	for _, d := range sets {
		n += 2 * (d.Add + d.Remove)
	}
	c, err := k.conn(n)
	if err != nil {
		return err
	}
	for _, d := range sets {
		s := kernelSet(d.Name, types[d.Name])
		for es := rangeElements(d.remove); len(es) > 0; {
			n := min(len(es), perMessage)
			if err := c.SetDeleteElements(s, es[:n]); err != nil {
				return fmt.Errorf("set %s: %w", d.Name, err)
			}
			es = es[n:]
		}
		if err := addElements(c, s, rangeElements(d.add)); err != nil {
			return err
		}
	}
	return explain(c.Flush())
}

// addChains adds the chains, and the one that marks the table.
func addChains(c *nftables.Conn, rs Ruleset) ([]*nftables.Chain, error) {
	about := c.AddChain(&nftables.Chain{Table: inet, Name: markChain})
	mark, err := Rule{}.exprs()
	if err != nil {
		return nil, err
	}
	c.AddRule(&nftables.Rule{Table: inet, Chain: about, Exprs: mark, UserData: comment(rs.mark())})
	chains := make([]*nftables.Chain, len(rs.Chains))
	for i, ch := range rs.Chains {
		nc := &nftables.Chain{Table: inet, Name: ch.Name}
		if ch.Type != "" {
			nc.Type = nftables.ChainType(ch.Type)
			nc.Hooknum = hooks[ch.Hook]
			nc.Priority = nftables.ChainPriorityRef(nftables.ChainPriority(ch.Priority))
		}
		chains[i] = c.AddChain(nc)
	}
	return chains, nil
}

var hooks = map[string]*nftables.ChainHook{
	"prerouting": nftables.ChainHookPrerouting, "input": nftables.ChainHookInput, "forward": nftables.ChainHookForward,
}

// marked returns the mark in a comment, empty for none.
func markOf(text string) string {
	if strings.HasPrefix(text, markPrefix) {
		return text
	}
	return ""
}

// generation returns a number that every change of the namespace's packet
// filter changes, whoever makes it.
func (k Kernel) generation() (uint32, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: k.NetNS})
	if err != nil {
		return 0, explain(err)
	}
	defer func() { _ = c.Close() }()
	msgs, err := c.Execute(getGeneration)
	if err != nil {
		return 0, explain(err)
	}
	for _, m := range msgs {
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return 0, fmt.Errorf("packet filter: generation: %w", err)
		}
		ad.ByteOrder = bigEndian
		for ad.Next() {
			if ad.Type() == unix.NFTA_GEN_ID {
				return ad.Uint32(), nil
			}
		}
	}
	return 0, errors.New("packet filter: the kernel does not say its generation")
}

package vpn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/weir-gateway/weir/gateway/policy"
)

var bigEndian = binary.BigEndian

// A kernelState is what the kernel has of the table.
type kernelState struct {
	mark   string // empty: it is not Weir's
	chains map[string]kernelChain
	sets   map[string]kernelSetState
}

type kernelChain struct {
	kind     string
	hook     nftables.ChainHook
	priority nftables.ChainPriority
	rules    []kernelRule
}

type kernelRule struct {
	name  string
	exprs []expr.Any
}

type kernelSetState struct {
	key      string
	interval bool
	ranges   []policy.Range
	ports    []uint16
}

// read returns what the kernel has, nil for no table; the elements of address
// sets, which take their time, only if they are asked for.
func (k Kernel) read(elements bool) (*kernelState, error) {
	c, err := k.conn(0)
	if err != nil {
		return nil, err
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, explain(err)
	}
	if !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == Table && t.Family == nftables.TableFamilyINet }) {
		return nil, nil
	}
	st := &kernelState{chains: make(map[string]kernelChain), sets: make(map[string]kernelSetState)}
	if err := st.readChains(c); err != nil {
		return nil, explain(err)
	}
	if st.mark == "" {
		return st, nil
	}
	return st, explain(st.readSets(c, elements))
}

func (st *kernelState) readChains(c *nftables.Conn) error {
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return err
	}
	for _, ch := range chains {
		if ch.Table.Name != Table {
			continue
		}
		rules, err := c.GetRules(inet, ch)
		if err != nil {
			return err
		}
		kc := kernelChain{kind: string(ch.Type)}
		if ch.Hooknum != nil && ch.Priority != nil {
			kc.hook, kc.priority = *ch.Hooknum, *ch.Priority
		}
		for _, r := range rules {
			name, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			kc.rules = append(kc.rules, kernelRule{name, r.Exprs})
		}
		if ch.Name == markChain && len(kc.rules) == 1 {
			st.mark = markOf(kc.rules[0].name)
		}
		st.chains[ch.Name] = kc
	}
	return nil
}

func (st *kernelState) readSets(c *nftables.Conn, elements bool) error {
	sets, err := c.GetSets(inet)
	if err != nil {
		return err
	}
	for _, s := range sets {
		var es []nftables.SetElement
		if elements || !s.Interval {
			if es, err = c.GetSetElements(s); err != nil {
				return err
			}
		}
		ks := kernelSetState{key: s.KeyType.Name, interval: s.Interval}
		if s.Interval {
			ks.ranges = rangesFrom(es)
		} else {
			for _, e := range es {
				if len(e.Key) == 2 {
					ks.ports = append(ks.ports, bigEndian.Uint16(e.Key))
				}
			}
			slices.Sort(ks.ports)
		}
		st.sets[s.Name] = ks
	}
	return nil
}

// rangesFrom pairs where ranges begin and where they are over. One that is not
// over ends with the addresses.
func rangesFrom(es []nftables.SetElement) []policy.Range {
	slices.SortFunc(es, func(a, b nftables.SetElement) int {
		if c := slices.Compare(a.Key, b.Key); c != 0 {
			return c
		}
		return map[bool]int{true: -1}[a.IntervalEnd] + map[bool]int{true: 1}[b.IntervalEnd]
	})
	var out []policy.Range
	var first netip.Addr
	for _, e := range es {
		a, ok := netip.AddrFromSlice(e.Key)
		switch {
		case !ok:
		case !e.IntervalEnd:
			first = a
		case first.IsValid():
			out = append(out, policy.Range{First: first, Last: a.Prev()})
			first = netip.Addr{}
		}
	}
	if first.IsValid() {
		out = append(out, policy.Range{First: first, Last: lastOf(netip.PrefixFrom(first, 0))})
	}
	return out
}

// Compare says how the kernel differs from the ruleset.
func (k Kernel) Compare(rs Ruleset) (Difference, error) { return k.compare(rs, true) }

// compare is Compare, with the elements of address sets or without.
func (k Kernel) compare(rs Ruleset, elements bool) (Difference, error) {
	var d Difference
	st, err := k.read(elements)
	if err != nil {
		return d, err
	}
	if d.Routes, err = k.compareRoutes(rs); err != nil {
		return d, err
	}
	if st == nil {
		d.Missing = true
		return d, nil
	}
	if st.mark == "" {
		return d, errForeign
	}
	if err := st.compare(rs, &d); err != nil || elements {
		return d, err
	}
	d.Sets = nil
	return d, nil
}

func (st *kernelState) compare(rs Ruleset, d *Difference) error {
	d.mark = st.mark
	if st.mark != rs.mark() {
		d.Rules = append(d.Rules, fmt.Sprintf("~ made by %q, now %q", st.mark, rs.mark()))
	}
	st.compareSets(rs, d)
	known := map[string]bool{markChain: true}
	for _, c := range rs.Chains {
		known[c.Name] = true
		if err := st.compareChain(c, d); err != nil {
			return err
		}
	}
	for _, name := range sortedKeys(st.chains) {
		if !known[name] {
			d.Rules = append(d.Rules, "- chain "+name)
		}
	}
	return nil
}

func (st *kernelState) compareSets(rs Ruleset, d *Difference) {
	known := make(map[string]bool)
	for i := range rs.Sets {
		s := &rs.Sets[i]
		known[s.Name] = true
		old, there := st.sets[s.Name]
		switch {
		case !there:
			d.Rules = append(d.Rules, "+ set "+s.Name)
		case old.key != string(s.Type) || old.interval != (s.Type != Port) || !slices.Equal(old.ports, s.Ports):
			d.Rules = append(d.Rules, "~ set "+s.Name)
		}
		if sd, changed := diffSet(s.Name, old.ranges, s.Ranges); changed {
			sd.there = there
			d.Sets = append(d.Sets, sd)
		}
	}
	for _, name := range sortedKeys(st.sets) {
		if !known[name] {
			d.Rules = append(d.Rules, "- set "+name)
		}
	}
}

func sortedKeys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func (st *kernelState) compareChain(c Chain, d *Difference) error {
	old, there := st.chains[c.Name]
	if !there {
		d.Rules = append(d.Rules, "+ chain "+c.Name)
	} else if old.kind != c.Type || c.Type != "" && (old.hook != *hooks[c.Hook] || int(old.priority) != c.Priority) {
		d.Rules = append(d.Rules, "~ chain "+c.Name)
	}
	have := make(map[string]kernelRule)
	var order []string
	for _, r := range old.rules {
		order = append(order, r.name)
		if _, dup := have[r.name]; dup || !slices.ContainsFunc(c.Rules, func(x Rule) bool { return x.Name == r.name }) {
			d.Rules = append(d.Rules, fmt.Sprintf("- %s/%s", c.Name, r.name))
			order = order[:len(order)-1]
		}
		have[r.name] = r
	}
	var want []string
	for _, r := range c.Rules {
		k, there := have[r.Name]
		same, err := sameExprs(k, r)
		switch {
		case err != nil:
			return err
		case !there:
			d.Rules = append(d.Rules, fmt.Sprintf("+ %s/%s: %s", c.Name, r.Name, r.text()))
			continue
		case !same:
			d.Rules = append(d.Rules, fmt.Sprintf("~ %s/%s: %s", c.Name, r.Name, r.text()))
		}
		want = append(want, r.Name)
	}
	if !slices.Equal(order, want) {
		d.Rules = append(d.Rules, "~ order of chain "+c.Name)
	}
	return nil
}

// sameExprs compares what the library can read back: it cannot for tproxy.
func sameExprs(k kernelRule, r Rule) (bool, error) {
	want, err := r.exprs()
	if err != nil {
		return false, err
	}
	want = slices.DeleteFunc(want, func(e expr.Any) bool { _, is := e.(*expr.TProxy); return is })
	if len(k.exprs) != len(want) {
		return false, nil
	}
	for i := range want {
		if _, is := want[i].(*expr.Counter); is {
			if _, is := k.exprs[i].(*expr.Counter); !is {
				return false, nil
			}
			continue
		}
		a, err := expr.Marshal(unix.NFPROTO_INET, want[i])
		if err != nil {
			return false, fmt.Errorf("rule %s: %w", r.Name, err)
		}
		b, err := expr.Marshal(unix.NFPROTO_INET, k.exprs[i])
		if err != nil && !errors.Is(err, unix.EINVAL) {
			return false, nil
		}
		if !reflect.DeepEqual(a, b) {
			return false, nil
		}
	}
	return true, nil
}

package blocklists

import "unique"

// Data is one record of local data: what a response policy zone answers with
// instead of the truth. It is text as in a zone file, without an owner: a TTL, a
// type and its data, all names in it absolute. The zero Data is none.
//
// Equal Data are one piece of memory: many rules of a list lead to the same
// place.
type Data struct {
	text unique.Handle[string]
}

// MakeData returns the Data of the text.
func MakeData(text string) Data {
	if text == "" {
		return Data{}
	}
	return Data{unique.Make(text)}
}

// String returns the record's text.
func (d Data) String() string {
	if d == (Data{}) {
		return ""
	}
	return d.text.Value()
}

// AppendData appends the local data of all rules of the match's list that match
// what its rule does: a trigger may have several records, each of which is a
// rule. They come in no order.
func (s *Set) AppendData(dst []Data, m Match) []Data {
	if m.Rule.Kind == Client {
		return s.clients.appendData(dst, &m)
	}
	if s.base != nil {
		dst = s.base.appendData(dst, &m, s.over)
	}
	if s.over != nil && s.over.core != nil {
		dst = s.over.core.appendData(dst, &m, nil)
	}
	return dst
}

func (c *core) appendData(dst []Data, m *Match, over *overlay) []Data {
	keep := func(class uint32, p place) {
		k := &c.classes[class]
		if int(k.list) == m.List && k.kind == m.Rule.Kind && k.mode == LocalData && !over.hides(m.List, p) {
			dst = append(dst, k.data)
		}
	}
	if m.Rule.Kind == Prefix {
		if c.prefixes == nil {
			return dst
		}
		first, _ := c.prefixes.Get(CanonicalPrefix(m.Rule.Prefix))
		for i := first; i != 0; i = c.addrs.at(i - 1).next {
			keep(c.addrs.at(i-1).class, place{prefix: true, at: i})
		}
		return dst
	}
	if len(c.table.buckets) == 0 || m.Rule.Name == "" {
		return dst
	}
	b, i, _, _ := c.find(c.hash(m.Rule.Name), m.Rule.Name)
	switch {
	case b == nil:
	case b.kind(i) == many:
		for at := c.heads.at(b.vals[i]).names; at != 0; {
			ref := c.refs.at(at - 1)
			r, _ := readRecord(c.records.at(ref.record))
			keep(r.class, place{at: ref.record})
			at = ref.next
		}
	default:
		if r, _ := readRecord(c.records.at(b.vals[i])); !r.path {
			keep(r.class, place{at: b.vals[i]})
		}
	}
	return dst
}

package source

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// whole takes the zone by AXFR and writes it as it comes.
func (f *zoneFetcher) whole(ctx context.Context) (ZoneUpdate, error) {
	e, err := f.ask(ctx, dns.TypeAXFR)
	if err != nil {
		return ZoneUpdate{}, err
	}
	defer e.close()
	rs := &records{exchange: e, zone: f.name}
	soa, err := rs.first()
	if err != nil {
		return ZoneUpdate{}, err
	}
	if f.have != nil && !serialNewer(soa.Serial, f.have.Serial) {
		return ZoneUpdate{}, fmt.Errorf("%w: from %d to %d while it was asked for", ErrSerial, f.have.Serial, soa.Serial)
	}
	return f.rest(rs, soa, nil)
}

// rest writes a whole zone of which the SOA has come, and maybe the next record.
func (f *zoneFetcher) rest(rs *records, soa *dns.SOA, rr dns.RR) (ZoneUpdate, error) {
	err := f.write(soa)
	n := 0
	for ; err == nil; n++ {
		if rr == nil {
			if rr, err = rs.next(); err != nil {
				break
			}
		}
		if last, ok := rr.(*dns.SOA); ok {
			if n == 0 {
				return ZoneUpdate{}, zoneError("the zone has no record but its SOA")
			}
			return ZoneUpdate{ZoneState: stateOf(soa), Changes: -1}, rs.end(soa, last)
		}
		err = f.write(rr)
		rr = nil
	}
	return ZoneUpdate{}, err
}

// write writes a record as a line.
func (f *zoneFetcher) write(rr dns.RR) error {
	return f.writeLine(append(f.line[:0], zoneLine(rr)...))
}

func (f *zoneFetcher) writeLine(line []byte) error {
	f.line = append(line, '\n')
	n, err := f.w.Write(f.line)
	if f.written += int64(n); f.written > f.limits.Bytes && err == nil {
		return fmt.Errorf("%w: more than %d bytes", errTooLarge, f.limits.Bytes)
	}
	return err
}

// zoneLine is a record as text, in one spelling.
func zoneLine(rr dns.RR) string {
	rr.Header().Name = dns.CanonicalName(rr.Header().Name)
	if c, ok := rr.(*dns.CNAME); ok {
		c.Target = dns.CanonicalName(c.Target)
	}
	return rr.String()
}

// lineKey is what a record is known by: all but its TTL (RFC 2136, section
// 1.1.1).
func lineKey(line string) string {
	owner, rest, _ := strings.Cut(line, "\t")
	_, rest, _ = strings.Cut(rest, "\t")
	return owner + "\t" + rest
}

// firstSOA returns the SOA that a copy begins with, and leaves it at its
// beginning.
func firstSOA(copied io.ReadSeeker) (*dns.SOA, error) {
	if copied == nil {
		return nil, io.EOF
	}
	line, err := bufio.NewReader(io.LimitReader(copied, 64<<10)).ReadString('\n')
	if err != nil {
		return nil, err
	}
	if _, err := copied.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	rr, err := dns.NewRR(line)
	if err != nil {
		return nil, err
	}
	if soa, ok := rr.(*dns.SOA); ok {
		return soa, nil
	}
	return nil, zoneError("the copy does not begin with an SOA")
}

// CopiedState returns what the SOA of a copy says.
func CopiedState(copied io.ReadSeeker) (ZoneState, error) {
	soa, err := firstSOA(copied)
	if err != nil {
		return ZoneState{}, err
	}
	return stateOf(soa), nil
}

// records are those of an answer, one by one.
type records struct {
	*exchange
	zone string
	rest []dns.RR
}

// next returns the next record. It belongs to the zone, and an SOA to its apex.
func (r *records) next() (dns.RR, error) {
	for len(r.rest) == 0 {
		m, err := r.read()
		if err != nil {
			return nil, err
		}
		if r.rest = m.Answer; len(r.rest) == 0 {
			return nil, zoneError("a message has no records")
		}
	}
	rr := r.rest[0]
	r.rest = r.rest[1:]
	h := rr.Header()
	_, soa := rr.(*dns.SOA)
	switch {
	case h.Class != dns.ClassINET || !dns.IsSubDomain(r.zone, h.Name):
		return nil, zoneError("%s is not of the zone", h.Name)
	case soa && !strings.EqualFold(h.Name, r.zone):
		return nil, zoneError("there is an SOA at %s", h.Name)
	case h.Rdlength == 0 && (soa || h.Rrtype == dns.TypeCNAME):
		// As text the alias would lead to the root, which is how a policy zone
		// says that a name does not exist.
		return nil, zoneError("a record at %s has no data", h.Name)
	}
	return rr, nil
}

// first returns the SOA that an answer begins with.
func (r *records) first() (*dns.SOA, error) {
	rr, err := r.next()
	if err != nil {
		return nil, err
	}
	if soa, ok := rr.(*dns.SOA); ok {
		return soa, nil
	}
	return nil, zoneError("the answer does not begin with an SOA")
}

// end checks that an answer ends here, with the SOA that it began with, and that
// all of it is signed.
func (r *records) end(first, last *dns.SOA) error {
	if len(r.rest) > 0 {
		return zoneError("there are records behind the last SOA")
	}
	if first.Serial != last.Serial || lineKey(zoneLine(first)) != lineKey(zoneLine(last)) {
		return zoneError("it begins with serial %d and ends with %d", first.Serial, last.Serial)
	}
	return r.signed()
}

// changes takes what has changed by IXFR and writes the copy with it. A primary
// may answer with the whole zone (RFC 1995, section 4).
func (f *zoneFetcher) changes(ctx context.Context, copied io.Reader) (ZoneUpdate, error) {
	e, err := f.ask(ctx, dns.TypeIXFR)
	if err != nil {
		return ZoneUpdate{}, err
	}
	defer e.close()
	rs := &records{exchange: e, zone: f.name}
	soa, err := rs.first()
	if err != nil {
		return ZoneUpdate{}, err
	}
	if soa.Serial == f.have.Serial && len(rs.rest) == 0 {
		return ZoneUpdate{ZoneState: stateOf(soa), Newest: true}, rs.signed()
	}
	if !serialNewer(soa.Serial, f.have.Serial) {
		return ZoneUpdate{}, fmt.Errorf("%w: from %d to %d while it was asked for", ErrSerial, f.have.Serial, soa.Serial)
	}
	second, err := rs.next()
	if err != nil {
		return ZoneUpdate{}, err
	}
	from, ok := second.(*dns.SOA)
	if !ok {
		return f.rest(rs, soa, second)
	}
	p := patch{limit: f.limits.Changes, ops: make(map[string]*op)}
	if err := p.read(rs, soa, from, f.have.Serial); err != nil {
		return ZoneUpdate{}, err
	}
	if err := p.check(copied); err != nil {
		return ZoneUpdate{}, err
	}
	if _, err := copied.(io.Seeker).Seek(0, io.SeekStart); err != nil {
		return ZoneUpdate{}, err
	}
	return ZoneUpdate{ZoneState: stateOf(soa), Changes: len(p.ops)}, f.apply(&p, soa, copied)
}

// A patch is what one or more increments do together, by what records are known
// by.
type patch struct {
	ops   map[string]*op
	limit int
}

// An op is what happens to one record: whether it must be there before, and the
// line that it has afterwards, empty for none.
type op struct {
	before bool
	line   string
	seen   bool
}

// read reads increments, of which the first SOA is the newest and the second
// that of the version they start from.
func (p *patch) read(rs *records, newest, from *dns.SOA, have uint32) error {
	at, adding := have, false
	if from.Serial != at {
		return zoneError("the changes start from serial %d, not %d", from.Serial, at)
	}
	for {
		rr, err := rs.next()
		if err != nil {
			return err
		}
		soa, ok := rr.(*dns.SOA)
		switch {
		case !ok:
			if err := p.add(zoneLine(rr), adding); err != nil {
				return err
			}
		case !adding: // what was removed is followed by what is added
			if !serialNewer(soa.Serial, at) || serialNewer(soa.Serial, newest.Serial) {
				return zoneError("changes lead from serial %d to %d", at, soa.Serial)
			}
			at, adding = soa.Serial, true
		case at == newest.Serial:
			return rs.end(newest, soa)
		case soa.Serial != at:
			return zoneError("changes from serial %d follow those to %d", soa.Serial, at)
		default:
			adding = false
		}
	}
}

// add notes that a record came or went.
func (p *patch) add(line string, came bool) error {
	key := lineKey(line)
	o, again := p.ops[key]
	if !again {
		if len(p.ops) >= p.limit {
			return zoneError("there are more than %d changes", p.limit)
		}
		o = &op{before: !came}
		p.ops[strings.Clone(key)] = o
	} else if came == (o.line != "") {
		return errNotExact
	}
	if o.line = ""; came {
		o.line = line
	}
	return nil
}

// check reads the copy and reports whether all of the changes fit it.
func (p *patch) check(copied io.Reader) error {
	lines := zoneLines(copied)
	for lines.Scan() {
		if o := p.ops[lineKey(lines.Text())]; o != nil {
			if !o.before {
				return errNotExact
			}
			o.seen = true
		}
	}
	for _, o := range p.ops {
		if o.before && !o.seen {
			return errNotExact
		}
	}
	return lines.Err()
}

func zoneLines(r io.Reader) *bufio.Scanner {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 64<<10), 1<<20) // a record has 64 KB at the most, and its text four times that
	return s
}

// apply writes the copy with the changes, and the SOA in front.
func (f *zoneFetcher) apply(p *patch, soa *dns.SOA, copied io.Reader) error {
	if err := f.write(soa); err != nil {
		return err
	}
	lines := zoneLines(copied)
	lines.Scan() // the SOA
	for lines.Scan() {
		if p.ops[lineKey(lines.Text())] != nil {
			continue
		}
		if err := f.writeLine(append(f.line[:0], lines.Bytes()...)); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(p.ops)) {
		line := p.ops[key].line
		if line == "" {
			continue
		}
		if err := f.writeLine(append(f.line[:0], line...)); err != nil {
			return err
		}
	}
	return nil
}

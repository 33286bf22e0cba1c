package parse

import (
	"errors"
	"strings"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/blocklists"
)

var errRelative = errors.New("a name in it is relative to the zone, whose name is not known")

// nowhere stands for the name of a zone that is not known.
const nowhere = "unknown-zone.invalid."

// localData reads a record of a policy zone, as the DNS library does: it knows
// the data of every type.
func (z *zoneState) localData(r *zoneRecord) (blocklists.Data, error) {
	origin := nowhere
	if z.origin.absolute {
		origin = z.origin.name + "."
	}
	var b strings.Builder
	b.WriteString(". ")
	b.WriteString(r.ttl)
	b.WriteString(" IN ")
	b.WriteString(r.rrtype)
	for _, t := range r.data {
		b.WriteByte(' ')
		if t.quoted {
			b.WriteString(`"` + t.text + `"`)
		} else {
			b.WriteString(t.text)
		}
	}
	b.WriteByte('\n')
	zp := dns.NewZoneParser(strings.NewReader(b.String()), origin, "")
	zp.SetDefaultTTL(defaultTTL)
	rr, _ := zp.Next()
	if err := zp.Err(); err != nil {
		return blocklists.Data{}, err
	}
	if rr == nil {
		return blocklists.Data{}, errRecord
	}
	if strings.Contains(rr.String(), nowhere) {
		return blocklists.Data{}, errRelative
	}
	_, text, _ := strings.Cut(rr.String(), "\t") // without the owner
	return blocklists.MakeData(text), nil
}

// defaultTTL is that of local data in a zone that says none, in seconds.
const defaultTTL = 300

package blocklists

// A bitmap is so many bits; the zero bitmap is none.
type bitmap struct {
	n int
	b []byte
}

func (b bitmap) get(i int) bool { return b.b[i/8]>>(i%8)&1 != 0 }

func (b *bitmap) add(bit bool) {
	if b.n%8 == 0 {
		b.b = append(b.b, 0)
	}
	if bit {
		b.b[b.n/8] |= 1 << (b.n % 8)
	}
	b.n++
}

// leads says of each record whether it is the first to tell a name above it that
// something is under it. Most are not, or have no such name, so that whoever
// makes the table again has far less to ask.
func (c *core) leads(pace func()) bitmap {
	var out bitmap
	told := make(map[string]struct{})
	var buf [maxName]byte
	for _, chunk := range c.records {
		for at := 0; at < len(chunk); {
			r, size := readRecord(chunk[at:])
			at += size
			first := false
			if len(r.text) > 0 && (c.top || !r.short()) {
				name := c.endings.name(&r, buf[:0])
				for dot := c.above(name); dot > 0; dot = labelStart(name, dot) - 1 {
					if _, known := told[name[dot+1:]]; !known {
						told[string([]byte(name[dot+1:]))] = struct{}{}
						first = true
					}
				}
			}
			out.add(first)
			if out.n%ahead == 0 && pace != nil {
				pace()
			}
		}
	}
	return out
}

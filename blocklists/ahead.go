package blocklists

// An Ahead reads from memory what questions about a batch of names will look
// at. Each look in a long list waits for memory two or three times, and the
// looks of one question wait for each other; those of different questions do
// not, so a batch costs little more than one of them. It changes no answer.
//
// It belongs to one goroutine. The zero Ahead is ready.
type Ahead struct {
	n      int
	hashes [aheadNames]uint64
	read   uint8 // of no meaning: keeps the reading from being optimized away
}

const (
	// aheadNames is how many parts of names an Ahead holds; more are not read.
	aheadNames = 96
	// aheadParts is how many parts of one name are: deeper rules are rare.
	aheadParts = 3
	// aheadTable is the size of a table, in buckets, below which it stays in
	// the processor's own cache without this.
	aheadTable = 1 << 12
	// aheadRecord is as long as most records are.
	aheadRecord = 32
)

// Add notes the canonical name that will be asked about.
func (a *Ahead) Add(s *Set, name string) {
	c := s.base
	if c == nil || len(c.table.buckets) < aheadTable || name == "" {
		return
	}
	start := labelStart(name, len(name))
	if !c.top && start > 0 {
		start = labelStart(name, start-1)
	}
	for range aheadParts {
		if a.n == len(a.hashes) {
			return
		}
		a.hashes[a.n] = c.hash(name[start:])
		a.n++
		if start == 0 {
			return
		}
		start = labelStart(name, start-1)
	}
}

// Fetch reads for the names that were added to the same Set, and forgets them.
func (a *Ahead) Fetch(s *Set) {
	if a.n == 0 {
		return
	}
	c, read := s.base, a.read
	var offsets [aheadNames]uint32
	// One short loop for each step, so that the processor has many of its reads
	// under way at once.
	for _, h := range a.hashes[:a.n] {
		read += uint8(c.table.buckets[c.table.home(h)].meta)
	}
	n := 0
	for _, h := range a.hashes[:a.n] {
		b := &c.table.buckets[c.table.home(h)]
		if m := b.match(tag(h)); m != 0 {
			if i := entry(m); b.kind(i)&1 == 0 { // leaf or branch
				offsets[n] = b.vals[i]
				n++
			}
		}
	}
	for _, at := range offsets[:n] {
		r := c.records.at(at)
		read += r[0] + r[min(aheadRecord, len(r))-1]
	}
	a.n, a.read = 0, read
}

package policy

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/weir-gateway/weir/bench/corpus"
	"github.com/weir-gateway/weir/blocklists"
)

// The study behind BENCHMARKS.md: an LRU of what the lists say, owned by one
// goroutine and so without a lock, in front of the Set, against the Set alone.

const (
	popularity = "big/popularity/umbrella-19days-bestrank.csv.gz" // rank,name
	union      = "big/permissive/union-domains-2M.txt.gz"

	batch  = 32      // questions that a reader judges in a row
	stream = 1 << 20 // questions before they begin again
	// sweep is what is read between two batches, in the cold runs: the kernel
	// has as much cache to itself while it carries a batch.
	sweep = 1 << 20
	// fresh is one in how many questions for names has a label that never came
	// before.
	fresh = 10
)

// realNames are those of a file, read once for all benchmarks.
func realNames(b *testing.B, file string) []string {
	readNames.Lock()
	defer readNames.Unlock()
	if names := readNames.of[file]; names != nil {
		return names
	}
	var names []string
	sc := bufio.NewScanner(corpus.Open(b, file))
	for sc.Scan() {
		text := sc.Text()
		if _, name, ok := strings.Cut(text, ","); ok {
			text = name
		}
		if name, err := blocklists.CanonicalName(text); err == nil {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		b.Fatal("no names in " + file)
	}
	if readNames.of == nil {
		readNames.of = make(map[string][]string)
	}
	readNames.of[file] = names
	return names
}

var readNames struct {
	sync.Mutex
	of map[string][]string
}

// zipf draws from n ranks: the k-th comes k^-1 times as often as the first.
type zipf struct {
	*rand.Rand
	sums []float64
}

func newZipf(n int, seed uint64) *zipf {
	z := &zipf{rand.New(rand.NewPCG(seed, 1)), make([]float64, n)}
	sum := 0.0
	for i := range z.sums {
		sum += 1 / float64(i+1)
		z.sums[i] = sum
	}
	return z
}

func (z *zipf) rank() int {
	return sort.SearchFloat64s(z.sums, z.Float64()*z.sums[len(z.sums)-1])
}

// A front is the LRU that the study is about. It copies a name only to keep
// it. Without room it asks the Set.
type front struct {
	set         *blocklists.Set
	lru         *simplelru.LRU[string, []blocklists.Match]
	asked, hits int
}

func newFront(set *blocklists.Set, entries int) *front {
	f := &front{set: set}
	if entries > 0 {
		f.lru, _ = simplelru.NewLRU[string, []blocklists.Match](entries, nil)
	}
	return f
}

// appendURL is Set.AppendURL for a URL whose host ends there.
func (f *front) appendURL(dst []blocklists.Match, url string, host int) []blocklists.Match {
	f.asked++
	if f.lru == nil {
		return appendURL(f.set, dst, url, host)
	}
	if ms, ok := f.lru.Get(url); ok {
		f.hits++
		return append(dst, ms...)
	}
	url = strings.Clone(url)
	dst = appendURL(f.set, dst, url, host)
	f.lru.Add(url, append([]blocklists.Match(nil), dst...))
	return dst
}

func appendURL(set *blocklists.Set, dst []blocklists.Match, url string, host int) []blocklists.Match {
	if host == len(url) {
		return set.AppendName(dst, url)
	}
	return set.AppendURL(dst, url[:host], url[host:])
}

// A workload is a stream of questions, each a URL in a buffer that the next one
// overwrites.
type workload struct {
	names []string
	ranks []uint32
	paths []uint8 // nil for names
	fresh int     // 0: never
	next  int
	buf   [512]byte
	n     uint64
	cold  []byte
	sink  byte
}

func (w *workload) url() (url string, host int) {
	i := w.next & (stream - 1)
	w.next++
	n := 0
	if w.fresh > 0 && i%w.fresh == 0 {
		w.n += 0x9e3779b97f4a7c15
		for x := w.n; n < 12; n++ {
			w.buf[n] = 'a' + byte(x&15)
			x >>= 4
		}
		w.buf[n] = '.'
		n++
	}
	n += copy(w.buf[n:], w.names[w.ranks[i]])
	host = n
	if w.paths != nil {
		n += copy(w.buf[n:], paths[w.paths[i]])
	}
	return unsafe.String(&w.buf[0], n), host
}

// run reports the time of one question, what gives it included, and the hits.
func (w *workload) run(b *testing.B, f *front) {
	var room [64]blocklists.Match
	for range 1 << 18 { // until the LRU is as full as it gets
		url, host := w.url()
		f.appendURL(room[:0], url, host)
	}
	f.asked, f.hits = 0, 0
	var took time.Duration
	for b.Loop() {
		for i := 0; i < len(w.cold); i += 64 {
			w.sink += w.cold[i]
		}
		start := time.Now()
		for range batch {
			url, host := w.url()
			f.appendURL(room[:0], url, host)
		}
		took += time.Since(start)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(took.Nanoseconds())/float64(f.asked), "ns/question")
	b.ReportMetric(100*float64(f.hits)/float64(f.asked), "%hits")
}

func newWorkload(names []string, urls bool) *workload {
	w := &workload{names: names, ranks: make([]uint32, stream), fresh: fresh}
	z := newZipf(len(names), 7)
	for i := range w.ranks {
		w.ranks[i] = uint32(z.rank())
	}
	if urls {
		z := newZipf(len(paths), 8)
		w.paths, w.fresh = make([]uint8, stream), 0
		for i := range w.paths {
			w.paths[i] = uint8(z.rank())
		}
	}
	return w
}

// paths are those that hosts have.
var paths = func() (p [200]string) {
	for i := range p {
		p[i] = fmt.Sprintf("/assets/%d/banner-%d.js", i*7919%1000, i)
	}
	return p
}()

var lruSizes = []int{0, 1 << 10, 4 << 10, 16 << 10, 64 << 10}

func (w *workload) runAll(b *testing.B, about string, set *blocklists.Set, sizes ...int) {
	for _, cold := range []bool{false, true} {
		temperature := "warm"
		w.cold = nil
		if cold {
			temperature, w.cold = "cold", make([]byte, sweep)
		}
		for _, entries := range sizes {
			b.Run(fmt.Sprintf("%s/%s/lru=%d", about, temperature, entries), func(b *testing.B) {
				w.run(b, newFront(set, entries))
			})
		}
	}
}

// BenchmarkStudyNames: DNS questions, some of them never seen before, against
// lists of so many real names.
func BenchmarkStudyNames(b *testing.B) {
	blocked := realNames(b, union)
	order := rand.New(rand.NewPCG(3, 4)).Perm(len(blocked))
	w := newWorkload(realNames(b, popularity), false)
	for _, n := range []int{0, 1000, 10_000, 100_000, 1_000_000, len(blocked)} {
		some := make([]string, n)
		for k, i := range order[:n] {
			some[k] = blocked[i]
		}
		w.runAll(b, fmt.Sprintf("names=%d", n), compiled(b, some), lruSizes...)
	}
}

// compiled is a Set of one list that blocks the names.
func compiled(b *testing.B, names []string) *blocklists.Set {
	var builder blocklists.Builder
	for i, name := range names {
		r := blocklists.Rule{Kind: blocklists.Suffix, Action: blocklists.Block, Name: name, Line: i + 1}
		if err := builder.Add(0, r); err != nil {
			b.Fatal(err)
		}
	}
	return builder.Build()
}

// BenchmarkStudyAllHits is the best that may happen to the LRU: a thousand
// names, for all of which it has room.
func BenchmarkStudyAllHits(b *testing.B) {
	blocked := realNames(b, union)
	w := newWorkload(realNames(b, popularity)[:1000], false)
	w.fresh = 0
	w.runAll(b, fmt.Sprintf("names=%d", len(blocked)), compiled(b, blocked), 0, 4<<10)
}

// BenchmarkStudyURLs: requests to popular hosts that each have so many rules
// with a path.
func BenchmarkStudyURLs(b *testing.B) {
	hosts := realNames(b, popularity)[:1000]
	w := newWorkload(hosts, true)
	for _, rules := range []int{1, 10, 100, 1000} {
		var builder blocklists.Builder
		for i, host := range hosts {
			for k := range rules {
				r := blocklists.Rule{Kind: blocklists.Suffix, Action: blocklists.Block, Name: host, Path: fmt.Sprintf("/assets/%d/", k*13), Line: i*rules + k + 1}
				if err := builder.Add(0, r); err != nil {
					b.Fatal(err)
				}
			}
		}
		w.runAll(b, fmt.Sprintf("rules=%d", rules), builder.Build(), lruSizes...)
	}
}

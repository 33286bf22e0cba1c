package gateway

import (
	"bytes"
	"errors"
	"hash/maphash"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/blocklists/parse"
)

const (
	blockSize = 8 << 10
	// maxWindow bounds what of a file may have changed for the difference to be
	// looked for. It lies between two blocks that have not.
	maxWindow = 256 << 10
)

// An outline is what is remembered of a file's text to find later what has
// changed in it: a hash and a count of lines for each 8 KB. It is an io.Writer
// for the text.
type outline struct {
	size  int64
	sums  []uint64 // of the blocks; the last may be short
	lines []uint32 // ends of lines before each block
	ends  uint32   // ends of lines so far
	last  byte
	hash  maphash.Hash
	fill  int // bytes in the block that is being written
}

var outlineSeed = maphash.MakeSeed()

func newOutline() *outline {
	o := new(outline)
	o.hash.SetSeed(outlineSeed)
	return o
}

// Write implements io.Writer.
func (o *outline) Write(p []byte) (int, error) {
	written := len(p)
	for len(p) > 0 {
		if o.fill == 0 {
			o.lines = append(o.lines, o.ends)
		}
		part := p[:min(len(p), blockSize-o.fill)]
		_, _ = o.hash.Write(part) // never fails
		o.ends += uint32(bytes.Count(part, []byte{'\n'}))
		o.last = part[len(part)-1]
		o.fill += len(part)
		p = p[len(part):]
		if o.fill == blockSize {
			o.cut()
		}
	}
	o.size += int64(written)
	return written, nil
}

func (o *outline) cut() {
	o.sums = append(o.sums, o.hash.Sum64())
	o.hash.Reset()
	o.fill = 0
}

// close ends the text.
func (o *outline) close() {
	if o.fill > 0 {
		o.cut()
	}
}

// count is how many lines the text has.
func (o *outline) count() int {
	n := int(o.ends)
	if o.size > 0 && o.last != '\n' {
		n++
	}
	return n
}

// endsBefore returns how many lines end before an offset that begins a block,
// or is the end.
func (o *outline) endsBefore(at int64) int {
	if at >= o.size {
		return int(o.ends)
	}
	return int(o.lines[at/blockSize])
}

// describes reports whether what was loaded is so plain that a difference of
// text can be told as one of rules: each line is a rule of its own or none.
func (o *outline) describes(r *parse.Report) bool {
	return o != nil && (r.Format == parse.Domains || r.Format == parse.Hosts) && !r.Gzip &&
		r.Skipped() == r.SkippedLines && r.Noted == 0 && r.Rules == r.RuleLines && o.count() == r.Lines
}

// A window is what has changed of a text: lines that were there, and those that
// are there instead.
type window struct {
	before int    // lines before it
	old    int    // lines that it had
	toEnd  bool   // it goes to the end of the text
	text   []byte // that it has
}

// errUnlike says that two texts have little in common.
var errUnlike = errors.New("much of the text has changed")

// compare reads what a file has now and returns the window outside of which it
// is as it was.
func (o *outline) compare(f io.ReaderAt, size int64) (*window, error) {
	buf := make([]byte, readBlocks*blockSize)
	head, err := o.equal(f, buf, size, 0, false)
	if err != nil {
		return nil, err
	}
	from, to := min(int64(head)*blockSize, o.size), o.size
	if head < len(o.sums) {
		tail, err := o.equal(f, buf, size, size-o.size, true)
		if err != nil {
			return nil, err
		}
		// Text that repeats itself may be found from both sides.
		for tail = max(tail, head); int64(tail)*blockSize+size-o.size < from; tail++ {
		}
		to = min(int64(tail)*blockSize, o.size)
	}
	return o.widen(f, size, from, to)
}

// readBlocks is how many blocks are read at once.
const readBlocks = 32

// equal compares the blocks with the text, which is moved by so much, from the
// first block on or backwards from the last. It returns the first block that is
// another one now, or the first of the last that are the same.
func (o *outline) equal(f io.ReaderAt, buf []byte, size, moved int64, backwards bool) (int, error) {
	n := len(o.sums)
	for done := 0; done < n; done += readBlocks {
		first := done
		if backwards {
			first = max(n-done-readBlocks, 0)
		}
		last := min(done+readBlocks, n)
		if backwards {
			last = n - done
		}
		start := int64(first)*blockSize + moved
		skip := max(-start, 0) // what would lie before the text
		end := min(int64(last)*blockSize, o.size) + moved
		text := buf[:max(min(end, size)-start, 0)]
		if int64(len(text)) > skip {
			if _, err := f.ReadAt(text[skip:], start+skip); err != nil {
				return 0, err
			}
		}
		for i := range last - first {
			block := first + i
			if backwards {
				block = last - 1 - i
			}
			at := int64(block-first) * blockSize
			to := min(at+blockSize, o.size-int64(first)*blockSize)
			if at >= skip && to <= int64(len(text)) && maphash.Bytes(outlineSeed, text[at:to]) == o.sums[block] {
				continue
			}
			if backwards {
				block++
			}
			return block, nil
		}
	}
	if backwards {
		return 0, nil
	}
	return n, nil
}

// widen makes a window of whole lines of one whose edges are those of blocks:
// from the text before it needs the beginning of its first line, and from the
// text behind it the end of its last.
func (o *outline) widen(f io.ReaderAt, size, from, to int64) (*window, error) {
	end := to + size - o.size // in the new text
	if end < from {
		return nil, errUnlike
	}
	start := max(from-maxWindow/4, 0)
	length := min(end+maxWindow/4, size) - start
	if length > maxWindow {
		return nil, errUnlike
	}
	text := make([]byte, length)
	if _, err := f.ReadAt(text, start); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	first := bytes.LastIndexByte(text[:from-start], '\n') + 1
	if first == 0 && start > 0 {
		return nil, errUnlike // a line that long is no list's
	}
	w := &window{before: o.endsBefore(from), text: text[first:]}
	next := bytes.IndexByte(text[end-start:], '\n')
	switch {
	case to < o.size && next >= 0:
		w.text = text[first : int(end-start)+next+1]
		w.old = o.endsBefore(to) + 1 - w.before
	case start+int64(len(text)) == size:
		w.toEnd = true
		w.old = o.count() - w.before
	default:
		return nil, errUnlike
	}
	return w, nil
}

// diff returns the edit that makes of the list what a file says now, with the
// report that loading all of it would give, or nil where that cannot be told
// from a part of it. A file that is as it was needs no edit.
func (p *part) diff(source string, list int, set *blocklists.Set, pace *pacer) (*blocklists.Edit, *parse.Report) {
	if !p.outline.describes(p.status.Report) {
		return nil, nil
	}
	r, err := opener.Open(source)
	if err != nil {
		return nil, nil
	}
	defer func() { _ = r.Close() }()
	f, ok := r.(*os.File)
	if !ok {
		return nil, nil
	}
	st, err := f.Stat()
	if err != nil {
		return nil, nil
	}
	w, err := p.outline.compare(pacedReaderAt{f, pace}, st.Size())
	if err != nil {
		return nil, nil
	}
	e, report := w.edit(p.status.Report, list, set)
	if e != nil {
		report.Bytes = st.Size()
	}
	return e, report
}

func (w *window) edit(old *parse.Report, list int, set *blocklists.Set) (*blocklists.Edit, *parse.Report) {
	was, ok := set.NameRules(list, w.before+1, w.before+w.old)
	if !ok {
		return nil, nil
	}
	var is []blocklists.Rule
	part, err := parse.Load(old.Format, bytes.NewReader(w.text), parse.Limits{}, func(r blocklists.Rule) error {
		r = kept(r)
		r.Line += w.before
		is = append(is, r)
		return nil
	})
	ends := bytes.Count(w.text, []byte{'\n'})
	if n := len(w.text); n > 0 && w.text[n-1] != '\n' {
		ends++
	}
	if err != nil || part.SkippedLines > 0 || part.Noted > 0 || part.Rules != part.RuleLines || part.Lines != ends {
		return nil, nil
	}
	repeats := old.Rules > set.RulesOf(list)
	report, ok := w.report(old, &part, was, repeats)
	if !ok {
		return nil, nil
	}
	moved := part.Lines - w.old
	head := 0
	for head < min(len(was), len(is)) && was[head] == is[head] {
		head++
	}
	tail := 0
	for tail < min(len(was), len(is))-head && sameMoved(was[len(was)-1-tail], is[len(is)-1-tail], moved) {
		tail++
	}
	if repeats && head+tail < len(was) {
		return nil, nil // another line may have what goes
	}
	e := new(blocklists.Edit)
	after := w.before
	if head > 0 {
		after = was[head-1].Line
	}
	for _, r := range was[head : len(was)-tail] {
		e.Remove = append(e.Remove, blocklists.Change{List: list, Rule: r})
		after = r.Line
	}
	for _, r := range is[head : len(is)-tail] {
		e.Add = append(e.Add, blocklists.Change{List: list, Rule: r})
	}
	if moved != 0 {
		e.Shift = []blocklists.Shift{{List: list, After: after, By: moved}}
	}
	return e, report
}

func sameMoved(was, is blocklists.Rule, by int) bool {
	was.Line += by
	return was == is
}

// report is the old one with the window's lines in the place of those that were
// there: so many rules, and the rest of the one kind of other lines that there
// was. Lines that were skipped, or that repeat others, can only lie outside.
func (w *window) report(old, part *parse.Report, was []blocklists.Rule, repeats bool) (*parse.Report, bool) {
	r := *old
	other := w.old - len(was)
	if other < 0 || other > 0 && (old.Blank > 0 && old.Comments > 0 || old.SkippedLines > 0 || repeats) {
		return nil, false
	}
	r.Examples = slices.Clone(r.Examples)
	for i := range r.Examples {
		if at := &r.Examples[i]; at.Line > w.before+w.old {
			at.Line += part.Lines - w.old
		}
	}
	if old.Blank > 0 {
		r.Blank -= other
	} else {
		r.Comments -= other
	}
	r.Blank, r.Comments = r.Blank+part.Blank, r.Comments+part.Comments
	if r.Blank < 0 || r.Comments < 0 {
		return nil, false
	}
	r.Lines += part.Lines - w.old
	r.RuleLines += part.RuleLines - len(was)
	r.Rules += part.Rules - len(was)
	r.Block, r.Allow = r.Block+part.Block, r.Allow+part.Allow
	r.Kinds.Suffix, r.Kinds.Exact, r.Kinds.Under = r.Kinds.Suffix+part.Kinds.Suffix, r.Kinds.Exact+part.Kinds.Exact, r.Kinds.Under+part.Kinds.Under
	for _, rule := range was {
		if rule.Action == blocklists.Allow {
			r.Allow--
		} else {
			r.Block--
		}
		switch rule.Kind {
		case blocklists.Suffix:
			r.Kinds.Suffix--
		case blocklists.Exact:
			r.Kinds.Exact--
		case blocklists.Under:
			r.Kinds.Under--
		}
	}
	return &r, r.Rules > 0
}

// isFile reports whether the source is a file, of which a difference can be
// looked for.
func isFile(source string) bool { return strings.HasPrefix(source, "file:") }

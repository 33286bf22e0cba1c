package ledger

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
)

// A line is one of a file, as it stands there.
type line struct {
	file string
	n    int
	Entry
	hash string // as it says
	sum  string // as it is
	err  error  // why it is no entry
}

// Verify reads files that belong together, oldest first, and returns the last
// entry that is right, or where and how the chain is broken first. An empty
// noted means none; else it is the hash of an entry that must be there, so that
// a ledger that was cut off or written anew is found too.
func Verify(files []string, noted string) (Head, error) {
	lines, err := readLines(files)
	if err != nil {
		return Head{}, err
	}
	places := make(map[uint64]*line, len(lines)) // where each entry is, if twice the last
	for i := range lines {
		if l := &lines[i]; l.err == nil && l.hash == l.sum {
			places[l.Seq] = l
		}
	}
	var head Head
	found := noted == ""
	for i := range lines {
		l := &lines[i]
		if err := l.follows(head, i == 0, places); err != nil {
			return head, err
		}
		head = Head{l.Seq, l.hash}
		found = found || l.hash == noted
	}
	if !found {
		return head, fmt.Errorf("the noted head %s is not in the ledger, which ends with entry %d: it was cut off or written anew", noted, head.Seq)
	}
	return head, nil
}

// follows says what is wrong with the line after the head. The first line is
// the beginning, or goes on from one that is not here any more.
func (l *line) follows(head Head, first bool, places map[uint64]*line) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%s:%d: %s", l.file, l.n, fmt.Sprintf(format, args...))
	}
	switch {
	case l.err != nil:
		return fail("it was changed: it is no entry any more: %v", l.err)
	case l.hash != l.sum:
		return fail("entry %d was changed: its hash is not that of its text", l.Seq)
	case first && l.Seq == 1 && l.Prev != genesis:
		return fail("entry 1 goes on from another one: it was written anew")
	case first:
		return nil
	case l.Seq == head.Seq+1 && l.Prev == head.Hash:
		return nil
	case l.Seq <= head.Seq:
		return fail("entry %d was put in or moved: it stands behind entry %d", l.Seq, head.Seq)
	case l.Seq == head.Seq+1:
		return fail("entry %d does not go on from the entry %d before it: one of the two was put in in place of another", l.Seq, head.Seq)
	}
	if missing := places[head.Seq+1]; missing != nil {
		return fail("entry %d was moved: %s:%d has entry %d, which belongs before it", l.Seq, missing.file, missing.n, missing.Seq)
	}
	if l.Seq == head.Seq+2 {
		return fail("entry %d was taken out: it is missing before this one", head.Seq+1)
	}
	return fail("entries %d to %d were taken out: they are missing before this one", head.Seq+1, l.Seq-1)
}

func readLines(files []string) (all []line, err error) {
	for _, file := range files {
		if all, err = appendLines(all, file); err != nil {
			return nil, fmt.Errorf("ledger: %w", err)
		}
	}
	return all, nil
}

func appendLines(all []line, file string) ([]line, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	s := bufio.NewScanner(f)
	s.Buffer(nil, 2*maxLine)
	for n := 1; s.Scan(); n++ {
		l := parse(s.Bytes())
		l.file, l.n = file, n
		all = append(all, l)
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return all, nil
}

func parse(b []byte) (l line) {
	if len(b) < hashLen || !bytes.HasPrefix(b[len(b)-hashLen:], []byte(hashField)) {
		l.err = fmt.Errorf("it does not end with a hash")
		return l
	}
	text, tail := b[:len(b)-hashLen], b[len(b)-hashLen:]
	sum := sha256.Sum256(text)
	l.sum = hex.EncodeToString(sum[:])
	l.hash = string(tail[len(hashField) : len(tail)-len(`"}`)])
	l.err = json.Unmarshal(b, &l.Entry)
	return l
}

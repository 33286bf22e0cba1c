package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"
)

// Page returns the n newest entries before that number, all for 0, the newest
// first, and whether there may be older ones. A line that is no entry is left
// out: Verify is what finds it. It reads no more files than it needs, so a page
// may be asked for while entries are appended and files are put away.
func Page(dir string, before uint64, n int) (page []Entry, more bool, err error) {
	files, err := Files(dir)
	if err != nil {
		return nil, false, err
	}
	for _, file := range slices.Backward(files) {
		b, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // put away meanwhile, or removed as the oldest
		}
		if err != nil {
			return nil, false, err
		}
		for line := range backward(b) {
			var e Entry
			if json.Unmarshal(line, &e) != nil || before != 0 && e.Seq >= before {
				continue
			}
			if len(page) == n {
				return page, true, nil
			}
			page = append(page, e)
		}
	}
	return page, false, nil
}

// backward gives the whole lines, the last first.
func backward(b []byte) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		b = b[:bytes.LastIndexByte(b, '\n')+1]
		for len(b) > 0 {
			at := bytes.LastIndexByte(b[:len(b)-1], '\n') + 1
			if !yield(b[at : len(b)-1]) {
				return
			}
			b = b[:at]
		}
	}
}

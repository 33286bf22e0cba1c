package audit

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"time"
)

// maxLine bounds a line that Recent reads; longer ones are left out.
const maxLine = 64 << 10

// An Asked is what a record says was asked, and by whom, as far as its Privacy
// lets it say so.
type Asked struct {
	Time     time.Time  `json:"time"`
	Device   netip.Addr `json:"device"`
	DeviceID string     `json:"device_id"`
	Name     string     `json:"name"`
}

// Recent reads what was recorded since then, from the last so many bytes of the
// file in use, and gives it to see. It returns the time of the first record that
// it has read, zero for none: that is later than since where the bytes go back
// less far.
func Recent(path string, since time.Time, most int64, see func(Asked)) (first time.Time, err error) {
	f, err := os.Open(path)
	if err != nil {
		return first, err
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return first, err
	}
	from := max(st.Size()-most, 0)
	// What is written meanwhile is left out, so that this ends.
	lines := bufio.NewReaderSize(io.NewSectionReader(f, from, st.Size()-from), maxLine)
	if from > 0 {
		if err := skipLine(lines); err != nil {
			return first, ignoreEnd(err)
		}
	}
	for {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			if err := skipLine(lines); err != nil {
				return first, ignoreEnd(err)
			}
			continue
		}
		if err != nil {
			return first, ignoreEnd(err) // a line without an end is being written
		}
		var r Asked
		if json.Unmarshal(line, &r) != nil || r.Time.Before(since) {
			continue
		}
		if first.IsZero() {
			first = r.Time
		}
		see(r)
	}
}

func skipLine(r *bufio.Reader) error {
	for {
		if _, err := r.ReadSlice('\n'); !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}

func ignoreEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

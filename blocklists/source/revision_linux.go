package source

import (
	"os"
	"syscall"
	"time"
)

func fileRevision(path string) (Revision, error) {
	st, err := os.Stat(path)
	if err != nil {
		return Revision{}, err
	}
	r := Revision{Size: st.Size(), ModTime: st.ModTime()}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		r.Inode, r.Changed = sys.Ino, time.Unix(sys.Ctim.Unix())
	}
	return r, nil
}

//go:build !linux

package source

import "os"

func fileRevision(path string) (Revision, error) {
	st, err := os.Stat(path)
	if err != nil {
		return Revision{}, err
	}
	return Revision{Size: st.Size(), ModTime: st.ModTime()}, nil
}

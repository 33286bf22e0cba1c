//go:build !unix

package durable

import "os"

// Lock makes the lock file. There is no lock to take on this system.
func Lock(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
}

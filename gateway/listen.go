package gateway

import (
	"errors"
	"fmt"
	"syscall"
)

// listenError says what to do about an address that cannot be listened on. The
// key is where the configuration names it.
func listenError(key string, err error) error {
	hint := ""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		hint = "another program listens there; end it, or change " + key
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		hint = "the machine does not have that address; change " + key
	case errors.Is(err, syscall.EACCES):
		hint = "ports below 1024 need a privilege (CAP_NET_BIND_SERVICE); give it, or change " + key
	default:
		return err
	}
	return fmt.Errorf("%w: %s", err, hint)
}

package proxy

import "golang.org/x/sys/unix"

// poolsOrigins: here a connection can be asked, without waiting, whether it is
// still as it was left.
const poolsOrigins = true

// quiet reports that there is nothing to read, not even the end. What an origin
// says while nobody has asked would otherwise be taken for the answer to the
// next request, of whomever.
func (c *pooled) quiet() bool {
	rc, err := c.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	var b [1]byte
	err = rc.Control(func(fd uintptr) {
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		quiet = err == unix.EAGAIN
	})
	return err == nil && quiet
}

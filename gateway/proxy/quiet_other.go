//go:build !linux

package proxy

// poolsOrigins: http.Transport keeps the connections to origins here.
const poolsOrigins = false

func (c *pooled) quiet() bool { return false }

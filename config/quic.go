package config

import "net/netip"

// A QUICMode is what happens to QUIC.
type QUICMode string

const (
	QUICRefuse  QUICMode = "refuse"  // so that clients fall back to TCP at once
	QUICInspect QUICMode = "inspect" // its server name is judged
	QUICAllow   QUICMode = "allow"
)

// QUIC configures what happens to QUIC.
type QUIC struct {
	Mode   QUICMode
	Listen []netip.AddrPort // UDP addresses that the packet filter brings QUIC to
}

func (v value) quic(c *QUIC) {
	v.object(fields{
		"mode":   set(&c.Mode, word(QUICRefuse, QUICInspect, QUICAllow)),
		"listen": set(&c.Listen, listOf(value.listenAddr)),
	})
}

package config

// A CookieMode is what DNS cookies (RFC 7873) mean to the resolver.
type CookieMode string

const (
	CookiesIgnore  CookieMode = "ignore"  // nothing
	CookiesAnswer  CookieMode = "answer"  // a client that sends one gets one
	CookiesRequire CookieMode = "require" // and over UDP no answer before it has the right one
)

// Cookies configures DNS cookies.
type Cookies struct {
	Mode    CookieMode
	Secrets string // file that servers share behind one address; empty: secrets of our own
}

func (v value) cookies(c *Cookies) {
	v.object(fields{
		"mode":    set(&c.Mode, word(CookiesIgnore, CookiesAnswer, CookiesRequire)),
		"secrets": set(&c.Secrets, value.filePath),
	})
}

// Package config turns a configuration file into a Config that the gateway can
// run, or into errors that say where and what to do.
//
// All validation is here, and all of it is strict: an unknown key, a key given
// twice, a value of the wrong type or out of range is an error with file, line
// and column. Nothing is corrected silently, and no caller checks again. Of
// YAML it takes the part that every reader reads alike: no anchors, aliases,
// merge keys and tags, no octal or quoted numbers, no words for true and false
// but these two. examples/full.yml shows every key. The
// package opens the configuration file and bundle descriptions only; it reads
// no list, resolves no name and binds no socket.
package config

import (
	"net/netip"
	"net/url"
	"time"

	"github.com/weir-gateway/weir/blocklists"
)

// A Config is a valid configuration. Default gives the built-in one.
type Config struct {
	// File is where it was read from, empty for the built-in default. Relative
	// paths of the file are relative to its folder and absolute here.
	File        string
	DNS         DNS
	Proxy       Proxy
	Transparent Transparent
	QUIC        QUIC
	VPN         VPN
	RPZ         RPZ
	Bans        []blocklists.Ban
	Allow       []blocklists.Rule // the operator's allow rules; Line is the line in File
	Protected   []blocklists.Rule // further protected names, beside the built-in ones, and networks
	Groups      []Group
	Exemptions  []Exemption
	// MaxExemption is how long an exemption may last, where its ban
	// says nothing else.
	MaxExemption time.Duration
	Audit        Audit
	Admin        Admin
	Log          Log
	State        string // folder for last-good lists, generations, evidence; empty: the user's cache folder

	sources map[string]place // where the file names each source of a list
}

// A place is where something stands in a configuration file.
type place struct {
	file         string
	line, column int
	key          string
}

// At returns err as an Error at the place where the file names that source, for
// whoever reads it and finds it wanting. A source that the file does not name,
// such as one of a built-in ban, leaves err as it is.
func (c *Config) At(source string, err error) error {
	at, named := c.sources[source]
	if !named {
		return err
	}
	return Errors{{File: at.file, Line: at.line, Column: at.column, Key: at.key, Msg: err.Error(), Err: err}}
}

// DNS configures the resolver.
type DNS struct {
	Listen     []netip.AddrPort  // UDP and TCP
	Upstreams  []*url.URL        // scheme udp, tcp, tls, quic, https or h3, host with port; empty: the system's resolvers
	Strategy   Strategy          // in which order upstreams are asked
	Routes     []Route           // names that are asked elsewhere
	Bootstrap  []netip.AddrPort  // resolvers for the host names of upstreams; empty: the system's
	Blocked    blocklists.Answer // how blocked questions are answered
	Cache      Cache
	Subnet     ClientSubnet // what upstreams are told of clients
	Cookies    Cookies
	Structured StructuredErrors
	Hosts      string   // a hosts file; empty: none
	Records    []string // in the syntax of zone files, with names in full
	Special    []string // kinds of special names that are answered here
	Limits     Limits
	Dnstap     Dnstap
	ECH        Stripping // keys of encrypted ClientHellos in HTTPS and SVCB records
	H3         Stripping // HTTP/3 in them; kept by default where QUIC is not refused
	Rebinding  Rebinding
	TLS        TLS            // of the encrypted listeners
	DoT        Encrypted      // DNS over TLS
	DoH        DoH            // DNS over HTTPS
	DoQ        Encrypted      // DNS over QUIC
	Proxies    []netip.Prefix // load balancers that speak the PROXY protocol
	Identities []Identity     // devices that are known by more than their address
}

// Stripping is whether something is taken out of answers.
type Stripping string

const (
	Strip Stripping = "strip"
	Keep  Stripping = "keep"
)

// Rebinding says what happens to private addresses in answers.
type Rebinding struct {
	Block bool     // they are taken out
	Allow []string // but for these names, and all under them; canonical
}

// Cache bounds the answer cache.
type Cache struct {
	Entries int // answers; 0 turns it off
	Bytes   int // that they take, about; 0: 1 KiB for each
	Stale   Stale
	TTL     TTL
	Persist bool // it survives a restart, in the state folder
}

// Proxy configures the explicit HTTP proxy.
type Proxy struct {
	Listen        []netip.AddrPort
	ConnectPorts  []uint16       // ports that CONNECT may reach
	HTTPPorts     []uint16       // ports that plain HTTP may reach
	AllowNetworks []netip.Prefix // private and special networks the proxy may reach
	SNI           SNI
}

// An SNIAction is what happens to a tunnel whose ClientHello is unusual.
type SNIAction string

const (
	SNIBlock  SNIAction = "block"
	SNIAllow  SNIAction = "allow"
	SNIReport SNIAction = "report"
)

// SNI says what happens to connections whose first bytes are unusual, each case
// on its own. In a group, what is empty is as for everybody.
type SNI struct {
	Missing   SNIAction // a ClientHello without a server name
	Mismatch  SNIAction // another server name than CONNECT asked for
	ECH       SNIAction // the same, with an encrypted ClientHello behind it
	NotTLS    SNIAction // something else than TLS
	Malformed SNIAction // broken TLS, or a server name that is none
	Timeout   SNIAction // not enough bytes in time
}

// A Group is a set of devices and the bans that hold for them.
type Group struct {
	Name    string
	Devices []netip.Prefix
	Bans    []string // ids; nil: all bans
	SNI     SNI      // what is another for the group than in Proxy
}

// An Exemption lets a device or a group use what one ban holds back, or one name.
type Exemption struct {
	ID          string
	Ban         string       // empty where Name is given
	Name        string       // canonical; it and all under it, whatever holds it back
	Device      netip.Prefix // invalid where Group is given
	Group       string
	From        time.Time // zero: at once
	Until       time.Time
	Ticket      string
	RequestedBy string
	ApprovedBy  string
	Reason      string
}

// Audit configures the audit record.
type Audit struct {
	File    string // JSON lines; empty: none
	Privacy AuditPrivacy
	Rotate  Rotate
}

// Log configures messages to the operator.
type Log struct {
	Format string // text or json
	Level  string // debug, info, warn or error
}

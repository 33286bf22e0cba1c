package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/generation"
	"github.com/weir-gateway/weir/gateway/policy"
	"github.com/weir-gateway/weir/gateway/proxy"
	"github.com/weir-gateway/weir/gateway/resolver"
)

// An Explanation is what would happen to a name, a URL or an address on both
// planes, and why. Its JSON form is stable: fields are added, never renamed or
// removed.
type Explanation struct {
	Target     string      `json:"target"`
	Kind       string      `json:"kind"` // name, url or address
	Canonical  string      `json:"canonical"`
	Blocked    bool        `json:"blocked"` // on at least one plane
	Device     netip.Addr  `json:"device"`  // "" for a device in no group
	Group      string      `json:"group"`
	Generation uint64      `json:"generation"`
	Time       time.Time   `json:"time"`
	DNS        Explained   `json:"dns"`
	Proxy      Explained   `json:"proxy"`
	Answers    AnswerCheck `json:"answers"`
	// Why says in a sentence why it passes, where nothing holds it back.
	Why     string   `json:"why,omitempty"`
	Basis   string   `json:"basis"`            // whose policy this is
	Canary  string   `json:"canary,omitempty"` // the group, where it goes ahead of all others with the device in it
	Voices  []Voice  `json:"voices"`
	Client  Client   `json:"client"`
	Between *Between `json:"between,omitempty"` // where two generations were named
	Cache   *Cache   `json:"cache,omitempty"`   // of a running gateway, for a name
}

// Explained is the verdict on one plane with its evidence.
type Explained struct {
	Action string `json:"action"`
	Reason string `json:"reason"`
	Effect string `json:"effect"` // what the device sees
	// Refused is why the proxy refuses what no ban holds back: its port, or an
	// address that it does not connect to.
	Refused   string     `json:"refused,omitempty"`
	Via       string     `json:"via,omitempty"` // the link of an answer that decided
	Ban       string     `json:"ban,omitempty"`
	Title     string     `json:"title,omitempty"`
	Authority string     `json:"authority,omitempty"`
	Reference string     `json:"reference,omitempty"`
	Effective *time.Time `json:"effective,omitempty"`
	Rule      string     `json:"rule,omitempty"`
	List      string     `json:"list,omitempty"`
	Line      int        `json:"line,omitempty"`
	RuleID    string     `json:"rule_id,omitempty"`
	Policy    string     `json:"policy,omitempty"` // trigger and action of a policy zone's rule
	Data      []string   `json:"data,omitempty"`   // the local data that answers instead
	Source    string     `json:"source,omitempty"`
	Exemption string     `json:"exemption,omitempty"`
	Until     *time.Time `json:"exempt_until,omitempty"`
	Signal    string     `json:"signal,omitempty"`
}

// AnswerCheck says whether the answers to a name's questions were judged too.
type AnswerCheck struct {
	Checked bool     `json:"checked"`
	Note    string   `json:"note,omitempty"` // why not, or which answers say that there is nothing
	Links   []string `json:"links,omitempty"`
}

// An Explainer explains what a policy does: that of a configuration, see
// NewExplainer, or the one that a gateway has in force.
type Explainer struct {
	cfg      *config.Config
	snapshot *policy.Snapshot
	lists    []ListStatus
	whole    uint64       // ID of the snapshot that answers in the cache are judged by
	ahead    []ListStatus // those of a canary, where one runs
	beside   *local
	basis    string
	gens     *generation.Store  // nil for none
	resolver *resolver.Resolver // of a running gateway; nil: Resolve takes one of its own
	// Resolve makes Explain ask the upstreams for an allowed name, because an
	// answer may lead to something banned.
	Resolve bool
	Timeout time.Duration // of Resolve
	// From and To make Explain say what two generations say; zero for not.
	From, To uint64
}

// explainTimeout is for how long an explanation waits for upstreams.
const explainTimeout = 3 * time.Second

// Lists returns what was loaded of each list.
func (e *Explainer) Lists() []ListStatus { return e.lists }

// Explain says what would happen to a name, URL or address that the device
// asks for at that time.
func (e *Explainer) Explain(ctx context.Context, s string, device netip.Addr, now time.Time) (*Explanation, error) {
	t, err := parseAuthority(s)
	if err != nil {
		return nil, err
	}
	sub := policy.Subject{Addr: device.Unmap()}
	group := ""
	e, group = e.forDevice(sub)
	snap := e.snapshot
	x := &Explanation{Target: s, Device: device, Generation: snap.Generation(), Time: now.UTC(), Group: snap.Group(sub), Canary: group, Basis: e.basis}
	if err := e.before(x, t, sub, now); err != nil {
		return nil, err
	}
	var onDNS, onProxy policy.Verdict
	switch {
	case t.addr.IsValid():
		x.Kind, x.Canonical = "address", t.addr.String()
		onDNS = snap.Addr(sub, t.addr, now)
		onProxy = onDNS
		x.Answers.Note = "an address has no answers"
	default:
		x.Kind, x.Canonical = "name", t.name
		onDNS = snap.Name(sub, t.name, now)
		onProxy = onDNS
	}
	if t.path != "" {
		onProxy = snap.Fields(sub, blocklists.Host{Name: t.name, Addr: t.addr}, t.path, nil, now)
	}
	if t.url != nil {
		x.Kind = "url"
	}
	var asked answers
	if t.name != "" && !onDNS.Blocked() && !onProxy.Blocked() {
		asked = e.ask(ctx, x, t.name)
	} else if t.name != "" {
		x.Answers.Note = "not asked, the target itself is blocked"
	}
	dnsVia, qtype := asked.judge(snap, sub, t.name, &onDNS, now, questionTypes...)
	// The proxy connects to what these lead to, whatever other types say.
	proxyVia, _ := asked.judge(snap, sub, t.name, &onProxy, now, dns.TypeA, dns.TypeAAAA)
	x.Blocked = onDNS.Blocked() || onProxy.Blocked()
	x.DNS = e.explained(&onDNS, dnsVia, dnsEffect(&onDNS, t)+qtype)
	x.Proxy = e.explained(&onProxy, proxyVia, proxyEffect(&onProxy, t))
	if !onProxy.Blocked() {
		if x.Proxy.Refused = e.refused(t, asked); x.Proxy.Refused != "" {
			x.Proxy.Effect = "403 all the same: " + x.Proxy.Refused
		}
	}
	x.Why = x.why(&onDNS, &onProxy)
	return x, nil
}

// forDevice returns the explainer of the policy that judges the device, and the
// group that goes ahead, if it is in it.
func (e *Explainer) forDevice(sub policy.Subject) (*Explainer, string) {
	of := *e
	of.snapshot, of.whole = e.snapshot.Of(sub), e.snapshot.ID()
	canary, group := e.snapshot.Canary()
	if canary == nil || of.snapshot != canary {
		return &of, ""
	}
	of.lists = e.ahead
	return &of, group
}

// parseAuthority is parseTarget that also takes the host and port of a CONNECT
// request, which is how it stands in the records of other programs.
func parseAuthority(s string) (target, error) {
	if host, port, err := net.SplitHostPort(s); err == nil && !strings.Contains(s, "/") {
		if t, err := parseTarget(host); err == nil && t.url == nil {
			n, err := strconv.ParseUint(port, 10, 16)
			if err != nil || n == 0 {
				return target{}, fmt.Errorf("%q: port %q is not a number from 1 to 65535", s, port)
			}
			t.url = &url.URL{Scheme: "https", Host: s}
			return t, nil
		}
	}
	return parseTarget(s)
}

// refused says why the proxy refuses the target whatever the bans say, as far
// as it can be known without a connection; empty for what it forwards.
func (e *Explainer) refused(t target, asked answers) string {
	rules := &e.cfg.Proxy
	if t.url != nil && t.url.Scheme == "http" && !mayReach(rules.HTTPPorts, t.url, 80) {
		return "its port is none of proxy.http_ports"
	}
	if t.url != nil && t.url.Scheme == "https" && !mayReach(rules.ConnectPorts, t.url, 443) {
		return "its port is none of proxy.connect_ports"
	}
	addrs := []netip.Addr{t.addr}
	if t.name != "" {
		addrs = asked.addrs()
	}
	why := ""
	for _, a := range addrs {
		if why = proxy.Prohibited(a, rules.AllowNetworks); why == "" {
			return ""
		}
	}
	if why != "" {
		why = "the address may not be reached: " + why
	}
	return why
}

// mayReach reports whether the URL's port, or that of its scheme, is permitted.
func mayReach(permitted []uint16, u *url.URL, port uint16) bool {
	if s := u.Port(); s != "" {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			return false
		}
		port = uint16(n)
	}
	return slices.Contains(permitted, port)
}

// questionTypes are what a device asks for before it connects.
var questionTypes = []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS}

// answers are the links of the answers to a name's questions, by type.
type answers map[uint16][]resolver.Link

// ask asks for the name as a device would.
func (e *Explainer) ask(ctx context.Context, x *Explanation, name string) answers {
	if !e.Resolve {
		x.Answers.Note = "not asked"
		return nil
	}
	r, done, err := e.asks()
	if err != nil {
		x.Answers.Note = err.Error()
		return nil
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	all := answers{}
	var notes []string
	for _, qtype := range questionTypes {
		a, err := r.Resolve(ctx, new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype))
		if err != nil {
			x.Answers.Note = fmt.Sprintf("%s: %v", dns.TypeToString[qtype], err)
			return all
		}
		all[qtype] = a.Links()
		if rcode := a.Rcode(); rcode != dns.RcodeSuccess {
			notes = append(notes, dns.TypeToString[qtype]+": "+dns.RcodeToString[rcode])
		}
		for _, l := range all[qtype] {
			x.Answers.Links = append(x.Answers.Links, l.String())
		}
	}
	x.Answers.Checked, x.Answers.Note = true, strings.Join(notes, ", ")
	return all
}

// asks returns the resolver to ask, and what to call when that is done.
func (e *Explainer) asks() (r *resolver.Resolver, done func(), err error) {
	if e.resolver != nil {
		return e.resolver, func() {}, nil
	}
	log := slog.New(slog.DiscardHandler)
	data, err := localData(e.cfg, log)
	if err == nil {
		r, err = newResolver(e.cfg, data, nil, log)
	}
	return r, func() { _ = r.Close() }, err
}

// addrs are the addresses that the name leads to.
func (a answers) addrs() []netip.Addr {
	var addrs []netip.Addr
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		for _, l := range a[qtype] {
			if l.Addr.IsValid() {
				addrs = append(addrs, l.Addr)
			}
		}
	}
	return addrs
}

// judge puts the answers of those types to policy. Where one of them decides,
// its verdict replaces v, and its link and for which questions are returned.
func (a answers) judge(s *policy.Snapshot, sub policy.Subject, name string, v *policy.Verdict, now time.Time, qtypes ...uint16) (via resolver.Link, questions string) {
	for _, qtype := range qtypes {
		lv, link, _ := resolver.Judge(s, sub, name, a[qtype], now)
		exempt := lv.Reason == policy.ReasonExemption && v.Reason < policy.ReasonExemption
		if v.Blocked() || lv.Action <= v.Action && !exempt {
			continue // Action is in the order of severity, once something is decided
		}
		*v, via, questions = lv, link, " to "+dns.TypeToString[qtype]+" questions"
	}
	return via, questions
}

func (e *Explainer) explained(v *policy.Verdict, via resolver.Link, effect string) Explained {
	x := Explained{
		Action: v.Action.String(), Reason: v.Reason.String(), Effect: effect,
		List: v.List, RuleID: v.RuleID(), Signal: string(v.Signal),
	}
	if via != (resolver.Link{}) {
		x.Via = via.String()
	}
	if v.List != "" {
		x.Policy, x.Data = v.Rule.Policy(), e.snapshot.LocalData(policy.Subject{}, v)
		x.Rule, x.Line, x.Source = v.Rule.String(), v.Rule.Line, e.sourceOf(v.List)
	}
	if b := v.Ban; b != nil {
		x.Ban, x.Title, x.Authority, x.Reference = b.ID, b.Title.EN, b.Authority.EN, b.Reference
		if !b.Effective.IsZero() {
			x.Effective = &b.Effective
		}
	}
	if v.Exemption != nil {
		x.Exemption, x.Until = v.Exemption.ID, &v.Exemption.Until
	}
	return x
}

func (e *Explainer) sourceOf(list string) string {
	for _, l := range e.lists {
		if l.Name == list {
			return l.Source
		}
	}
	return ""
}

// dnsEffect says what a device that asks for the target sees.
func dnsEffect(v *policy.Verdict, t target) string {
	switch {
	case v.Blocked() && t.addr.IsValid():
		return "answers with this address are blocked"
	case v.Blocked():
		s := map[blocklists.Mode]string{
			blocklists.NXDOMAIN: "NXDOMAIN", blocklists.NODATA: "no data", blocklists.Null: "0.0.0.0 and ::",
			blocklists.Refused: "REFUSED", blocklists.Drop: "no answer", blocklists.Addresses: "the configured addresses", blocklists.LocalData: "the local data of the policy zone",
		}[v.Answer.Mode]
		if v.Ban != nil && v.Ban.EDE != 0 && v.Answer.Mode != blocklists.Drop {
			return fmt.Sprintf("%s, EDE %d (%s)", s, v.Ban.EDE, dns.ExtendedErrorCodeToString[v.Ban.EDE])
		}
		return s
	case v.Reason == policy.ReasonTCPOnly:
		return "truncated over UDP, resolved over TCP"
	case t.addr.IsValid():
		return "answers with this address pass"
	}
	return "resolved"
}

func proxyEffect(v *policy.Verdict, t target) string {
	switch {
	case !v.Blocked():
		return "forwarded"
	case t.url != nil && t.url.Scheme == "http":
		return "403 with the block page"
	case t.url != nil:
		return "403 on CONNECT"
	}
	return "403 on CONNECT, 403 with the block page on plain HTTP"
}

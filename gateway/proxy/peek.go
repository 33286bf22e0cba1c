package proxy

import (
	"net"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/hello"
	"github.com/weir-gateway/weir/gateway/policy"
)

// judgeHello puts what a client says first in a tunnel to the policy in force,
// and reports whether it may pass.
func (x *exchange) judgeHello(f *flow, h hello.Hello, first []byte) bool {
	w := newWords(h, first)
	f.words.Store(w) // first: a policy that comes now finds it in Recheck
	var v policy.Verdict
	if snap := x.server.opts.Policy.Load(); snap != nil {
		v = w.judge(snap, x.sub, x.request.host.Name, time.Now())
	}
	x.server.stats.hellos[v.Reason][v.Action].Add(1)
	switch {
	case v.Blocked():
		x.server.stats.blocked.Add(1)
	case !v.Allowed():
		x.server.stats.undecided.Add(1)
	case v.Reason == policy.ReasonNoRule || v.Action == policy.Allow && x.verdict.Reason != policy.ReasonNoRule:
		return true // the host's verdict says more
	}
	x.verdict, x.via = v, helloVia(h)
	return v.Allowed()
}

// words are what a client says first: a ClientHello, or the first bytes of
// something else.
type words struct {
	hello hello.Hello
	first []byte // where it is no TLS
}

func newWords(h hello.Hello, first []byte) *words {
	w := &words{hello: h}
	if isNoTLS(h.Kind) {
		w.first = append([]byte(nil), first[:min(len(first), blocklists.MaxFlow)]...)
	}
	return w
}

func isNoTLS(k hello.Kind) bool { return k == hello.NotTLS || k == hello.Malformed }

// judge judges them: by the server name, or by the signatures of the lists where
// these know what it is. A ban that is still to come does not make up for what
// may not be spoken anyway.
func (w *words) judge(snap *policy.Snapshot, sub policy.Subject, want string, now time.Time) policy.Verdict {
	v := snap.Hello(sub, want, w.hello, now)
	if w.first == nil {
		return v
	}
	if known := snap.FlowEnd(sub, w.first, now); known.Reason != policy.ReasonNoRule && (known.Action != policy.Report || !v.Blocked()) {
		return known
	}
	return v
}

// undecided reports whether what is no TLS may turn out to be something that the
// lists know, once there is more of it.
func (x *exchange) undecided(k hello.Kind, first []byte) bool {
	if !isNoTLS(k) {
		return false
	}
	_, more := x.server.signed(x.sub, first)
	return more
}

// helloVia is what of a ClientHello an audit record names.
func helloVia(h hello.Hello) string {
	if h.Kind != hello.Found {
		return ""
	}
	return "SNI " + printable(h.Name)
}

// printable returns a name as records may have it: it comes from a client that
// may have sent anything.
func printable(name string) string {
	const most = 255 // a name with its final dot has 254
	b := []byte(name[:min(len(name), most)])
	for i, c := range b {
		if c <= ' ' || c >= 0x7f {
			b[i] = '?'
		}
	}
	return string(b)
}

// unopened records a tunnel that ended before anything passed through it.
func (x *exchange) unopened(why ending) {
	x.server.countEnd(why, 0, 0)
	if x.server.audited {
		x.server.opts.Audit.Put(x.record(nil, string(why)))
	}
}

// A peeked is what the portable tunnel begins with after peeking.
type peeked struct {
	hello                  hello.Hello
	fromClient, fromOrigin []byte
}

// peek reads from the client until it is known what it says first, for as long
// as a request head may take; as in a relay, also until the origin speaks while
// the client does not. The origin is read once meanwhile.
func (x *exchange) peek(client, origin *net.TCPConn, early []byte) peeked {
	s := x.server
	p := peeked{fromClient: early}
	var r hello.Reader
	if k := r.Feed(early); k == hello.Incomplete || x.undecided(k, early) {
		_ = client.SetReadDeadline(time.Now().Add(s.opts.HeaderTimeout))
		first := make(chan []byte)
		go func() {
			b := make([]byte, 4<<10)
			n, _ := origin.Read(b) // its end shows again in the tunnel
			if n > 0 {
				_ = client.SetReadDeadline(time.Unix(1, 0))
			}
			first <- b[:n]
		}()
		p.fromClient = x.readHello(&r, client, early)
		_ = origin.SetReadDeadline(time.Unix(1, 0))
		p.fromOrigin = <-first
		_ = client.SetReadDeadline(time.Time{})
		_ = origin.SetReadDeadline(time.Time{})
	}
	p.hello = r.Hello()
	return p
}

// readHello reads up to an error or until the reader has seen enough, and
// returns all that was read.
func (x *exchange) readHello(r *hello.Reader, client net.Conn, got []byte) []byte {
	buf := make([]byte, 4<<10)
	for {
		n, err := client.Read(buf)
		got = append(got, buf[:n]...)
		if k := r.Feed(buf[:n]); k != hello.Incomplete && !x.undecided(k, got) || err != nil {
			return got
		}
	}
}

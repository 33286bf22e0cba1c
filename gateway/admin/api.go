package admin

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Bounds of calls.
const (
	callTimeout = 25 * time.Second // less than writeTimeout, so that there is an answer
	maxCalls    = 32
)

// An api answers below /v1/. Each request passes the same gates in the same
// order: is there such a thing, who asks, how often, may they, is it well
// formed, was it done already.
type api struct {
	access   atomic.Pointer[Access]
	requests *limiter
	failures *limiter
	replays  replays
	calls    chan struct{} // a place for each call under way
	denied   func(*Denial) // nil for none
	log      *slog.Logger
	stats    counters
}

// A Denial is a request that somebody may not make: who asks is not known, lacks
// the role, or is the wrong person.
type Denial struct {
	Who          string // the identity, empty for nobody known
	From         string // the address that the request came from
	Roles        Roles
	Method, Path string // of the route, not as it was asked for
	Status       int
	Why          string
}

// deny tells of a denial, and answers with it.
func (a *api) deny(w http.ResponseWriter, r *http.Request, rt *Route, id Identity, err error) {
	p := problem(err)
	if a.denied != nil {
		a.denied(&Denial{Who: id.Name, From: remote(r), Roles: id.Roles, Method: r.Method, Path: rt.Path, Status: p.Status, Why: p.Detail})
	}
	writeProblem(w, p)
}

// counters are what became of requests to the API.
type counters struct {
	done, refused, unauthenticated, forbidden, limited, failed atomic.Uint64
}

// Stats are what became of requests to the API.
type Stats struct {
	Done            uint64 // and answered
	Refused         uint64 // they were not well formed, or what they want cannot be
	Unauthenticated uint64 // no credential, or one that is no good
	Forbidden       uint64 // not with that role
	Limited         uint64 // too many
	Failed          uint64 // by the gateway's fault
}

func newAPI(log *slog.Logger) *api {
	a := &api{
		requests: newLimiter(requestBurst, requestRate), failures: newLimiter(failureBurst, failureRate),
		calls: make(chan struct{}, maxCalls), log: log,
	}
	a.access.Store(new(Access))
	return a
}

// mount puts the routes into the mux.
func (a *api) mount(mux *http.ServeMux, routes []Route) {
	paths := make(map[string]map[string]*Route)
	for i := range routes {
		rt := &routes[i]
		if paths[rt.Path] == nil {
			paths[rt.Path] = make(map[string]*Route)
		}
		paths[rt.Path][rt.Method] = rt
	}
	for path, methods := range paths {
		allow := slices.Sorted(maps.Keys(methods))
		if methods[http.MethodGet] != nil {
			allow = append(allow, http.MethodHead)
		}
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			method := r.Method
			if method == http.MethodHead {
				method = http.MethodGet
			}
			rt := methods[method]
			if rt == nil {
				a.stats.refused.Add(1)
				w.Header().Set("Allow", strings.Join(allow, ", "))
				writeProblem(w, Errorf(http.StatusMethodNotAllowed, "%s is not done here, only %s", r.Method, strings.Join(allow, ", ")))
				return
			}
			a.serve(w, r, rt)
		})
	}
	mux.HandleFunc("/v1/", func(w http.ResponseWriter, r *http.Request) {
		a.stats.refused.Add(1)
		writeProblem(w, Errorf(http.StatusNotFound, "there is no %s; see /v1/openapi.json", r.URL.Path))
	})
}

func (a *api) serve(w http.ResponseWriter, r *http.Request, rt *Route) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	id, ok := a.admit(w, r, rt)
	if !ok {
		return
	}
	select {
	case a.calls <- struct{}{}:
		defer func() { <-a.calls }()
	default:
		a.stats.limited.Add(1)
		tooMany(w, 0, "too many requests are under way")
		return
	}
	re, err := a.do(w, r, rt, id)
	if err != nil {
		p := problem(err)
		if p.Status >= http.StatusInternalServerError {
			a.stats.failed.Add(1)
			a.log.Error("a request to the admin API failed", "who", id.Name, "method", r.Method, "path", rt.Path, "error", err)
		} else {
			a.stats.refused.Add(1)
		}
		if p.Status == http.StatusForbidden {
			a.deny(w, r, rt, id, p) // by what it is about
			return
		}
		writeProblem(w, p)
		return
	}
	a.stats.done.Add(1)
	re.write(w)
}

// admit says who asks, if they may. A good credential passes whatever others have
// shown from the same address: on loopback, and behind a translator of addresses,
// that is everybody, and an operator who is kept out is worse than a guess more. A
// token is 32 random bytes, and no rate of guessing finds it.
func (a *api) admit(w http.ResponseWriter, r *http.Request, rt *Route) (Identity, bool) {
	now := time.Now()
	id, wrong := a.access.Load().identify(r, now)
	if id.Roles == 0 {
		a.turnAway(w, r, rt, wrong, now)
		return Identity{}, false
	}
	if wait := a.requests.take(id.Name, now); wait > 0 {
		a.stats.limited.Add(1)
		tooMany(w, wait, "too many requests from "+id.Name)
		return Identity{}, false
	}
	if !id.Roles.Has(rt.Role) {
		a.stats.forbidden.Add(1)
		a.deny(w, r, rt, id, Errorf(http.StatusForbidden, "%s is %s; this takes the role %s", id.Name, id.Roles, rt.Role))
		return Identity{}, false
	}
	return id, true
}

// turnAway answers who shows no credential, or one that is no good: the latter as
// often as an address may, so that it costs little and does not fill the record.
func (a *api) turnAway(w http.ResponseWriter, r *http.Request, rt *Route, wrong string, now time.Time) {
	if wrong == "" {
		wrong = "this takes a credential: a token (Authorization: Bearer TOKEN), a client certificate, or the socket in the state folder"
	} else if wait := a.failures.take(remote(r), now); wait > 0 {
		a.stats.limited.Add(1)
		tooMany(w, wait, "too many credentials from this address were no good")
		return
	}
	a.stats.unauthenticated.Add(1)
	w.Header().Set("WWW-Authenticate", `Bearer realm="weir"`)
	a.deny(w, r, rt, Identity{}, Errorf(http.StatusUnauthorized, "%s", wrong))
}

// do makes the call, or finds that it was made already.
func (a *api) do(w http.ResponseWriter, r *http.Request, rt *Route, id Identity) (*reply, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, Errorf(http.StatusRequestEntityTooLarge, "the body is larger than %d bytes; make it several requests", maxBody)
		}
		return nil, Errorf(http.StatusBadRequest, "the body did not arrive: %v", err)
	}
	c, err := rt.call(id, r, body)
	if err != nil {
		return nil, err
	}
	key := r.Header.Get("Idempotency-Key")
	if key == "" || rt.Method == http.MethodGet {
		return a.handle(rt, c)
	}
	if len(key) > maxKey {
		return nil, Errorf(http.StatusBadRequest, "the Idempotency-Key is longer than %d bytes", maxKey)
	}
	k := replayKey{id.Name, key}
	if re, err := a.replays.begin(k, fingerprint(r, body), time.Now()); re != nil || err != nil {
		return re, err
	}
	var re *reply
	defer func() { a.replays.end(k, re) }()
	re, err = a.handle(rt, c)
	return re, err
}

func (a *api) handle(rt *Route, c *Call) (*reply, error) {
	// A change goes through, also where the caller does not wait for it: what it
	// hears then, or hears again by its Idempotency-Key, is true.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.request.Context()), callTimeout)
	defer cancel()
	v, err := rt.Handle(ctx, c)
	if err != nil {
		return nil, err
	}
	return answer(c.request, v)
}

package admin

import (
	"crypto/sha256"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Bounds of what is remembered for Idempotency-Keys. It is kept in memory: a
// key is good for a repetition, not over a restart.
const (
	maxReplays = 1024
	replayTime = 24 * time.Hour
	maxKey     = 128
)

// replays are the answers to requests with an Idempotency-Key, so that the same
// request again gives the same answer and is not done twice.
type replays struct {
	mu    sync.Mutex
	of    map[replayKey]*replay
	order []replayKey // oldest first
}

type replayKey struct{ who, key string }

type replay struct {
	request [sha256.Size]byte
	at      time.Time
	reply   *reply // nil while the first one is under way
}

// begin returns the answer that was given already, or nil for a request that is
// to be done, and then to be told to end.
func (s *replays) begin(k replayKey, request [sha256.Size]byte, now time.Time) (*reply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = make(map[replayKey]*replay)
	}
	s.forget(now)
	switch old := s.of[k]; {
	case old == nil:
	case old.request != request:
		return nil, Errorf(http.StatusUnprocessableEntity, "the Idempotency-Key was used for another request; take a new one")
	case old.reply == nil:
		return nil, Errorf(http.StatusConflict, "the same request is under way; wait and ask again")
	default:
		return old.reply, nil
	}
	if len(s.of) >= maxReplays {
		return nil, Errorf(http.StatusServiceUnavailable, "too many requests with an Idempotency-Key are under way; wait and ask again")
	}
	s.of[k] = &replay{request: request, at: now}
	s.order = append(s.order, k)
	return nil, nil
}

// forget makes room: what is too old goes, and of too many the oldest.
func (s *replays) forget(now time.Time) {
	kept := s.order[:0]
	for _, k := range s.order {
		old := s.of[k]
		if old.reply != nil && (len(s.of) >= maxReplays || now.Sub(old.at) > replayTime) {
			delete(s.of, k)
			continue
		}
		kept = append(kept, k)
	}
	s.order = kept
}

// end keeps the answer. What failed by the gateway's fault is forgotten: it may
// be tried again.
func (s *replays) end(k replayKey, re *reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if re != nil && re.status < http.StatusInternalServerError {
		s.of[k].reply = re
		return
	}
	delete(s.of, k)
	for i := range s.order {
		if s.order[i] == k {
			s.order = append(s.order[:i], s.order[i+1:]...)
			return
		}
	}
}

// fingerprint tells requests apart.
func fingerprint(r *http.Request, body []byte) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, s := range []string{r.Method, r.URL.RequestURI(), strings.Join(r.Header["If-Match"], ",")} {
		_, _ = h.Write([]byte(s + "\x00"))
	}
	_, _ = h.Write(body)
	h.Sum(sum[:0])
	return sum
}

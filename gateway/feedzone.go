package gateway

import (
	"context"
	"io"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/blocklists/source"
	"github.com/weir-gateway/weir/gateway/rpz"
)

// A list whose source is a response policy zone is a feed like others: what is
// another is how its bytes come, and that its primary says when to ask again.

const (
	// leastRefresh bounds what a primary may ask for: an SOA with a refresh of a
	// second would have the gateway compile lists all the time.
	leastRefresh = 10 * time.Second
	// leastGap is between two looks, however often the primary tells of changes:
	// what comes meanwhile is one change.
	leastGap = time.Second
)

// fetchZone is a visit's fetch for a zone. It starts from the version that waits
// for approval, or from the one in force.
func (v *visit) fetchZone(ctx context.Context, w io.Writer) (source.Response, error) {
	z := source.Zone{URL: v.list.Source, Dial: v.fetcher.DialContext, ZoneLimits: source.ZoneLimits{Bytes: v.list.Feed.MaxSize, Total: v.list.Feed.Timeout}}
	if name := v.list.Feed.Key; name != "" {
		k, ok := v.feeds.g.zoneKey(name)
		if !ok {
			return source.Response{}, &source.FetchError{Reason: source.ReasonTransfer, Msg: "the key " + name + " was not read at the start: restart weir"}
		}
		z.Key = &source.ZoneKey{Name: k.Name, Algorithm: k.Algorithm, Secret: k.Secret}
	}
	var copied io.ReadSeeker
	if kind, ok := v.newest(); ok {
		f, err := os.Open(v.feeds.store.Path(v.list.Name, kind))
		if err != nil {
			return source.Response{}, err
		}
		defer func() { _ = f.Close() }()
		copied = f
	}
	u, err := z.Fetch(ctx, copied, w)
	if err != nil {
		return source.Response{}, source.ZoneFetchError(err)
	}
	v.zone = &u.ZoneState
	return source.Response{NotModified: u.Newest, Bytes: u.Bytes}, nil
}

// newest returns which version the next one starts from.
func (v *visit) newest() (source.Kind, bool) {
	switch {
	case v.held != nil && v.held.URL == v.list.Source && v.list.Feed.Hold:
		return source.Held, true
	case v.good != nil && v.good.URL == v.list.Source:
		return source.Good, true
	}
	return "", false
}

// zoneState returns what the SOA of the version in force says, nil for none.
func (f *feeds) zoneState(l *blocklists.List) *source.ZoneState {
	if !blocklists.IsZone(l.Source) {
		return nil
	}
	in, err := os.Open(f.store.Path(l.Name, source.Good))
	if err != nil {
		return nil
	}
	defer func() { _ = in.Close() }()
	st, err := source.CopiedState(in)
	if err != nil {
		return nil
	}
	return &st
}

// interval is how long to wait after a good look. A zone's own refresh counts
// where it is shorter (RFC 1035, section 3.3.13).
func (fd *feed) interval() time.Duration {
	if fd.zone == nil {
		return fd.list.Feed.Interval
	}
	return min(fd.list.Feed.Interval, max(fd.zone.Refresh, leastRefresh))
}

// longestRetry is how long to wait at most after looks that failed.
func (fd *feed) longestRetry() time.Duration {
	if fd.zone == nil {
		return fd.list.Feed.Interval
	}
	return min(fd.interval(), max(fd.zone.Retry, leastRefresh))
}

// staleAfter is how old a version may be before it is an alarm, 0 for any age. A
// zone that has expired is one, but stays in force: that nobody is heard from is
// no reason to let through what was banned.
func (fd *feed) staleAfter() time.Duration {
	after := fd.list.Feed.StaleAfter
	if fd.zone != nil && after != 0 && fd.zone.Expire > 0 {
		after = min(after, max(fd.zone.Expire, fd.interval()))
	}
	return after
}

// notified has the lists looked at that follow the zone, if whoever says that it
// has changed is its primary, and signs as agreed.
func (f *feeds) notified(zone string, from netip.Addr, key string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	found := false
	for _, fd := range f.lists {
		if !blocklists.IsZone(fd.list.Source) || fd.list.Feed.Key != "" && fd.list.Feed.Key != key {
			continue
		}
		u, err := url.Parse(fd.list.Source)
		if err != nil || !strings.EqualFold(strings.Trim(u.Path, "/."), zone) {
			continue
		}
		// A primary that is known by name only is known by its key.
		if at, err := netip.ParseAddr(u.Hostname()); err == nil && at.Unmap() != from || err != nil && fd.list.Feed.Key == "" {
			continue
		}
		found, fd.again = true, true
		if due := fd.looked.Add(leastGap); due.Before(fd.next) {
			fd.next = due
		}
	}
	if found {
		f.poke()
	}
	return found
}

// zoneKey returns the key of that name.
func (g *Gateway) zoneKey(name string) (rpz.Key, bool) {
	for _, k := range g.keys {
		if k.Name == name {
			return k, true
		}
	}
	return rpz.Key{}, false
}

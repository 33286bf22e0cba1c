package source

import (
	"context"
	"errors"
	"io"
	"net"
)

// Why a zone did not come, in a word for metrics.
const (
	ReasonTransfer Reason = "transfer" // the primary does not say what it should
	ReasonSerial   Reason = "serial"   // it has an older version
)

// ZoneFetchError returns the error of a zone's Fetch as a *FetchError.
func ZoneFetchError(err error) error {
	timeout, isNet := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, errTooLarge):
		return &FetchError{Reason: ReasonSize, Msg: err.Error()}
	case errors.Is(err, ErrSerial):
		return &FetchError{Reason: ReasonSerial, Msg: err.Error()}
	case errors.Is(err, ErrZone):
		return &FetchError{Reason: ReasonTransfer, Msg: err.Error()}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &FetchError{Reason: ReasonTruncated, Msg: "the zone ends too early", Err: err}
	case errors.Is(err, context.DeadlineExceeded), isNet && timeout.Timeout():
		return &FetchError{Reason: ReasonTimeout, Msg: "no answer in time", Err: err}
	}
	return classify(context.Background(), err)
}

// DialContext connects to a host that a source names, found by the bootstrap
// resolvers where there are some.
func (f *Fetcher) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return (&net.Dialer{Resolver: f.resolver()}).DialContext(ctx, network, addr)
}

package gateway

import (
	"context"
	"errors"
	"fmt"
)

// A changeKind says what kind of change brought a policy.
type changeKind string

const (
	changeStart  changeKind = "start"         // the gateway has started
	changeReload changeKind = "reload"        // somebody asked to read everything again
	changeFile   changeKind = "file"          // the configuration or a list has changed
	changeFeed   changeKind = "feed"          // a new version of a list that is fetched
	changeAgreed changeKind = "feed approved" // one that waited for it
	changeRetry  changeKind = "retry"         // a reload that the machine had refused
)

// errInForce is in what is wrong with a change that is in force all the same.
var errInForce = errors.New("in force")

// whoGateway is who makes changes that nobody asked for.
const whoGateway = "gateway"

// A change is something that is to become of the policy in force. All of them
// are carried out one after the other by the goroutine of own, the only one
// that may write to what it owns.
type change struct {
	who  string // who asked for it
	why  string
	kind changeKind
	// do carries it out: it ends with a new policy published, or returns an error
	// and has changed nothing. Nil is a reload of everything.
	do   func() error
	note *note // for the record of changes; nil: it is about the policy alone

	reply chan error // nil where nobody waits
}

// change has the owner carry out a change, and returns when it is in force and
// kept, or an error if it is not. Without a reply by the end of the context it
// is not known whether it will be carried out.
func (g *Gateway) change(ctx context.Context, c change) error {
	c.reply = make(chan error, 1)
	select {
	case g.changes <- c:
	case <-g.ended:
		return errStopped
	case <-ctx.Done():
		return g.tooLate(ctx)
	}
	select {
	case err := <-c.reply:
		return err
	case <-g.ended:
		// Both may be so: the owner ends after a reply, never before one.
		select {
		case err := <-c.reply:
			return err
		default:
			return errStopped
		}
	case <-ctx.Done():
		return g.tooLate(ctx)
	}
}

// tooLate says why a change got no reply.
func (g *Gateway) tooLate(ctx context.Context) error {
	if g.stopping.Load() {
		return errStopped
	}
	return fmt.Errorf("no reply from the gateway in time: %w", context.Cause(ctx))
}

// carryOut makes one change and keeps what has become of it.
func (g *Gateway) carryOut(c change) {
	before := g.compiled
	var err error
	if c.do != nil {
		err = c.do()
	} else {
		err = g.reload(c)
	}
	if g.compiled != before {
		err = errors.Join(err, g.keep(c))
	}
	if g.compiled != before || c.note != nil && err == nil {
		err = errors.Join(err, g.recordChange(c, before))
	}
	if c.reply != nil {
		c.reply <- err
	}
}

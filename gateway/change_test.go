package gateway

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Changes are carried out one at a time, in whatever number they come, and an
// error of one is the answer to whoever asked for that one.
func TestChangesOneByOne(t *testing.T) {
	f := newFixture(t, map[string]string{"weir.yml": plainConfig})
	var inside, most, done atomic.Int64
	bad := errors.New("no")
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			err := f.change(t.Context(), change{who: "alice", why: "test", kind: changeReload, do: func() error {
				most.Store(max(most.Load(), inside.Add(1)))
				defer inside.Add(-1)
				done.Add(1)
				if i%2 == 0 {
					return bad
				}
				return nil
			}})
			if errors.Is(err, bad) != (i%2 == 0) {
				t.Errorf("change %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if most.Load() != 1 || done.Load() != 40 {
		t.Errorf("%d at a time, %d carried out; want 1 and 40", most.Load(), done.Load())
	}
}

// A gateway that is stopping answers changes with an error, never with silence.
func TestChangeTooLate(t *testing.T) {
	f := newFixture(t, map[string]string{"weir.yml": plainConfig})
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	entered, leave := make(chan struct{}), make(chan struct{})
	go func() {
		_ = f.change(context.Background(), change{do: func() error { close(entered); <-leave; return nil }})
	}()
	<-entered
	if err := f.change(ctx, change{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a change behind a long one: %v, want the end of its time", err)
	}
	close(leave)
}

const plainConfig = `
dns: {listen: ["127.0.0.1:0"], upstreams: ["UPSTREAM"]}
proxy: {listen: []}
admin: {listen: "127.0.0.1:0"}
bans: [wechat]
`

package privacy_test

import (
	"context"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/privacy"
)

// slow is a store whose answers are on their way until released.
type slow struct {
	*store
	asked, release chan struct{}
}

func (s *slow) Setting(ctx context.Context, name string) ([]byte, error) {
	text, err := s.store.Setting(ctx, name)
	if s.asked != nil {
		close(s.asked)
		s.asked = nil
		<-s.release
	}
	return text, err
}

// A policy holds from the next message on, also when a look at the policies was under way that did not see it.
func TestGuard_PutDuringALook(t *testing.T) {
	t.Parallel()
	s := &slow{store: &store{groups: map[string]string{"d": "office"}}, asked: make(chan struct{}), release: make(chan struct{})}
	asked := s.asked
	g := guard(t, s)
	looked, put := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(looked)
		g.Mask(message("d"))
	}()
	<-asked
	go func() { put <- g.Put(t.Context(), "office", privacy.Policy{UserNames: true}) }()
	var err error
	select {
	case err = <-put:
		put <- err
	case <-time.After(100 * time.Millisecond): // it waits for the look
	}
	close(s.release)
	<-looked
	if err = <-put; err != nil {
		t.Fatal(err)
	}
	if users, _ := masked(g, message("d")); !users {
		t.Error("the message behind Put is not masked")
	}
}

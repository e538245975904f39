package privacy_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/defender/privacy"
)

// slow is a store whose first answer is on its way until released.
type slow struct {
	*store
	asked, release chan struct{}
}

func (s *slow) Setting(ctx context.Context, name string) ([]byte, error) {
	text, err := s.store.Setting(ctx, name)
	if asked := s.asked; asked != nil {
		s.asked = nil
		close(asked)
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
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		g.Mask(message("d"))
	}()
	<-asked
	if err := g.Put(t.Context(), "office", privacy.Policy{UserNames: true}); err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"before the look ends", "behind it"} {
		if users, _ := masked(g, message("d")); !users {
			t.Errorf("%s: the message behind Put is not masked", when)
		}
		if when == "before the look ends" {
			close(s.release)
			<-looked
		}
	}
}

// away is a store that takes its time, or fails after it.
type away struct {
	takes    time.Duration
	policies string
	failing  atomic.Bool
	settings atomic.Int32 // looks at the policies
	groups   atomic.Int32 // and at devices
}

func (s *away) wait(ctx context.Context) error {
	select {
	case <-time.After(s.takes):
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.failing.Load() {
		return errors.New("no database")
	}
	return nil
}

func (s *away) Setting(ctx context.Context, _ string) ([]byte, error) {
	s.settings.Add(1)
	return []byte(s.policies), s.wait(ctx)
}

func (s *away) UpdateSetting(context.Context, string, func([]byte) ([]byte, error)) error {
	return errors.New("no database")
}

func (s *away) SecurityGroups(ctx context.Context, devices []string) (map[string]string, error) {
	s.groups.Add(1)
	return map[string]string{devices[0]: "office"}, s.wait(ctx)
}

// No device waits for the look of another, and those of one wait for one.
func TestGuard_LooksPerDevice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &away{takes: time.Second / 2, policies: `{"office":{"userNames":true}}`}
		g, begin := guard(t, s), time.Now()
		var wg sync.WaitGroup
		for _, device := range []string{"a", "b", "c", "d"} {
			for range 25 {
				wg.Go(func() {
					if users, commands := masked(g, message(device)); !users || commands {
						t.Errorf("%s: users %t, commands %t", device, users, commands)
					}
				})
			}
		}
		wg.Wait()
		if took := time.Since(begin); took != time.Second || s.settings.Load() != 1 || s.groups.Load() != 4 {
			t.Errorf("100 messages of 4 devices took %v, %d looks at the policies and %d at devices; want 1s, 1 and 4", took, s.settings.Load(), s.groups.Load())
		}
	})
}

// A store that is away is asked once a second, and meanwhile everything is masked at once.
func TestGuard_StoreAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &away{takes: time.Hour, policies: `{"office":{"userNames":true}}`}
		s.failing.Store(true)
		g := guard(t, s)
		doubt := func(device string, want time.Duration) {
			t.Helper()
			begin := time.Now()
			if users, commands := masked(g, message(device)); !users || !commands {
				t.Errorf("%s: users %t, commands %t", device, users, commands)
			}
			if took := time.Since(begin); took != want {
				t.Errorf("a message of %s waited %v, want %v", device, took, want)
			}
		}
		doubt("a", 5*time.Second)
		for range 100 {
			doubt("a", 0)
			doubt("b", 0)
		}
		if n := s.settings.Load(); n != 1 {
			t.Errorf("the store was asked %d times", n)
		}
		time.Sleep(time.Second)
		doubt("b", 5*time.Second)
		s.failing.Store(false)
		s.takes = 0
		time.Sleep(time.Second)
		if users, commands := masked(g, message("b")); !users || commands {
			t.Errorf("when it is back: users %t, commands %t", users, commands)
		}
	})
}

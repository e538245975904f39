package defender

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/iot"
)

// keeper remembers what it was given.
type keeper struct {
	mu     sync.Mutex
	fail   error
	writes int
	alerts []alert.Alert
	woken  int
}

func (k *keeper) Record(_ context.Context, _ []record.Event, alerts []alert.Alert) ([]alert.Raised, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.writes++
	if k.fail != nil {
		return nil, k.fail
	}
	k.alerts = append(k.alerts, alerts...)
	return make([]alert.Raised, len(alerts)), nil
}

func (k *keeper) Wake(context.Context, time.Time) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.woken++
	return 0, nil
}

func (k *keeper) set(fail error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fail = fail
}

func TestSentry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := &keeper{}
		s, err := NewSentry(k, slog.New(slog.DiscardHandler), nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Run(ctx) }()
		knock := func(device string) {
			s.Seen(alert.InvalidToken, iot.ID{Device: device}, "", "text", map[string]string{"remoteAddress": "192.0.2.1:7"}, time.Now())
		}
		k.set(errors.New("the disk is full"))
		for range 1000 {
			knock("d")
		}
		time.Sleep(3500 * time.Millisecond) // it tries once a second
		knock("d")
		k.set(nil)
		time.Sleep(2 * time.Second)
		k.mu.Lock()
		if len(k.alerts) != 1 || k.alerts[0].Count != 1001 || k.alerts[0].Type != "IoT_Invalid_SAS_Token" || k.alerts[0].Severity != alert.Low || len(k.alerts[0].Evidence) != alert.MaxEvidence || k.writes > 5 {
			t.Errorf("%d writes of %+v", k.writes, k.alerts)
		}
		if a := k.alerts[0]; a.Remote != "192.0.2.1" || string(a.Evidence[0].Details) != `{"remoteAddress":"192.0.2.1:7"}` {
			t.Errorf("from %q, evidence %s; want the address, and its port in the evidence", a.Remote, a.Evidence[0].Details)
		}
		k.mu.Unlock()
		for i := range maxPending + 10 {
			knock(fmt.Sprint("x", i))
		}
		cancel() // what is left is written at the end
		<-done
		if len(k.alerts) != 1+maxPending {
			t.Errorf("%d alerts", len(k.alerts))
		}
		if k.woken == 0 {
			t.Error("suppressions never end")
		}
	})
}

package storagetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// Writes is what every store promises about writes beside each other.
func Writes(t *testing.T, open Open) {
	t.Run("a failing or panicking write harms no neighbour", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		create(t, s, "gate")
		// While the first write waits at the gate, the others gather behind it.
		gate := make(chan struct{})
		var once sync.Once
		time.AfterFunc(50*time.Millisecond, func() { once.Do(func() { close(gate) }) })
		const n = 60
		parallel(t, n, func(i int) error {
			if i == 0 {
				_, err := s.UpdateTwin(ctx, iot.ID{Device: "gate"}, func(tw twin.Twin) (twin.Twin, error) {
					<-gate
					return tw, nil
				})
				return err
			}
			id := iot.ID{Device: fmt.Sprintf("d%02d", i)}
			if err := s.Create(ctx, device(id.Device), twin.Twin{Version: 1}); err != nil {
				return err
			}
			_, err := s.UpdateTwin(ctx, id, func(tw twin.Twin) (twin.Twin, error) {
				tw.Version++
				switch i % 3 {
				case 1:
					return tw, errNo
				case 2:
					panic("boom " + id.Device)
				}
				return tw, nil
			})
			switch {
			case i%3 == 1 && err != errNo:
				return fmt.Errorf("got error %v, want the caller's own", err)
			case i%3 == 2 && (err == nil || !strings.Contains(err.Error(), "boom "+id.Device)):
				return fmt.Errorf("got error %v, want the panic", err)
			case i%3 == 0:
				return err
			}
			return nil
		})
		for i := 1; i < n; i++ {
			want := int64(1)
			if i%3 == 0 {
				want = 2
			}
			if got := must(s.Twin(ctx, iot.ID{Device: fmt.Sprintf("d%02d", i)}))(t).Version; got != want {
				t.Errorf("twin %d has version %d, want %d", i, got, want)
			}
		}
	})

	t.Run("half of a write is nothing", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		// The identity is fine, its twin is not.
		err := s.Create(ctx, device("d"), twin.Twin{Tags: []byte("\xff")})
		if err == nil {
			t.Fatal("broken text was stored")
		}
		if got := must(s.Statistics(ctx))(t); got != (registry.Statistics{}) {
			t.Errorf("half of a failed write is there: %+v", got)
		}
		create(t, s, "d")
	})

	t.Run("an ended context writes nothing", func(t *testing.T) {
		s := open(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Create(ctx, device("d"), twin.Twin{}); !errors.Is(err, context.Canceled) {
			t.Errorf("got error %v, want that the context was canceled", err)
		}
		if _, err := s.Identity(ctx, iot.ID{Device: "d"}); !errors.Is(err, context.Canceled) {
			t.Errorf("got error %v, want that the context was canceled", err)
		}
		if got := must(s.Statistics(t.Context()))(t); got.Total != 0 {
			t.Errorf("a write with an ended context happened")
		}
	})

	t.Run("a writer reads what it wrote", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		parallel(t, 20, func(i int) error {
			id := iot.ID{Device: fmt.Sprint(i)}
			if err := s.Create(ctx, device(id.Device), twin.Twin{}); err != nil {
				return err
			}
			for v := int64(1); v < 10; v++ {
				if _, err := s.UpdateTwin(ctx, id, func(tw twin.Twin) (twin.Twin, error) {
					tw.Version = v
					return tw, nil
				}); err != nil {
					return err
				}
				tw, err := s.Twin(ctx, id)
				if err != nil || tw.Version != v {
					return fmt.Errorf("read version %d, error %w; wrote %d", tw.Version, err, v)
				}
			}
			return nil
		})
	})
}

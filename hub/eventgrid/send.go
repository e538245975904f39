package eventgrid

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/iot"
)

// sender delivers to one webhook, one request at a time.
type sender struct {
	service *Service
	sub     Subscription
	entryAt uint64 // the entry at hand
	done    uint64 // sequence of the last message of it that was settled
}

// pending is an event that waits to be sent.
type pending struct {
	Event
	sequence uint64
	text     json.RawMessage
}

// entry sends what an entry of the log holds for the subscription. It returns when every event is delivered or given
// up; its error is that of ctx, or an entry that must be given again.
func (s *sender) entry(ctx context.Context, e bus.Entry) error {
	if s.entryAt != e.Sequence {
		s.entryAt, s.done = e.Sequence, 0
	}
	var batch []pending
	size := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		if err := s.deliver(ctx, batch); err != nil {
			return err
		}
		s.done = batch[len(batch)-1].sequence
		batch, size = batch[:0], 0
		return nil
	}
	err := telemetry.Decode(e.Sequence, e.Data, func(m *iot.Message) error {
		if m.Sequence <= s.done || m.Enqueued.Before(s.sub.Created) {
			return nil
		}
		ev, ok := Of(s.service.cfg.Hub, m)
		if !ok || !s.sub.wants(&ev) {
			return nil
		}
		text := ev.render(s.sub.Schema)
		if size+len(text) > s.sub.BatchKilobytes<<10 {
			if err := flush(); err != nil {
				return err
			}
		}
		batch, size = append(batch, pending{ev, m.Sequence, text}), size+len(text)
		if len(batch) == s.sub.BatchEvents {
			return flush()
		}
		return nil
	})
	if errors.Is(err, telemetry.ErrCorrupt) {
		s.service.log.Warn("log entry cannot be read; it is skipped", "entry", e.Sequence, "subscription", s.sub.Name, "err", err)
		err = nil
	}
	if err != nil {
		return err
	}
	return flush()
}

// pauses are Event Grid's: after each attempt the next comes later. The last one repeats.
var pauses = []time.Duration{
	10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour,
}

// errRefused is an answer that says that the webhook will never take a request.
var errRefused = errors.New("the webhook refused for good")

// deliver sends a batch until the webhook has it, says that it never will, or its time is over. An error is that of ctx.
func (s *sender) deliver(ctx context.Context, batch []pending) error {
	svc := s.service
	life := time.Duration(s.sub.TTLMinutes) * time.Minute
	first := svc.now()
	for attempt := 0; ; attempt++ {
		err := s.send(ctx, batch, attempt)
		switch {
		case err == nil:
			s.report(batch, "delivered")
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errRefused) && len(batch) > 1: // one bad event must not take others along
			for i := range batch {
				if err := s.deliver(ctx, batch[i:i+1]); err != nil {
					return err
				}
			}
			return nil
		}
		pause := pauses[min(attempt, len(pauses)-1)]
		if errors.Is(err, errRefused) || attempt+1 >= s.sub.Attempts || svc.now().Add(pause).Sub(first) > life {
			s.report(batch, "dead")
			svc.log.Error("events were not delivered and are given up", "subscription", s.sub.Name, "events", len(batch),
				"first", batch[0].ID, "type", batch[0].Type, "subject", batch[0].Subject, "attempts", attempt+1, "err", err)
			return nil
		}
		s.report(batch, "retried")
		svc.log.Warn("events were not delivered and are tried again", "subscription", s.sub.Name, "events", len(batch), "in", pause, "err", err)
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
}

func (s *sender) report(batch []pending, result string) {
	if s.service.cfg.Report == nil {
		return
	}
	now := s.service.now()
	for i := range batch {
		s.service.cfg.Report(s.sub.Name, batch[i].Type, result, now.Sub(batch[i].Time))
	}
}

func (s *sender) send(ctx context.Context, batch []pending, attempt int) error {
	kind, array := "application/json; charset=utf-8", true
	if s.sub.Schema == CloudEventSchema {
		kind, array = "application/cloudevents-batch+json; charset=utf-8", true
		if s.sub.BatchEvents == 1 {
			kind, array = "application/cloudevents+json; charset=utf-8", false
		}
	}
	texts := make([]json.RawMessage, len(batch))
	for i := range batch {
		texts[i] = batch[i].text
	}
	res, err := s.service.post(ctx, &s.sub, "Notification", kind, attempt, texts, array)
	if err != nil {
		return fmt.Errorf("webhook: %w", err)
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer)) // so that the connection is used again
	switch res.StatusCode {
	case http.StatusOK, http.StatusCreated, http.StatusAccepted, http.StatusNonAuthoritativeInfo, http.StatusNoContent:
		return nil
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusRequestEntityTooLarge: // Event Grid does not try these again
		return fmt.Errorf("%w: %s", errRefused, res.Status)
	}
	return fault.New(fault.Unavailable, "the webhook answered %s", res.Status)
}

package agent

import (
	"context"
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/agent/config"
	"github.com/vauban-iot/vauban/agent/queue"
	"github.com/vauban-iot/vauban/sdk/device"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// newAgent is an agent that reaches nobody, with a queue.
func newAgent(t *testing.T) *Agent {
	t.Helper()
	a, err := New(Config{
		Dir: t.TempDir(), First: 10 * time.Second, Version: "1", Sources: func(config.Settings) []Source { return nil },
		Device: device.Config{ConnectionString: "HostName=h;DeviceId=d;ModuleId=" + Module + ";SharedAccessKey=AAAA"},
	})
	if err == nil {
		a.queue, err = queue.Open(t.TempDir(), 1<<20)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.queue.Close() })
	a.restore()
	return a
}

func raw(t *testing.T, s string) (m map[string]json.RawMessage) {
	t.Helper()
	if err := json.Unmarshal([]byte(s), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func text(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// steady sees the same once a minute.
type steady struct{}

func (steady) Run(ctx context.Context, emit func(collect.Observation)) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			emit(collect.Observation{Event: "Process", Key: "k", Time: now, Hits: 1, Item: secmsg.Process{CommandLine: "k", EventType: "EXEC"}})
		case <-ctx.Done():
			return nil
		}
	}
}
func (steady) Source() string { return "" }

// In a day and a bit each collector is asked as often as its priority says, and what is seen meanwhile is counted.
func TestSchedule(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := newAgent(t)
		a.cfg.Sources = func(config.Settings) []Source { return []Source{{Name: config.Process, Watcher: steady{}}} }
		a.settings.Collectors[config.Heartbeat] = config.Collector{Priority: config.High}
		a.settings.Collectors[config.Statistics] = config.Collector{Priority: config.Off}
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour+time.Minute)
		defer cancel()
		a.loop(ctx)
		beats, processes, hits := 0, 0, uint32(0)
		for a.queue.State().Messages > 0 {
			m, mark, err := a.queue.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			r, err := secmsg.Decode(m.Label, m.Body)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range r.Events {
				switch e.Name {
				case "Heartbeat":
					beats++
				case "Process":
					processes++
					hits += e.Payload[0].(secmsg.Process).HitCount
				}
			}
			if err := a.queue.Done(mark); err != nil {
				t.Fatal(err)
			}
		}
		// 30 minutes and the first ten seconds; 120 minutes, and the rest when it ended.
		if beats != 49 && beats != 48 || processes < 12 || processes > 13 || hits < 24*60-1 {
			t.Errorf("%d heartbeats, %d messages of processes with %d hits", beats, processes, hits)
		}
	})
}

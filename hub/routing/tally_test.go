package routing

import (
	"context"
	"testing"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
)

// finite is a log that ends.
type finite [][]byte

func (e finite) Follow(_ context.Context, _ bus.Start, _ func(), handle func(bus.Entry) error) error {
	for i, data := range e {
		if err := handle(bus.Entry{Sequence: uint64(i + 1), Data: data}); err != nil {
			return err
		}
	}
	return nil
}

type noTwins struct{}

func (noTwins) Twin(context.Context, iot.ID) (twin.Twin, error) {
	return twin.Twin{}, fault.New(fault.NotFound, "no twin")
}

// Telemetry that matches no route is for the fallback, or for nobody; events are neither.
func TestTally(t *testing.T) {
	t.Parallel()
	const routes = `"endpoints":[{"name":"e","type":"webhook","url":"https://x"}],"routes":[
		{"name":"hot","source":"DeviceMessages","condition":"level = 'hot'","endpointNames":["e"]},
		{"name":"off","source":"DeviceMessages","condition":"true","endpointNames":["e"],"isEnabled":false},
		{"name":"twins","source":"TwinChangeEvents","condition":"true","endpointNames":["e"]}]`
	for condition, c := range map[string]struct {
		config             string
		plain              bool
		fallback, orphaned int
	}{
		"the built-in fallback": {`{` + routes + `}`, false, 2, 0},
		"a fallback of its own": {`{` + routes + `,"fallbackRoute":{"name":"f","source":"DeviceMessages","condition":"true","endpointNames":["e"],"isEnabled":true}}`, false, 2, 0},
		"no fallback":           {`{` + routes + `,"fallbackRoute":{"name":"f","source":"DeviceMessages","condition":"true","endpointNames":["e"],"isEnabled":false}}`, false, 0, 2},
		"no routes":             {`{}`, true, 3, 0},
	} {
		table, err := Parse("hub", []byte(c.config))
		if err != nil {
			t.Fatalf("%s: %v", condition, err)
		}
		if table.Plain() != c.plain {
			t.Errorf("%s: plain %v", condition, table.Plain())
		}
		hot := &iot.Message{Source: iot.Telemetry, From: iot.ID{Device: "d"}, Properties: []bag.Property{{Name: "level", Value: "hot"}}}
		cold := &iot.Message{Source: iot.Telemetry, From: iot.ID{Device: "d"}, Properties: []bag.Property{{Name: "level", Value: "cold"}}}
		change := &iot.Message{Source: iot.TwinChange, From: iot.ID{Device: "d"}}
		fallback, orphaned := 0, 0
		tally := &Tally{Table: table, Log: finite{telemetry.Batch(hot, cold, change), telemetry.Batch(cold)}, Twins: noTwins{}, Report: func(f, o int) {
			fallback, orphaned = fallback+f, orphaned+o
		}}
		if err := tally.Run(t.Context()); err != nil || fallback != c.fallback || orphaned != c.orphaned {
			t.Errorf("%s: %d for the fallback and %d for nobody, %v; want %d and %d", condition, fallback, orphaned, err, c.fallback, c.orphaned)
		}
	}
}

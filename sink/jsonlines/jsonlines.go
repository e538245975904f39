// Package jsonlines delivers routed messages to files of JSON lines, one record (routing.AppendRecord) a line, named by hub and
// time like Azure's storage endpoint does (hub-service §7.1).
package jsonlines

import (
	"context"
	"fmt"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/routing"
	"github.com/vauban-iot/vauban/internal/linefile"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/sink/layout"
)

// Sink writes below one folder. It is for one runner at a time.
type Sink struct{ layout layout.Layout }

var _ routing.Sink = (*Sink)(nil)

// New checks the endpoint; its error is fault.Invalid. root is the folder of all endpoints.
func New(root, hub string, e routing.Endpoint) (*Sink, error) {
	l, err := layout.New(root, hub, e)
	if err != nil {
		return nil, err
	}
	if e.BatchFrequency != 0 || e.MaxChunk != 0 {
		return nil, fault.New(fault.Invalid, "endpoint %q: batchFrequencyInSeconds and maxChunkSizeInBytes are for Avro; lines of JSON are written at once", e.Name)
	}
	return &Sink{layout: l}, nil
}

func (s *Sink) path(at time.Time) string { return s.layout.Path(at) + ".json" }

// Deliver implements routing.Sink: the lines are on disk when it returns.
func (s *Sink) Deliver(_ context.Context, ms []*iot.Message) error {
	for start := 0; start < len(ms); {
		path := s.path(ms[start].Enqueued)
		var lines []byte
		end := start
		for ; end < len(ms) && s.path(ms[end].Enqueued) == path; end++ {
			lines = append(routing.AppendRecord(lines, ms[end]), '\n')
		}
		if err := s.append(path, lines); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
		start = end
	}
	return nil
}

func (s *Sink) append(path string, lines []byte) error {
	if err := layout.MakeFolder(path); err != nil {
		return err
	}
	return linefile.Append(path, lines, 0o640)
}

package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/hub/routing"
	"github.com/vauban-iot/vauban/iot"
)

// DeadLetterStore is the part of [routing.DeadLetterStore] the API needs. ReplayLetters is fault.Invalid when the
// endpoint is not in the routing any more.
type DeadLetterStore interface {
	CountLetters(ctx context.Context) (map[string]routing.Count, error)
	DeadLetters(ctx context.Context, l routing.Letters) ([]routing.DeadLetter, error)
	DeadLetter(ctx context.Context, endpoint string, sequence int64) (routing.DeadLetter, error)
	ReplayLetters(ctx context.Context, l routing.Letters) (int, error)
	DropLetters(ctx context.Context, l routing.Letters) (int, error)
}

// DeadLetterCount is one endpoint of GET /api/routing/dead-letters.
type DeadLetterCount struct {
	Endpoint  string `json:"endpoint"`
	Messages  int    `json:"messages"`
	Replaying int    `json:"replaying"` // of them, wait to be delivered again
	Bytes     int64  `json:"bytes"`
	Oldest    string `json:"oldestTime"`
}

// DeadLetter is one message that an endpoint did not take.
type DeadLetter struct {
	Sequence int64           `json:"sequence"`
	Endpoint string          `json:"endpoint"`
	Source   string          `json:"source"`
	Device   string          `json:"deviceId"`
	Module   string          `json:"moduleId,omitempty"`
	Enqueued string          `json:"enqueuedTime"`
	Died     string          `json:"deadTime"`
	Reason   string          `json:"reason"`
	Attempts int             `json:"attempts"`
	Replay   bool            `json:"replay"`
	Bytes    int             `json:"bytes"`
	Record   json.RawMessage `json:"record,omitempty"` // as endpoints get it; when one is asked for
}

func newDeadLetter(d *routing.DeadLetter) DeadLetter {
	return DeadLetter{
		Sequence: d.Sequence, Endpoint: d.Endpoint, Source: string(d.Message.Source), Device: d.Message.From.Device, Module: d.Message.From.Module,
		Enqueued: iot.FormatTime(d.Message.Enqueued), Died: iot.FormatTime(d.Died), Reason: d.Reason, Attempts: d.Attempts, Replay: d.Replay, Bytes: d.Size,
	}
}

func (a *API) deadLetterCounts(w http.ResponseWriter, r *http.Request) error {
	counts, err := a.cfg.DeadLetters.CountLetters(r.Context())
	if err != nil {
		return err
	}
	all := []DeadLetterCount{}
	for endpoint, c := range counts {
		all = append(all, DeadLetterCount{endpoint, c.Messages, c.Waiting, c.Bytes, iot.FormatTime(c.Oldest)})
	}
	slices.SortFunc(all, func(x, y DeadLetterCount) int { return strings.Compare(x.Endpoint, y.Endpoint) })
	return writeJSON(w, http.StatusOK, map[string]any{"endpoints": all})
}

// Pages of dead letters.
const (
	defaultLetters = 100
	maxLetters     = 1000
)

func (a *API) deadLetters(w http.ResponseWriter, r *http.Request) error {
	l := routing.Letters{Endpoint: r.PathValue("endpoint"), Limit: defaultLetters}
	q := r.URL.Query()
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxLetters {
			return fault.New(fault.Invalid, "limit must be 1 to %d", maxLetters)
		}
		l.Limit = n
	}
	if text := q.Get("after"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return fault.New(fault.Invalid, "after must be the sequence of a dead letter")
		}
		l.After = n
	}
	ds, err := a.cfg.DeadLetters.DeadLetters(r.Context(), l)
	if err != nil {
		return err
	}
	all := make([]DeadLetter, len(ds))
	for i := range ds {
		all[i] = newDeadLetter(&ds[i])
	}
	return writeJSON(w, http.StatusOK, map[string]any{"deadLetters": all})
}

func (a *API) deadLetter(w http.ResponseWriter, r *http.Request) error {
	n, err := strconv.ParseInt(r.PathValue("sequence"), 10, 64)
	if err != nil {
		return fault.New(fault.Invalid, "the sequence of a dead letter is a number")
	}
	d, err := a.cfg.DeadLetters.DeadLetter(r.Context(), r.PathValue("endpoint"), n)
	if err != nil {
		return err
	}
	v := newDeadLetter(&d)
	v.Record = routing.AppendRecord(nil, &d.Message)
	return writeJSON(w, http.StatusOK, v)
}

// chosen reads which dead letters a request is about: ?sequence=1&sequence=2, or ?all=true. Nothing is never all.
func chosen(endpoint string, q url.Values) (routing.Letters, error) {
	l := routing.Letters{Endpoint: endpoint}
	switch all := q.Get("all"); {
	case all == "true" && !q.Has("sequence"):
		return l, nil
	case all != "" && all != "false" || !q.Has("sequence") || len(q["sequence"]) > maxLetters:
		return l, fault.New(fault.Invalid, "say which dead letters: sequence=N, up to %d times, or all=true", maxLetters)
	}
	for _, text := range q["sequence"] {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return l, fault.New(fault.Invalid, "the sequence of a dead letter is a number, not %.40q", text)
		}
		l.Sequences = append(l.Sequences, n)
	}
	return l, nil
}

func (a *API) replayDeadLetters(w http.ResponseWriter, r *http.Request) error {
	return a.changeDeadLetters(w, r, "replayed", a.cfg.DeadLetters.ReplayLetters)
}

func (a *API) dropDeadLetters(w http.ResponseWriter, r *http.Request) error {
	return a.changeDeadLetters(w, r, "dropped", a.cfg.DeadLetters.DropLetters)
}

func (a *API) changeDeadLetters(w http.ResponseWriter, r *http.Request, what string, change func(context.Context, routing.Letters) (int, error)) error {
	l, err := chosen(r.PathValue("endpoint"), r.URL.Query())
	if err != nil {
		return err
	}
	n, err := change(r.Context(), l)
	if err != nil {
		return err
	}
	rest.Note(r.Context(), "endpoint", l.Endpoint, what, n)
	return writeJSON(w, http.StatusOK, map[string]int{"messages": n})
}

package api

import (
	"context"
	"io"
	"net/http"

	"github.com/vauban-iot/vauban/fault"
)

// RoutingStore keeps the hub's routing (hub/routing.Config) as JSON text.
type RoutingStore interface {
	// Routing returns the configuration in force.
	Routing(ctx context.Context) ([]byte, error)
	// PutRouting replaces it, when it is good as a whole; fault.Malformed, Invalid, TooLarge. It returns what is in force then.
	PutRouting(ctx context.Context, text []byte) ([]byte, error)
}

// maxRouting bounds what is read of a configuration; the store has a smaller bound with a better error.
const maxRouting = 1 << 20

func (a *API) routing(w http.ResponseWriter, r *http.Request) error {
	text, err := a.cfg.Routing.Routing(r.Context())
	if err != nil {
		return err
	}
	return writeRaw(w, text)
}

func (a *API) putRouting(w http.ResponseWriter, r *http.Request) error {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRouting))
	if err != nil {
		return fault.Wrap(fault.TooLarge, err, "a routing configuration may have %d bytes", maxRouting)
	}
	before, err := a.cfg.Routing.Routing(r.Context())
	if err != nil {
		return err
	}
	if text, err = a.cfg.Routing.PutRouting(r.Context(), text); err != nil {
		return err
	}
	a.routesChanged(r, before, text)
	return writeRaw(w, text)
}

func writeRaw(w http.ResponseWriter, text []byte) error {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Write(append(text, '\n')) // a peer that left is no error of ours
	return nil
}

package api

import (
	"net/http"
	"net/url"
	"strconv"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/iot"
)

const (
	defaultAlerts = 100
	maxAlerts     = 1000
)

func (a *API) alerts(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	f := alert.Filter{Device: query.Get("device")}
	if f.Device != "" {
		if err := iot.ValidateID("device", f.Device); err != nil {
			return err
		}
	}
	limit, err := number(query, "limit", defaultAlerts, maxAlerts)
	if err != nil {
		return err
	}
	f.Limit = int(limit)
	// The greatest value the stores can hold is also beyond every sequence.
	const maxSequence = 1<<63 - 1
	if f.Before, err = number(query, "before", 0, maxSequence); err != nil {
		return err
	}
	list, err := a.cfg.Alerts.Alerts(r.Context(), f)
	if err != nil {
		return err
	}
	if list == nil {
		list = []alert.Alert{}
	}
	return writeJSON(w, http.StatusOK, map[string][]alert.Alert{"alerts": list})
}

// number reads a query argument of 1 to largest.
func number(query url.Values, name string, absent, largest uint64) (uint64, error) {
	text := query.Get(name)
	if text == "" {
		return absent, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n < 1 || n > largest {
		return 0, fault.New(fault.Invalid, "%s must be a number from 1 to %d", name, largest)
	}
	return n, nil
}

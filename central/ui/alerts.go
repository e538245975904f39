package ui

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/vauban-iot/vauban/defender/alert"
)

const alertsPerPage = 100

func alertFilter(device string) alert.Filter {
	return alert.Filter{Device: device, Limit: alertsOfDevice}
}

// alertsBody is the page of alerts.
type alertsBody struct {
	Older  string // where the page of older alerts is; empty: there is none
	Newest bool   // this page is the first one
	screen
}

func alertsScreen(list []alert.Alert) screen {
	return screen{
		Regions: map[string]part{"alert-note": newPart("", len(list))},
		List:    "alert-row", Rows: alertRows(list, true),
	}
}

func (c *Console) alertsPage(w http.ResponseWriter, r *http.Request, _ *session) error {
	// Pages of older alerts stand still, and so have no stream.
	before, err := strconv.ParseUint(r.URL.Query().Get("before"), 10, 63)
	newest := err != nil || before == 0
	f := frame{Title: "Alerts", Section: "alerts"}
	var list []alert.Alert
	if newest {
		f.Stream = alertsPath + "/stream"
		list, err = c.recent.get(r.Context())
	} else {
		list, err = c.cfg.Alerts.Alerts(r.Context(), alert.Filter{Before: before, Limit: alertsPerPage})
	}
	if err != nil {
		return err
	}
	body := alertsBody{Newest: newest, screen: alertsScreen(list)}
	if len(list) == alertsPerPage {
		body.Older = alertsPath + "?" + url.Values{"before": {strconv.FormatUint(list[len(list)-1].Sequence, 10)}}.Encode()
	}
	c.render(w, r, http.StatusOK, "alerts", f, body)
	return nil
}

func (c *Console) alertsStream(w http.ResponseWriter, r *http.Request, s *session) error {
	return c.serve(w, r, s, func(ctx context.Context) (screen, error) {
		list, err := c.recent.get(ctx)
		return alertsScreen(list), err
	}, nil)
}

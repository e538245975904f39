package api

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/access"
)

// switches are kept in memory.
type switches struct {
	refused access.Refused
	err     error
}

func (s *switches) Refused(context.Context) (access.Refused, error) { return s.refused, s.err }

func (s *switches) PutRefused(_ context.Context, r access.Refused) error {
	if s.err == nil {
		s.refused = r
	}
	return s.err
}

func TestAuthentication(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const off = `{"disableLocalAuth":false,"disableDeviceSAS":false,"disableModuleSAS":false}`
	for _, c := range []struct {
		method, body string
		status       int
		want         string
	}{
		{"GET", "", 200, off},
		{"PUT", `{"disableDeviceSAS":true,"disableLocalAuth":true}`, 200, `{"disableLocalAuth":true,"disableDeviceSAS":true,"disableModuleSAS":false}`},
		{"PUT", `{"disableDeviceSAS":`, 400, "disableLocalAuth"},
		{"PUT", `{"disableDeviceSAS":"yes"}`, 400, "disableLocalAuth"},
		{"PUT", strings.Repeat(" ", maxAuthentication+1), 413, "may have"},
		{"GET", "", 200, `"disableDeviceSAS":true`},
		{"PUT", `{}`, 200, off},
		{"GET", "", 200, off},
	} {
		rec := w.ask(t, c.method, "/api/authentication", c.body)
		if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.want) {
			t.Errorf("%s %.40q: %d %s, want %d with %s", c.method, c.body, rec.Code, rec.Body, c.status, c.want)
		}
	}
	if !strings.Contains(w.logged.String(), `audit=true who=operator what="PUT /api/authentication" target=authentication outcome=done status=200 policies=true devices=true modules=false`) {
		t.Error("no audit record was written")
	}
	w.switches.err = errors.New("disk")
	for _, method := range []string{"GET", "PUT"} {
		if rec := w.ask(t, method, "/api/authentication", "{}"); rec.Code != 500 {
			t.Errorf("%s on a broken store: %d", method, rec.Code)
		}
	}
}

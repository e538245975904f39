package api

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/fault"
)

// detectorStore has two detectors.
type detectorStore struct{ off map[string]bool }

func (s *detectorStore) Detectors(context.Context) ([]Detector, error) {
	return []Detector{{Name: "scan", Title: "Scans", Types: []string{"IoT_NetworkScan"}, Enabled: !s.off["scan"]}, {Name: "flood", Title: "Floods", Types: []string{"IoT_DenialOfService"}, Enabled: !s.off["flood"]}}, nil
}

func (s *detectorStore) SwitchDetector(_ context.Context, name string, enabled bool) error {
	if name != "scan" && name != "flood" {
		return fault.New(fault.NotFound, "there is no detector %q", name)
	}
	if s.off == nil {
		s.off = map[string]bool{}
	}
	s.off[name] = !enabled
	return nil
}

func TestDetectors(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, step := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{http.MethodGet, "/api/detectors", "", http.StatusOK, `{"name":"scan","title":"Scans","alertTypes":["IoT_NetworkScan"],"enabled":true}`},
		{http.MethodPut, "/api/detectors/scan", `{"enabled":false}`, http.StatusOK, `"enabled":false`},
		{http.MethodGet, "/api/detectors", "", http.StatusOK, `"alertTypes":["IoT_NetworkScan"],"enabled":false}`},
		{http.MethodPut, "/api/detectors/scan", `{}`, http.StatusBadRequest, `send {\"enabled\": true}`},
		{http.MethodPut, "/api/detectors/scan", `no`, http.StatusBadRequest, "send"},
		{http.MethodPut, "/api/detectors/none", `{"enabled":true}`, http.StatusNotFound, "there is no detector"},
		{http.MethodPut, "/api/detectors/scan", `{"enabled":true}`, http.StatusOK, `"enabled":true`},
	} {
		rec := w.ask(t, step.method, step.path, step.body)
		status, body := rec.Code, rec.Body.String()
		if status != step.status || !strings.Contains(body, step.want) {
			t.Errorf("%s %s %s: got %d %s, want %d with %s", step.method, step.path, step.body, status, body, step.status, step.want)
		}
	}
}

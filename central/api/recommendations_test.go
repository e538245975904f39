package api

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/fault"
)

// recommended is a RecommendationStore.
type recommended struct {
	list     []posture.Recommendation
	asked    posture.Filter
	of       posture.Whole
	totals   posture.Totals
	disabled posture.Disabled
	switched []string
}

func (s *recommended) Recommendations(_ context.Context, f posture.Filter) ([]posture.Recommendation, error) {
	s.asked = f
	return s.list, nil
}

func (s *recommended) Recommendation(_ context.Context, id string) (posture.Recommendation, error) {
	for _, r := range s.list {
		if r.ID == id {
			return r, nil
		}
	}
	return posture.Recommendation{}, fault.New(fault.NotFound, "recommendation %s does not exist", id)
}

func (s *recommended) Totals(_ context.Context, of posture.Whole) (posture.Totals, error) {
	s.of = of
	return s.totals, nil
}

func (s *recommended) Disabled(context.Context) (posture.Disabled, error) { return s.disabled, nil }

func (s *recommended) Enable(_ context.Context, enabled bool, _ time.Time, names ...string) (int, error) {
	s.switched = append(s.switched, fmt.Sprint(enabled, names))
	return 3, nil
}

func TestRecommendations(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var list struct{ Recommendations []posture.Recommendation }
	w.decode(t, 200, "GET", "/api/recommendations", "", &list)
	if list.Recommendations == nil || w.recommended.asked != (posture.Filter{Limit: 100}) {
		t.Errorf("%+v, asked %+v", list, w.recommended.asked)
	}
	w.recommended.list = []posture.Recommendation{{ID: "r1", Type: posture.OpenPorts, Device: "d", State: posture.Active}}
	w.decode(t, 200, "GET", "/api/recommendations?device=d&type=IoT_OpenPorts&state=Active&severity=Medium&group=plant&limit=7&before=9", "", &list)
	if want := (posture.Filter{Device: "d", Type: posture.OpenPorts, State: posture.Active, Severity: alert.Medium, Group: "plant", Limit: 7, Before: 9}); w.recommended.asked != want || len(list.Recommendations) != 1 {
		t.Errorf("%+v, asked %+v", list, w.recommended.asked)
	}
	w.decode(t, 200, "GET", "/api/recommendations?hub=true", "", nil)
	if !w.recommended.asked.Hub {
		t.Errorf("asked %+v", w.recommended.asked)
	}
	var one posture.Recommendation
	w.decode(t, 200, "GET", "/api/recommendations/r1", "", &one)
	if one.Type != posture.OpenPorts {
		t.Errorf("%+v", one)
	}

	w.recommended.disabled = posture.Disabled{posture.OpenPorts: true, posture.CISBenchmarks + "_x": true}
	w.recommended.totals = posture.Totals{Devices: 2, Unhealthy: 1, Lost: 12, Tallies: []posture.Tally{
		{Type: posture.Baseline, Severity: alert.Medium, Devices: 1, Weight: 12}, {Type: posture.IPFilterDenyAll, Severity: alert.Medium, HubTakes: 12},
	}}
	var kinds struct{ RecommendationTypes []posture.TypeState }
	w.decode(t, 200, "GET", "/api/recommendation-types", "", &kinds)
	seen := map[string]posture.TypeState{}
	for _, k := range kinds.RecommendationTypes {
		seen[k.Name] = k
	}
	if len(seen) != len(posture.Types())+1 || seen[posture.OpenPorts].Enabled || seen[posture.CISBenchmarks+"_x"].Enabled || !seen[posture.CISBenchmarks].Enabled || seen[posture.Baseline].Devices != 1 || seen[posture.Baseline].Hub || !seen[posture.IPFilterDenyAll].Hub {
		t.Errorf("types %+v", seen)
	}
	var s Switched
	w.decode(t, 200, "PUT", "/api/recommendation-types/IoT_OpenPorts", `{"enabled":false}`, &s)
	if s != (Switched{posture.OpenPorts, false, 3}) || w.recommended.switched[0] != "false [IoT_OpenPorts]" {
		t.Errorf("%+v, %q", s, w.recommended.switched)
	}
	w.decode(t, 200, "PUT", "/api/recommendation-types/IoT_CISBenchmarks_1.1", `{"enabled":true}`, &s)

	var score posture.Score
	w.decode(t, 200, "GET", "/api/security-score?group=plant", "", &score)
	if w.recommended.of != (posture.Whole{Group: "plant"}) || score.Score != 82 || score.Group != "plant" || len(score.Lines) != 2 || score.Lines[0].Takes != 12 || score.Lines[1].Takes != 6 {
		t.Errorf("%+v, asked %+v", score, w.recommended.of)
	}
	for _, c := range []struct {
		method, target, body string
		status               int
		code                 string
	}{
		{"GET", "/api/recommendations?device=a%20b", "", 400, "InvalidArgument"},
		{"GET", "/api/recommendations?group=a%00b", "", 400, "InvalidArgument"},
		{"GET", "/api/recommendations?state=active", "", 400, "InvalidArgument"},
		{"GET", "/api/recommendations?severity=high", "", 400, "InvalidArgument"},
		{"GET", "/api/recommendations?hub=yes", "", 400, "InvalidArgument"},
		{"GET", "/api/recommendations?hub=true&device=d", "", 400, "InvalidArgument"},
		{"GET", "/api/recommendations?limit=1001", "", 400, "InvalidArgument"},
		{"GET", "/api/recommendations?before=0", "", 400, "InvalidArgument"},
		{"GET", "/api/recommendations/nobody", "", 404, "NotFound"},
		{"PUT", "/api/recommendation-types/IoT_Nothing", `{"enabled":false}`, 404, "NotFound"},
		{"PUT", "/api/recommendation-types/IoT_CISBenchmarks_", `{"enabled":false}`, 404, "NotFound"},
		{"PUT", "/api/recommendation-types/IoT_OpenPorts", `{}`, 400, "InvalidArgument"},
		{"PUT", "/api/recommendation-types/IoT_OpenPorts", `{`, 400, "MalformedRequest"},
		{"GET", "/api/security-score?group=g&device=d", "", 400, "InvalidArgument"},
		{"GET", "/api/security-score?device=a%20b", "", 400, "InvalidArgument"},
		{"DELETE", "/api/recommendations/r1", "", 405, "MethodNotAllowed"},
	} {
		refused(t, w.ask(t, c.method, c.target, c.body), c.status, c.code)
	}
	if log := w.logged.String(); !strings.Contains(log, `what="PUT /api/recommendation-types/{name}"`) || !strings.Contains(log, "enabled=false") || !strings.Contains(log, "resolved=3") {
		t.Errorf("the audit lacks a change:\n%s", log)
	}
}

package security

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/defender/solution"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
)

const (
	vendor = "Vauban"
	// top is how many devices, alerts and recommendations an analytics model names (defender §7).
	top = 3
	// analyticsDays is how many days devicesMetrics go back.
	analyticsDays = 30
)

type severityMetrics struct {
	High   int64 `json:"high"`
	Medium int64 `json:"medium"`
	Low    int64 `json:"low"`
}

type dayMetrics struct {
	Date    string          `json:"date"`
	Metrics severityMetrics `json:"devicesMetrics"`
}

type alertedDevice struct {
	Device string `json:"deviceId"`
	Alerts int64  `json:"alertsCount"`
}

type deviceAlert struct {
	Title    string         `json:"alertDisplayName"`
	Severity alert.Severity `json:"reportedSeverity"`
	Alerts   int64          `json:"alertsCount"`
}

type deviceRecommendation struct {
	Title    string         `json:"recommendationDisplayName"`
	Severity alert.Severity `json:"reportedSeverity"`
	Devices  int            `json:"devicesCount"`
}

type analytics struct {
	Metrics         severityMetrics        `json:"metrics"`
	Unhealthy       int                    `json:"unhealthyDeviceCount"`
	Days            []dayMetrics           `json:"devicesMetrics"`
	Devices         []alertedDevice        `json:"topAlertedDevices"`
	Alerts          []deviceAlert          `json:"mostPrevalentDeviceAlerts"`
	Recommendations []deviceRecommendation `json:"mostPrevalentDeviceRecommendations"`
}

// analytics sums up what stands open now. The store counts.
func (h *Head) analytics(q *request) (resource, error) {
	if _, err := h.cfg.Solutions.Solution(q.Context(), q.solutionName()); err != nil {
		return resource{}, err
	}
	since := h.cfg.Now().UTC().AddDate(0, 0, 1-analyticsDays).Format(time.DateOnly)
	sums, err := h.cfg.Alerts.AlertAnalytics(q.Context(), since, top)
	if err != nil {
		return resource{}, err
	}
	totals, err := h.cfg.Posture.Totals(q.Context(), posture.Whole{})
	if err != nil {
		return resource{}, err
	}
	a := analytics{
		Metrics: severityMetrics(sums.Total), Unhealthy: totals.Unhealthy,
		Days: []dayMetrics{}, Devices: []alertedDevice{}, Alerts: []deviceAlert{}, Recommendations: []deviceRecommendation{},
	}
	for _, d := range sums.Days {
		a.Days = append(a.Days, dayMetrics{d.Day + "T00:00:00Z", severityMetrics(d.SeverityCount)})
	}
	for _, d := range sums.Devices {
		a.Devices = append(a.Devices, alertedDevice{d.Device, d.Count})
	}
	for _, t := range sums.Types {
		a.Alerts = append(a.Alerts, deviceAlert{alert.Lookup(t.Type).Title, t.Severity, t.Count})
	}
	for _, t := range byDevices(totals.Tallies) {
		if t.Devices > 0 && len(a.Recommendations) < top {
			a.Recommendations = append(a.Recommendations, deviceRecommendation{posture.Lookup(t.Type).Title, t.Severity, t.Devices})
		}
	}
	return resource{ID: q.id(models, "default"), Name: "default", Type: provider + "/iotSecuritySolutions/analyticsModels", Properties: a}, nil
}

// byDevices orders tallies: those of the most devices first.
func byDevices(all []posture.Tally) []posture.Tally {
	return slices.SortedStableFunc(slices.Values(all), func(a, b posture.Tally) int {
		return cmp.Or(cmp.Compare(b.Devices, a.Devices), strings.Compare(a.Type, b.Type))
	})
}

func (h *Head) models(q *request) error {
	r, err := h.analytics(q)
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, list{Value: []resource{r}})
}

func (h *Head) model(q *request) error {
	r, err := h.analytics(q)
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, r)
}

type topDevice struct {
	Device string    `json:"deviceId"`
	Alerts int64     `json:"alertsCount"`
	Last   time.Time `json:"lastOccurrence"`
}

type aggregatedAlert struct {
	Type         string         `json:"alertType"`
	Title        string         `json:"alertDisplayName"`
	Date         string         `json:"aggregatedDateUtc"`
	Vendor       string         `json:"vendorName"`
	Severity     alert.Severity `json:"reportedSeverity"`
	Remediation  string         `json:"remediationSteps"`
	Description  string         `json:"description"`
	Count        int64          `json:"count"`
	ResourceType string         `json:"effectedResourceType"`
	Source       string         `json:"systemSource"`
	Action       string         `json:"actionTaken"`
	Query        string         `json:"logAnalyticsQuery"`
	Devices      []topDevice    `json:"topDevicesList"`
}

func (h *Head) aggregateResource(q *request, s solution.Solution, a alert.Aggregate) resource {
	kind := alert.Lookup(a.Type)
	p := aggregatedAlert{
		Type: a.Type, Title: kind.Title, Date: a.Day, Vendor: vendor, Severity: a.Severity, Remediation: strings.Join(kind.Remediation, " "),
		Description: kind.Title + ".", Count: a.Count, ResourceType: "IoT Hub", Source: "IoT Hub", Action: "Detected", Devices: []topDevice{},
		Query: fmt.Sprintf("SecurityAlert | where tolower(ResourceId) == %s and AlertName == %s and TimeGenerated >= datetime(%s) and TimeGenerated < datetime(%s) + 1d",
			kusto(strings.ToLower(s.Hubs[0])), kusto(a.Type), a.Day, a.Day),
	}
	if len(kind.Techniques) > 0 {
		p.Description += " MITRE ATT&CK: " + strings.Join(kind.Tactics, ", ") + " (" + strings.Join(kind.Techniques, ", ") + ")."
	}
	if a.OfDevices {
		p.ResourceType, p.Source = "IoT Device", "Devices"
	}
	if a.Dismissed {
		p.Action = "Dismissed"
	}
	for _, d := range a.Devices {
		p.Devices = append(p.Devices, topDevice{d.Device, d.Count, d.Last})
	}
	name := a.Type + "/" + a.Day
	return resource{ID: q.id(aggregates, name), Name: name, Type: provider + "/iotSecuritySolutions/analyticsModels/aggregatedAlerts", Properties: p}
}

// kusto writes a text of the query language of logs.
func kusto(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\n", `\n`, "\r", `\r`).Replace(s) + "'"
}

func (h *Head) aggregates(q *request) error {
	s, err := h.cfg.Solutions.Solution(q.Context(), q.solutionName())
	if err != nil {
		return err
	}
	size, given, err := q.count("$top")
	if err != nil {
		return err
	}
	ask := size
	if !given {
		size, ask = pageSize, pageSize+1
	}
	var after alert.AggregateKey
	if t := q.option(skipToken); t != "" {
		if after, err = parseKey(t); err != nil {
			return err
		}
	}
	all, err := h.cfg.Alerts.Aggregates(q.Context(), after, ask)
	if err != nil {
		return err
	}
	answer, more := []resource{}, len(all) > size
	all = all[:min(size, len(all))]
	for _, a := range all {
		answer = append(answer, h.aggregateResource(q, s, a))
	}
	l := list{Value: answer}
	if more {
		last := all[len(all)-1]
		l.NextLink = q.next(last.Type + "/" + last.Day)
	}
	return q.reply(http.StatusOK, l)
}

// parseKey reads the name of an aggregate.
func parseKey(name string) (alert.AggregateKey, error) {
	kind, day, ok := strings.Cut(name, "/")
	t, err := time.Parse(time.DateOnly, day)
	if !ok || err != nil || t.Format(time.DateOnly) != day || kind == "" || len(kind) > 128 {
		return alert.AggregateKey{}, fault.New(fault.Invalid, "%.200q is not the name of an aggregated alert, which looks like IoT_TiConnection/2026-01-31", name)
	}
	return alert.AggregateKey{Day: day, Type: kind}, nil
}

// key is the aggregate that the path names. One whose name is none is not there.
func (q *request) key() (alert.AggregateKey, error) {
	k, err := parseKey(q.args["alertType"] + "/" + q.args["date"])
	if err != nil {
		err = fault.Wrap(fault.NotFound, err, "%s", fault.Public(err))
	}
	return k, err
}

func (h *Head) aggregate(q *request) error {
	s, err := h.cfg.Solutions.Solution(q.Context(), q.solutionName())
	if err != nil {
		return err
	}
	k, err := q.key()
	if err != nil {
		return err
	}
	a, err := h.cfg.Alerts.Aggregate(q.Context(), k)
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, h.aggregateResource(q, s, a))
}

// dismiss is for good: what is seen of the type on the day is dismissed, whenever it comes to be known.
func (h *Head) dismiss(q *request) error {
	if _, err := h.cfg.Solutions.Solution(q.Context(), q.solutionName()); err != nil {
		return err
	}
	k, err := q.key()
	if err != nil {
		return err
	}
	n, err := h.cfg.Alerts.DismissAggregate(q.Context(), k, alert.Verdict{Status: alert.Dismissed, By: q.who, Time: h.cfg.Now()})
	if err != nil {
		return err
	}
	rest.Note(q.Context(), "type", k.Type, "day", k.Day, "alerts", n)
	q.w.WriteHeader(http.StatusOK)
	return nil
}

type aggregatedRecommendation struct {
	Name        string         `json:"recommendationName"`
	Title       string         `json:"recommendationDisplayName"`
	Description string         `json:"description"`
	TypeID      string         `json:"recommendationTypeId"`
	DetectedBy  string         `json:"detectedBy"`
	Remediation string         `json:"remediationSteps"`
	Severity    alert.Severity `json:"reportedSeverity"`
	Healthy     int            `json:"healthyDevices"`
	Unhealthy   int            `json:"unhealthyDeviceCount"`
	Query       string         `json:"logAnalyticsQuery"`
}

func (h *Head) recommendationResource(q *request, s solution.Solution, t posture.Tally, devices int) resource {
	kind := posture.Lookup(t.Type)
	return resource{
		ID: q.id(counted, t.Type), Name: t.Type, Type: provider + "/iotSecuritySolutions/analyticsModels/aggregatedRecommendations",
		Properties: aggregatedRecommendation{
			Name: t.Type, Title: kind.Title, Description: kind.Description, TypeID: kind.ID, DetectedBy: vendor,
			Remediation: strings.Join(kind.Remediation, " "), Severity: t.Severity, Healthy: devices - t.Devices, Unhealthy: t.Devices,
			Query: fmt.Sprintf("SecurityRecommendation | where tolower(AssessedResourceId) == %s and RecommendationName == %s", kusto(strings.ToLower(s.Hubs[0])), kusto(t.Type)),
		},
	}
}

func (h *Head) recommendations(q *request) error {
	s, totals, err := h.totals(q)
	if err != nil {
		return err
	}
	size, given, err := q.count("$top")
	if err != nil {
		return err
	}
	tallies := byDevices(totals.Tallies)
	if given {
		tallies = tallies[:min(size, len(tallies))]
	}
	all := []resource{}
	for _, t := range tallies {
		all = append(all, h.recommendationResource(q, s, t, totals.Devices))
	}
	return q.reply(http.StatusOK, list{Value: all})
}

func (h *Head) totals(q *request) (s solution.Solution, t posture.Totals, err error) {
	if s, err = h.cfg.Solutions.Solution(q.Context(), q.solutionName()); err != nil {
		return s, t, err
	}
	t, err = h.cfg.Posture.Totals(q.Context(), posture.Whole{})
	return s, t, err
}

func (h *Head) recommendation(q *request) error {
	s, totals, err := h.totals(q)
	if err != nil {
		return err
	}
	for _, t := range totals.Tallies {
		if strings.EqualFold(t.Type, q.args["recommendation"]) {
			return q.reply(http.StatusOK, h.recommendationResource(q, s, t, totals.Devices))
		}
	}
	return fault.New(fault.NotFound, "nothing recommends %q at the moment", q.args["recommendation"])
}

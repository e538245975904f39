// Package service is the head for programs that manage a hub: the service REST
// API as azure-iothub, IoT explorer, the CLI and the other service SDKs call it (hub-service).
package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/hub/fleet"
	"github.com/vauban-iot/vauban/hub/meter"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/throttle"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
)

// Core is the hub as this head needs it.
type Core interface {
	Device(ctx context.Context, id iot.ID) (registry.Identity, error)
	Devices(ctx context.Context, top int) ([]registry.Identity, error)
	Statistics(ctx context.Context) (registry.Statistics, error)
	CreateDevice(ctx context.Context, d registry.Identity) (registry.Identity, error)
	UpdateDevice(ctx context.Context, id iot.ID, match *iot.Match, c registry.Change) (registry.Identity, error)
	DeleteDevice(ctx context.Context, id iot.ID, match *iot.Match) error
	Twin(ctx context.Context, id iot.ID) (registry.Identity, twin.Twin, error)
	PatchTwin(ctx context.Context, id iot.ID, match *iot.Match, p twin.Patch) (registry.Identity, twin.Twin, error)
	ReplaceTwin(ctx context.Context, id iot.ID, match *iot.Match, p twin.Patch) (registry.Identity, twin.Twin, error)
	Invoke(ctx context.Context, id iot.ID, m command.Method) (command.Result, error)
	Send(ctx context.Context, m iot.Mail) (string, error)
	Bulk(ctx context.Context, rows []registry.Entry) []error
	Query(ctx context.Context, text string, size int, token string) (fleet.Page, error)
	digitalTwins
	modules
	jobs
	transfers
	configurations
	keys
	notices
}

// Authorizer checks the Authorization header of a request.
type Authorizer interface {
	Authorize(token string, need access.Right, path ...string) error
}

// Head serves the API. It is an http.Handler for the paths that Owns names.
type Head struct {
	core  Core
	guard Authorizer
	log   *slog.Logger
	admit access.Gate       // nil: everybody
	limit *throttle.Limiter // nil: nothing is limited
	meter *meter.Meter      // nil: nothing is counted
}

// New returns a head. log may be nil.
func New(core Core, guard Authorizer, log *slog.Logger) *Head {
	if log == nil {
		log = slog.Default()
	}
	return &Head{core: core, guard: guard, log: log}
}

// Admit makes the head refuse callers by where they come from. It must be called before the head serves.
func (h *Head) Admit(gate access.Gate) { h.admit = gate }

// Limit makes the head throttle requests. It must be called before the head serves.
func (h *Head) Limit(l *throttle.Limiter) { h.limit = l }

// Meter makes the head count requests about jobs and configurations. It must be called before the head serves.
func (h *Head) Meter(m *meter.Meter) { h.meter = m }

// Owns reports whether the path belongs to this API.
func Owns(segments []string) bool {
	if len(segments) == 0 {
		return false
	}
	switch strings.ToLower(segments[0]) {
	case "devices", "twins", "digitaltwins", "jobs", "configurations", "messages", "statistics":
		return true
	}
	return false
}

// Body limits.
const (
	maxIdentity = 64 << 10
	maxBulk     = 4 << 20
	maxTwin     = 256 << 10
	maxMethod   = 256 << 10
	maxMail     = 64 << 10
)

type request struct {
	*http.Request
	w        http.ResponseWriter
	segments []string
	body     []byte
}

// id is the identity that the path is about: a device, or a module of one. It is empty when the path is about none.
func (q *request) id() iot.ID {
	if len(q.segments) < 2 {
		return iot.ID{}
	}
	id := iot.ID{Device: q.segments[1]}
	if len(q.segments) > 3 && strings.EqualFold(q.segments[2], "modules") {
		id.Module = q.segments[3]
	}
	return id
}

func (q *request) match() *iot.Match { return iot.ParseMatch(q.Header.Get("If-Match")) }

// route is one row of the API. Its rights are those of hub-service §1.1: any one suffices.
type route struct {
	method string
	path   []string
	rights access.Right
	limit  int64 // of the body
	serve  func(*Head, *request) error
	formB  bool // errors as JSON inside the message (hub-service §2.9)
	reads  bool // changes nothing, although it is no GET
}

// changes reports whether requests of this route belong into the audit.
func (rt *route) changes() bool { return rt.method != http.MethodGet && !rt.reads }

const twinRights = access.ServiceConnect | access.RegistryRead
const twinWriteRights = access.ServiceConnect | access.RegistryWrite

var routes = slices.Concat(digitalTwinRoutes, moduleRoutes, jobRoutes, transferRoutes, configurationRoutes, keyRoutes, noticeRoutes, []route{
	{method: "GET", path: []string{"devices"}, rights: access.RegistryRead, serve: (*Head).list},
	{method: "POST", path: []string{"devices"}, rights: access.RegistryWrite, limit: maxBulk, serve: (*Head).bulk},
	{method: "POST", path: []string{"devices", "query"}, rights: twinRights, limit: maxQuery, serve: (*Head).query, reads: true},
	{method: "PUT", path: []string{"devices", "*"}, rights: access.RegistryWrite, limit: maxIdentity, serve: (*Head).put},
	{method: "GET", path: []string{"devices", "*"}, rights: access.RegistryRead, serve: (*Head).get},
	{method: "DELETE", path: []string{"devices", "*"}, rights: access.RegistryWrite, serve: (*Head).remove},
	{method: "POST", path: []string{"devices", "*", "messages", "deviceBound"}, rights: access.ServiceConnect, limit: maxMail + 1, serve: (*Head).send},
	{method: "GET", path: []string{"statistics", "devices"}, rights: access.RegistryRead, serve: (*Head).deviceStatistics},
	{method: "GET", path: []string{"statistics", "service"}, rights: access.RegistryRead, serve: (*Head).serviceStatistics},
	{method: "GET", path: []string{"twins", "*"}, rights: twinRights, serve: (*Head).getTwin},
	{method: "PATCH", path: []string{"twins", "*"}, rights: twinWriteRights, limit: maxTwin, serve: (*Head).patchTwin},
	{method: "PUT", path: []string{"twins", "*"}, rights: twinWriteRights, limit: maxTwin, serve: (*Head).replaceTwin},
	{method: "POST", path: []string{"twins", "*", "methods"}, rights: access.ServiceConnect, limit: maxMethod, serve: (*Head).invoke, formB: true},
	{method: "GET", path: []string{"twins", "*", "modules", "*"}, rights: twinRights, serve: (*Head).getTwin},
	{method: "PATCH", path: []string{"twins", "*", "modules", "*"}, rights: twinWriteRights, limit: maxTwin, serve: (*Head).patchTwin},
	{method: "PUT", path: []string{"twins", "*", "modules", "*"}, rights: twinWriteRights, limit: maxTwin, serve: (*Head).replaceTwin},
	{method: "POST", path: []string{"twins", "*", "modules", "*", "methods"}, rights: access.ServiceConnect, limit: maxMethod, serve: (*Head).invoke, formB: true},
})

// ServeHTTP implements http.Handler.
func (h *Head) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := &request{Request: r, w: w, segments: rest.Segments(r)}
	rt, err := find(r.Method, q.segments)
	if h.admit != nil {
		if _, refused := h.admit(r.RemoteAddr); refused != nil {
			err, rt = refused, route{}
		}
	}
	if err == nil && rt.changes() {
		defer h.audit(q, &rt, &err)()
	}
	if err == nil {
		err = h.guard.Authorize(r.Header.Get("Authorization"), rt.rights, q.segments...)
	}
	if literal := rest.Literal(r); err == nil && literal != nil && h.means(r.Context(), q.segments, literal) {
		q.segments = literal
		err = h.guard.Authorize(r.Header.Get("Authorization"), rt.rights, q.segments...)
	}
	if err == nil && rt.limit > 0 {
		q.body, err = rest.Body(w, r, rt.limit)
	}
	if err == nil {
		err = h.take(q, &rt)
	}
	if err == nil {
		err = rt.serve(h, q)
	}
	h.count(&rt, err)
	if err != nil {
		h.refuse(q, err, rt.formB)
	}
}

// audit makes the record of a request that should change something; what it returns writes it when the request is over,
// also when it panics.
func (h *Head) audit(q *request, rt *route, err *error) func() {
	rec := &rest.Recorder{ResponseWriter: q.w}
	q.w = rec
	ctx, details := rest.Detailed(q.Context())
	q.Request = q.WithContext(ctx)
	return func() {
		code := ""
		if *err != nil && len(rec.Header()["iothub-errorcode"]) > 0 { // spelled so: Get would not find it
			code = rec.Header()["iothub-errorcode"][0]
		}
		rest.Audit(q.Context(), h.log, rest.Change{
			Who: rest.Policy(q.Request), What: rest.Operation(rt.method, rt.path), Target: strings.Join(q.segments, "/"),
			Status: rec.Status, Code: code, Err: *err, Remote: q.RemoteAddr, Details: *details,
		})
	}
}

// means reports whether a path is about a device only as it literally stands (hub-service §0.3).
func (h *Head) means(ctx context.Context, segments, literal []string) bool {
	if len(segments) < 2 || segments[1] == literal[1] {
		return false
	}
	if _, err := h.core.Device(ctx, iot.ID{Device: segments[1]}); err == nil {
		return false
	}
	_, err := h.core.Device(ctx, iot.ID{Device: literal[1]})
	return err == nil
}

// errNoRoute is answered with a code of its own: a client must not take it for an unknown device.
var errNoRoute = fault.New(fault.NotFound, "this path is not part of the service API")

func find(method string, segments []string) (route, error) {
	known := false
	for _, rt := range routes {
		if rest.Is(segments, rt.path...) {
			if rt.method == method {
				return rt, nil
			}
			known = true
		}
	}
	if known {
		return route{}, errMethodNotAllowed
	}
	return route{}, errNoRoute
}

func (h *Head) list(q *request) error {
	top := 0
	if s := q.URL.Query().Get("top"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 1000 {
			return fault.New(fault.Invalid, "top must be 1 to 1000")
		}
		top = n
	}
	ds, err := h.core.Devices(q.Context(), top)
	if err != nil {
		return err
	}
	writeIdentities(q, ds)
	return nil
}

func (h *Head) get(q *request) error {
	d, err := h.core.Device(q.Context(), q.id())
	if err != nil {
		return err
	}
	rest.JSON(q.w, http.StatusOK, string(d.ETag), d.MarshalDocument())
	return nil
}

func (h *Head) put(q *request) error {
	id := q.id()
	c, err := registry.ParseIdentity(q.body)
	if err != nil {
		return err
	}
	if c.DeviceID != "" && c.DeviceID != id.Device {
		return fault.New(fault.Invalid, "the body's deviceId is not the one in the path")
	}
	if c.ModuleID != "" && c.ModuleID != id.Module {
		return fault.New(fault.Invalid, "the body's moduleId is not the one in the path")
	}
	status := http.StatusOK
	var d registry.Identity
	if m := q.match(); m != nil {
		d, err = h.core.UpdateDevice(q.Context(), id, m, c)
	} else {
		d, err = h.core.CreateDevice(q.Context(), c.New(id))
		if id.Module != "" {
			status = http.StatusCreated // of modules only (hub-service §2.1)
		}
	}
	if err != nil {
		return err
	}
	rest.JSON(q.w, status, string(d.ETag), d.MarshalDocument())
	return nil
}

func (h *Head) remove(q *request) error {
	if err := h.core.DeleteDevice(q.Context(), q.id(), q.match()); err != nil {
		return err
	}
	q.w.WriteHeader(http.StatusNoContent)
	return nil
}

// bulkError is one failed row (hub-service §2.7).
type bulkError struct {
	DeviceID string `json:"deviceId"`
	ModuleID string `json:"moduleId,omitempty"`
	Code     string `json:"errorCode"`
	Status   string `json:"errorStatus"`
}

func (h *Head) bulk(q *request) error {
	rows, err := registry.ParseBulk(q.body)
	if err != nil {
		return err
	}
	if err := h.takeMore(q, throttle.Registry, len(rows)-1); err != nil {
		return err
	}
	failed := []bulkError{} // clients count its elements
	changed := make([]string, len(rows))
	for i, err := range h.core.Bulk(q.Context(), rows) {
		changed[i] = string(rows[i].Mode) + " " + rows[i].ID.String()
		if err == nil {
			continue
		}
		c := codeOf(fault.KindOf(err))
		if m, ok := h.moduleCode(q.Context(), rows[i].ID, err); ok {
			c = m
		}
		changed[i] += ": " + c.name
		failed = append(failed, bulkError{rows[i].ID.Device, rows[i].ID.Module, c.name, fault.Public(err)})
		h.log.Log(q.Context(), levelOf(err), "row of a bulk operation refused", "head", "service", "device", rows[i].ID.Device, "module", rows[i].ID.Module,
			"mode", rows[i].Mode, "code", c.name, "remote", q.RemoteAddr, "err", err)
	}
	rest.Note(q.Context(), "rows", changed)
	status := http.StatusOK
	if len(failed) > 0 {
		status = http.StatusBadRequest
		q.w.Header()["iothub-errorcode"] = []string{"BulkRegistryOperationFailure"}
	}
	return writeJSON(q.w, status, struct {
		Successful bool        `json:"isSuccessful"`
		Errors     []bulkError `json:"errors"`
		Warnings   []struct{}  `json:"warnings"`
	}{len(failed) == 0, failed, []struct{}{}})
}

func (h *Head) deviceStatistics(q *request) error {
	s, err := h.core.Statistics(q.Context())
	if err != nil {
		return err
	}
	return writeJSON(q.w, http.StatusOK, struct {
		Total    int `json:"totalDeviceCount"`
		Enabled  int `json:"enabledDeviceCount"`
		Disabled int `json:"disabledDeviceCount"`
	}{s.Total, s.Enabled, s.Disabled})
}

func (h *Head) serviceStatistics(q *request) error {
	s, err := h.core.Statistics(q.Context())
	if err != nil {
		return err
	}
	return writeJSON(q.w, http.StatusOK, struct {
		Connected int `json:"connectedDeviceCount"`
	}{s.Connected})
}

func (h *Head) getTwin(q *request) error {
	d, t, err := h.core.Twin(q.Context(), q.id())
	return writeTwin(q, d, t, err)
}

func (h *Head) patchTwin(q *request) error {
	p, err := twin.ParsePatch(q.body)
	if err != nil {
		return err
	}
	d, t, err := h.core.PatchTwin(q.Context(), q.id(), q.match(), p)
	return writeTwin(q, d, t, err)
}

func (h *Head) replaceTwin(q *request) error {
	p, err := twin.ParsePatch(q.body)
	if err != nil {
		return err
	}
	d, t, err := h.core.ReplaceTwin(q.Context(), q.id(), q.match(), p)
	return writeTwin(q, d, t, err)
}

func writeTwin(q *request, d registry.Identity, t twin.Twin, err error) error {
	if err != nil {
		return err
	}
	rest.JSON(q.w, http.StatusOK, string(t.ETag()), registry.TwinDocument(d, t))
	return nil
}

// methodRequest is the body of hub-service §5.1.
type methodRequest struct {
	MethodName string          `json:"methodName"`
	Payload    json.RawMessage `json:"payload"`
	Response   *float64        `json:"responseTimeoutInSeconds"`
	Connect    *float64        `json:"connectTimeoutInSeconds"`
}

// methodMargin is how much earlier we give up than the caller's socket does.
const methodMargin = 500 * time.Millisecond

func (h *Head) invoke(q *request) error {
	var body methodRequest
	if err := json.Unmarshal(q.body, &body); err != nil {
		return fault.Wrap(fault.Malformed, err, "the body is not a method request")
	}
	m := command.Method{Name: body.MethodName, Payload: body.Payload, ResponseTimeout: 30 * time.Second}
	if string(m.Payload) == "null" {
		m.Payload = nil
	}
	if body.Response != nil {
		m.ResponseTimeout = seconds(*body.Response)
	}
	if body.Connect != nil {
		m.ConnectTimeout = seconds(*body.Connect)
	}
	if m.ConnectTimeout == 0 {
		// With no connect time in its sum, Node's socket would close at the very moment of our answer.
		m.Margin = methodMargin
	}
	res, err := h.core.Invoke(q.Context(), q.id(), m)
	if err != nil {
		return err
	}
	return writeJSON(q.w, http.StatusOK, struct {
		Status  int             `json:"status"`
		Payload json.RawMessage `json:"payload"`
	}{res.Status, res.Payload})
}

// seconds converts without overflow; what is out of range stays out of range.
func seconds(s float64) time.Duration {
	if s > 1e6 || s < -1e6 {
		s = 1e6
	}
	return time.Duration(s * float64(time.Second))
}

// send queues a cloud-to-device message (hub-service §6.6): system properties and
// iothub-app-* arrive as headers.
func (h *Head) send(q *request) error {
	if len(q.body) > maxMail {
		return fault.New(fault.TooLarge, "the message is over %d bytes", maxMail)
	}
	m := iot.Mail{To: q.id(), Body: q.body}
	for name, values := range q.Header {
		value := values[0]
		lower := strings.ToLower(name)
		switch lower {
		case "iothub-messageid":
			m.MessageID = value
		case "iothub-ack":
			m.Ack = strings.ToLower(value)
		case "iothub-expiry":
			t, err := time.Parse(time.RFC3339, value)
			if err != nil {
				return fault.New(fault.Invalid, "iothub-expiry is not an RFC 3339 time")
			}
			m.Expires = t
		case "iothub-correlationid":
			m.System = append(m.System, bag.Property{Name: "correlation-id", Value: value})
		case "iothub-userid":
			m.System = append(m.System, bag.Property{Name: "user-id", Value: value})
		case "contenttype", "iothub-contenttype":
			m.System = append(m.System, bag.Property{Name: "content-type", Value: value})
		case "contentencoding", "iothub-contentencoding":
			m.System = append(m.System, bag.Property{Name: "content-encoding", Value: value})
		default:
			if app, ok := strings.CutPrefix(lower, "iothub-app-"); ok {
				m.Properties = append(m.Properties, bag.Property{Name: app, Value: value})
			}
		}
	}
	if _, err := h.core.Send(q.Context(), m); err != nil {
		return err
	}
	q.w.WriteHeader(http.StatusNoContent)
	return nil
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // what a device answered stays as it is
	if err := e.Encode(v); err != nil {
		return fault.Wrap(fault.BadDeviceResponse, err, "the answer cannot be rendered")
	}
	rest.JSON(w, status, "", bytes.TrimSuffix(b.Bytes(), []byte("\n")))
	return nil
}

// errMethodNotAllowed is answered with 405, which no kind stands for.
var errMethodNotAllowed = errors.New("method not allowed")

// Package routing decides which messages and events go where: routes with conditions over a message and its
// sender's twin, a fallback, and enrichments (hub-service §7). It delivers nothing; a [Runner] reads the
// log for one endpoint and hands what is meant for it to a [Sink].
package routing

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/query"
	"github.com/vauban-iot/vauban/iot"
)

// Limits of one configuration (hub-service §10, and ours for endpoints).
const (
	maxRoutes      = 100
	maxEndpoints   = 20
	maxEnrichments = 10
	maxConfig      = 256 << 10
)

// Events is the built-in endpoint: the telemetry log itself.
const Events = "events"

// DeviceMessages is the source of what devices send. Names of sources match in any case.
const DeviceMessages = "DeviceMessages"

// sources are what routes may take, by the names of routes in lower case. Those of events are the names that events
// bear (hub-service §7.1, §7.4).
var sources = map[string]iot.MessageSource{
	"devicemessages":                                   iot.Telemetry,
	strings.ToLower(string(iot.TwinChange)):            iot.TwinChange,
	strings.ToLower(string(iot.DeviceLifecycle)):       iot.DeviceLifecycle,
	strings.ToLower(string(iot.DeviceConnectionState)): iot.DeviceConnectionState,
	strings.ToLower(string(iot.DeviceJobLifecycle)):    iot.DeviceJobLifecycle,
	strings.ToLower(string(iot.DigitalTwinChange)):     iot.DigitalTwinChange,
}

// Config is the routing of a hub, in the shape of Azure's resource document with one list of endpoints.
type Config struct {
	Endpoints   []Endpoint   `json:"endpoints"`
	Routes      []Route      `json:"routes"`
	Fallback    *Route       `json:"fallbackRoute,omitempty"` // nil: what matches no route goes to Events
	Enrichments []Enrichment `json:"enrichments"`
}

// Endpoint is a place outside. The fields beside name and type belong to the type.
type Endpoint struct {
	Name    string    `json:"name"`
	Type    string    `json:"type"`    // webhook, nats, kafka, storage
	Created time.Time `json:"created"` // set by the server: older messages are not sent

	URL     string `json:"url,omitempty"`     // webhook: https address; nats: nats:// address
	Header  string `json:"header,omitempty"`  // webhook: one more header, "Name: value"
	Subject string `json:"subject,omitempty"` // nats
	Brokers string `json:"brokers,omitempty"` // kafka: host:port, separated by commas
	Topic   string `json:"topic,omitempty"`   // kafka
	Folder  string `json:"folder,omitempty"`  // storage: below the blob folder
	// FileNameFormat of storage; empty: {iothub}/{YYYY}/{MM}/{DD}/{HH}/{mm}.
	FileNameFormat string `json:"fileNameFormat,omitempty"`
	Encoding       string `json:"encoding,omitempty"` // storage: JSON (also when empty), Avro or AvroDeflate
	// Of storage in Avro: a file is done after so many seconds (60 to 720; 0: 300) or bytes (10485760 to 524288000; 0: 314572800).
	BatchFrequency int   `json:"batchFrequencyInSeconds,omitempty"`
	MaxChunk       int64 `json:"maxChunkSizeInBytes,omitempty"`
}

// Route sends what meets a condition to endpoints.
type Route struct {
	Name      string   `json:"name"`
	Source    string   `json:"source"`    // DeviceMessages, or one of events: TwinChangeEvents, DeviceLifecycleEvents...
	Condition string   `json:"condition"` // empty: true
	Endpoints []string `json:"endpointNames"`
	Enabled   *bool    `json:"isEnabled"` // absent: true
}

func (r *Route) enabled() bool { return r.Enabled == nil || *r.Enabled }

// Enrichment adds an application property to what goes to some endpoints.
type Enrichment struct {
	Key       string   `json:"key"`
	Value     string   `json:"value"` // text, $iothubname, or $twin.tags.x, $twin.properties.desired.x, $twin.properties.reported.x
	Endpoints []string `json:"endpointNames"`
}

// Table is a configuration ready for use. It is safe for concurrent use.
type Table struct {
	Config
	hub         string
	conditions  []*query.Condition // of Routes
	sources     []iot.MessageSource
	enrichments []query.Path // of Enrichments; nil for those that are no twin path
	needTwin    bool
}

var (
	goodName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	goodKey  = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)
)

// Parse reads a configuration and checks it whole. hub is the hub's own name, for $iothubname. Failures are
// fault.Malformed and Invalid.
func Parse(hub string, text []byte) (*Table, error) {
	if len(text) > maxConfig {
		return nil, fault.New(fault.TooLarge, "a routing configuration of %d bytes; %d are allowed", len(text), maxConfig)
	}
	var c Config
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, fault.Wrap(fault.Malformed, err, "the routing configuration cannot be read: %v", err)
	}
	t := &Table{Config: c, hub: hub}
	return t, t.compile()
}

// Empty is the routing of a new hub: everything goes to Events.
func Empty(hub string) *Table { return &Table{hub: hub} }

func invalid(format string, args ...any) error { return fault.New(fault.Invalid, format, args...) }

func (t *Table) compile() error {
	switch {
	case len(t.Endpoints) > maxEndpoints:
		return invalid("%d endpoints; %d are allowed", len(t.Endpoints), maxEndpoints)
	case len(t.Routes) > maxRoutes:
		return invalid("%d routes; %d are allowed", len(t.Routes), maxRoutes)
	case len(t.Enrichments) > maxEnrichments:
		return invalid("%d enrichments; %d are allowed", len(t.Enrichments), maxEnrichments)
	}
	names := map[string]bool{Events: true}
	for i := range t.Endpoints {
		e := &t.Endpoints[i]
		if !goodName.MatchString(e.Name) {
			return invalid("endpoint %d: a name has 1 to 64 letters, digits, - and _, not %q", i+1, e.Name)
		}
		if names[e.Name] {
			return invalid("endpoint %q is named twice, or %q is meant, which is built in", e.Name, Events)
		}
		names[e.Name] = true
	}
	known := func(what string, endpoints []string) error {
		if len(endpoints) == 0 {
			return invalid("%s names no endpoint", what)
		}
		for _, e := range endpoints {
			if !names[e] {
				return invalid("%s names the endpoint %q, which does not exist", what, e)
			}
		}
		return nil
	}
	seen := map[string]bool{}
	for i := range t.Routes {
		r := &t.Routes[i]
		what := fmt.Sprintf("route %q", r.Name)
		if !goodName.MatchString(r.Name) || seen[r.Name] {
			return invalid("%s: a name has 1 to 64 letters, digits, - and _, and is given once", what)
		}
		seen[r.Name] = true
		source, ok := sources[strings.ToLower(r.Source)]
		if !ok {
			return invalid("%s: the source %q is not served; DeviceMessages, TwinChangeEvents, DeviceLifecycleEvents, DeviceConnectionStateEvents, "+
				"DeviceJobLifecycleEvents and DigitalTwinChangeEvents are", what, r.Source)
		}
		t.sources = append(t.sources, source)
		if err := known(what, r.Endpoints); err != nil {
			return err
		}
		text := r.Condition
		if strings.TrimSpace(text) == "" {
			text = "true"
		}
		cond, err := query.ParseMessageCondition(text)
		if err != nil {
			return fault.Wrap(fault.Invalid, err, "%s: %s", what, fault.Public(err))
		}
		t.conditions = append(t.conditions, cond)
		query.Paths(cond.Where, func(p query.Path) { t.needTwin = t.needTwin || isTwin(p) })
	}
	if f := t.Fallback; f != nil {
		if f.Source != "" && !strings.EqualFold(f.Source, DeviceMessages) {
			return invalid("the fallback route is for %s; events go where a route leads them", DeviceMessages)
		}
		if f.Condition != "" && f.Condition != "true" {
			return invalid("the fallback route takes whatever no route takes; it has no condition")
		}
		if err := known("the fallback route", f.Endpoints); f.enabled() && err != nil {
			return err
		}
	}
	for _, e := range t.Enrichments {
		what := fmt.Sprintf("enrichment %q", e.Key)
		if !goodKey.MatchString(e.Key) {
			return invalid("%s: a key has letters, digits, -, _ and .", what)
		}
		if err := known(what, e.Endpoints); err != nil {
			return err
		}
		var path query.Path
		if strings.HasPrefix(e.Value, "$twin.") {
			var err error
			if path, err = query.ParsePath(e.Value); err != nil {
				return fault.Wrap(fault.Invalid, err, "%s: %s", what, fault.Public(err))
			}
			t.needTwin = true
		}
		t.enrichments = append(t.enrichments, path)
	}
	return nil
}

func isTwin(p query.Path) bool { return len(p) > 0 && strings.EqualFold(p[0].Name, "$twin") }

// Sources are those that enabled routes take.
func (t *Table) Sources() []iot.MessageSource {
	var all []iot.MessageSource
	for i := range t.Routes {
		if t.Routes[i].enabled() && !slices.Contains(all, t.sources[i]) {
			all = append(all, t.sources[i])
		}
	}
	return all
}

// targets returns the endpoints of a message, each once.
func (t *Table) targets(m *document) []string {
	var to []string
	for i, c := range t.conditions {
		r := &t.Routes[i]
		if !r.enabled() || t.sources[i] != m.m.Source || !c.Matches(m) {
			continue
		}
		for _, e := range r.Endpoints {
			if !slices.Contains(to, e) {
				to = append(to, e)
			}
		}
	}
	if len(to) > 0 {
		return to
	}
	switch f := t.Fallback; {
	case m.m.Source != iot.Telemetry: // events go where they are led
	case f == nil:
		return []string{Events}
	case f.enabled():
		return f.Endpoints
	}
	return nil
}

// Package configuration gives many twins what a configuration says, as long as they meet its condition: automatic
// configurations of devices and modules, and deployments of edge devices with layers (hub-service §5.3 to §5.5).
//
// What was applied to a twin is remembered in the twin itself and written together with it, so an evaluation that is cut short,
// by a crash or another server's lead, is simply done again.
package configuration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/query"
	"github.com/vauban-iot/vauban/iot"
)

// Limits (hub-service §5.5).
const (
	MaxConfigurations = 100
	maxQueries        = 5
	maxModules        = 50 // of one deployment
	maxLabels         = 50
	maxPaths          = 1000
)

// Configuration is one automatic configuration or deployment.
type Configuration struct {
	ID            string            `json:"id"`
	Revision      int64             `json:"revision"` // grows with every update
	SchemaVersion string            `json:"schemaVersion"`
	ContentType   *string           `json:"contentType"`
	Labels        map[string]string `json:"labels"`
	Content       json.RawMessage   `json:"content"`
	Condition     string            `json:"targetCondition"`
	Priority      int64             `json:"priority"`
	Queries       map[string]string `json:"queries"` // of custom metrics
	Created       time.Time         `json:"created"`
	Updated       time.Time         `json:"updated"`

	Results Results `json:"-"` // of the last evaluation
}

// Results counts what the queries of a configuration find.
type Results struct {
	System map[string]int `json:"system"`
	Custom map[string]int `json:"custom"`
}

// ETag is that of the revision; the first is MQ==.
func (c Configuration) ETag() iot.ETag {
	return iot.ETag(base64.StdEncoding.EncodeToString(strconv.AppendInt(nil, c.Revision, 10)))
}

// Store keeps configurations. Every write is on disk when the call returns.
type Store interface {
	// CreateConfiguration adds one; fault.AlreadyExists, and fault.QueueFull when there are limit already.
	CreateConfiguration(ctx context.Context, c Configuration, limit int) error
	// Configuration returns one; fault.NotFound.
	Configuration(ctx context.Context, id string) (Configuration, error)
	// Configurations returns all, in order of ids.
	Configurations(ctx context.Context) ([]Configuration, error)
	// UpdateConfiguration reads, changes and writes in one transaction; fault.NotFound. change is as in twin.Store. Results stay.
	UpdateConfiguration(ctx context.Context, id string, change func(Configuration) (Configuration, error)) (Configuration, error)
	// DeleteConfiguration removes one when check returns nil; fault.NotFound.
	DeleteConfiguration(ctx context.Context, id string, check func(Configuration) error) error
	// SaveResults writes the results of one, if it exists.
	SaveResults(ctx context.Context, id string, r Results) error
}

// Errors of Service.Create and Update. They are fault.Invalid.
var (
	ErrCondition = fault.New(fault.Invalid, "the target condition is wrong")
	ErrImmutable = fault.New(fault.Invalid, "the content of a configuration cannot be changed")
)

// Change is a configuration as a program writes it. Nil members were absent.
type Change struct {
	ID            string
	SchemaVersion *string
	ContentType   *string
	Labels        map[string]string
	Content       json.RawMessage
	Condition     *string
	Priority      *int64
	Queries       map[string]string
}

// Parse reads the body of a configuration. Failures are fault.Malformed and Invalid.
func Parse(id string, body []byte) (Change, error) {
	var doc struct {
		ID            string            `json:"id"`
		SchemaVersion *string           `json:"schemaVersion"`
		ContentType   *string           `json:"contentType"`
		Labels        map[string]string `json:"labels"`
		Content       json.RawMessage   `json:"content"`
		Condition     *string           `json:"targetCondition"`
		Priority      *int64            `json:"priority"`
		Metrics       *struct {
			Queries map[string]string `json:"queries"`
		} `json:"metrics"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return Change{}, fault.Wrap(fault.Malformed, err, "the body is not a configuration")
	}
	if err := iot.ValidateID("id", id); err != nil {
		return Change{}, err
	}
	switch {
	case doc.ID != "" && doc.ID != id:
		return Change{}, fault.New(fault.Invalid, "the body's id is not the one in the path")
	case doc.Priority != nil && *doc.Priority < 0:
		return Change{}, fault.New(fault.Invalid, "priority must not be negative")
	case len(doc.Labels) > maxLabels:
		return Change{}, fault.New(fault.Invalid, "there are %d labels, %d are allowed", len(doc.Labels), maxLabels)
	}
	c := Change{ID: id, SchemaVersion: doc.SchemaVersion, ContentType: doc.ContentType, Labels: doc.Labels, Content: doc.Content, Condition: doc.Condition, Priority: doc.Priority}
	if doc.Metrics != nil {
		c.Queries = doc.Metrics.Queries
	}
	if string(c.Content) == "null" {
		c.Content = nil
	}
	if len(c.Queries) > maxQueries {
		return Change{}, fault.New(fault.Invalid, "there are %d custom metrics, %d are allowed", len(c.Queries), maxQueries)
	}
	for name, text := range c.Queries {
		if err := checkQuery(text); err != nil {
			return Change{}, fault.Wrap(fault.Invalid, err, "metric '%.80s': %s", name, fault.Public(err))
		}
	}
	return c, nil
}

func checkQuery(text string) error {
	q, err := query.Parse(text)
	if err == nil && q.From == query.Jobs {
		err = fault.New(fault.Invalid, "a metric is about devices or devices.modules")
	}
	return err
}

// merged is c with what ch says of it.
func (c Configuration) merged(ch Change) Configuration {
	if ch.SchemaVersion != nil {
		c.SchemaVersion = *ch.SchemaVersion
	}
	if ch.ContentType != nil {
		c.ContentType = ch.ContentType
	}
	if ch.Labels != nil {
		c.Labels = ch.Labels
	}
	if ch.Condition != nil {
		c.Condition = *ch.Condition
	}
	if ch.Priority != nil {
		c.Priority = *ch.Priority
	}
	if ch.Queries != nil {
		c.Queries = ch.Queries
	}
	return c
}

// target is the condition of c, which must be about the kind of twins that its content is for.
func (c Configuration) target(kind Kind) (*query.Condition, error) {
	cond, err := query.ParseCondition(c.Condition)
	if err != nil {
		return nil, err
	}
	switch {
	case cond.None, cond.From == query.Modules && kind == ForModules, cond.From == query.Devices && kind != ForModules:
		return cond, nil
	case kind == ForModules:
		if cond.Where == nil { // * alone
			cond.From = query.Modules
			return cond, nil
		}
		return nil, fault.New(fault.Invalid, "the target condition of module content begins with FROM devices.modules WHERE")
	}
	return nil, fault.New(fault.Invalid, "the target condition must be about devices")
}

// Queries of system metrics, in the words that programs know (hub-service §5.4).
func (c Configuration) systemQueries(kind Kind) map[string]string {
	applied := "configurations.[[" + c.ID + "]].status = 'Applied'"
	cond, err := query.ParseCondition(c.Condition)
	targeted := func(base, where string) string {
		switch {
		case err != nil || cond.None:
			return ""
		case cond.Where == nil:
			return base
		}
		text := strings.TrimSpace(c.Condition)
		if len(text) > 4 && strings.EqualFold(text[:4], "from") { // its FROM is ours already
			if at := strings.Index(strings.ToLower(text), "where"); at >= 0 {
				text = strings.TrimSpace(text[at+len("where"):])
			}
		}
		return base + where + text
	}
	switch kind {
	case ForModules:
		return map[string]string{
			"targetedCount": targeted("select deviceId from devices.modules", " where "),
			"appliedCount":  "select deviceId from devices.modules where " + applied,
		}
	case ForEdge:
		applied = "select deviceId from devices.modules where moduleId = '$edgeAgent' and " + applied
		reported := applied + " and properties.desired.$version = properties.reported.lastDesiredVersion and properties.reported.lastDesiredStatus.code "
		return map[string]string{
			"targetedCount":           targeted("select deviceId from devices where capabilities.iotEdge = true", " and "),
			"appliedCount":            applied,
			"reportedSuccessfulCount": reported + "= 200",
			"reportedFailedCount":     reported + "!= 200",
		}
	}
	return map[string]string{
		"targetedCount": targeted("select deviceId from devices", " where "),
		"appliedCount":  "select deviceId from devices where " + applied,
	}
}

type metrics struct {
	Results map[string]int    `json:"results"`
	Queries map[string]string `json:"queries"`
}

func metricsOf(queries map[string]string, results map[string]int) metrics {
	m := metrics{map[string]int{}, queries}
	if queries == nil {
		m.Queries = map[string]string{}
	}
	for name := range queries {
		if n, ok := results[name]; ok {
			m.Results[name] = n
		}
	}
	return m
}

// Document is the configuration as programs read it: every member is there (hub-service §5.3).
func (c Configuration) Document() json.RawMessage {
	kind, _ := KindOf(c.Content)
	var content map[string]json.RawMessage
	_ = json.Unmarshal(c.Content, &content) // it was read before
	for _, name := range []string{deviceContent, moduleContent, modulesContent} {
		if _, ok := content[name]; !ok && content != nil {
			content[name] = json.RawMessage("null")
		}
	}
	labels := c.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	return marshal(struct {
		ID            string                     `json:"id"`
		SchemaVersion string                     `json:"schemaVersion"`
		Labels        map[string]string          `json:"labels"`
		Content       map[string]json.RawMessage `json:"content"`
		ContentType   *string                    `json:"contentType"`
		Condition     string                     `json:"targetCondition"`
		Created       string                     `json:"createdTimeUtc"`
		Updated       string                     `json:"lastUpdatedTimeUtc"`
		Priority      int64                      `json:"priority"`
		System        metrics                    `json:"systemMetrics"`
		Custom        metrics                    `json:"metrics"`
		ETag          iot.ETag                   `json:"etag"`
	}{
		c.ID, c.SchemaVersion, labels, content, c.ContentType, c.Condition, iot.FormatTime(c.Created), iot.FormatTime(c.Updated), c.Priority,
		metricsOf(c.systemQueries(kind), c.Results.System), metricsOf(c.Queries, c.Results.Custom), c.ETag(),
	})
}

// TestQueries reports what is wrong with a condition and queries; empty texts: nothing.
func TestQueries(condition string, queries map[string]string) (conditionError string, queryErrors map[string]string) {
	if _, err := query.ParseCondition(condition); err != nil {
		conditionError = fault.Public(err)
	}
	queryErrors = map[string]string{}
	for name, text := range queries {
		if err := checkQuery(text); err != nil {
			queryErrors[name] = fault.Public(err)
		}
	}
	return conditionError, queryErrors
}

// tree is a JSON object. Numbers are kept as they were written.
type tree = map[string]any

func parse(text json.RawMessage) (any, error) {
	var v any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	err := d.Decode(&v)
	return v, err
}

func parseTree(text json.RawMessage) tree {
	v, err := parse(text)
	if t, ok := v.(tree); ok && err == nil {
		return t
	}
	return tree{}
}

func marshal(v any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // trees that were parsed, texts and numbers
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// Kind is what a configuration's content is for.
type Kind string

// The kinds.
const (
	ForDevices Kind = "device"
	ForModules Kind = "module"
	ForEdge    Kind = "edge"
)

// Members of a content, each for one kind.
const (
	deviceContent  = "deviceContent"
	moduleContent  = "moduleContent"
	modulesContent = "modulesContent"
)

const desiredKey = "properties.desired"

// setting gives one place of the desired properties a value.
type setting struct {
	path  []string // empty: all of them
	value any
}

// content is a configuration's content, read.
type content struct {
	kind    Kind
	digest  string
	twin    []setting            // ForDevices and ForModules
	modules map[string][]setting // ForEdge
}

// layered reports whether a deployment only adds to another one: it leaves the agent's settings as a whole to that.
func (c content) layered() bool {
	return !slices.ContainsFunc(c.modules[edgeAgent], func(s setting) bool { return len(s.path) == 0 })
}

// KindOf tells what a content is for; fault.Invalid when it cannot be read.
func KindOf(raw json.RawMessage) (Kind, error) {
	c, err := parseContent(raw)
	return c.kind, err
}

// parseContent reads a content, which has exactly one of its three members. Failures are fault.Invalid.
func parseContent(raw json.RawMessage) (content, error) {
	members := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &members); err != nil {
		return content{}, fault.New(fault.Invalid, "content must be a JSON object")
	}
	maps.DeleteFunc(members, func(_ string, v json.RawMessage) bool { return string(v) == "null" })
	if len(members) != 1 {
		return content{}, fault.New(fault.Invalid, "content has %d members, it must have one of deviceContent, moduleContent and modulesContent", len(members))
	}
	var compact bytes.Buffer
	_ = json.Compact(&compact, raw) // it parsed
	sum := sha256.Sum256(compact.Bytes())
	c := content{digest: hex.EncodeToString(sum[:8])}
	for name, text := range members {
		v, _ := parse(text)
		t, ok := v.(tree)
		if !ok {
			return content{}, fault.New(fault.Invalid, "%s must be a JSON object", name)
		}
		var err error
		switch name {
		case deviceContent, moduleContent:
			if c.kind = ForDevices; name == moduleContent {
				c.kind = ForModules
			}
			c.twin, err = parseSettings(name, t)
			c.twin = spread(c.twin)
		case modulesContent:
			c.kind = ForEdge
			c.modules = map[string][]setting{}
			if len(t) == 0 || len(t) > maxModules {
				return content{}, fault.New(fault.Invalid, "%s has %d modules, 1 to %d are allowed", name, len(t), maxModules)
			}
			for module, m := range t {
				if err := iot.ValidateID("module", module); err != nil {
					return content{}, err
				}
				members, ok := m.(tree)
				if !ok {
					return content{}, fault.New(fault.Invalid, "module %s must be a JSON object", module)
				}
				if c.modules[module], err = parseSettings("module "+module, members); err != nil {
					return content{}, err
				}
			}
		default:
			err = fault.New(fault.Invalid, "content has a member %.80q, it must be deviceContent, moduleContent or modulesContent", name)
		}
		if err != nil {
			return content{}, err
		}
	}
	return c, nil
}

// parseSettings reads keys that lead into desired properties. The shorter ones come first: they would undo longer ones.
func parseSettings(where string, members tree) ([]setting, error) {
	if len(members) > maxPaths {
		return nil, fault.New(fault.Invalid, "%s has %d members, %d are allowed", where, len(members), maxPaths)
	}
	var all []setting
	for key, v := range members {
		s := setting{value: v}
		rest, ok := strings.CutPrefix(key, desiredKey)
		switch {
		case ok && rest == "":
			if _, ok := v.(tree); !ok {
				return nil, fault.New(fault.Invalid, "%s: %s must be a JSON object", where, desiredKey)
			}
		case ok && rest[0] == '.' && len(rest) > 1:
			s.path = strings.Split(rest[1:], ".")
			if slices.Contains(s.path, "") || v == nil {
				return nil, fault.New(fault.Invalid, "%s: %.80q has an empty name or a null value", where, key)
			}
		default:
			return nil, fault.New(fault.Invalid, "%s: %.80q does not begin with %s", where, key, desiredKey)
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b setting) int { return slices.Compare(a.path, b.path) })
	return all, nil
}

// spread makes of a whole one setting for each of its members: what else stands in the twin is not ours.
func spread(all []setting) []setting {
	var out []setting
	for _, s := range all {
		if len(s.path) > 0 {
			out = append(out, s)
			continue
		}
		whole := s.value.(tree)
		for _, name := range slices.Sorted(maps.Keys(whole)) {
			out = append(out, setting{[]string{name}, whole[name]})
		}
	}
	return out
}

// set writes v at a path of t, through whatever stands in its way.
func set(t tree, path []string, v any) {
	for _, name := range path[:len(path)-1] {
		next, ok := t[name].(tree)
		if !ok {
			next = tree{}
			t[name] = next
		}
		t = next
	}
	t[path[len(path)-1]] = v
}

// unset removes what stands at a path of t, and objects that are empty without it.
func unset(t tree, path []string) {
	if len(path) == 1 {
		delete(t, path[0])
		return
	}
	next, ok := t[path[0]].(tree)
	if !ok {
		return
	}
	if unset(next, path[1:]); len(next) == 0 {
		delete(t, path[0])
	}
}

// clone copies a tree.
func clone(v any) any {
	t, ok := v.(tree)
	if !ok {
		return v
	}
	c := make(tree, len(t))
	for name, m := range t {
		c[name] = clone(m)
	}
	return c
}

// difference is the merge patch that makes next of old.
func difference(old, next tree) tree {
	d := tree{}
	for name := range old {
		if _, ok := next[name]; !ok {
			d[name] = nil
		}
	}
	for name, v := range next {
		was, had := old[name]
		o, wasTree := was.(tree)
		n, isTree := v.(tree)
		switch {
		case had && wasTree && isTree:
			if sub := difference(o, n); len(sub) > 0 {
				d[name] = sub
			}
		case !had || !bytes.Equal(marshal(was), marshal(v)):
			d[name] = v
		}
	}
	return d
}

var errUnchanged = errors.New("nothing to write")

package config

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Section is where the older agents' configuration stands in both parts of the twin of module azureiotsecurity.
const Section = "ms_iotn:urn_azureiot_Security_SecurityAgentConfiguration"

// v1 is one property of the section.
type v1 struct {
	initial any // as it is reported: a string, a bool, a number or nil
	read    func(json.RawMessage) (value any, ok bool)
	apply   func(s *Settings, value any)
}

// The limits of the section (defender §7).
const (
	minV1Message = 8192
	maxV1Message = 262144
	minV1Cache   = 8192
)

// events of the older agents whose priority may be set, the collector of ours that does each (empty: none), and what the priority is
// unless it is set.
var v1Events = []struct {
	event, collector string
	initial          Priority
	snapshot         bool
}{
	{"ConnectedHardware", Peripheral, Low, false},
	{"ListeningPorts", ListeningPorts, High, true},
	{"ProcessCreate", Process, Low, false},
	{"ProcessTerminate", "", Low, false},
	{"SystemInformation", SystemInformation, Low, true},
	{"LocalUsers", LocalUsers, High, true},
	{"Login", Login, High, false},
	{"ConnectionCreate", NetworkActivity, Low, false},
	{"FirewallConfiguration", FirewallConfiguration, Low, true},
	{"OSBaseline", Baseline, Low, true},
	{"Diagnostic", LogCollector, Low, false},
	{"ConfigurationError", "", Low, false},
	{"DroppedEventsStatistics", Statistics, Low, true},
	{"MessageStatistics", "", Low, false},
}

// v1Properties are the properties of the section (defender §1.5).
var v1Properties = func() map[string]v1 {
	frequency := func(initial string, set func(*Settings, time.Duration)) v1 {
		return v1{initial, readFrequency, func(s *Settings, v any) {
			d, _ := parseDuration(v.(string)) // it was read by readFrequency
			set(s, d)
		}}
	}
	m := map[string]v1{
		"highPriorityMessageFrequency": frequency("PT7M", func(s *Settings, d time.Duration) { s.Intervals[High] = d }),
		"lowPriorityMessageFrequency": frequency("PT5H", func(s *Settings, d time.Duration) {
			s.Intervals[Low], s.Intervals[Medium], s.Intervals[Off] = d, d, d
		}),
		"snapshotFrequency": frequency("PT13H", func(s *Settings, d time.Duration) {
			for _, e := range v1Events {
				if e.snapshot {
					c := s.Collectors[e.collector]
					c.Every = d
					s.Collectors[e.collector] = c
				}
			}
			sbom := s.Collectors[SBoM]
			sbom.Every = d
			s.Collectors[SBoM] = sbom
		}),
		"maxLocalCacheSizeInBytes": {json.Number("2560000"), readNumber(minV1Cache, 1<<31-1), func(s *Settings, v any) { s.MaxCacheBytes = number(v) }},
		"maxMessageSizeInBytes": {json.Number("204800"), readNumber(minV1Message, maxV1Message), func(s *Settings, v any) {
			s.MaxMessageBytes = int(min(number(v), maxMessage))
		}},
		"baselineCustomChecksEnabled":  {false, readV1Bool, func(s *Settings, v any) { s.Custom.Enabled = v.(bool) }},
		"baselineCustomChecksFilePath": {nil, readV1Text, func(s *Settings, v any) { s.Custom.Path = optional(v) }},
		"baselineCustomChecksFileHash": {nil, readHash, func(s *Settings, v any) { s.Custom.Hash = optional(v) }},
		"hubResourceId":                {"", readV1Text, func(s *Settings, v any) { s.HubResourceID = optional(v) }},
	}
	for _, e := range v1Events {
		m["eventPriority"+e.event] = v1{e.initial.String(), readPriority, func(s *Settings, v any) {
			if e.collector != "" {
				c := s.Collectors[e.collector]
				c.Priority = Priority(slices.Index(priorityNames, v.(string)))
				s.Collectors[e.collector] = c
			}
		}}
	}
	for event, collector := range map[string]string{"ProcessCreate": Process, "ConnectionCreate": NetworkActivity, "ProcessTerminate": ""} {
		m["aggregationEnabled"+event] = v1{true, readV1Bool, func(s *Settings, v any) {
			if c, ok := s.Collectors[collector]; ok {
				c.Apart = !v.(bool)
				s.Collectors[collector] = c
			}
		}}
		m["aggregationInterval"+event] = frequency("PT1H", func(s *Settings, d time.Duration) {
			if c, ok := s.Collectors[collector]; ok {
				c.Every = d
				s.Collectors[collector] = c
			}
		})
	}
	return m
}()

// DefaultV1 are the settings of an older agent whose twin has no section.
func DefaultV1() Settings {
	s, _ := settle(nil)
	return s
}

// settle makes settings, and what is reported of them, of values that were read.
func settle(values map[string]any) (Settings, map[string]any) {
	s := Default()
	effective := make(map[string]any, len(v1Properties))
	for _, name := range sortedKeys(v1Properties) {
		p := v1Properties[name]
		v, given := values[name]
		if !given {
			v = p.initial
		}
		p.apply(&s, v)
		effective[name] = map[string]any{"value": v}
	}
	for _, n := range []string{Process, NetworkActivity} {
		if c := s.Collectors[n]; c.Apart {
			c.Every = 0 // the interval is of what is counted
			s.Collectors[n] = c
		}
	}
	return s, effective
}

// EffectiveV1 is what is in force when desired is applied over what was: the whole section, for the reported part. A property that is
// invalid keeps the value of previous, which is a section as EffectiveV1 returned it; nil: the defaults.
func EffectiveV1(desired []byte, previous map[string]any) (a Applied, section map[string]any, err error) {
	doc, err := members(desired)
	if err != nil {
		return Applied{}, nil, err
	}
	wrapped, err := members(doc[Section])
	if err != nil {
		wrapped = nil
		a.Invalid = append(a.Invalid, Section)
	}
	values := make(map[string]any)
	keep := func(name string) {
		if w, ok := previous[name].(map[string]any); ok {
			values[name] = w["value"]
		}
	}
	if len(a.Invalid) > 0 {
		for name := range v1Properties {
			keep(name)
		}
	}
	for _, name := range sortedKeys(wrapped) {
		p, known := v1Properties[name]
		if !known || isNull(wrapped[name]) {
			continue
		}
		var w struct{ Value json.RawMessage }
		ok := json.Unmarshal(wrapped[name], &w) == nil && len(w.Value) > 0
		if ok && string(w.Value) == "null" {
			continue // as if it were not there
		}
		var v any
		if ok {
			v, ok = p.read(w.Value)
		}
		if !ok {
			a.Invalid = append(a.Invalid, name)
			keep(name)
			continue
		}
		values[name] = v
	}
	a.Settings, section = settle(values)
	return a, section, nil
}

// Differences compares the desired part of an older agent's twin with the reported one: the properties whose value is not in force,
// which is how these agents show that a configuration was not taken (defender §1.5).
func Differences(desired, reported []byte) ([]string, error) {
	var sections [2]map[string]json.RawMessage
	for i, text := range [][]byte{desired, reported} {
		doc, err := members(text)
		if err != nil {
			return nil, err
		}
		if sections[i], err = members(doc[Section]); err != nil {
			return nil, err
		}
	}
	var differ []string
	for _, name := range sortedKeys(sections[0]) {
		if _, known := v1Properties[name]; known && !sameValue(sections[0][name], sections[1][name]) {
			differ = append(differ, name)
		}
	}
	return differ, nil
}

func sameValue(a, b json.RawMessage) bool {
	var v [2]struct{ Value any }
	for i, text := range []json.RawMessage{a, b} {
		if isNull(text) {
			continue
		}
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		if d.Decode(&v[i]) != nil {
			return false
		}
	}
	x, errX := json.Marshal(v[0].Value)
	y, errY := json.Marshal(v[1].Value)
	return errX == nil && errY == nil && (string(x) == "null" || string(x) == string(y))
}

// KnownV1 are the names of the section's properties.
func KnownV1() []string { return slices.Sorted(maps.Keys(v1Properties)) }

func optional(v any) string {
	t, _ := v.(string) // nil: none
	return t
}

func number(v any) int64 {
	n, _ := v.(json.Number).Int64() // readNumber and the defaults make nothing else
	return n
}

func readFrequency(v json.RawMessage) (any, bool) {
	t := readText(v)
	d, ok := parseDuration(t)
	return t, ok && d >= time.Minute && d <= 60*24*time.Hour
}

func readNumber(least, most int64) func(json.RawMessage) (any, bool) {
	return func(v json.RawMessage) (any, bool) {
		var n int64
		if json.Unmarshal(v, &n) != nil || n < least || n > most {
			return nil, false
		}
		return json.Number(strconv.FormatInt(n, 10)), true
	}
}

func readV1Bool(v json.RawMessage) (any, bool) {
	var b bool
	ok := json.Unmarshal(v, &b) == nil
	return b, ok
}

func readV1Text(v json.RawMessage) (any, bool) {
	var t string
	if json.Unmarshal(v, &t) != nil || len(t) > maxText {
		return nil, false
	}
	return t, true
}

func readHash(v json.RawMessage) (any, bool) {
	t, ok := readV1Text(v)
	if !ok {
		return nil, false
	}
	sum, err := hex.DecodeString(t.(string))
	return t, err == nil && (len(sum) == 32 || len(sum) == 0)
}

func readPriority(v json.RawMessage) (any, bool) {
	t := readText(v)
	for _, p := range []Priority{Off, Low, High} {
		if strings.EqualFold(t, p.String()) {
			return p.String(), true
		}
	}
	return nil, false
}

// parseDuration reads an ISO 8601 duration of weeks, days, hours, minutes and seconds; years and months have no length.
func parseDuration(s string) (time.Duration, bool) {
	rest, ok := strings.CutPrefix(s, "P")
	if !ok || rest == "" || len(s) > 32 {
		return 0, false
	}
	var d time.Duration
	units, inTime := "WD", false
	for rest != "" {
		if rest[0] == 'T' {
			if inTime || len(rest) == 1 {
				return 0, false
			}
			units, inTime, rest = "HMS", true, rest[1:]
			continue
		}
		end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
		if end < 1 || end > 9 {
			return 0, false
		}
		n, err := strconv.ParseInt(rest[:end], 10, 64)
		at := strings.IndexByte(units, rest[end])
		if err != nil || at < 0 {
			return 0, false
		}
		unit := map[byte]time.Duration{'W': 7 * 24 * time.Hour, 'D': 24 * time.Hour, 'H': time.Hour, 'M': time.Minute, 'S': time.Second}[rest[end]]
		if n > int64((1<<62)/unit) {
			return 0, false
		}
		d += time.Duration(n) * unit
		if d < 0 {
			return 0, false
		}
		units, rest = units[at+1:], rest[end+1:]
	}
	return d, true
}

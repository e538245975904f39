package format

import (
	"encoding/json"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/intel"
)

// MISPEntry is what a MISP manifest says of an event.
type MISPEntry struct {
	Info      string
	Timestamp int64  // Unix seconds of the last change
	SHA256    string // of the event's file, in lower-case hexadecimal; empty: not given
}

// maxEvents bounds a manifest.
const maxEvents = 500_000

// ReadManifest reads manifest.json (misp-core-format, section Manifest): event UUIDs with what is said of each.
func ReadManifest(r io.Reader) (map[string]MISPEntry, error) {
	dec := json.NewDecoder(&bounded{r: r})
	t, err := dec.Token()
	if err != nil {
		return nil, jsonError(err)
	}
	if t == json.Delim('[') && !dec.More() { // PHP's empty object
		return map[string]MISPEntry{}, nil
	}
	if t != json.Delim('{') {
		return nil, malformed("a manifest is an object")
	}
	events := make(map[string]MISPEntry)
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, jsonError(err)
		}
		var e struct {
			Info      string      `json:"info"`
			Timestamp json.Number `json:"timestamp"` // MISP quotes it
			SHA256    string      `json:"integrity:sha256"`
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, jsonError(err)
		}
		uuid, _ := name.(string)
		if !isUUID(uuid) {
			return nil, malformed("the manifest names an event %q", printable(uuid))
		}
		if err := json.Unmarshal(raw, &e); err != nil {
			return nil, malformed("the manifest's event %s: %v", uuid, err)
		}
		at, _ := strconv.ParseInt(e.Timestamp.String(), 10, 64)
		if events[strings.ToLower(uuid)] = (MISPEntry{e.Info, at, strings.ToLower(e.SHA256)}); len(events) > maxEvents {
			return nil, malformed("the manifest names more than %d events", maxEvents)
		}
	}
	if _, err := dec.Token(); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	return events, nil
}

func printable(s string) string {
	if len(s) > 60 {
		s = s[:60]
	}
	q := strconv.QuoteToASCII(s)
	return q[1 : len(q)-1]
}

// isUUID lets nothing pass that could be a path of its own.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f', c >= 'A' && c <= 'F':
		default:
			return false
		}
	}
	return true
}

type mispAttribute struct {
	Type      string    `json:"type"`
	Value     string    `json:"value"`
	ToIDs     bool      `json:"to_ids"`
	Deleted   bool      `json:"deleted"`
	FirstSeen string    `json:"first_seen"`
	LastSeen  string    `json:"last_seen"`
	Tag       []mispTag `json:"Tag"`
}

type mispTag struct {
	Name string `json:"name"`
}

// ReadMISP reads an event, whose indicators get ref. Attributes that are not meant for detection (to_ids) are left out.
func ReadMISP(r io.Reader, b *intel.Builder, ref string) error {
	var doc struct {
		Event *struct {
			Info      string          `json:"info"`
			Attribute []mispAttribute `json:"Attribute"`
			Tag       []mispTag       `json:"Tag"`
			Object    []struct {
				Attribute []mispAttribute `json:"Attribute"`
			} `json:"Object"`
		} `json:"Event"`
	}
	if err := json.NewDecoder(r).Decode(&doc); err != nil {
		return jsonError(err)
	}
	if doc.Event == nil {
		return malformed("no Event")
	}
	e := doc.Event
	labels := []string{e.Info}
	for _, t := range e.Tag {
		labels = append(labels, t.Name)
	}
	n := 0
	each := func(as []mispAttribute) {
		for _, a := range as {
			n++
			if !a.ToIDs || a.Deleted {
				continue
			}
			it := intel.Item{Ref: ref, Line: n, Labels: labels}
			if len(a.Tag) > 0 {
				it.Labels = append([]string(nil), labels...)
				for _, t := range a.Tag {
					it.Labels = append(it.Labels, t.Name)
				}
			}
			mispValue(b, a, it)
		}
	}
	each(e.Attribute)
	for _, o := range e.Object {
		each(o.Attribute)
	}
	return nil
}

func mispValue(b *intel.Builder, a mispAttribute, it intel.Item) {
	value := a.Value
	switch a.Type {
	case "ip-dst", "ip-src", "domain", "hostname", "url", "uri", "link":
		if (a.Type == "uri" || a.Type == "link") && !strings.Contains(value, "://") {
			b.Unsupported++
			return
		}
	case "ip-dst|port", "ip-src|port", "hostname|port":
		host, port, ok := strings.Cut(value, "|")
		n, err := strconv.ParseUint(port, 10, 16)
		if !ok || err != nil {
			b.Bad(it.Line, value, "not value|port")
			return
		}
		value, it.Port = host, uint16(n)
	case "domain|ip":
		name, addr, ok := strings.Cut(value, "|")
		if !ok {
			b.Bad(it.Line, value, "not domain|ip")
			return
		}
		add(b, name, it)
		value = addr
	default:
		b.Unsupported++
		return
	}
	add(b, value, it)
}

// Unix is a MISP timestamp as a version of a group.
func Unix(t int64) string { return time.Unix(t, 0).UTC().Format(time.RFC3339) }

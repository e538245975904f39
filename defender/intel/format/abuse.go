package format

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/vauban-iot/vauban/defender/intel"
)

// readAbuse reads the exports of abuse.ch: arrays of JSON, objects of arrays by id, answers of the query API, or CSV.
func readAbuse(k Kind, r io.Reader, b *intel.Builder) error {
	isJSON, r, err := peek(r)
	if err != nil {
		return err
	}
	if !isJSON {
		return readAbuseCSV(k, r, b)
	}
	n := 0
	object := func(raw json.RawMessage) error {
		n++
		var o map[string]any
		if err := json.Unmarshal(raw, &o); err != nil {
			b.Bad(n, string(raw), "not an object")
			return nil
		}
		abuse(k, b, n, func(name string) string {
			switch v := o[name].(type) {
			case string:
				return v
			case float64:
				return strconv.FormatFloat(v, 'f', -1, 64)
			case []any:
				var all []string
				for _, x := range v {
					all = append(all, fmt.Sprint(x))
				}
				return strings.Join(all, ",")
			}
			return ""
		})
		return nil
	}
	return abuseJSON(r, object)
}

// abuseJSON finds the objects in any of the shapes: [..], {"123": [..]}, {"query_status": "ok", "data": [..]} and {.., "urls": [..]}.
func abuseJSON(r io.Reader, object func(json.RawMessage) error) error {
	dec := json.NewDecoder(&bounded{r: r})
	err := func() error {
		t, err := dec.Token()
		if err != nil {
			return err
		}
		list := func() error {
			for dec.More() {
				var raw json.RawMessage
				if err := dec.Decode(&raw); err != nil {
					return err
				}
				if err := object(raw); err != nil {
					return err
				}
			}
			_, err := dec.Token()
			return err
		}
		if t == json.Delim('[') {
			return list()
		}
		if t != json.Delim('{') {
			return malformed("neither an array nor an object")
		}
		for dec.More() {
			name, err := dec.Token()
			if err != nil {
				return err
			}
			v, err := dec.Token()
			if err != nil {
				return err
			}
			switch {
			case v == json.Delim('['):
				err = list()
			case name == "query_status" && v != "ok" && v != "no_result" && v != "no_results":
				err = malformed("the service answered %v", v)
			case v == json.Delim('{'):
				err = malformed("an object where a list of objects should be")
			}
			if err != nil {
				return err
			}
		}
		_, err = dec.Token()
		return err
	}()
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	if err == nil {
		if _, err = dec.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		return malformed("something follows the document")
	}
	return jsonError(err)
}

// The columns of CSV exports, for files without a header. abuse.ch comments the header out.
var abuseColumns = map[Kind][]string{
	Feodo:     {"first_seen_utc", "dst_ip", "dst_port", "c2_status", "last_online", "malware"},
	ThreatFox: {"first_seen_utc", "ioc_id", "ioc_value", "ioc_type", "threat_type", "fk_malware", "malware_alias", "malware_printable", "last_seen_utc", "confidence_level", "reference", "tags", "anonymous", "reporter"},
	URLhaus:   {"id", "dateadded", "url", "url_status", "last_online", "threat", "tags", "urlhaus_link", "reporter"},
}

func readAbuseCSV(k Kind, r io.Reader, b *intel.Builder) error {
	columns := abuseColumns[k]
	return intel.Lines(r, func(n int, line []byte, long bool) {
		text := strings.TrimSpace(string(line))
		if text == "" {
			return
		}
		comment := strings.HasPrefix(text, "#")
		if long && !comment {
			b.Bad(n, text, "the line is longer than 4 KiB")
			return
		}
		if comment && strings.Count(text, ",") < 3 {
			return
		}
		// One line at a time: a quote that is never closed costs a line, not the file.
		in := csv.NewReader(strings.NewReader(strings.TrimSpace(strings.TrimPrefix(text, "#"))))
		in.LazyQuotes, in.TrimLeadingSpace = true, true
		fields, err := in.Read()
		if err != nil {
			if !comment {
				b.Bad(n, text, "not CSV")
			}
			return
		}
		if header(k, fields) {
			columns = fields
			return
		}
		if comment {
			return
		}
		if len(fields) == 1 { // the plain exports
			add(b, fields[0], intel.Item{Line: n, Labels: []string{string(k)}})
			return
		}
		abuse(k, b, n, func(name string) string {
			for i, c := range columns {
				if c == name && i < len(fields) {
					return strings.TrimSpace(fields[i])
				}
			}
			return ""
		})
	})
}

func header(k Kind, fields []string) bool {
	known := 0
	for _, f := range fields {
		for _, c := range abuseColumns[k] {
			if f == c {
				known++
			}
		}
	}
	return known >= 3
}

// abuse adds one record, whose members get returns by name.
func abuse(k Kind, b *intel.Builder, n int, get func(string) string) {
	first := func(names ...string) string {
		for _, name := range names {
			if v := get(name); v != "" && v != "None" && v != "null" {
				return v
			}
		}
		return ""
	}
	it := intel.Item{Line: n}
	for _, l := range []string{first("threat_type", "threat"), first("malware_printable", "malware")} {
		if l != "" {
			it.Labels = append(it.Labels, l)
		}
	}
	for tag := range strings.SplitSeq(first("tags"), ",") {
		if tag = strings.TrimSpace(tag); tag != "" {
			it.Labels = append(it.Labels, tag)
		}
	}
	it.Ref = first("ioc_id", "id")
	var value string
	switch k {
	case Feodo:
		value = first("ip_address", "dst_ip")
		port, err := strconv.ParseUint(first("port", "dst_port"), 10, 16)
		if err != nil && first("port", "dst_port") != "" {
			b.Bad(n, value, "its port is none")
			return
		}
		it.Port, it.Confidence, it.From = uint16(port), 100, stamp(first("first_seen", "first_seen_utc"))
	case ThreatFox:
		if c, err := strconv.Atoi(first("confidence_level")); err == nil {
			if c <= 0 {
				b.Unsure++
				return
			}
			it.Confidence = min(c, 100)
		}
		it.From = stamp(first("first_seen", "first_seen_utc"))
		switch first("ioc_type") {
		case "ip:port", "domain", "url":
			value = first("ioc_value", "ioc")
		default:
			b.Unsupported++ // hashes
			return
		}
	default: // URLhaus
		value, it.From = first("url"), stamp(first("dateadded", "date_added"))
	}
	if value == "" {
		b.Bad(n, "", "it has no value")
		return
	}
	add(b, value, it)
}

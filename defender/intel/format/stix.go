package format

import (
	"encoding/json"
	"io"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/intel"
)

// Object is an indicator of STIX 2.1 (section 4.7) as far as it is used.
type Object struct {
	Type           string   `json:"type"`
	ID             string   `json:"id"`
	Created        string   `json:"created"`
	Modified       string   `json:"modified"`
	Revoked        bool     `json:"revoked"`
	Confidence     int      `json:"confidence"`
	Labels         []string `json:"labels"`
	IndicatorTypes []string `json:"indicator_types"`
	Name           string   `json:"name"`
	Pattern        string   `json:"pattern"`
	PatternType    string   `json:"pattern_type"`
	ValidFrom      string   `json:"valid_from"`
	ValidUntil     string   `json:"valid_until"`
}

// Version orders the versions of an object.
func (o *Object) Version() string {
	if o.Modified != "" {
		return o.Modified
	}
	return o.Created
}

// Newer reports whether version a of an object comes after b.
func Newer(a, b string) bool {
	x, y := stamp(a), stamp(b)
	if x.IsZero() || y.IsZero() {
		return a > b
	}
	return x.After(y)
}

// ReadSTIX reads a bundle of STIX 2.1. Of several versions of an indicator the newest counts. take is called for each that counts; nil adds its
// values to b.
func ReadSTIX(r io.Reader, b *intel.Builder, take func(*Object)) error {
	newest := make(map[string]*Object)
	var order []string
	n := 0
	err := elements(r, []string{"objects"}, func(raw json.RawMessage) error {
		n++
		var o Object
		if err := json.Unmarshal(raw, &o); err != nil || o.Type == "" {
			b.Bad(n, string(raw), "not an object of STIX")
			return nil
		}
		if o.Type != "indicator" {
			return nil
		}
		if o.ID == "" {
			b.Bad(n, string(raw), "it has no id")
			return nil
		}
		have := newest[o.ID]
		if have == nil {
			order = append(order, o.ID)
		}
		if have == nil || Newer(o.Version(), have.Version()) {
			newest[o.ID] = &o
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range order {
		if take != nil {
			take(newest[id])
		} else {
			AddObject(b, newest[id])
		}
	}
	return nil
}

// AddObject adds the values of an indicator, unless it is revoked.
func AddObject(b *intel.Builder, o *Object) {
	if o.Revoked {
		b.Revoked++
		return
	}
	if o.PatternType != "stix" && o.PatternType != "" {
		b.Unsupported++
		return
	}
	it := intel.Item{Ref: o.ID, Confidence: o.Confidence, From: stixTime(o.ValidFrom), Until: stixTime(o.ValidUntil)}
	if it.Confidence < 0 || it.Confidence > 100 {
		it.Confidence = 0
	}
	it.Labels = append(append(it.Labels, o.IndicatorTypes...), o.Labels...)
	if o.Name != "" {
		it.Labels = append(it.Labels, o.Name)
	}
	terms, rest, err := compilePattern(o.Pattern)
	if err != nil {
		b.Bad(0, o.ID+" "+o.Pattern, err.Error())
		return
	}
	if len(terms) == 0 || rest {
		b.Unsupported++
	}
	for _, t := range terms {
		x := it
		x.Port = t.port
		add(b, t.value, x)
	}
}

func stixTime(s string) time.Time { return stamp(strings.TrimSpace(s)) }

// ReadEnvelope reads a page of a TAXII 2.1 collection (section 3.7). take gets the indicators in it.
func ReadEnvelope(r io.Reader, b *intel.Builder, take func(*Object)) (more bool, next string, err error) {
	dec := json.NewDecoder(&bounded{r: r})
	t, err := dec.Token()
	if err != nil {
		return false, "", jsonError(err)
	}
	if t != json.Delim('{') {
		return false, "", malformed("an envelope is an object")
	}
	for n := 0; dec.More(); {
		name, err := dec.Token()
		if err == nil {
			switch name {
			case "more":
				err = dec.Decode(&more)
			case "next":
				err = dec.Decode(&next)
			case "objects":
				err = descend(dec, nil, func(raw json.RawMessage) error {
					n++
					var o Object
					switch err := json.Unmarshal(raw, &o); {
					case err != nil || o.Type == "":
						b.Bad(n, string(raw), "not an object of STIX")
					case o.Type == "indicator" && o.ID == "":
						b.Bad(n, string(raw), "it has no id")
					case o.Type == "indicator":
						take(&o)
					}
					return nil
				})
			default:
				var skipped json.RawMessage
				err = dec.Decode(&skipped)
			}
		}
		if err != nil {
			return false, "", eof(jsonError(err))
		}
	}
	if _, err := dec.Token(); err != nil {
		return false, "", eof(jsonError(err))
	}
	return more, next, nil
}

// eof says that a document ends before it is whole.
func eof(err error) error {
	if err == io.EOF { //nolint:errorlint // the decoder's own
		return io.ErrUnexpectedEOF
	}
	return err
}

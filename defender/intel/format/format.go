// Package format reads what publishers of threat intelligence give out: plain lists, Suricata's reputation lists, Zeek's intel files, STIX 2.1,
// MISP events and warning lists, and the exports of abuse.ch. It does no I/O of its own: a reader goes in, indicators go to an [intel.Builder],
// which counts what cannot be read or compared. An error means that the whole is not what it should be, or that the reader failed.
//
// Everything in a feed was chosen by a stranger. Lines and JSON objects are bounded, and the caller bounds the reader.
package format

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/intel"
)

// Kind names a format.
type Kind string

// The formats. TAXII and MISP are read piece by piece, by package feed.
const (
	List        Kind = "list"        // intel.ReadList
	IPRep       Kind = "iprep"       // Suricata: ip,category,score
	Zeek        Kind = "zeek"        // Zeek's intel framework
	STIX        Kind = "stix"        // a bundle of STIX 2.1
	TAXII       Kind = "taxii"       // a collection of a TAXII 2.1 server
	MISP        Kind = "misp"        // a folder with manifest.json
	Feodo       Kind = "feodo"       // abuse.ch Feodo Tracker, JSON, CSV or text
	ThreatFox   Kind = "threatfox"   // abuse.ch ThreatFox, JSON or CSV
	URLhaus     Kind = "urlhaus"     // abuse.ch URLhaus, JSON, CSV or text
	WarningList Kind = "warninglist" // a list of MISP's warning lists: exemptions
)

// Kinds are all there are.
var Kinds = []Kind{List, IPRep, Zeek, STIX, TAXII, MISP, Feodo, ThreatFox, URLhaus, WarningList}

// ErrFormat is wrapped by the errors for what is not in the format it should be in.
var ErrFormat = errors.New("not in this format")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

// Read reads a document of a kind that is one document.
func Read(k Kind, r io.Reader, b *intel.Builder) error {
	switch k {
	case List:
		return intel.ReadList(r, b)
	case IPRep:
		return readIPRep(r, b)
	case Zeek:
		return readZeek(r, b)
	case STIX:
		return ReadSTIX(r, b, nil)
	case Feodo, ThreatFox, URLhaus:
		return readAbuse(k, r, b)
	case WarningList:
		return readWarningList(r, b)
	}
	return fmt.Errorf("format: %q is not one document", k)
}

// MaxObject is the largest JSON object of a list, in bytes.
const MaxObject = 8 << 20

// elements hands over the elements of arrays in a JSON document one by one, so that the document needs no room. path names the members
// that lead to the array; "*" stands for every member. A document that is an array itself has the empty path.
func elements(r io.Reader, path []string, yield func(raw json.RawMessage) error) error {
	dec := json.NewDecoder(&bounded{r: r})
	err := descend(dec, path, yield)
	switch {
	case err == nil:
		if _, err := dec.Token(); !errors.Is(err, io.EOF) {
			if err == nil {
				err = malformed("something follows the document")
			}
			return jsonError(err)
		}
		return nil
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	}
	return jsonError(err)
}

// jsonError says that what cannot be parsed is no JSON; failures of the reader stay what they are.
func jsonError(err error) error {
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return malformed("offset %d: %v", e.Offset, e)
	}
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return malformed("offset %d: %v", e.Offset, e)
	}
	return err
}

func descend(dec *json.Decoder, path []string, yield func(json.RawMessage) error) error {
	t, err := dec.Token()
	if err != nil {
		return err
	}
	if len(path) == 0 {
		switch t {
		case json.Delim('['):
			for dec.More() {
				var raw json.RawMessage
				if err := dec.Decode(&raw); err != nil {
					return err
				}
				if err := yield(raw); err != nil {
					return err
				}
			}
			_, err = dec.Token()
			return err
		case nil:
			return nil
		}
		return malformed("offset %d: want an array", dec.InputOffset())
	}
	if t != json.Delim('{') {
		return malformed("offset %d: want an object", dec.InputOffset())
	}
	found := false
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return err
		}
		if path[0] != "*" && name != path[0] {
			var skipped json.RawMessage
			if err := dec.Decode(&skipped); err != nil {
				return err
			}
			continue
		}
		found = true
		if err := descend(dec, path[1:], yield); err != nil {
			return err
		}
	}
	if !found && path[0] != "*" {
		return malformed("the member %q is missing", path[0])
	}
	_, err = dec.Token()
	return err
}

// bounded lets the decoder's buffer not grow with the document: json.Decoder reads on until a value is whole.
type bounded struct{ r io.Reader }

func (b *bounded) Read(p []byte) (int, error) {
	if len(p) > MaxObject {
		return 0, malformed("a JSON value is larger than %d bytes", MaxObject)
	}
	return b.r.Read(p)
}

// peek tells JSON from text by the first byte that is no space.
func peek(r io.Reader) (isJSON bool, all io.Reader, err error) {
	var head []byte
	one := make([]byte, 1)
	for len(head) < 1024 {
		n, err := r.Read(one)
		if n == 1 {
			head = append(head, one[0])
			if strings.IndexByte(" \t\r\n\xef\xbb\xbf", one[0]) < 0 {
				break
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return false, nil, err
		}
	}
	text := bytes.TrimLeft(head, " \t\r\n\xef\xbb\xbf")
	isJSON = len(text) > 0 && (text[0] == '{' || text[0] == '[')
	if isJSON {
		head = text
	}
	return isJSON, io.MultiReader(bytes.NewReader(head), r), nil
}

// stamp reads a time as publishers write it; what is none is the zero time.
func stamp(s string) time.Time {
	s = strings.TrimSuffix(strings.TrimSpace(s), " UTC")
	for _, layout := range []string{time.DateTime, time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC()
		}
	}
	return time.Time{}
}

// add reads a value in any spelling and adds it; it reports bad ones.
func add(b *intel.Builder, value string, base intel.Item) bool {
	it, reason := intel.ParseValue(strings.TrimSpace(value))
	if reason == "" {
		if base.Port != 0 {
			it.Port = base.Port
		}
		if it.Domain != "" {
			it.Port = 0 // names are not seen with ports
		}
		it.Confidence, it.From, it.Until, it.Labels, it.Ref, it.Line = base.Confidence, base.From, base.Until, base.Labels, base.Ref, base.Line
		reason = b.Add(&it)
	}
	if reason != "" {
		b.Bad(base.Line, value, reason)
		return false
	}
	return true
}

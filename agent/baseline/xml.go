package baseline

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Bounds of a custom baseline file. The largest that is known has 155 audits in 120 kB.
const (
	maxXML      = 1 << 20
	maxDepth    = 8
	maxElements = 20_000
	maxAudits   = 1000
	maxChecks   = 64 // of an audit
	maxValue    = 8 << 10
	maxRegex    = 2 << 10
)

// Parse reads a custom baseline file (defender §3.4). Remediations, of which this agent carries out none, are left aside. What
// is wrong with one audit alone, as a command that this agent does not know, is for its result to say.
func Parse(b []byte) (*Baseline, error) {
	if len(b) > maxXML {
		return nil, fmt.Errorf("it has more than %d bytes", maxXML)
	}
	if err := bounded(b); err != nil {
		return nil, err
	}
	var doc struct {
		XMLName xml.Name `xml:"baseline"`
		Baseline
	}
	if err := xml.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("it is no baseline: %w", err)
	}
	base := &doc.Baseline
	if base.ID == "" {
		return nil, errors.New("its baseline has no BaselineId")
	}
	if len(base.Audits) == 0 && len(base.Includes) == 0 {
		return nil, errors.New("it has no audits")
	}
	if len(base.Audits) > maxAudits {
		return nil, fmt.Errorf("it has more than %d audits", maxAudits)
	}
	seen := map[string]bool{}
	for i := range base.Audits {
		a := &base.Audits[i]
		a.Number, a.CCE = strings.TrimSpace(a.Number), strings.TrimSpace(a.CCE)
		if a.Number == "" && a.CCE == "" {
			return nil, fmt.Errorf("its audit %d has neither msid nor cceid", i+1)
		}
		if len(a.Checks) == 0 || len(a.Checks) > maxChecks || len(a.Dependencies) > maxChecks {
			return nil, fmt.Errorf("its audit %s%s should have 1 to %d checks, and as many dependencies at most", a.Number, a.CCE, maxChecks)
		}
		if !slices.Contains(severities, a.Severity) {
			a.Severity = informational // none, or NotApplicable as in Docker's file: the v1 scanner's summary counts them so
		}
		// Audits are told apart by cceid where it is unique; some stand for several.
		a.ID = a.CCE
		if a.ID == "" || seen[a.ID] {
			a.ID = base.ID + "-" + a.Number
		}
		for n := 2; seen[a.ID]; n++ {
			a.ID = fmt.Sprintf("%s-%s-%d", base.ID, a.Number, n)
		}
		seen[a.ID] = true
	}
	return base, nil
}

var severities = []string{critical, important, warning, informational}

// bounded looks at the shape of a document before anything is made of it.
func bounded(b []byte) error {
	d := xml.NewDecoder(bytes.NewReader(b))
	depth, elements := 0, 0
	for {
		t, err := d.RawToken()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("it is no XML: %w", err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			if depth++; depth > maxDepth {
				return fmt.Errorf("its elements lie more than %d deep", maxDepth)
			}
			if elements++; elements > maxElements {
				return fmt.Errorf("it has more than %d elements", maxElements)
			}
			for _, a := range t.Attr {
				if len(a.Value) > maxValue {
					return fmt.Errorf("the attribute %q of an element %q has more than %d bytes", shorten(a.Name.Local), shorten(t.Name.Local), maxValue)
				}
			}
		case xml.EndElement:
			depth--
		case xml.Directive:
			return errors.New("it has a document type or other directives, which are not allowed")
		}
	}
}

package format

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// The statuses of VEX, as OpenVEX spells them.
const (
	NotAffected        = "not_affected"
	AffectedBy         = "affected"
	Fixed              = "fixed"
	UnderInvestigation = "under_investigation"
)

// Statement says whether products are affected by vulnerabilities.
type Statement struct {
	Vulnerabilities []string  `json:"vulnerabilities"` // ids and aliases of one
	Products        []Product `json:"products"`        // none: whatever the document is for
	Status          string    `json:"status"`
	Justification   string    `json:"justification,omitempty"`
	Note            string    `json:"note,omitempty"`
	Time            time.Time `json:"time,omitzero"`
}

// Product is what a statement is about.
type Product struct {
	ID         string   `json:"id"`                   // a package URL, or whatever the maker calls it
	Components []string `json:"components,omitempty"` // package URLs within it; none: the product itself
}

const (
	maxStatements = 50_000
	maxProducts   = 10_000
	// MaxVEX is the longest document, in bytes.
	MaxVEX = 16 << 20
)

// ParseVEX reads a document of OpenVEX or a CycloneDX one with vulnerabilities.
func ParseVEX(data []byte) (all []Statement, err error) {
	if len(data) > MaxVEX {
		return nil, fmt.Errorf("over %d MiB", MaxVEX>>20)
	}
	members := looks(data)
	switch {
	case members == nil:
		return nil, errors.New("it is not a JSON object")
	case members["statements"] != nil:
		all, err = openVEX(data)
	case members["vulnerabilities"] != nil && members["bomFormat"] != nil:
		all, err = cycloneVEX(data)
	default:
		return nil, errors.New(`it is neither OpenVEX (a member "statements") nor CycloneDX with "vulnerabilities"`)
	}
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, errors.New("it states nothing")
	}
	products := 0
	for i := range all {
		s := &all[i]
		switch s.Status {
		case NotAffected, AffectedBy, Fixed, UnderInvestigation:
		default:
			return nil, fmt.Errorf("statement %d: there is no status %q", i+1, Clip(s.Status, 40))
		}
		if len(s.Vulnerabilities) == 0 {
			return nil, fmt.Errorf("statement %d names no vulnerability", i+1)
		}
		for _, p := range s.Products {
			products += 1 + len(p.Components)
		}
		s.Justification, s.Note = Clip(s.Justification, maxText), Clip(s.Note, maxText)
	}
	if len(all) > maxStatements || products > maxProducts*10 {
		return nil, fmt.Errorf("over %d statements or %d products", maxStatements, maxProducts*10)
	}
	return all, nil
}

func openVEX(data []byte) ([]Statement, error) {
	type component struct {
		ID          string `json:"@id"`
		Identifiers struct {
			PURL string `json:"purl"`
		} `json:"identifiers"`
	}
	type product struct {
		component
		Subcomponents []component `json:"subcomponents"`
	}
	var doc struct {
		Timestamp  time.Time `json:"timestamp"`
		Statements []struct {
			Vulnerability json.RawMessage   `json:"vulnerability"`
			Products      []json.RawMessage `json:"products"`
			Status        string            `json:"status"`
			Justification string            `json:"justification"`
			Impact        string            `json:"impact_statement"`
			Notes         string            `json:"status_notes"`
			Timestamp     time.Time         `json:"timestamp"`
		} `json:"statements"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	name := func(c component) string {
		if c.Identifiers.PURL != "" {
			return c.Identifiers.PURL
		}
		return c.ID
	}
	var all []Statement
	for i, o := range doc.Statements {
		s := Statement{Status: o.Status, Justification: o.Justification, Note: o.Impact, Time: o.Timestamp}
		if s.Note == "" {
			s.Note = o.Notes
		}
		if s.Time.IsZero() {
			s.Time = doc.Timestamp
		}
		var id string // before 0.2.0 a text
		var v struct {
			ID      string   `json:"@id"`
			Name    string   `json:"name"`
			Aliases []string `json:"aliases"`
		}
		switch {
		case json.Unmarshal(o.Vulnerability, &id) == nil && id != "":
			s.Vulnerabilities = []string{id}
		case json.Unmarshal(o.Vulnerability, &v) == nil && v.Name != "":
			s.Vulnerabilities = append([]string{v.Name}, v.Aliases...)
		case v.ID != "":
			s.Vulnerabilities = append([]string{v.ID}, v.Aliases...)
		default:
			return nil, fmt.Errorf("statement %d names no vulnerability", i+1)
		}
		for _, raw := range o.Products {
			var text string
			var p product
			switch {
			case json.Unmarshal(raw, &text) == nil:
				s.Products = append(s.Products, Product{ID: text})
			case json.Unmarshal(raw, &p) == nil && name(p.component) != "":
				of := Product{ID: name(p.component)}
				for _, c := range p.Subcomponents {
					of.Components = append(of.Components, name(c))
				}
				s.Products = append(s.Products, of)
			default:
				return nil, fmt.Errorf("statement %d has a product without @id", i+1)
			}
		}
		all = append(all, s)
	}
	return all, nil
}

// states are those of CycloneDX's analysis.
var states = map[string]string{
	"not_affected": NotAffected, "false_positive": NotAffected, "resolved": Fixed, "resolved_with_pedigree": Fixed, "exploitable": AffectedBy, "in_triage": UnderInvestigation,
}

func cycloneVEX(data []byte) ([]Statement, error) {
	var doc struct {
		cyclone
		Vulnerabilities []struct {
			ID         string `json:"id"`
			References []struct {
				ID string `json:"id"`
			} `json:"references"`
			Updated  time.Time `json:"updated"`
			Analysis *struct {
				State         string `json:"state"`
				Justification string `json:"justification"`
				Detail        string `json:"detail"`
			} `json:"analysis"`
			Affects []struct {
				Ref string `json:"ref"`
			} `json:"affects"`
		} `json:"vulnerabilities"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	refs := make(map[string]string)
	product := doc.Metadata.Component
	left := maxComponents
	walk(append(doc.Components, product), 0, &left, func(c *cycloneComponent) {
		if c.Ref != "" {
			refs[c.Ref] = c.PURL
		}
	})
	var all []Statement
	for _, v := range doc.Vulnerabilities {
		if v.Analysis == nil || v.Analysis.State == "" {
			continue // a bill of materials that lists what was found: nobody judged it
		}
		s := Statement{Vulnerabilities: []string{v.ID}, Status: states[v.Analysis.State], Justification: v.Analysis.Justification, Note: v.Analysis.Detail, Time: v.Updated}
		if v.ID == "" {
			return nil, errors.New("a vulnerability has no id")
		}
		if s.Status == "" {
			return nil, fmt.Errorf("%s: there is no state %q", Clip(v.ID, 40), Clip(v.Analysis.State, 40))
		}
		for _, r := range v.References {
			s.Vulnerabilities = append(s.Vulnerabilities, r.ID)
		}
		for _, a := range v.Affects {
			id := a.Ref
			switch purl, ok := refs[a.Ref]; {
			case product.Ref != "" && a.Ref == product.Ref: // the whole product: whatever the document is for
				id = product.Name
			case ok && purl != "":
				id = purl
			}
			s.Products = append(s.Products, Product{ID: id})
		}
		all = append(all, s)
	}
	return all, nil
}

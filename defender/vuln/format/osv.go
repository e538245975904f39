// Package format reads what publishers write of vulnerabilities: records of OSV, CISA's catalogue of those that are exploited (KEV),
// the probabilities of EPSS, statements of VEX (OpenVEX and CycloneDX), and bills of materials (CycloneDX and SPDX), defender §5.
//
// Everything read is bounded before it is kept. What cannot be read is an error of its record alone.
package format

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Bounds of one record and its parts.
const (
	MaxRecord   = 16 << 20 // bytes of a record of OSV
	maxAffected = 20_000
	maxEvents   = 10_000
	maxVersions = 200_000
	maxText     = 512 // bytes of a name, a version or an id
	maxSummary  = 240
	maxAliases  = 64
)

// Record is a vulnerability as OSV publishes it, less what is not used here.
type Record struct {
	ID        string
	Aliases   []string // and what is upstream of it: the CVEs of an advisory of a distribution
	Summary   string
	Modified  time.Time
	Withdrawn bool
	Severity  []Severity
	Affected  []Affected
}

// Severity is a vector of CVSS.
type Severity struct {
	Type  string // CVSS_V2, CVSS_V3, CVSS_V4
	Score string // the vector
}

// Affected is a package of an ecosystem and the versions of it.
type Affected struct {
	Ecosystem string
	Name      string
	Ranges    []Range
	Versions  []string
}

// Range is a line of versions with events on it.
type Range struct {
	Type   string // SEMVER or ECOSYSTEM; GIT is left out
	Events []Event
}

// Event is a point on the line. One member is set.
type Event struct {
	Introduced   string `json:"introduced"`
	Fixed        string `json:"fixed"`
	LastAffected string `json:"last_affected"`
	Limit        string `json:"limit"`
}

type osvSeverity struct{ Type, Score string }

type osvRecord struct {
	ID        string        `json:"id"`
	Aliases   []string      `json:"aliases"`
	Upstream  []string      `json:"upstream"`
	Summary   string        `json:"summary"`
	Details   string        `json:"details"`
	Modified  time.Time     `json:"modified"`
	Withdrawn string        `json:"withdrawn"`
	Severity  []osvSeverity `json:"severity"`
	Affected  []struct {
		Package struct {
			Ecosystem string `json:"ecosystem"`
			Name      string `json:"name"`
		} `json:"package"`
		Severity []osvSeverity `json:"severity"`
		Ranges   []struct {
			Type   string  `json:"type"`
			Events []Event `json:"events"`
		} `json:"ranges"`
		Versions []string `json:"versions"`
	} `json:"affected"`
}

// ParseOSV reads a record of OSV.
func ParseOSV(data []byte) (Record, error) {
	if len(data) > MaxRecord {
		return Record{}, fmt.Errorf("a record of over %d MiB", MaxRecord>>20)
	}
	var o osvRecord
	if err := json.Unmarshal(data, &o); err != nil {
		return Record{}, err
	}
	if o.ID == "" || len(o.ID) > maxText || strings.ContainsFunc(o.ID, unprintable) {
		return Record{}, errors.New("a record without a usable id")
	}
	if len(o.Affected) > maxAffected {
		return Record{}, fmt.Errorf("%s: over %d affected packages", o.ID, maxAffected)
	}
	r := Record{ID: o.ID, Summary: o.Summary, Modified: o.Modified, Withdrawn: o.Withdrawn != ""}
	if r.Summary == "" {
		r.Summary, _, _ = strings.Cut(strings.TrimSpace(o.Details), "\n")
	}
	r.Summary = Clip(r.Summary, maxSummary)
	for _, a := range append(o.Aliases, o.Upstream...) {
		if a != "" && a != o.ID && len(a) <= maxText && len(r.Aliases) < maxAliases && !strings.ContainsFunc(a, unprintable) {
			r.Aliases = append(r.Aliases, a)
		}
	}
	severities := func(all []osvSeverity) {
		for _, s := range all {
			if strings.HasPrefix(s.Type, "CVSS_V") && len(s.Score) <= maxText && len(r.Severity) < 8 {
				r.Severity = append(r.Severity, Severity(s))
			}
		}
	}
	severities(o.Severity)
	for i := range o.Affected {
		p := &o.Affected[i]
		if p.Package.Ecosystem == "" || p.Package.Name == "" || len(p.Package.Name) > maxText || len(p.Package.Ecosystem) > maxText {
			continue // of GIT alone
		}
		if len(o.Severity) == 0 {
			severities(p.Severity)
		}
		a := Affected{Ecosystem: p.Package.Ecosystem, Name: p.Package.Name}
		for _, g := range p.Ranges {
			if g.Type != "SEMVER" && g.Type != "ECOSYSTEM" {
				continue
			}
			if len(g.Events) > maxEvents {
				return Record{}, fmt.Errorf("%s: a range of over %d events", o.ID, maxEvents)
			}
			for _, e := range g.Events {
				if len(e.Introduced)+len(e.Fixed)+len(e.LastAffected)+len(e.Limit) > maxText {
					return Record{}, fmt.Errorf("%s: a version of over %d bytes", o.ID, maxText)
				}
			}
			if len(g.Events) > 0 {
				a.Ranges = append(a.Ranges, Range{g.Type, g.Events})
			}
		}
		if len(p.Versions) > maxVersions {
			return Record{}, fmt.Errorf("%s: over %d versions of a package", o.ID, maxVersions)
		}
		for _, v := range p.Versions {
			if v != "" && len(v) <= maxText {
				a.Versions = append(a.Versions, v)
			}
		}
		r.Affected = append(r.Affected, a)
	}
	return r, nil
}

func unprintable(r rune) bool { return r <= ' ' || r == 0x7f || r == 0xFFFD }

// Clip makes a text one line of valid UTF-8 without control characters, at most so many bytes long.
func Clip(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

// CVE makes a number of the id of a CVE, which orders them as their ids are; ok is false for other ids.
func CVE(id string) (n uint32, ok bool) {
	year, number, found := strings.Cut(strings.TrimPrefix(id, "CVE-"), "-")
	if !strings.HasPrefix(id, "CVE-") || !found || len(year) != 4 || len(number) < 4 || len(number) > 7 {
		return 0, false
	}
	y, v := 0, 0
	for _, c := range []byte(year) {
		if c < '0' || c > '9' {
			return 0, false
		}
		y = y*10 + int(c-'0')
	}
	for _, c := range []byte(number) {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = v*10 + int(c-'0')
	}
	if y < 1990 || y >= 1990+256 {
		return 0, false
	}
	return uint32(y-1990)<<24 | uint32(v), true // of seven digits: under 2^24
}

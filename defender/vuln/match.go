package vuln

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
	"time"

	gocvss20 "github.com/pandatix/go-cvss/20"
	gocvss30 "github.com/pandatix/go-cvss/30"
	gocvss31 "github.com/pandatix/go-cvss/31"
	gocvss40 "github.com/pandatix/go-cvss/40"

	"github.com/vauban-iot/vauban/defender/vuln/format"
)

// Database is what the sources say together. It is for one goroutine at a time.
type Database struct {
	osv  []*packed
	kev  map[string]format.Exploited
	epss [][]byte
}

// Open puts sources together. The data are those that [Read] packed.
func Open(sources []Source, data [][]byte) (*Database, error) {
	db := &Database{kev: make(map[string]format.Exploited)}
	for i, s := range sources {
		switch s.Kind {
		case OSV:
			p, err := openPacked(data[i])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.Name, err)
			}
			db.osv = append(db.osv, p)
		case KEV:
			var all []format.Exploited
			if err := json.Unmarshal(data[i], &all); err != nil {
				return nil, fmt.Errorf("%s: %w", s.Name, errDamaged)
			}
			for _, e := range all {
				db.kev[e.CVE] = e
			}
		case EPSS:
			db.epss = append(db.epss, data[i][:len(data[i])/12*12])
		}
	}
	return db, nil
}

// chance looks up what EPSS says of a CVE.
func (db *Database) chance(cve string) (c format.Chance, ok bool) {
	n, ok := format.CVE(cve)
	if !ok {
		return c, false
	}
	for _, data := range db.epss {
		at := func(i int) uint32 { return binary.LittleEndian.Uint32(data[12*i:]) }
		i := sort.Search(len(data)/12, func(i int) bool { return at(i) >= n })
		if 12*i < len(data) && at(i) == n {
			real := func(o int) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(data[12*i+o:])) }
			return format.Chance{CVE: n, Probability: real(4), Percentile: real(8)}, true
		}
	}
	return c, false
}

// Finding is a vulnerability that a package has.
type Finding struct {
	ID        string   `json:"vulnerability"` // the CVE, or the record's id when there is none
	Records   []string `json:"records"`       // of OSV
	Summary   string   `json:"summary,omitempty"`
	Package   string   `json:"package"`
	Ecosystem string   `json:"ecosystem"`
	Installed string   `json:"installed"`
	Fixed     string   `json:"fixed,omitempty"` // empty: no version without it is known
	PURL      string   `json:"purl"`

	Vector     string            `json:"cvssVector,omitempty"`
	CVSS       float64           `json:"cvss"` // base score; AssumedCVSS when Rated is false
	Rated      bool              `json:"rated"`
	Severity   string            `json:"severity"` // CVSS's words: Critical, High, Medium, Low, None; Unknown
	Exploited  *format.Exploited `json:"kev,omitempty"`
	EPSS       float64           `json:"epss"` // 0 when it is not known
	Percentile float64           `json:"epssPercentile"`
	// Priority orders: Score is EPSS x CVSS, 0 to 10, and what is exploited stands before all else. How says the arithmetic.
	Priority Priority `json:"priority"`

	Status        string `json:"status"` // open, or suppressed by a document of VEX
	VEXStatus     string `json:"vexStatus,omitempty"`
	Justification string `json:"justification,omitempty"`
	Note          string `json:"note,omitempty"`
	VEX           string `json:"vexDocument,omitempty"`
}

// The statuses of a finding.
const (
	Unsuppressed = "open"
	Suppressed   = "suppressed"
)

// Priority is what is mended first.
type Priority struct {
	Exploited bool    `json:"exploited"`
	Score     float64 `json:"score"`
	How       string  `json:"how"`
}

// Rank is Priority as a number that orders: the more the sooner.
func (p Priority) Rank() int {
	r := int(math.Round(p.Score * 1e5))
	if p.Exploited {
		r += 1e7
	}
	return r
}

// AssumedCVSS stands in for the base score of what nobody rated.
const AssumedCVSS = 5.0

// score is the base score of the best vector: the newest CVSS.
func score(all []format.Severity) (vector string, base float64, ok bool) {
	best := ""
	for _, s := range all {
		if s.Type <= best {
			continue
		}
		if v, good := baseScore(s.Score); good {
			best, vector, base, ok = s.Type, s.Score, v, true
		}
	}
	return vector, base, ok
}

func baseScore(vector string) (float64, bool) {
	switch {
	case strings.HasPrefix(vector, "CVSS:4.0/"):
		if v, err := gocvss40.ParseVector(vector); err == nil {
			return v.Score(), true
		}
	case strings.HasPrefix(vector, "CVSS:3.1/"):
		if v, err := gocvss31.ParseVector(vector); err == nil {
			return v.BaseScore(), true
		}
	case strings.HasPrefix(vector, "CVSS:3.0/"):
		if v, err := gocvss30.ParseVector(vector); err == nil {
			return v.BaseScore(), true
		}
	default:
		if v, err := gocvss20.ParseVector(vector); err == nil {
			return v.BaseScore(), true
		}
	}
	return 0, false
}

// word is CVSS's for a base score.
func word(base float64) string {
	switch {
	case base >= 9:
		return "Critical"
	case base >= 7:
		return "High"
	case base >= 4:
		return "Medium"
	case base > 0:
		return "Low"
	}
	return "None"
}

// ids are the CVEs that a record is about, or its own id when it names none. One record of a distribution may be about many.
func ids(in *info) []string {
	if strings.HasPrefix(in.ID, "CVE-") {
		return []string{in.ID}
	}
	var cves []string
	least := in.ID
	for _, a := range in.Aliases {
		if _, ok := format.CVE(a); ok {
			cves = append(cves, a)
		}
		least = min(least, a)
	}
	if len(cves) == 0 {
		return []string{least} // the same for all records that are aliases of each other
	}
	return cves
}

// MaxFindings bounds those of a set; the first by priority are kept.
const MaxFindings = 5000

// Match compares a set with the database, without VEX, in the order of priority. left are packages that cannot be compared: of no
// known ecosystem, or of a distribution without its release.
func (db *Database) Match(s Set) (found []Finding, left int, err error) {
	type key struct{ id, pkg, installed string }
	at := make(map[key]int)
	for i := range s.Packages {
		p := &s.Packages[i]
		eco := p.Ecosystem()
		if eco == "" || p.Version == "" {
			left++
			continue
		}
		for _, name := range p.names() {
			for _, src := range db.osv {
				hits, err := src.find(eco, name, p.installed())
				if err != nil {
					return nil, 0, err
				}
				for _, h := range hits {
					in, err := src.info(h.number)
					if err != nil {
						return nil, 0, err
					}
					for _, id := range ids(in) {
						k := key{id, p.Name, p.Version}
						j, ok := at[k]
						if !ok {
							j = len(found)
							at[k] = j
							found = append(found, Finding{ID: id, Summary: in.Summary, Package: p.Name, Ecosystem: eco, Installed: p.Version, PURL: p.PURL(), Status: Unsuppressed})
						}
						f := &found[j]
						if !slices.Contains(f.Records, in.ID) {
							f.Records = append(f.Records, in.ID)
						}
						f.Fixed = cmp.Or(f.Fixed, h.fixed)
						f.Summary = cmp.Or(f.Summary, in.Summary)
						if vector, base, ok := score(in.Severity); ok && (!f.Rated || base > f.CVSS) {
							f.Vector, f.CVSS, f.Rated = vector, base, true
						}
					}
				}
			}
		}
	}
	rated := make(map[string]*Finding) // what another package's record says of the same
	for i := range found {
		if f := &found[i]; f.Rated && (rated[f.ID] == nil || rated[f.ID].CVSS < f.CVSS) {
			rated[f.ID] = f
		}
	}
	for i := range found {
		f := &found[i]
		if r := rated[f.ID]; r != nil && !f.Rated {
			f.Vector, f.CVSS, f.Rated = r.Vector, r.CVSS, true
		}
		db.prioritize(f)
	}
	slices.SortFunc(found, func(a, b Finding) int {
		return cmp.Or(-cmp.Compare(a.Priority.Rank(), b.Priority.Rank()), -cmp.Compare(a.CVSS, b.CVSS), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Package, b.Package), cmp.Compare(a.Installed, b.Installed))
	})
	return found[:min(len(found), MaxFindings)], left, nil
}

// prioritize says how soon a finding is to be mended, and shows the arithmetic.
func (db *Database) prioritize(f *Finding) {
	f.Severity = word(f.CVSS)
	what := ""
	if !f.Rated {
		f.CVSS, f.Severity, what = AssumedCVSS, "Unknown", " (assumed: it is not rated)"
	}
	chance := " (assumed: EPSS does not have it)"
	if c, ok := db.chance(f.ID); ok {
		f.EPSS, f.Percentile, chance = float64(c.Probability), float64(c.Percentile), ""
		f.EPSS, f.Percentile = math.Round(f.EPSS*1e5)/1e5, math.Round(f.Percentile*1e5)/1e5
	}
	f.Priority.Score = math.Round(f.EPSS*f.CVSS*1e5) / 1e5
	f.Priority.How = fmt.Sprintf("EPSS %g%s x CVSS %g%s = %g", f.EPSS, chance, f.CVSS, what, f.Priority.Score)
	if e, ok := db.kev[f.ID]; ok {
		f.Exploited, f.Priority.Exploited = &e, true
		f.Priority.How = "exploited (KEV), before all that is not; then " + f.Priority.How
	}
}

// Scope is for which devices a document is: those that meet all that is set. The zero Scope: all.
type Scope struct {
	Device   string `json:"device,omitempty"`
	Group    string `json:"group,omitempty"`   // security group
	Product  string `json:"product,omitempty"` // as the device tells it: maker and model, or its model id
	Firmware string `json:"firmware,omitempty"`
}

// Holds reports whether a device is within.
func (s Scope) Holds(d *Device) bool {
	return (s.Device == "" || s.Device == d.ID) && (s.Group == "" || s.Group == d.Group) && (s.Product == "" || strings.EqualFold(s.Product, d.Product)) &&
		(s.Firmware == "" || s.Firmware == d.Firmware)
}

// VEX is a document that the operator uploaded.
type VEX struct {
	Name       string             `json:"name"`
	Scope      Scope              `json:"scope"`
	Statements []format.Statement `json:"statements"`
	Updated    time.Time          `json:"updated"`
}

// said is a statement with the document it stands in.
type said struct {
	statement *format.Statement
	document  *VEX
}

func (s *said) when() time.Time {
	if s.statement.Time.IsZero() {
		return s.document.Updated
	}
	return s.statement.Time
}

// judge applies statements to findings: the latest one about a vulnerability and a package counts. Those that say that a product is
// not affected, or that it is mended, suppress.
func judge(found []Finding, documents []*VEX, product, firmware string) {
	about := make(map[string][]said)
	for _, d := range documents {
		for i := range d.Statements {
			st := &d.Statements[i]
			for _, id := range st.Vulnerabilities {
				about[id] = append(about[id], said{st, d})
			}
		}
	}
	for i := range found {
		f := &found[i]
		var best *said
		for _, id := range append([]string{f.ID}, f.Records...) {
			for _, s := range about[id] {
				if !s.document.speaksOf(s.statement, f, product, firmware) {
					continue
				}
				if best == nil || cmp.Or(s.when().Compare(best.when()), cmp.Compare(s.document.Name, best.document.Name)) >= 0 {
					best = &s
				}
			}
		}
		if best == nil {
			continue
		}
		f.VEX, f.VEXStatus, f.Justification, f.Note = best.document.Name, best.statement.Status, best.statement.Justification, best.statement.Note
		if f.VEXStatus == format.NotAffected || f.VEXStatus == format.Fixed {
			f.Status = Suppressed
		}
	}
}

// speaksOf reports whether a statement is about a finding's package on a device of a product.
func (d *VEX) speaksOf(s *format.Statement, f *Finding, product, firmware string) bool {
	if len(s.Products) == 0 {
		return true
	}
	purl, _ := format.ParsePURL(f.PURL)
	for _, p := range s.Products {
		if samePackage(p.ID, purl) && len(p.Components) == 0 {
			return true
		}
		// What is no package of a system is the product itself: the operator said for which devices the document is, or the device says so.
		whole := d.Scope != (Scope{}) && !ofSystem(p.ID) || sameProduct(p.ID, product, firmware)
		if !whole {
			continue
		}
		if len(p.Components) == 0 {
			return true
		}
		for _, c := range p.Components {
			if samePackage(c, purl) {
				return true
			}
		}
	}
	return false
}

// ofSystem reports whether an id is the package URL of software, rather than of a product.
func ofSystem(id string) bool {
	p, ok := format.ParsePURL(id)
	return ok && p.Type != "generic" && p.Type != "oci" && p.Type != "github"
}

func sameProduct(id, product, firmware string) bool {
	if product == "" {
		return false
	}
	name, v := id, ""
	if p, ok := format.ParsePURL(id); ok {
		name, v = strings.TrimSpace(p.Namespace+" "+p.Name), p.Version
		if strings.EqualFold(p.Name, product) {
			name = p.Name
		}
	}
	return strings.EqualFold(name, product) && (v == "" || v == firmware)
}

// samePackage reports whether a package URL of a statement means a package: versions and qualifiers count when it has them.
func samePackage(id string, of format.PURL) bool {
	p, ok := format.ParsePURL(id)
	if !ok || p.Type != of.Type || p.Namespace != "" && !strings.EqualFold(p.Namespace, of.Namespace) || p.Version != "" && p.Version != of.Version {
		return false
	}
	if !strings.EqualFold(p.Name, of.Name) && !strings.EqualFold(p.Name, of.Qualifiers.Get("upstream")) {
		return false
	}
	for _, q := range []string{"arch", "distro"} {
		if v := p.Qualifiers.Get(q); v != "" && of.Qualifiers.Get(q) != "" && v != of.Qualifiers.Get(q) {
			return false
		}
	}
	return true
}

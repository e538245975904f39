package vuln

import (
	"context"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/iot"
)

// Part is a piece of what an agent told of its device's software: a snapshot may come in many messages.
type Part struct {
	ID       iot.ID
	Taken    time.Time // when the agent looked, by its clock: what parts of one snapshot share
	Message  uint64    // log position
	Ordinal  int       // of the event in its message
	Enqueued time.Time
	Packages []Package
}

// System is what an agent told of its device's operating system.
type System struct {
	ID      iot.ID
	Distro  string // debian-12
	Message uint64
}

// Document is a bill of materials that the operator uploaded.
type Document struct {
	Name     string    `json:"name"`
	Scope    Scope     `json:"scope"`
	Format   string    `json:"format"`
	Packages int       `json:"packages"`
	Set      string    `json:"-"`
	Updated  time.Time `json:"updated"`
}

// Device is a device as evaluation sees it.
type Device struct {
	ID       string
	Group    string // the tag SecurityGroup; default when it has none
	Product  string
	Firmware string
	Sets     []string // that its agents told of; see Software
	Profile  string   // that it has had; empty: none
}

// Software names a set and the distribution whose packages are in it, which those of an agent do not say themselves.
func Software(set, distro string) string { return strings.TrimSpace(set + " " + distro) }

// Profile is what devices with the same software, and the same documents about it, have in common.
type Profile struct {
	ID       string
	Sets     []string
	State    string // of database and documents that it was evaluated with
	Packages int
	Left     int // that cannot be compared
	Findings []Finding
}

// Waiting is a snapshot of which the last part came a while ago.
type Waiting struct {
	ID    iot.ID
	Taken time.Time
	Set   string // that earlier parts of the same snapshot made; empty: none
}

// Filter narrows a list of findings.
type Filter struct {
	Device        string
	Vulnerability string
	Package       string
	Status        string // open or suppressed; empty: both
	Exploited     bool
	After         string // the last of the page before: see Row.Place
	Limit         int    // 1..1000; 0 means 100
}

// Row is a vulnerability with how many devices have it, or, of one device, a finding.
type Row struct {
	Finding
	Devices int    `json:"devices"`
	Place   string `json:"place"` // where the next page continues
}

// Totals are what stands against the fleet.
type Totals struct {
	Devices         int `json:"devices"`  // with software that is known
	Sets            int `json:"profiles"` // that differ
	Vulnerabilities int `json:"vulnerabilities"`
	Exploited       int `json:"exploited"`
	Suppressed      int `json:"suppressed"`  // vulnerabilities that are suppressed wherever they are
	NotCompared     int `json:"notCompared"` // packages of those sets that cannot be compared
}

// Store keeps the database, documents, software and findings. Every write is on disk when the call returns.
type Store interface {
	// VulnVersion grows with every change of the database, of documents, and of which software a device has.
	VulnVersion(ctx context.Context) (int64, error)
	Sources(ctx context.Context) ([]Source, error)
	// PutSource puts a source in the place of the one of its name, and gives it the next generation.
	PutSource(ctx context.Context, s Source, data []byte) (Source, error)
	// SourceData returns what was put; fault.NotFound when there is another generation by now.
	SourceData(ctx context.Context, s Source) ([]byte, error)
	// DeleteSource; fault.NotFound.
	DeleteSource(ctx context.Context, name string) error

	VEXDocuments(ctx context.Context) ([]VEX, error)
	// PutVEX adds a document or replaces it; fault.QuotaExceeded beyond MaxDocuments.
	PutVEX(ctx context.Context, v VEX) error
	DeleteVEX(ctx context.Context, name string) error

	Bills(ctx context.Context) ([]Document, error)
	PutBill(ctx context.Context, d Document, s Set) error
	DeleteBill(ctx context.Context, name string) error

	// KeepParts keeps parts of snapshots, each once; those of a later snapshot replace those of earlier ones. When most of a device wait
	// already, further ones of it are left out; it returns how many were.
	KeepParts(ctx context.Context, parts []Part, most int) (left int, err error)
	KeepSystem(ctx context.Context, s System) error
	// WaitingParts lists snapshots whose last part came before.
	WaitingParts(ctx context.Context, before time.Time, limit int) ([]Waiting, error)
	// PartsOf returns the packages of a snapshot.
	PartsOf(ctx context.Context, w Waiting) ([]Package, error)
	// SettleSoftware makes a set the software of a device in the place of what it was, and forgets the parts. fault.QuotaExceeded: beyond
	// the limits; the parts are forgotten, and what it was stays.
	SettleSoftware(ctx context.Context, w Waiting, s Set, most Limits) error
	// SoftwareSet returns a set; fault.NotFound.
	SoftwareSet(ctx context.Context, id string) (Set, error)

	// SoftwareDevices lists registered devices behind after, by id.
	SoftwareDevices(ctx context.Context, after string, limit int) ([]Device, error)
	// ProfileStates tells with what each profile was evaluated.
	ProfileStates(ctx context.Context) (map[string]string, error)
	PutProfile(ctx context.Context, p Profile) error
	// AssignProfiles says which profile devices have; an empty one: none.
	AssignProfiles(ctx context.Context, of map[string]string) error
	// TidyVuln forgets profiles and sets that nobody has.
	TidyVuln(ctx context.Context) error
	// ProfileFindings returns those of a profile, by priority.
	ProfileFindings(ctx context.Context, profile string) ([]Finding, error)

	// Vulnerabilities lists, by priority: of the fleet, one row for each vulnerability and package; of a device, its findings.
	Vulnerabilities(ctx context.Context, f Filter) ([]Row, error)
	// VulnerableDevices lists devices behind after that have a vulnerability.
	VulnerableDevices(ctx context.Context, vulnerability, after string, limit int) ([]string, error)
	// VulnTotals counts.
	VulnTotals(ctx context.Context) (Totals, error)
	// DeviceSets returns the sets, see Software, of a device's profile; fault.NotFound when nothing is known of its software.
	DeviceSets(ctx context.Context, device string) ([]string, error)
}

// Limits of what agents tell.
type Limits struct {
	Sets   int   // different ones that are kept; devices with the same software share one
	Bytes  int64 // that they take, deflated
	Agents int   // of a device that have one
}

// Limited are the limits that hold: with firmware of their own, 10,000 kinds of devices, or that many devices that lie. A set of
// 500 packages takes about 8 KB.
var Limited = Limits{Sets: 10_000, Bytes: 1 << 30, Agents: 4}

// MaxParts is how many parts of a device wait to become a set. A message of 256 KiB is one, so MaxPackages need some thirty.
const MaxParts = 256

// MaxDocuments bounds the documents of each kind, and MaxSources the sources.
const (
	MaxDocuments = 1000
	MaxSources   = 200
)

package fleet

import (
	"time"
)

// Report is what became of a run. Fleet is the same in every run of the same file whose installation answered the same; Run is
// what depends on the machine and on the installation.
type Report struct {
	Fleet Did `json:"fleet"`
	Run   Ran `json:"run"`
}

// Counts is what boards did. Telemetry and Security are messages that the hub acknowledged.
type Counts struct {
	Telemetry     uint64 `json:"telemetry"`
	Security      uint64 `json:"security"`
	Unsent        uint64 `json:"unsent"` // security messages that were given up
	Registrations uint64 `json:"registrations"`
	Connects      uint64 `json:"connects"`
	Failed        uint64 `json:"failedConnects"`
	Lost          uint64 `json:"lostConnections"`
	Resets        uint64 `json:"resets"` // after the first start
	Crashes       uint64 `json:"crashes"`
}

func (c *Counts) add(o *Counts) {
	c.Telemetry += o.Telemetry
	c.Security += o.Security
	c.Unsent += o.Unsent
	c.Registrations += o.Registrations
	c.Connects += o.Connects
	c.Failed += o.Failed
	c.Lost += o.Lost
	c.Resets += o.Resets
	c.Crashes += o.Crashes
}

// Did is what the boards did, by their own clocks. Durations are seconds since the start.
type Did struct {
	Name     string    `json:"name"`
	Seed     uint64    `json:"seed"`
	Epoch    time.Time `json:"epoch"`
	Duration float64   `json:"durationSeconds"`
	Reached  float64   `json:"reachedSeconds"` // less than the duration: the run was interrupted
	Time     string    `json:"time"`           // virtual or real
	Boards   int       `json:"boards"`
	Counts
	Groups []Group    `json:"groups"`
	Series Series     `json:"series"`
	Each   []BoardDid `json:"each"`
}

// Group is what the boards of a security group did; those without one are in the group without a name.
type Group struct {
	Name   string `json:"name"`
	Boards int    `json:"boards"`
	Counts
}

// Series counts things in steps of the boards' time.
type Series struct {
	Step     float64  `json:"stepSeconds"`
	Messages []uint64 `json:"messages"`
	Connects []uint64 `json:"connects"`
	Resets   []uint64 `json:"resets"` // crashes, too
}

// BoardDid is what one board did.
type BoardDid struct {
	ID       string  `json:"id"`
	Group    string  `json:"group,omitempty"`
	Site     string  `json:"site,omitempty"`
	Link     string  `json:"link,omitempty"`
	Network  Network `json:"network"`
	Firmware string  `json:"firmware"`
	Address  string  `json:"address"`
	DriftPPM float64 `json:"driftPpm"`
	Counts
	Reasons map[string]uint32 `json:"resetReasons,omitempty"`
	Crashed []Crashed         `json:"crashed,omitempty"` // the first ones
	Attacks []Attacked        `json:"attacks,omitempty"`
	Log     *Logged           `json:"log,omitempty"`
	Stopped string            `json:"stopped,omitempty"` // why it did not run to the end
	Trace   *Traced           `json:"trace,omitempty"`
}

// Crashed is a crash of a firmware.
type Crashed struct {
	At     float64 `json:"atSeconds"`
	Where  string  `json:"where"`
	Thread string  `json:"thread,omitempty"`
	Value  string  `json:"value"`
}

// Attacked is an attack that a board began with.
type Attacked struct {
	Name string  `json:"name"`
	At   float64 `json:"atSeconds"`
}

// Traced is the trace of a board's kernel.
type Traced struct {
	Events uint64 `json:"events"`
	SHA256 string `json:"sha256"`
}

// Ran is how the machine and the installation did.
type Ran struct {
	Started     time.Time   `json:"started"`
	Took        float64     `json:"tookSeconds"`
	Speed       float64     `json:"speed"` // the boards' time in the machine's
	PerSecond   float64     `json:"messagesPerSecond"`
	Memory      uint64      `json:"memoryBytes"` // in use at the end, by boards and, in the same process, the platform
	Latency     Latency     `json:"latency"`     // from what a board sends to the installation's answer, by the machine's clock
	Latencies   []Latency   `json:"latencySeries"`
	Alerts      []Seen      `json:"alerts"`
	Detections  []Detection `json:"detections"`
	FalseAlerts int         `json:"alertsOnHonestBoards"`
	Unlisted    int         `json:"alertsBeyondTheList"` // more than are kept
	Crashes     []string    `json:"crashReports"`        // whole; the first ones
}

// Latency sums up how long the installation took to answer, in milliseconds.
type Latency struct {
	Count int64   `json:"count"`
	P50   float64 `json:"p50ms"`
	P99   float64 `json:"p99ms"`
	Max   float64 `json:"maxms"`
}

// Seen is an alert of the installation about a board of the fleet.
type Seen struct {
	Device   string  `json:"deviceId"`
	Type     string  `json:"alertType"`
	Severity string  `json:"severity"`
	Title    string  `json:"title"`
	At       float64 `json:"atSeconds"`        // of the boards' time, when it was first seen
	Attack   string  `json:"attack,omitempty"` // that had begun on the board; empty: none
	After    float64 `json:"afterSeconds,omitempty"`
}

// Detection is what became of an attack. An alert about a board counts for the attack that began last before it.
type Detection struct {
	Attack string   `json:"attack"`
	Boards int      `json:"boards"`
	Found  int      `json:"found"`
	Median float64  `json:"medianSeconds"` // from the onset to the first alert, of those that were found
	Types  []string `json:"alertTypes"`
}

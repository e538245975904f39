// Package throttle limits how often things may be asked of a hub, and how many messages it takes a day, as the tiers of
// Azure do (hub-service §10, hub-device §7). Without a configuration nothing is limited.
//
// Too much is first delayed and then refused: a [Limiter] lets a burst of a whole period through at once, makes what comes
// behind it wait for its turn, and refuses what would have to wait for too long with fault.Throttled. Limits hold for
// each server of a cluster by itself; the messages of a day are counted together.
package throttle

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
)

// Operation is what is limited.
type Operation int

// The operations. Telemetry and Methods count in steps of 4 KiB, everything else one by one.
const (
	Connections    Operation = iota // new connections of devices
	Telemetry                       // messages of devices
	Sends                           // cloud-to-device messages that services send
	Receives                        // cloud-to-device messages that devices ask for over HTTPS
	Uploads                         // file uploads that begin
	Methods                         // direct methods
	TwinReads                       // of devices and services together
	TwinUpdates                     // likewise
	Queries                         // over twins
	Registry                        // reads and writes of identities
	Jobs                            // requests about jobs
	JobDevices                      // what jobs do with devices, one device at a time
	Configurations                  // requests about automatic configurations
	operations
)

// Names of the operations in configurations.
var Names = [...]string{
	"connections", "telemetry", "cloudToDeviceSends", "cloudToDeviceReceives", "fileUploads", "directMethods", "twinReads", "twinUpdates",
	"twinQueries", "registry", "jobs", "jobDevices", "configurations",
}

func (o Operation) String() string { return Names[o] }

// DailyMessages names the quota in configurations.
const DailyMessages = "dailyMessages"

// Rate is how many in a period; the zero value is no limit.
type Rate struct {
	N   float64
	Per time.Duration
}

const day = 24 * time.Hour

// parseRate reads "100/s", "20/min", "400000/day" and "off".
func parseRate(text string) (Rate, error) {
	if strings.EqualFold(text, "off") {
		return Rate{}, nil
	}
	number, unit, _ := strings.Cut(text, "/")
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || !(n > 0) || n > 1e12 {
		return Rate{}, fault.New(fault.Invalid, "a limit is a number above 0 and a period, such as 100/s or 20/min, or off; not %q", text)
	}
	switch strings.ToLower(strings.TrimSpace(unit)) {
	case "s", "sec", "second":
		return Rate{n, time.Second}, nil
	case "min", "m", "minute":
		return Rate{n, time.Minute}, nil
	case "day", "d":
		return Rate{n, day}, nil
	}
	return Rate{}, fault.New(fault.Invalid, "the period of a limit is s, min or day, not %q", unit)
}

func (r Rate) String() string {
	n := strconv.FormatFloat(r.N, 'f', -1, 64)
	switch r.Per {
	case time.Second:
		return n + "/s"
	case time.Minute:
		return n + "/min"
	case day:
		return n + "/day"
	}
	return "off"
}

// perSecond is how fast the rate refills.
func (r Rate) perSecond() float64 { return r.N / r.Per.Seconds() }

// capacity is what a burst may take.
func (r Rate) capacity() float64 { return math.Max(r.N, 1) }

// Config says what is limited. The zero value limits nothing.
type Config struct {
	Tier  string `json:"tier,omitempty"`  // F1, S1, S2 or S3: Azure's limits; empty: none but those of Limits
	Units int    `json:"units,omitempty"` // of the tier; 0: 1
	// Limits replace those of the tier, by the names of Names and DailyMessages: "100/s", "20/min", "400000/day", "off".
	Limits map[string]string `json:"limits,omitempty"`
}

// maxUnits is more than Azure sells.
const maxUnits = 1000

// tier is what one unit may (hub-service §10, hub-device §7). Where Azure gives a hub more than its units', floor is that.
type tier struct {
	unit, floor map[Operation]Rate
	daily       float64
}

func sec(n float64) Rate    { return Rate{n, time.Second} }
func minute(n float64) Rate { return Rate{n, time.Minute} }

var tiers = map[string]tier{
	"F1": tierOf(12, 100, 100, 1000, 100, 40, 100, 50, 20, 100, 100, 10, 8_000),
	"S1": tierOf(12, 100, 100, 1000, 100, 40, 100, 50, 20, 100, 100, 10, 400_000),
	"S2": tierOf(120, 0, 100, 1000, 100, 120, 100, 50, 20, 100, 100, 10, 6_000_000),
	"S3": tierOf(6000, 0, 5000, 50_000, 5000, 6144, 500, 250, 1000, 5000, 5000, 50, 300_000_000),
}

func tierOf(messages, floor, sends, receives, uploads, methods, reads, updates, queries, registry, jobs, jobDevices, daily float64) tier {
	t := tier{daily: daily, floor: map[Operation]Rate{}, unit: map[Operation]Rate{
		Connections: sec(messages), Telemetry: sec(messages), Sends: minute(sends), Receives: minute(receives), Uploads: minute(uploads),
		Methods: sec(methods), Queries: minute(queries), Registry: minute(registry), Jobs: minute(jobs), JobDevices: sec(jobDevices),
	}}
	if floor > 0 {
		t.floor[Connections], t.floor[Telemetry] = sec(floor), sec(floor)
	}
	// These are a hub's, whatever its units; but a large S2 has more.
	t.floor[TwinReads], t.floor[TwinUpdates], t.floor[Configurations] = sec(reads), sec(updates), minute(20)
	if messages == 120 {
		t.unit[TwinReads], t.unit[TwinUpdates] = sec(10), sec(5)
	}
	return t
}

// Limits are a configuration ready for use.
type Limits struct {
	Config
	rates [operations]Rate
	daily float64 // messages; 0: no quota
}

// Parse reads a configuration and checks it whole: fault.Malformed and Invalid.
func Parse(text []byte) (*Limits, error) {
	var c Config
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, fault.Wrap(fault.Malformed, err, "the throttles cannot be read: %v", err)
	}
	return Compile(c)
}

// Compile checks a configuration whole; fault.Invalid.
func Compile(c Config) (*Limits, error) {
	l := &Limits{Config: c}
	if c.Units < 0 || c.Units > maxUnits || c.Units > 0 && c.Tier == "" {
		return nil, fault.New(fault.Invalid, "units must be 1 to %d, of a tier", maxUnits)
	}
	if c.Tier != "" {
		t, ok := tiers[strings.ToUpper(c.Tier)]
		if !ok {
			return nil, fault.New(fault.Invalid, "the tier must be F1, S1, S2 or S3, not %q", c.Tier)
		}
		units := float64(max(c.Units, 1))
		for o := range operations {
			r := t.unit[o]
			r.N *= units
			if f := t.floor[o]; f.N > r.N {
				r = f
			}
			l.rates[o] = r
		}
		l.daily = t.daily * units
	}
	for name, text := range c.Limits {
		r, err := parseRate(text)
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "%s: %s", name, fault.Public(err))
		}
		if name == DailyMessages {
			if r.N > 0 && r.Per != day {
				return nil, fault.New(fault.Invalid, "%s: the period is a day, such as 400000/day", name)
			}
			l.daily = r.N
			continue
		}
		o := slices.Index(Names[:], name)
		if o < 0 {
			return nil, fault.New(fault.Invalid, "there is no limit %q; there are %s and %s", name, strings.Join(Names[:], ", "), DailyMessages)
		}
		if r.Per == day {
			return nil, fault.New(fault.Invalid, "%s: the period is s or min", name)
		}
		l.rates[o] = r
	}
	return l, nil
}

// Effective lists every limit that is in force, by name.
func (l *Limits) Effective() map[string]string {
	m := map[string]string{}
	for o := range operations {
		m[Names[o]] = l.rates[o].String()
	}
	m[DailyMessages] = "off"
	if l.daily > 0 {
		m[DailyMessages] = Rate{l.daily, day}.String()
	}
	return m
}

// step is what Telemetry, Methods and DailyMessages count in (hub-device §7).
const step = 4 << 10

// Steps is how often something of size bytes counts.
func Steps(size int) int { return max(1, (size+step-1)/step) }

var _ fmt.Stringer = Operation(0)

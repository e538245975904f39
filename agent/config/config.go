// Package config is what the Linux agent's twin may say, in both forms that agents have had (defender §1.5): the flat
// properties of the micro agent ([Flat]), and the section of the older agents with its {"value": ...} wrappers ([V1]). Both become
// [Settings]. Nothing here does I/O; the text of a twin was written by somebody else and is bounded.
package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"time"
)

// Priority is how soon a collector's messages are sent.
type Priority int

// The priorities. Off sends nothing.
const (
	Off Priority = iota
	Low
	Medium
	High
)

var priorityNames = []string{"Off", "Low", "Medium", "High"}

func (p Priority) String() string { return priorityNames[p] }

// The collectors. The first eleven are the micro agent's, by its names; the others come from the older agents.
const (
	Baseline              = "Baseline"
	SystemInformation     = "SystemInformation"
	SBoM                  = "SBoM"
	Heartbeat             = "Heartbeat"
	Login                 = "Login"
	NetworkActivity       = "NetworkActivity"
	Process               = "Process"
	LogCollector          = "LogCollector"
	FileSystem            = "FileSystem"
	Peripheral            = "Peripheral"
	Statistics            = "Statistics"
	ListeningPorts        = "ListeningPorts"
	LocalUsers            = "LocalUsers"
	FirewallConfiguration = "FirewallConfiguration"
)

// Names are all collectors.
var Names = []string{
	Baseline, SystemInformation, SBoM, Heartbeat, Login, NetworkActivity, Process, LogCollector, FileSystem, Peripheral, Statistics,
	ListeningPorts, LocalUsers, FirewallConfiguration,
}

// Collector is how one collector works.
type Collector struct {
	Priority Priority
	// Every is how often a snapshot is taken, or how long what a watcher sees is gathered; then it is sent. Zero: as often as
	// messages of the priority are sent.
	Every time.Duration
	// Apart keeps equal observations apart, rather than counting them.
	Apart bool
}

// Hardware is what the twin says about the machine; it comes before what the machine says.
type Hardware struct {
	Vendor, Model, SerialNumber, FirmwareVendor, FirmwareVersion string
}

// CustomChecks is a file of baseline checks, run only when its SHA-256 is Hash.
type CustomChecks struct {
	Enabled    bool
	Path, Hash string
}

// Settings are what is in force.
type Settings struct {
	// Intervals are how often messages of a priority are sent, by Priority; that of Off means nothing.
	Intervals  [4]time.Duration
	Collectors map[string]Collector // one for each of Names

	BaselineGroupsDisabled, BaselineChecksDisabled []string
	Custom                                         CustomChecks
	Hardware                                       Hardware
	LoginUsePAM                                    bool
	NetworkDevices                                 []string // interfaces
	NetworkPacketBuffer                            int      // bytes, of each interface and direction
	ProcessMode                                    int      // 1 auto, 2 netlink, 3 polling
	ProcessPolling                                 time.Duration
	FilePaths                                      []string
	FilesRecursive                                 bool
	CacheSize                                      map[string]int // different things a collector keeps until they are sent; by name, some of Names

	MessageTimeout  time.Duration // how long a message waits to be sent
	MaxCacheBytes   int64         // of all messages that wait; zero: as the machine's own configuration says
	MaxMessageBytes int
	HubResourceID   string // goes along with each message; empty: does not
}

// Interval is how often a collector is due.
func (s *Settings) Interval(name string) time.Duration {
	c := s.Collectors[name]
	return max(c.Every, s.Intervals[c.Priority])
}

const (
	minute = time.Minute
	// maxMessage leaves room for a message's properties below the 256 KiB of a hub message.
	maxMessage  = 252 << 10
	defaultSize = 256 // of a cache
	maxSize     = 1 << 16
	maxList     = 256  // members of a comma list
	maxText     = 4096 // bytes; a twin holds no longer string
)

// ErrNotObject is returned for a desired part that is no JSON object.
var ErrNotObject = errors.New("config: not a JSON object")

// Applied is what a desired part comes to.
type Applied struct {
	Settings Settings
	// Invalid are the properties that were refused, sorted. When there are any, Settings are those that were in force before.
	Invalid []string
}

// members reads a JSON object.
func members(text []byte) (map[string]json.RawMessage, error) {
	var m map[string]json.RawMessage
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, nil
	}
	if err := json.Unmarshal(text, &m); err != nil || m == nil && string(bytes.TrimSpace(text)) != "null" {
		return nil, ErrNotObject
	}
	return m, nil
}

// sortedKeys are the keys of m, so that what is said about several is said in order.
func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func isNull(v json.RawMessage) bool { return len(v) == 0 || string(v) == "null" }

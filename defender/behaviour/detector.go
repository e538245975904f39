package behaviour

import (
	"slices"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/fault"
)

// Detector is one way of looking. It can be switched off.
type Detector struct {
	Name  string
	Title string
	Types []string // of the alerts it raises
}

// State is a detector, and whether it is on.
type State struct {
	Name    string   `json:"name"`
	Title   string   `json:"title"`
	Types   []string `json:"alertTypes"` // that it raises
	Enabled bool     `json:"enabled"`
}

// The detectors, by name.
const (
	Scan      = "scan"
	SlowScan  = "slow-scan"
	Sweep     = "icmp-sweep"
	Flood     = "flood"
	Beacon    = "beacon"
	Tunnel    = "dns-tunnel"
	Egress    = "egress"
	Drip      = "drip"
	Download  = "download"
	Relay     = "relay"
	Protocol  = "new-protocol"
	Login     = "login"
	Stuffing  = "credential-stuffing"
	TwoPlaces = "two-places"
)

var detectors = []Detector{
	{Scan, "Many hosts asked for one service at once, without an answer", []string{alert.NetworkScan}},
	{SlowScan, "Many hosts asked for one service over an hour, without an answer", []string{alert.NetworkScan}},
	{Sweep, "Many hosts pinged", []string{alert.NetworkScan}},
	{Flood, "A surge of traffic to one host that does not answer", []string{alert.DenialOfService}},
	{Beacon, "Small traffic to an unknown host, as regular as a clock", []string{alert.Beaconing}},
	{Tunnel, "More DNS traffic than names need", []string{alert.DNSTunnel}},
	{Egress, "Much more data leaves than ever before", []string{alert.EgressData}},
	{Drip, "Data leaves to an unknown host, little by little", []string{alert.EgressData}},
	{Download, "A file fetched from an unknown host over an open protocol", []string{alert.PayloadDownload}},
	{Relay, "What one host sends goes on to another", []string{alert.PortForwarding}},
	{Protocol, "A protocol that neither the device nor its group used before", []string{alert.NewProtocol}},
	{Login, "Passwords of the device guessed", []string{alert.BruteForce, alert.BruteForceSucceeded}},
	{Stuffing, "Credentials tried on many identities, or on one from many addresses", []string{alert.CredentialStuffing}},
	{TwoPlaces, "One identity connects from two places in turns", []string{alert.TwoPlaces}},
}

// Detectors lists all.
func Detectors() []Detector { return slices.Clone(detectors) }

// bit of each detector, by name.
var bit = func() map[string]uint32 {
	m := make(map[string]uint32, len(detectors))
	for i, d := range detectors {
		m[d.Name] = 1 << i
	}
	return m
}()

// Check refuses a name that is no detector's.
func Check(name string) error {
	if _, ok := bit[name]; !ok {
		return fault.New(fault.NotFound, "there is no detector %.40q; `vauban detector list` names them", name)
	}
	return nil
}

func mask(disabled []string) (off uint32) {
	for _, name := range disabled {
		off |= bit[name]
	}
	return off
}

// Disable switches these detectors off, and all others on. They learn on all the same.
func (e *Engine) Disable(names []string) { e.off.Store(mask(names)) }

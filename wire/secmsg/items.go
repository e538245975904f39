package secmsg

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
)

// The payload items that only the Linux agent sends, in schema 3.0 (defender §1.4). Those that JSON 1.0 knows too, local users and
// rules of a firewall, keep its member names, so that one query reads both.

// LoginRecord is somebody who signed in or out, or tried to.
type LoginRecord struct {
	Operation     string `json:"operation"` // LoggedIn, LoggedOut or LoginFailed
	ProcessID     uint32 `json:"process_id,omitempty"`
	UserName      string `json:"user_name"`
	Executable    string `json:"executable,omitempty"` // the service or program: sshd, login, sudo
	Terminal      string `json:"terminal,omitempty"`
	RemoteAddress string `json:"remote_address,omitempty"` // empty: from the device itself, or not said
	HitCount      uint32 `json:"hit_count"`
}

// The operations of a LoginRecord.
const (
	LoggedIn    = "Login"
	LoggedOut   = "Logout"
	LoginFailed = "LoginFailed"
)

// NIC is a network card.
type NIC struct {
	Name   string   `json:"name"`
	Type   string   `json:"type"` // UNKNOWN, ETH, WIFI, MOBILE, SATELLITE
	Vendor string   `json:"vendor,omitempty"`
	VLANs  []uint16 `json:"vlans,omitempty"`
	MAC    string   `json:"mac,omitempty"`
	IPv4   []string `json:"ipv4_address,omitempty"`
	IPv6   []string `json:"ipv6_address,omitempty"`
}

// Package is a piece of software that is installed: an entry of the bill of materials, event SBoM.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Vendor  string `json:"vendor,omitempty"`
	Type    string `json:"type"` // deb, rpm, apk, opkg, or that of a package URL: golang, npm, pypi...
	Arch    string `json:"arch,omitempty"`
	Source  string `json:"source,omitempty"` // the source package it was built from, where that has another name
}

// Peripheral is a device that was plugged in or pulled out.
type Peripheral struct {
	Type              string `json:"type"`        // USB or Ethernet
	Action            string `json:"action_type"` // connect or disconnect
	BusNumber         uint32 `json:"bus_number,omitempty"`
	DeviceNumber      uint32 `json:"kernel_device_number,omitempty"`
	DeviceClass       string `json:"device_class,omitempty"` // USB classes, subclasses and protocols: two hex digits
	DeviceSubclass    string `json:"device_subclass,omitempty"`
	DeviceProtocol    string `json:"device_protocol,omitempty"`
	InterfaceClass    string `json:"interface_class,omitempty"`
	InterfaceSubclass string `json:"interface_subclass,omitempty"`
	InterfaceProtocol string `json:"interface_protocol,omitempty"`
	Product           string `json:"product,omitempty"` // vendor/product/version as the kernel writes them
	InterfaceName     string `json:"interface_name,omitempty"`
	HitCount          uint32 `json:"hit_count"`
}

// The types and actions of a Peripheral.
const (
	USB        = "USB"
	Ethernet   = "Ethernet"
	Connect    = "connect"
	Disconnect = "disconnect"
)

// FileChange is what happened to a watched file, event FileSystem.
type FileChange struct {
	Mask     uint32 `json:"mask"`   // of inotify
	Action   string `json:"action"` // Created, Modified or Deleted
	Path     string `json:"path"`
	SHA256   string `json:"sha256,omitempty"` // of its content afterwards, of small files
	HitCount uint32 `json:"hit_count"`
}

// The actions of a FileChange.
const (
	Created  = "Created"
	Modified = "Modified"
	Deleted  = "Deleted"
)

// Statistic says what became of a collector's observations.
type Statistic struct {
	Collector string           `json:"collector_name"`
	Events    []StatisticEvent `json:"events"`
}

// StatisticEvent is one line of it: sent, or dropped and why.
type StatisticEvent struct {
	Description string `json:"description"`
	HitCount    uint64 `json:"hit_count"`
}

// DNSQuery is a name that the device asked for, event Dns.
type DNSQuery struct {
	Name       string `json:"name"` // without the final dot
	Type       string `json:"type"` // A, AAAA, TXT...
	Server     string `json:"server,omitempty"`
	ProcessID  uint32 `json:"process_id,omitempty"`
	Executable string `json:"executable,omitempty"`
	HitCount   uint32 `json:"hit_count"`
}

// LocalUser is an account, event LocalUsers.
type LocalUser struct {
	UserName   string `json:"UserName"`
	UserID     string `json:"UserId"`
	GroupNames string `json:"GroupNames"` // joined by ;
	GroupIDs   string `json:"GroupIds"`
}

// FirewallRule is a rule or, with the lowest priority, the policy of a chain; event FirewallConfiguration.
type FirewallRule struct {
	Enabled            bool   `json:"Enabled"`
	Action             string `json:"Action"` // Allow, Deny, Other
	Priority           int    `json:"Priority"`
	Direction          string `json:"Direction,omitempty"` // In, Out
	ChainName          string `json:"ChainName,omitempty"`
	Application        string `json:"Application,omitempty"`
	SourceAddress      string `json:"SourceAddress,omitempty"`
	SourcePort         string `json:"SourcePort,omitempty"`
	DestinationAddress string `json:"DestinationAddress,omitempty"`
	DestinationPort    string `json:"DestinationPort,omitempty"`
	Protocol           string `json:"Protocol,omitempty"`
}

// The actions of a FirewallRule.
const (
	Allow = "Allow"
	Deny  = "Deny"
	Other = "Other"
)

func (LoginRecord) item()  {}
func (Package) item()      {}
func (Peripheral) item()   {}
func (FileChange) item()   {}
func (Statistic) item()    {}
func (DNSQuery) item()     {}
func (LocalUser) item()    {}
func (FirewallRule) item() {}

// IsZero reports whether s says nothing.
func (s *SystemInformation) IsZero() bool {
	t := *s
	t.NICs = nil
	return len(s.NICs) == 0 && reflect.ValueOf(t).IsZero()
}

// events3 are the events that schema 3.0 adds.
var events3 = []string{"Login", "SBoM", "Peripheral", "FileSystem", "Statistics", "Dns", "LocalUsers", "FirewallConfiguration"}

// itemOf reads an item of the event name, which is not one of flows, ports and checks.
func itemOf(name string, data []byte) (Item, error) {
	switch name {
	case "SystemInformation":
		return read(data, SystemInformation{})
	case "Process":
		return read(data, Process{EventType: processEvents[0], HitCount: 1})
	case "Log":
		return read(data, Record{})
	case "Login":
		return read(data, LoginRecord{HitCount: 1})
	case "SBoM":
		return read(data, Package{})
	case "Peripheral":
		return read(data, Peripheral{HitCount: 1})
	case "FileSystem":
		return read(data, FileChange{HitCount: 1})
	case "Statistics":
		return read(data, Statistic{})
	case "Dns":
		return read(data, DNSQuery{HitCount: 1})
	case "LocalUsers":
		return read(data, LocalUser{})
	case "FirewallConfiguration":
		return read(data, FirewallRule{})
	}
	return nil, &MalformedError{Offset: -1, Reason: "details of " + quote(name) + " are of no known form"}
}

func read[T Item](data []byte, v T) (Item, error) {
	if err := json.Unmarshal(data, &v); err != nil {
		return nil, jsonError(err)
	}
	return v, nil
}

// login is what a LoginRecord tells of a sign-in; ok is false for one that ended.
func (r *LoginRecord) login() (l Login, ok bool) {
	switch {
	case strings.EqualFold(r.Operation, LoggedIn):
	case strings.EqualFold(r.Operation, LoginFailed):
		l.Failed = true
	default:
		return Login{}, false
	}
	l.User, l.Remote, l.Hits, l.Program = r.UserName, r.RemoteAddress, uint64(max(r.HitCount, 1)), r.Executable
	return l, true
}

// knownEvent reports whether schema 3.0 has an event of this name.
func knownEvent(name string) bool {
	return name != payloads[0] && slices.Contains(payloads, name) || slices.Contains(events3, name)
}

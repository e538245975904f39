// Package group is the security groups of devices and their custom rules (defender §2.3), in the shapes of Azure's resource
// deviceSecurityGroups. A device's group is its tag SecurityGroup; without one it is in the group default.
//
// Rules are of four lists: what must stay in a range over a time (package window evaluates these), what must stay in a range in every
// security message, what alone is allowed, and what is denied. Azure publishes no names for rules of the second and the last
// list; those here are ours.
package group

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/activity"
)

// Default is the group of devices without the tag.
const Default = "default"

// WindowRule is a rule of timeWindowRules.
type WindowRule struct {
	DisplayName string `json:"displayName,omitempty"` // read-only, as Description
	Description string `json:"description,omitempty"`
	RuleType    string `json:"ruleType"`
	IsEnabled   bool   `json:"isEnabled"`
	Min         int    `json:"minThreshold"`
	Max         int    `json:"maxThreshold"`
	Window      string `json:"timeWindowSize"` // ISO 8601, whole minutes from PT1M to P1D
}

// ThresholdRule is a rule of thresholdRules.
type ThresholdRule struct {
	DisplayName string `json:"displayName,omitempty"`
	Description string `json:"description,omitempty"`
	RuleType    string `json:"ruleType"`
	IsEnabled   bool   `json:"isEnabled"`
	Min         int    `json:"minThreshold"`
	Max         int    `json:"maxThreshold"`
}

// AllowRule is a rule of allowlistRules.
type AllowRule struct {
	DisplayName string   `json:"displayName,omitempty"`
	Description string   `json:"description,omitempty"`
	ValueType   string   `json:"valueType,omitempty"` // read-only: IpCidr or String
	RuleType    string   `json:"ruleType"`
	IsEnabled   bool     `json:"isEnabled"`
	Values      []string `json:"allowlistValues"`
}

// DenyRule is a rule of denylistRules.
type DenyRule struct {
	DisplayName string   `json:"displayName,omitempty"`
	Description string   `json:"description,omitempty"`
	ValueType   string   `json:"valueType,omitempty"`
	RuleType    string   `json:"ruleType"`
	IsEnabled   bool     `json:"isEnabled"`
	Values      []string `json:"denylistValues"`
}

// Rules are the properties of a group.
type Rules struct {
	Threshold []ThresholdRule `json:"thresholdRules"`
	Window    []WindowRule    `json:"timeWindowRules"`
	Allow     []AllowRule     `json:"allowlistRules"`
	Deny      []DenyRule      `json:"denylistRules"`
}

// The types of values.
const (
	cidr = "IpCidr"
	text = "String"
)

// kind is what is known of a type of rule.
type kind struct{ name, display, description, values string }

const suffix = "NotInAllowedRange"

// WindowType is the rule about a kind of activity.
func WindowType(k activity.Kind) string { return k.String() + suffix }

// The names of the rules over time, by activity.
var displays = map[activity.Kind]string{
	activity.ActiveConnections:       "Number of active connections",
	activity.FailedLocalLogins:       "Number of failed local logins",
	activity.AmqpC2DMessages:         "Number of cloud to device messages (AMQP protocol)",
	activity.MqttC2DMessages:         "Number of cloud to device messages (MQTT protocol)",
	activity.HttpC2DMessages:         "Number of cloud to device messages (HTTP protocol)",
	activity.AmqpC2DRejectedMessages: "Number of rejected cloud to device messages (AMQP protocol)",
	activity.MqttC2DRejectedMessages: "Number of rejected cloud to device messages (MQTT protocol)",
	activity.HttpC2DRejectedMessages: "Number of rejected cloud to device messages (HTTP protocol)",
	activity.AmqpD2CMessages:         "Number of device to cloud messages (AMQP protocol)",
	activity.MqttD2CMessages:         "Number of device to cloud messages (MQTT protocol)",
	activity.HttpD2CMessages:         "Number of device to cloud messages (HTTP protocol)",
	activity.DirectMethodInvokes:     "Number of direct method invokes",
	activity.FileUploads:             "Number of file uploads",
	activity.QueuePurges:             "Number of device queue purges",
	activity.TwinUpdates:             "Number of twin updates",
	activity.UnauthorizedOperations:  "Number of unauthorized operations",
}

func windowKinds() []kind {
	var all []kind
	for _, k := range activity.Kinds() {
		all = append(all, kind{WindowType(k), displays[k] + " is not in allowed range", "Alerts when it is below the minimum or above the maximum within the time window.", ""})
	}
	return all
}

// The types of rules.
const (
	ToIPNotAllowed   = "ConnectionToIpNotAllowed"
	FromIPNotAllowed = "ConnectionFromIpNotAllowed"
	UserNotAllowed   = "LocalUserNotAllowed"
	ProcessOffList   = "ProcessNotAllowed"
	ToIPDenied       = "ConnectionToIpDenied"
	FromIPDenied     = "ConnectionFromIpDenied"
	UserDenied       = "LocalUserDenied"
	ProcessDenied    = "ProcessDenied"
	RemotesInRange   = "DistinctRemoteAddresses" + suffix
	BytesOutInRange  = "BytesOut" + suffix
)

var (
	allowKinds = []kind{
		{ToIPNotAllowed, "Outbound connection to an ip that isn't allowed", "Alerts when a device connects to an address in none of the ranges.", cidr},
		{FromIPNotAllowed, "Inbound connection from an ip that isn't allowed", "Alerts when a device is connected to from an address in none of the ranges.", cidr},
		{UserNotAllowed, "Login by a local user that isn't allowed", "Alerts when a user who is not listed signs in on a device.", text},
		{ProcessOffList, "Execution of a process that isn't allowed", "Alerts when a program that is not listed starts on a device.", text},
	}
	denyKinds = []kind{
		{ToIPDenied, "Outbound connection to a denied ip", "Alerts when a device connects to an address in one of the ranges.", cidr},
		{FromIPDenied, "Inbound connection from a denied ip", "Alerts when a device is connected to from an address in one of the ranges.", cidr},
		{UserDenied, "Login by a denied local user", "Alerts when a listed user signs in on a device.", text},
		{ProcessDenied, "Execution of a denied process", "Alerts when a listed program starts on a device.", text},
	}
	thresholdKinds = []kind{
		{RemotesInRange, "Number of distinct remote addresses is not in allowed range", "Alerts on a security message whose flows have fewer or more remote addresses.", ""},
		{BytesOutInRange, "Number of bytes sent is not in allowed range", "Alerts on a security message whose flows sent fewer or more bytes.", ""},
	}
)

// Empty is a new group: every rule of Azure is listed and disabled.
func Empty() Rules {
	r := Rules{Threshold: []ThresholdRule{}, Deny: []DenyRule{}}
	for _, k := range windowKinds() {
		r.Window = append(r.Window, WindowRule{DisplayName: k.display, Description: k.description, RuleType: k.name, Window: "PT15M"})
	}
	for _, k := range allowKinds {
		r.Allow = append(r.Allow, AllowRule{DisplayName: k.display, Description: k.description, ValueType: k.values, RuleType: k.name, Values: []string{}})
	}
	return r
}

// All lists every rule there is: those that r has, and the others disabled.
func (r Rules) All() Rules {
	all := Empty()
	for i := range all.Window {
		for _, w := range r.Window {
			if w.RuleType == all.Window[i].RuleType {
				all.Window[i] = w
			}
		}
	}
	for _, k := range thresholdKinds {
		t := ThresholdRule{DisplayName: k.display, Description: k.description, RuleType: k.name}
		for _, has := range r.Threshold {
			if has.RuleType == k.name {
				t = has
			}
		}
		all.Threshold = append(all.Threshold, t)
	}
	for i := range all.Allow {
		for _, a := range r.Allow {
			if a.RuleType == all.Allow[i].RuleType {
				all.Allow[i] = a
			}
		}
	}
	for _, k := range denyKinds {
		d := DenyRule{DisplayName: k.display, Description: k.description, ValueType: k.values, RuleType: k.name, Values: []string{}}
		for _, has := range r.Deny {
			if has.RuleType == k.name {
				d = has
			}
		}
		all.Deny = append(all.Deny, d)
	}
	return all
}

// Size is how many devices a group has.
type Size struct {
	Name    string
	Devices int
}

// Bounds of groups.
const (
	MaxGroups = 100
	MaxName   = 64
	MaxSize   = 256 << 10 // of a group's text
	maxValues = 1000
	maxRange  = 1 << 40
)

// CheckName refuses what cannot be a group's name.
func CheckName(name string) error {
	if name == "" || len(name) > MaxName || strings.ContainsFunc(name, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '/' || r == '\\' || r == 0xfffd }) {
		return fault.New(fault.Invalid, "a security group's name has 1 to %d bytes and no slash or control character", MaxName)
	}
	return nil
}

// Parse reads the properties of a group as a PUT brings them: {"properties":{...}}, or these alone. Rules that are not named stay as in
// a new group; what is read-only is ignored.
func Parse(body []byte) (Rules, error) {
	if len(body) > MaxSize {
		return Rules{}, fault.New(fault.TooLarge, "a security group has %d bytes at most", MaxSize)
	}
	var outer struct {
		Properties json.RawMessage `json:"properties"`
	}
	if err := json.Unmarshal(body, &outer); err != nil {
		return Rules{}, fault.Wrap(fault.Malformed, err, "the security group is not JSON: %v", err)
	}
	if outer.Properties != nil {
		body = outer.Properties
	}
	var given Rules
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	err := d.Decode(&given)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the object")
		}
	}
	if err != nil {
		return Rules{}, fault.Wrap(fault.Malformed, err, "the security group cannot be read: %v", err)
	}
	r, err := given.complete()
	if err != nil {
		return Rules{}, err
	}
	_, err = Compile(r, nil)
	return r, err
}

// complete checks the rules and puts them into the places of a new group.
func (given Rules) complete() (Rules, error) {
	r := Empty()
	seen := map[string]bool{}
	known := func(list string, kinds []kind, name string) (kind, error) {
		i := slices.IndexFunc(kinds, func(k kind) bool { return strings.EqualFold(k.name, name) })
		if i < 0 {
			var names []string
			for _, k := range kinds {
				names = append(names, k.name)
			}
			return kind{}, fault.New(fault.Invalid, "%s: there is no rule %.80q (there are %s)", list, name, strings.Join(names, ", "))
		}
		if seen[list+kinds[i].name] {
			return kind{}, fault.New(fault.Invalid, "%s: %s is there twice", list, kinds[i].name)
		}
		seen[list+kinds[i].name] = true
		return kinds[i], nil
	}
	inRange := func(name string, enabled bool, least, most int) error {
		if least < 0 || most < 0 || least > maxRange || most > maxRange || enabled && least > most {
			return fault.New(fault.Invalid, "%s: minThreshold %d and maxThreshold %d are no range", name, least, most)
		}
		return nil
	}
	for _, g := range given.Window {
		k, err := known("timeWindowRules", windowKinds(), g.RuleType)
		if err != nil {
			return r, err
		}
		if err := inRange(k.name, g.IsEnabled, g.Min, g.Max); err != nil {
			return r, err
		}
		if g.Window == "" {
			g.Window = "PT15M"
		}
		if _, err := ParseWindow(g.Window); err != nil {
			return r, fault.New(fault.Invalid, "%s: %s", k.name, fault.Public(err))
		}
		for i := range r.Window {
			if w := &r.Window[i]; w.RuleType == k.name {
				w.IsEnabled, w.Min, w.Max, w.Window = g.IsEnabled, g.Min, g.Max, g.Window
			}
		}
	}
	for _, g := range given.Threshold {
		k, err := known("thresholdRules", thresholdKinds, g.RuleType)
		if err != nil {
			return r, err
		}
		if err := inRange(k.name, g.IsEnabled, g.Min, g.Max); err != nil {
			return r, err
		}
		r.Threshold = append(r.Threshold, ThresholdRule{k.display, k.description, k.name, g.IsEnabled, g.Min, g.Max})
	}
	for _, g := range given.Allow {
		k, err := known("allowlistRules", allowKinds, g.RuleType)
		if err != nil {
			return r, err
		}
		if g.Values, err = checkValues(k, g.Values); err != nil {
			return r, err
		}
		for i := range r.Allow {
			if a := &r.Allow[i]; a.RuleType == k.name {
				a.IsEnabled, a.Values = g.IsEnabled, g.Values
			}
		}
	}
	for _, g := range given.Deny {
		k, err := known("denylistRules", denyKinds, g.RuleType)
		if err != nil {
			return r, err
		}
		if g.Values, err = checkValues(k, g.Values); err != nil {
			return r, err
		}
		r.Deny = append(r.Deny, DenyRule{k.display, k.description, k.values, k.name, g.IsEnabled, g.Values})
	}
	return r, nil
}

func checkValues(k kind, values []string) ([]string, error) {
	if len(values) > maxValues {
		return nil, fault.New(fault.Invalid, "%s has %d values, %d are allowed", k.name, len(values), maxValues)
	}
	for _, v := range values {
		if v == "" || len(v) > 256 {
			return nil, fault.New(fault.Invalid, "%s: a value has 1 to 256 bytes", k.name)
		}
		if k.values == cidr {
			if _, err := parsePrefix(v); err != nil {
				return nil, fault.New(fault.Invalid, "%s: %.60q is no range of addresses, such as 10.0.0.0/8 or 2001:db8::/32", k.name, v)
			}
		}
	}
	if values == nil {
		values = []string{}
	}
	return values, nil
}

// parsePrefix reads a range, or one address. IPv4 in IPv6 is IPv4.
func parsePrefix(s string) (netip.Prefix, error) {
	s = strings.TrimSpace(s)
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, err
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

// ParseWindow reads an ISO 8601 duration of whole minutes, from a minute to a day.
func ParseWindow(s string) (time.Duration, error) {
	bad := fault.New(fault.Invalid, "timeWindowSize %.40q is not a duration of whole minutes from PT1M to P1D", s)
	rest, ok := strings.CutPrefix(s, "P")
	if !ok || len(s) > 40 {
		return 0, bad
	}
	var total time.Duration
	units, timed, parts := map[byte]time.Duration{'D': 24 * time.Hour}, false, 0
	for rest != "" {
		if rest[0] == 'T' && !timed {
			timed, rest = true, rest[1:]
			units = map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second}
			if rest == "" {
				return 0, bad
			}
			continue
		}
		n, i := time.Duration(0), 0
		for i < len(rest) && rest[i] >= '0' && rest[i] <= '9' && i < 6 {
			n = 10*n + time.Duration(rest[i]-'0')
			i++
		}
		if i == 0 || i == len(rest) {
			return 0, bad
		}
		unit, ok := units[rest[i]]
		if !ok {
			return 0, bad
		}
		delete(units, rest[i])
		total += n * unit
		rest, parts = rest[i+1:], parts+1
	}
	if parts == 0 || total < time.Minute || total > 24*time.Hour || total%time.Minute != 0 {
		return 0, bad
	}
	return total, nil
}

package config

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Default are the settings of a micro agent whose twin says nothing.
func Default() Settings {
	s := Settings{
		Intervals:           [4]time.Duration{Off: 1440 * minute, Low: 1440 * minute, Medium: 120 * minute, High: 30 * minute},
		Collectors:          make(map[string]Collector, len(Names)),
		NetworkDevices:      []string{"eth0"},
		NetworkPacketBuffer: 2 << 20,
		ProcessMode:         1,
		ProcessPolling:      100 * time.Millisecond,
		FilesRecursive:      true,
		CacheSize:           make(map[string]int),
		MessageTimeout:      2880 * minute,
		MaxMessageBytes:     maxMessage,
	}
	for _, n := range Names {
		s.Collectors[n] = Collector{Priority: Low}
	}
	for _, n := range []string{Process, NetworkActivity, Login} {
		s.Collectors[n] = Collector{Priority: Medium}
	}
	for _, n := range []string{NetworkActivity, Process, FileSystem, Peripheral, Statistics} {
		s.CacheSize[n] = defaultSize
	}
	return s
}

// setter puts a value where it belongs and says whether it may have it.
type setter func(s *Settings, v json.RawMessage) bool

// flatProperties are the properties that the micro agent knows (defender §1.5), and those of our three further collectors.
var flatProperties = func() map[string]setter {
	m := map[string]setter{
		"CollectorsCore_PriorityIntervals":       setIntervals,
		"Baseline_GroupsDisabled":                listInto(func(s *Settings) *[]string { return &s.BaselineGroupsDisabled }),
		"Baseline_ChecksDisabled":                listInto(func(s *Settings) *[]string { return &s.BaselineChecksDisabled }),
		"SystemInformation_HardwareVendor":       textInto(func(s *Settings) *string { return &s.Hardware.Vendor }),
		"SystemInformation_HardwareModel":        textInto(func(s *Settings) *string { return &s.Hardware.Model }),
		"SystemInformation_FirmwareVendor":       textInto(func(s *Settings) *string { return &s.Hardware.FirmwareVendor }),
		"SystemInformation_FirmwareVersion":      textInto(func(s *Settings) *string { return &s.Hardware.FirmwareVersion }),
		"SystemInformation_HardwareSerialNumber": textInto(func(s *Settings) *string { return &s.Hardware.SerialNumber }),
		"Login_UsePAM":                           boolInto(func(s *Settings) *bool { return &s.LoginUsePAM }),
		"IothubModule_MessageTimeout":            durationInto(minute, 1, 60*24*60, func(s *Settings) *time.Duration { return &s.MessageTimeout }),
		"NetworkActivity_Devices":                listInto(func(s *Settings) *[]string { return &s.NetworkDevices }),
		"NetworkActivity_PacketBufferSize":       intInto(4096, 64<<20, func(s *Settings, n int) { s.NetworkPacketBuffer = n }),
		"Process_Mode":                           intInto(1, 3, func(s *Settings, n int) { s.ProcessMode = n }),
		"Process_PollingInterval":                durationInto(time.Microsecond, 1000, 3_600_000_000, func(s *Settings) *time.Duration { return &s.ProcessPolling }),
		"FileSystem_Recursive":                   boolInto(func(s *Settings) *bool { return &s.FilesRecursive }),
		"FileSystem_Paths":                       listInto(func(s *Settings) *[]string { return &s.FilePaths }),
	}
	for _, n := range Names {
		m[n+"_Disabled"] = func(s *Settings, v json.RawMessage) bool {
			off, ok := readBool(v)
			if c := s.Collectors[n]; ok && off {
				c.Priority = Off
				s.Collectors[n] = c
			}
			return ok
		}
		m[n+"_MessageFrequency"] = func(s *Settings, v json.RawMessage) bool {
			p := slices.Index(priorityNames[1:], readText(v))
			if c := s.Collectors[n]; p >= 0 && c.Priority != Off {
				c.Priority = Priority(p + 1)
				s.Collectors[n] = c
			}
			return p >= 0
		}
	}
	for _, n := range []string{NetworkActivity, Process, FileSystem, Peripheral, Statistics} {
		m[n+"_CacheSize"] = intInto(1, maxSize, func(s *Settings, size int) { s.CacheSize[n] = size })
	}
	return m
}()

// Flat reads the desired part of module DefenderIotMicroAgent. Unknown properties mean nothing, and null is the default. When
// one is invalid none is applied: current stays. The error is ErrNotObject.
func Flat(desired []byte, current Settings) (Applied, error) {
	m, err := members(desired)
	if err != nil {
		return Applied{}, err
	}
	s := Default()
	var invalid []string
	// In order, so that X_Disabled comes before X_MessageFrequency and stays.
	for _, name := range sortedKeys(m) {
		if set, known := flatProperties[name]; known && !isNull(m[name]) && !set(&s, m[name]) {
			invalid = append(invalid, name)
		}
	}
	if invalid != nil {
		return Applied{Settings: current, Invalid: invalid}, nil
	}
	return Applied{Settings: s}, nil
}

// FlatReport is what the agent says about a desired part in its reported one.
func FlatReport(a Applied) map[string]any {
	if len(a.Invalid) > 0 {
		return map[string]any{"latest_state": "failed", "latest_invalid_fields": strings.Join(a.Invalid, ",")}
	}
	return map[string]any{"latest_state": "success", "latest_invalid_fields": nil}
}

// setIntervals reads "High,Medium,Low" in minutes.
func setIntervals(s *Settings, v json.RawMessage) bool {
	parts := strings.Split(readText(v), ",")
	if len(parts) != 3 {
		return false
	}
	var at [3]time.Duration
	for i, p := range parts {
		n, err := strconv.ParseUint(strings.TrimSpace(p), 10, 32)
		if err != nil || n == 0 || n > 60*24*60 || i > 0 && time.Duration(n)*minute < at[i-1] {
			return false
		}
		at[i] = time.Duration(n) * minute
	}
	s.Intervals = [4]time.Duration{Off: at[2], High: at[0], Medium: at[1], Low: at[2]}
	return true
}

// readText reads a string; what is none, or too long, is "".
func readText(v json.RawMessage) string {
	var t string
	if json.Unmarshal(v, &t) != nil || len(t) > maxText {
		return ""
	}
	return t
}

// readBool reads a boolean, which some tools write as a string.
func readBool(v json.RawMessage) (b, ok bool) {
	if json.Unmarshal(v, &b) == nil {
		return b, true
	}
	switch t := readText(v); {
	case strings.EqualFold(t, "true"):
		return true, true
	case strings.EqualFold(t, "false"):
		return false, true
	}
	return false, false
}

// readInt reads a whole number, which some tools write as a string.
func readInt(v json.RawMessage) (int64, bool) {
	var n int64
	if json.Unmarshal(v, &n) == nil {
		return n, true
	}
	n, err := strconv.ParseInt(readText(v), 10, 64)
	return n, err == nil
}

func boolInto(field func(*Settings) *bool) setter {
	return func(s *Settings, v json.RawMessage) bool {
		b, ok := readBool(v)
		if ok {
			*field(s) = b
		}
		return ok
	}
}

func textInto(field func(*Settings) *string) setter {
	return func(s *Settings, v json.RawMessage) bool {
		var t string
		if json.Unmarshal(v, &t) != nil || len(t) > maxText {
			return false
		}
		*field(s) = t
		return true
	}
}

// listInto reads a comma list.
func listInto(field func(*Settings) *[]string) setter {
	return func(s *Settings, v json.RawMessage) bool {
		var t string
		if json.Unmarshal(v, &t) != nil || len(t) > maxText || strings.Count(t, ",") >= maxList {
			return false
		}
		list := []string{}
		for p := range strings.SplitSeq(t, ",") {
			if p = strings.TrimSpace(p); p != "" {
				list = append(list, p)
			}
		}
		*field(s) = list
		return true
	}
}

func intInto(least, most int64, set func(*Settings, int)) setter {
	return func(s *Settings, v json.RawMessage) bool {
		n, ok := readInt(v)
		if ok = ok && n >= least && n <= most; ok {
			set(s, int(n))
		}
		return ok
	}
}

func durationInto(unit time.Duration, least, most int64, field func(*Settings) *time.Duration) setter {
	return func(s *Settings, v json.RawMessage) bool {
		n, ok := readInt(v)
		if ok = ok && n >= least && n <= most; ok {
			*field(s) = time.Duration(n) * unit
		}
		return ok
	}
}

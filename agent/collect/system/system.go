// Package system describes the machine: who made it, what runs on it, its network cards. What the twin says wins, then
// /etc/defender_iot_micro_agent/sysinfo.json, then DMI, then the device tree (defender §3.3).
package system

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

const (
	maxFile = 64 << 10
	maxText = 256 // of one value
	maxNICs = 64
)

// Hardware is what can be said of it by hand; each is empty when it is not.
type Hardware struct {
	Vendor          string `json:"HardwareVendor"`
	Model           string `json:"HardwareModel"`
	Serial          string `json:"HardwareSerialNumber"`
	FirmwareVendor  string `json:"FirmwareVendor"`
	FirmwareVersion string `json:"FirmwareVersion"`
}

// over returns h, and of other what h does not say.
func (h Hardware) over(other Hardware) Hardware {
	pick := func(a, b string) string {
		if a != "" {
			return a
		}
		return b
	}
	return Hardware{
		pick(h.Vendor, other.Vendor), pick(h.Model, other.Model), pick(h.Serial, other.Serial),
		pick(h.FirmwareVendor, other.FirmwareVendor), pick(h.FirmwareVersion, other.FirmwareVersion),
	}
}

// Config of a Snapshot. The zero value is ready.
type Config struct {
	Twin         func() Hardware // the twin's SystemInformation_*; nil: nothing
	SysInfo      string          // default /etc/defender_iot_micro_agent/sysinfo.json
	AgentType    string          // default Standalone
	AgentVersion string
	Root         string // of the files that are read; default /
}

// Snapshot describes the machine.
type Snapshot struct{ cfg Config }

var _ collect.Snapshot = (*Snapshot)(nil)

// New makes a snapshot.
func New(cfg Config) *Snapshot {
	if cfg.SysInfo == "" {
		cfg.SysInfo = "/etc/defender_iot_micro_agent/sysinfo.json"
	}
	if cfg.AgentType == "" {
		cfg.AgentType = "Standalone"
	}
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	return &Snapshot{cfg}
}

// Take returns one SystemInformation.
func (s *Snapshot) Take(context.Context) ([]collect.Observation, error) {
	var problems []error
	var h Hardware
	if s.cfg.Twin != nil {
		h = s.cfg.Twin()
	}
	written, err := s.sysinfo()
	if err != nil {
		problems = append(problems, err)
	}
	h = h.over(written).over(s.dmi()).over(s.deviceTree())
	release := parseRelease(s.read("etc/os-release", "usr/lib/os-release"))
	sys, machine := kernel()
	info := secmsg.SystemInformation{
		OS: cut(release["PRETTY_NAME"]), Kernel: cut(sys.kernel), Hardware: cut(strings.TrimSpace(h.Vendor + " " + h.Model)),
		HostName: cut(sys.host), HardwareVendor: cut(h.Vendor), HardwareModel: cut(h.Model), HardwareSerial: cut(h.Serial),
		FirmwareVendor: cut(h.FirmwareVendor), FirmwareVersion: cut(h.FirmwareVersion),
		OSDistribution: cut(release["ID"]), OSVersion: cut(release["VERSION_ID"]), OSPlatform: cut(sys.platform), OSArchitecture: cut(machine),
		AgentType: s.cfg.AgentType, AgentVersion: s.cfg.AgentVersion, PhysicalMemoryKB: memory(s.read("proc/meminfo")),
	}
	if info.OS == "" {
		info.OS = info.OSPlatform
	}
	if info.NICs, err = s.cards(); err != nil {
		problems = append(problems, err)
	}
	return []collect.Observation{{Event: "SystemInformation", Time: time.Now(), Hits: 1, Item: info}}, errors.Join(problems...)
}

// read returns the first of the files that there is, or nothing.
func (s *Snapshot) read(names ...string) []byte {
	for _, n := range names {
		f, err := os.Open(filepath.Join(s.cfg.Root, n))
		if err != nil {
			continue
		}
		b, _ := io.ReadAll(io.LimitReader(f, maxFile))
		f.Close()
		return b
	}
	return nil
}

func (s *Snapshot) text(name string) string {
	return strings.TrimSpace(strings.ToValidUTF8(string(bytes.TrimRight(s.read(name), "\x00\n")), ""))
}

func cut(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.ToValidUTF8(s, "")
}

func (s *Snapshot) sysinfo() (h Hardware, err error) {
	f, err := os.Open(filepath.Join(s.cfg.Root, s.cfg.SysInfo))
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err != nil {
		return h, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err == nil {
		err = json.Unmarshal(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")), &h)
	}
	if err != nil {
		return Hardware{}, fmt.Errorf("%s is not read: %w; write a JSON object of texts such as {\"HardwareVendor\":\"Acme\"}", s.cfg.SysInfo, err)
	}
	return h, nil
}

// placeholders stand in the DMI of boards whose maker filled in nothing.
var placeholders = []string{
	"to be filled by o.e.m.", "default string", "system manufacturer", "system product name", "system serial number", "not specified", "none", "0", "o.e.m.", "unknown",
}

func (s *Snapshot) dmi() Hardware {
	get := func(names ...string) string {
		for _, n := range names {
			v := s.text("sys/class/dmi/id/" + n)
			if v != "" && !slices.Contains(placeholders, strings.ToLower(v)) {
				return v
			}
		}
		return ""
	}
	return Hardware{
		Vendor: get("sys_vendor", "board_vendor"), Model: get("product_name", "board_name"), Serial: get("product_serial", "board_serial"),
		FirmwareVendor: get("bios_vendor"), FirmwareVersion: get("bios_version"),
	}
}

func (s *Snapshot) deviceTree() Hardware {
	var h Hardware
	const dir = "proc/device-tree/"
	h.Model, h.Serial = s.text(dir+"model"), s.text(dir+"serial-number")
	// compatible is a list, best first, of vendor,model.
	compatible, _, _ := strings.Cut(s.text(dir+"compatible"), "\x00")
	vendor, model, ok := strings.Cut(compatible, ",")
	if ok {
		h.Vendor = vendor
	}
	if h.Model == "" {
		h.Model = model
	}
	return h
}

// parseRelease reads os-release: NAME=value, the value quoted as a shell does.
func parseRelease(b []byte) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(string(b)) {
		name, v, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || name == "" || name[0] == '#' || len(m) >= 64 {
			continue
		}
		if len(v) >= 2 && (v[0] == '"' || v[0] == '\'') && v[len(v)-1] == v[0] {
			v = v[1 : len(v)-1]
		}
		m[name] = strings.NewReplacer(`\"`, `"`, `\$`, `$`, `\\`, `\`, "\\`", "`").Replace(v)
	}
	return m
}

// memory reads the total of /proc/meminfo, in KiB.
func memory(b []byte) uint64 {
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			if f := strings.Fields(rest); len(f) > 0 {
				n, _ := strconv.ParseUint(f[0], 10, 64)
				return n
			}
		}
	}
	return 0
}

// cards lists the network cards, without loopback.
func (s *Snapshot) cards() ([]secmsg.NIC, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var all []secmsg.NIC
	for _, i := range interfaces {
		if i.Flags&net.FlagLoopback != 0 {
			continue
		}
		if len(all) == maxNICs {
			return all, fmt.Errorf("%d network cards are more than the %d that are told", len(interfaces), maxNICs)
		}
		n := secmsg.NIC{Name: i.Name, Type: s.cardType(i.Name), MAC: i.HardwareAddr.String(), Vendor: s.text("sys/class/net/" + i.Name + "/device/vendor")}
		if id := s.vlan(i.Name); id != 0 {
			n.VLANs = []uint16{id}
		}
		addresses, _ := i.Addrs()
		for _, a := range addresses {
			if ip, _, err := net.ParseCIDR(a.String()); err == nil && ip.To4() != nil {
				n.IPv4 = append(n.IPv4, a.String())
			} else {
				n.IPv6 = append(n.IPv6, a.String())
			}
		}
		all = append(all, n)
	}
	return all, nil
}

// cardType tells the kinds of defender §1.4 apart. Nothing in Linux says that a card is of a satellite.
func (s *Snapshot) cardType(name string) string {
	dir := filepath.Join(s.cfg.Root, "sys/class/net", name)
	uevent := parseRelease(s.read("sys/class/net/" + name + "/uevent"))
	_, wireless := os.Stat(filepath.Join(dir, "wireless"))
	switch {
	case wireless == nil || uevent["DEVTYPE"] == "wlan":
		return "WIFI"
	case uevent["DEVTYPE"] == "wwan" || strings.HasPrefix(name, "wwan") || strings.HasPrefix(name, "ppp"):
		return "MOBILE"
	case s.text("sys/class/net/"+name+"/type") == "1": // ARPHRD_ETHER
		return "ETH"
	}
	return "UNKNOWN"
}

// vlan is the number of a VLAN's interface, zero of others.
func (s *Snapshot) vlan(name string) uint16 {
	for line := range strings.Lines(string(s.read("proc/net/vlan/" + name))) {
		if _, rest, ok := strings.Cut(line, "VID:"); ok {
			if f := strings.Fields(rest); len(f) > 0 {
				id, _ := strconv.ParseUint(f[0], 10, 12)
				return uint16(id)
			}
		}
	}
	return 0
}

// uname is what the kernel says of itself.
type uname struct{ platform, kernel, host string }

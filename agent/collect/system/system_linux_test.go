package system

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vauban-iot/vauban/agent/collect/netnstest"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

func write(t *testing.T, root, name, text string) {
	t.Helper()
	p := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func take(t *testing.T, cfg Config) secmsg.SystemInformation {
	t.Helper()
	all, err := New(cfg).Take(t.Context())
	if err != nil || len(all) != 1 || all[0].Event != "SystemInformation" {
		t.Fatalf("%+v, %v", all, err)
	}
	return all[0].Item.(secmsg.SystemInformation)
}

// Each source fills in what those before it leave open: the twin, sysinfo.json, DMI, the device tree.
func TestTake_Priorities(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	hardware := func(want Hardware, twin Hardware) {
		t.Helper()
		i := take(t, Config{Root: root, Twin: func() Hardware { return twin }})
		if got := (Hardware{i.HardwareVendor, i.HardwareModel, i.HardwareSerial, i.FirmwareVendor, i.FirmwareVersion}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	hardware(Hardware{}, Hardware{})
	write(t, root, "proc/device-tree/compatible", "raspberrypi,4-model-b\x00brcm,bcm2711\x00")
	hardware(Hardware{"raspberrypi", "4-model-b", "", "", ""}, Hardware{})
	write(t, root, "proc/device-tree/model", "Raspberry Pi 4 Model B\x00")
	write(t, root, "proc/device-tree/serial-number", "1000\x00")
	hardware(Hardware{"raspberrypi", "Raspberry Pi 4 Model B", "1000", "", ""}, Hardware{})
	write(t, root, "sys/class/dmi/id/sys_vendor", "To be filled by O.E.M.\n")
	write(t, root, "sys/class/dmi/id/board_vendor", "DMI vendor\n")
	write(t, root, "sys/class/dmi/id/bios_vendor", "DMI bios\n")
	write(t, root, "sys/class/dmi/id/bios_version", "DMI 1\n")
	hardware(Hardware{"DMI vendor", "Raspberry Pi 4 Model B", "1000", "DMI bios", "DMI 1"}, Hardware{})
	write(t, root, "etc/defender_iot_micro_agent/sysinfo.json", `{"HardwareModel":"file model","HardwareSerialNumber":"file 7","FirmwareVendor":"file bios"}`)
	hardware(Hardware{"DMI vendor", "file model", "file 7", "file bios", "DMI 1"}, Hardware{})
	hardware(Hardware{"DMI vendor", "file model", "twin 8", "file bios", "DMI 1"}, Hardware{Serial: "twin 8"})

	write(t, root, "etc/defender_iot_micro_agent/sysinfo.json", `{"HardwareModel":7}`)
	all, err := New(Config{Root: root}).Take(t.Context())
	if err == nil || !strings.Contains(err.Error(), "sysinfo.json") || all[0].Item.(secmsg.SystemInformation).HardwareModel != "Raspberry Pi 4 Model B" {
		t.Errorf("a broken file: %v, %+v", err, all)
	}
}

func TestTake_ThisMachine(t *testing.T) {
	t.Parallel()
	p := netnstest.New(t)
	p.Here.Do(t, func() error {
		i := take(t, Config{AgentVersion: "1.2.3"})
		var u unix.Utsname
		if err := unix.Uname(&u); err != nil {
			return err
		}
		if i.OSPlatform != "Linux" || i.OSArchitecture != unix.ByteSliceToString(u.Machine[:]) || !strings.HasPrefix(i.Kernel, unix.ByteSliceToString(u.Release[:])) ||
			i.OSDistribution == "" || i.OS == "" || i.AgentType != "Standalone" || i.AgentVersion != "1.2.3" || i.PhysicalMemoryKB < 1<<18 {
			t.Errorf("got %+v", i)
		}
		if len(i.NICs) != 1 || i.NICs[0].Name != "eth0" || !slices.Contains(i.NICs[0].IPv4, p.Here.IPv4+"/24") || !slices.Contains(i.NICs[0].IPv6, p.Here.IPv6+"/64") || len(i.NICs[0].MAC) != 17 {
			t.Errorf("network cards %+v", i.NICs)
		}
		return nil
	})
}

func TestCardType(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write(t, root, "sys/class/net/eth0/type", "1\n")
	write(t, root, "sys/class/net/wlan0/wireless/x", "")
	write(t, root, "sys/class/net/wl/uevent", "DEVTYPE=wlan\n")
	write(t, root, "sys/class/net/usb0/uevent", "DEVTYPE=wwan\nINTERFACE=usb0\n")
	write(t, root, "sys/class/net/tun0/type", "65534\n")
	write(t, root, "proc/net/vlan/eth0.7", "eth0.7  VID: 7\t REORDER_HDR: 1  dev->priv_flags: 1021\n")
	s := New(Config{Root: root})
	for name, want := range map[string]string{"eth0": "ETH", "wlan0": "WIFI", "wl": "WIFI", "usb0": "MOBILE", "tun0": "UNKNOWN", "none": "UNKNOWN"} {
		if got := s.cardType(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if got := s.vlan("eth0.7"); got != 7 || s.vlan("eth0") != 0 {
		t.Errorf("VLAN %d", got)
	}
}

func FuzzParseRelease(f *testing.F) {
	f.Add([]byte("NAME=\"Debian GNU/Linux\"\nID=debian\n# x=y\nV='1'\nE=\"\\$x\\\"\"\n"))
	if m := parseRelease([]byte("# c\nA=\"x \\\"y\\\"\"\nB='z'\nC=plain\nD")); m["A"] != `x "y"` || m["B"] != "z" || m["C"] != "plain" || len(m) != 3 {
		f.Errorf("got %v", m)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if m := parseRelease(b); len(m) > 64 {
			t.Errorf("%d values", len(m))
		}
		memory(b)
	})
}

package peripheral

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/agent/collect/netnstest"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

func watch(t *testing.T, n netnstest.Namespace, cfg Config) (wait func(want ...secmsg.Peripheral)) {
	t.Helper()
	w := New(cfg)
	var mu sync.Mutex
	var all []secmsg.Peripheral
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.Do(t, func() error {
			return w.Run(ctx, func(o collect.Observation) {
				mu.Lock()
				defer mu.Unlock()
				if o.Event != "Peripheral" || o.Hits != 1 || o.Key == "" {
					t.Errorf("observation %+v", o)
				}
				all = append(all, o.Item.(secmsg.Peripheral))
			})
		})
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
	for deadline := time.Now().Add(10 * time.Second); w.Source() != "uevent, rtnetlink"; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the source is %s", w.Source())
		}
	}
	return func(want ...secmsg.Peripheral) {
		t.Helper()
		for i := range want {
			want[i].HitCount = 1
		}
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			mu.Lock()
			got := slices.Clone(all)
			mu.Unlock()
			slices.SortStableFunc(got, func(a, b secmsg.Peripheral) int { return strings.Compare(a.InterfaceName, b.InterfaceName) })
			if slices.Equal(got, want) {
				mu.Lock()
				all = nil
				mu.Unlock()
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("got %+v, want %+v", got, want)
			}
		}
	}
}

func TestEthernet(t *testing.T) {
	t.Parallel()
	p := netnstest.New(t)
	wait := watch(t, p.Here, Config{Virtual: true})
	silent := watch(t, p.Here, Config{}) // none of these is hardware
	p.Here.Do(t, func() error {
		cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth7"}, PeerName: "peer7"}
		if err := netlink.LinkAdd(cable); err != nil {
			return err
		}
		peer, err := netlink.LinkByName("peer7")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(peer); err != nil {
			return err
		}
		return netlink.LinkSetUp(cable)
	})
	ethernet := func(action, name string) secmsg.Peripheral {
		return secmsg.Peripheral{Type: "Ethernet", Action: action, InterfaceName: name}
	}
	both := func(action string, one, two string) {
		t.Helper()
		wait(ethernet(action, one), ethernet(action, two))
	}
	both("connect", "eth7", "peer7")
	p.There.Do(t, func() error { // the cable that was there from the start is pulled at its other end
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(l)
	})
	wait(ethernet("disconnect", "eth0"))
	p.Here.Do(t, func() error {
		l, err := netlink.LinkByName("eth7")
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	})
	both("disconnect", "eth7", "peer7")
	silent()
}

// The kernel announces to all who listen what root asks it to announce.
func announce(t *testing.T, n netnstest.Namespace, event string) {
	t.Helper()
	n.Do(t, func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		header := binary.NativeEndian.AppendUint32(nil, uint32(16+len(event))) // struct nlmsghdr
		header = binary.NativeEndian.AppendUint16(header, 16)                  // any type that is not of control
		header = binary.NativeEndian.AppendUint16(header, unix.NLM_F_REQUEST)
		header = append(header, make([]byte, 8)...)
		return unix.Sendto(fd, append(header, event...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	})
}

const (
	stickPath = "/devices/pci0000:00/0000:00:14.0/usb1/1-2"
	stick     = stickPath + "\x00ACTION=%[1]s\x00DEVPATH=" + stickPath + "\x00SUBSYSTEM=usb\x00MAJOR=189\x00MINOR=4\x00DEVNAME=bus/usb/001/005\x00DEVTYPE=usb_device\x00PRODUCT=951/1666/110\x00TYPE=0/0/0\x00BUSNUM=001\x00DEVNUM=005\x00SEQNUM=2766\x00"
	stickFace = stickPath + "/1-2:1.0\x00ACTION=%[1]s\x00DEVPATH=" + stickPath + "/1-2:1.0\x00SUBSYSTEM=usb\x00DEVTYPE=usb_interface\x00PRODUCT=951/1666/110\x00TYPE=0/0/0\x00INTERFACE=8/6/80\x00SEQNUM=2767\x00"
)

func uevent(action, rest string) string { return action + "@" + fmt.Sprintf(rest, action) }

var stickWant = secmsg.Peripheral{
	Type: "USB", Action: "connect", BusNumber: 1, DeviceNumber: 5, DeviceClass: "00", DeviceSubclass: "00", DeviceProtocol: "00",
	InterfaceClass: "08", InterfaceSubclass: "06", InterfaceProtocol: "50", Product: "951/1666/110",
}

func TestTable(t *testing.T) {
	t.Parallel()
	var got []secmsg.Peripheral
	var evicted atomic.Uint64
	tab := table{devices: map[string]*usbDevice{}, see: func(p secmsg.Peripheral) { got = append(got, p) }, evicted: &evicted}
	now := time.Unix(0, 0)
	take := func(event string) {
		v, ok := parseUevent([]byte(event))
		if !ok {
			t.Fatalf("%q is not understood", event)
		}
		tab.take(v, now)
		tab.due(now)
	}
	check := func(what string, want ...secmsg.Peripheral) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %+v, want %+v", what, got, want)
		}
		got = nil
	}
	take(uevent("add", stick))
	check("before its interfaces are known")
	take(uevent("add", stickFace))
	check("plugged in", stickWant)
	take(uevent("bind", stick))
	take(uevent("remove", stickFace))
	check("nothing more")
	out := stickWant
	out.Action = "disconnect"
	take(uevent("remove", stick))
	check("pulled out", out)
	bare := stickWant
	bare.InterfaceClass, bare.InterfaceSubclass, bare.InterfaceProtocol = "", "", ""
	take(uevent("add", stick))
	now = now.Add(gather)
	tab.due(now)
	check("without interfaces", bare)
	for i := range maxDevices + 5 {
		take(strings.ReplaceAll(uevent("add", stick), "1-2", fmt.Sprint("1-", i+10)))
	}
	if len(tab.devices) != maxDevices || evicted.Load() != 6 {
		t.Errorf("%d devices, %d evicted", len(tab.devices), evicted.Load())
	}
}

func TestUSB(t *testing.T) {
	t.Parallel()
	p := netnstest.New(t)
	wait := watch(t, p.Here, Config{})
	announce(t, p.Here, uevent("add", stick))
	announce(t, p.Here, uevent("add", stickFace))
	wait(stickWant)
	announce(t, p.Here, uevent("remove", stick))
	out := stickWant
	out.Action = "disconnect"
	wait(out)
}

func FuzzParseUevent(f *testing.F) {
	f.Add([]byte(uevent("add", stick)))
	f.Add([]byte("libudev\x00\xfe\xed\xca\xfe"))
	f.Add([]byte("0@\x00ACTION="))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, ok := parseUevent(b)
		if ok && (v["DEVPATH"] == "" && v["ACTION"] == "" || len(v) > 64) {
			t.Errorf("%q", v)
		}
		if ok {
			tab := table{devices: map[string]*usbDevice{}, see: func(secmsg.Peripheral) {}, evicted: &atomic.Uint64{}}
			tab.take(v, time.Unix(0, 0))
		}
	})
}

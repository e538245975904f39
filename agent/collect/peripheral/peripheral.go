// Package peripheral sees devices being plugged in and pulled out: USB by the kernel's own announcements (uevents), network cards by
// rtnetlink, where the cable counts as well as the card.
package peripheral

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Config of a Watcher. The zero value is ready.
type Config struct {
	// Virtual has network cards that are no hardware told of too: cables between containers, for example.
	Virtual bool
}

const (
	maxDevices = 256                    // USB devices that are remembered for when they are pulled out; the eldest goes first
	gather     = 300 * time.Millisecond // for the interfaces of a device, which are announced after it
)

// Watcher sees peripherals.
type Watcher struct {
	cfg     Config
	source  atomic.Pointer[string]
	evicted atomic.Uint64
}

var _ collect.Watcher = (*Watcher)(nil)

// New makes a watcher.
func New(cfg Config) *Watcher { return &Watcher{cfg: cfg} }

// Source says where it looks.
func (w *Watcher) Source() string {
	if s := w.source.Load(); s != nil {
		return *s
	}
	return "not started"
}

// Evicted counts USB devices that were forgotten because there were too many.
func (w *Watcher) Evicted() uint64 { return w.evicted.Load() }

// Run watches until ctx ends. One of the two sources is enough to go on.
func (w *Watcher) Run(ctx context.Context, emit func(collect.Observation)) error {
	see := func(p secmsg.Peripheral) {
		p.HitCount = 1
		emit(collect.Observation{
			Event: "Peripheral", Key: fmt.Sprint(p.Type, p.Action, p.BusNumber, p.DeviceNumber, p.Product, p.InterfaceName), Time: time.Now(), Hits: 1, Item: p,
		})
	}
	uevents, err := openUevents()
	links, linkErr := openLinks(w.cfg.Virtual)
	var names, reasons []string
	for _, s := range []struct {
		name string
		err  error
	}{{"uevent", err}, {"rtnetlink", linkErr}} {
		if s.err == nil {
			names = append(names, s.name)
		} else {
			reasons = append(reasons, fmt.Sprintf("no %s: %v", s.name, s.err))
		}
	}
	if len(names) == 0 {
		return fmt.Errorf("peripherals cannot be watched: %s; run the agent as root", strings.Join(reasons, "; "))
	}
	source := strings.Join(names, ", ")
	if len(reasons) > 0 {
		source += " (" + strings.Join(reasons, "; ") + ")"
	}
	w.source.Store(&source)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	failures := make(chan error, 2)
	if err == nil {
		wg.Go(func() { failures <- w.usb(ctx, uevents, see) })
	}
	if linkErr == nil {
		wg.Go(func() { failures <- links.run(ctx, see) })
	}
	err = <-failures
	stop() // one that fails takes the other along: the agent starts both again
	wg.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// usbDevice is a device and, of its interfaces, the first.
type usbDevice struct {
	secmsg.Peripheral
	path  string
	due   time.Time // when its arrival is told; zero: it was
	order uint64
}

// usb turns announcements into peripherals.
func (w *Watcher) usb(ctx context.Context, u ueventSource, see func(secmsg.Peripheral)) error {
	defer u.close()
	t := table{devices: map[string]*usbDevice{}, see: see, evicted: &w.evicted}
	for ctx.Err() == nil {
		b, err := u.read(gather / 3)
		if err != nil {
			return fmt.Errorf("uevents: %w", err)
		}
		if b != nil {
			if v, ok := parseUevent(b); ok {
				t.take(v, time.Now())
			}
		}
		t.due(time.Now())
	}
	return ctx.Err()
}

// table knows the USB devices that came.
type table struct {
	devices map[string]*usbDevice
	see     func(secmsg.Peripheral)
	evicted *atomic.Uint64
	order   uint64
}

// take takes an announcement: of a device, or of an interface that it has.
func (t *table) take(v map[string]string, now time.Time) {
	if v["SUBSYSTEM"] != "usb" {
		return
	}
	at := v["DEVPATH"]
	switch {
	case v["DEVTYPE"] == "usb_device" && v["ACTION"] == "add":
		if len(t.devices) >= maxDevices {
			t.evict()
		}
		t.order++
		t.devices[at] = &usbDevice{Peripheral: ofDevice(v), path: at, due: now.Add(gather), order: t.order}
	case v["DEVTYPE"] == "usb_interface" && v["ACTION"] == "add":
		if d := t.devices[path.Dir(at)]; d != nil && d.InterfaceClass == "" {
			d.InterfaceClass, d.InterfaceSubclass, d.InterfaceProtocol = classes(v["INTERFACE"])
			if !d.due.IsZero() {
				d.due = now
			}
		}
	case v["DEVTYPE"] == "usb_device" && v["ACTION"] == "remove":
		d := t.devices[at]
		if d == nil {
			d = &usbDevice{Peripheral: ofDevice(v)} // it was there before us
		} else if !d.due.IsZero() {
			t.see(d.Peripheral) // it came and went
		}
		delete(t.devices, at)
		d.Action = secmsg.Disconnect
		t.see(d.Peripheral)
	}
}

// due tells of the devices whose interfaces are known, or have none.
func (t *table) due(now time.Time) {
	for _, d := range t.devices {
		if !d.due.IsZero() && !now.Before(d.due) {
			d.due = time.Time{}
			t.see(d.Peripheral)
		}
	}
}

func (t *table) evict() {
	var eldest *usbDevice
	for _, d := range t.devices {
		if eldest == nil || d.order < eldest.order {
			eldest = d
		}
	}
	if !eldest.due.IsZero() {
		t.see(eldest.Peripheral)
	}
	delete(t.devices, eldest.path)
	t.evicted.Add(1)
}

func ofDevice(v map[string]string) secmsg.Peripheral {
	p := secmsg.Peripheral{Type: secmsg.USB, Action: secmsg.Connect, Product: v["PRODUCT"]}
	number := func(s string) uint32 {
		n, _ := strconv.ParseUint(s, 10, 32)
		return uint32(n)
	}
	p.BusNumber, p.DeviceNumber = number(v["BUSNUM"]), number(v["DEVNUM"])
	p.DeviceClass, p.DeviceSubclass, p.DeviceProtocol = classes(v["TYPE"])
	return p
}

// classes reads class/subclass/protocol, in decimal, into hex digits as usb.ids and lsusb have them.
func classes(s string) (class, subclass, protocol string) {
	f := strings.Split(s, "/")
	if len(f) != 3 {
		return "", "", ""
	}
	var hex [3]string
	for i, v := range f {
		n, err := strconv.ParseUint(v, 10, 8)
		if err != nil {
			return "", "", ""
		}
		hex[i] = fmt.Sprintf("%02x", n)
	}
	return hex[0], hex[1], hex[2]
}

// parseUevent reads an announcement: action@path, and then NAME=value, each ended by a zero byte.
func parseUevent(b []byte) (map[string]string, bool) {
	const most, longest = 64, 1024
	head, rest, _ := bytes.Cut(b, []byte{0})
	action, devpath, ok := bytes.Cut(head, []byte{'@'})
	if !ok || len(action) == 0 || len(devpath) > longest {
		return nil, false // of udev, not of the kernel
	}
	v := map[string]string{"ACTION": string(action), "DEVPATH": string(devpath)}
	for f := range bytes.SplitSeq(rest, []byte{0}) {
		name, value, ok := bytes.Cut(f, []byte{'='})
		if ok && len(name) > 0 && len(f) <= longest && len(v) < most && v[string(name)] == "" { // the head says what was done and to what
			v[string(name)] = strings.ToValidUTF8(string(value), "\uFFFD")
		}
	}
	return v, true
}

// ueventSource is a socket that hears the kernel.
type ueventSource interface {
	// read waits for an announcement, or returns nil after a while.
	read(wait time.Duration) ([]byte, error)
	close()
}

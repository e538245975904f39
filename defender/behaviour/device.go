package behaviour

import (
	"math"
	"math/bits"
	"net/netip"
	"unsafe"

	"github.com/vauban-iot/vauban/iot"
)

// device is what is remembered of one. Exported members outlive a restart.
type device struct {
	ID       iot.ID
	Group    string
	Asked    uint32 // when its group was
	First    uint32 // when it was first heard
	Seen     uint32 // the newest time of the hub that it was heard
	Sequence uint64
	Changed  uint32 // when its firmware said another version
	Version  uint64 // a hash of what it says of its software
	Struck   uint32 // when something was found that leaves no doubt: what it does since then teaches nobody

	Remotes  []remote
	Services []service
	Sweeps   []sweep
	Crowd    bool // it learned more remotes than there is room for: unknown ones say nothing

	Hour, HourSeconds uint32 // the hour that is summed up, and how much of it windows cover
	HourOut, PeakHour float64
	PeakBurst         float64 // bytes out to one remote without an answer in a window of 10 s
	PeakHouse         float64 // the same to one in the house over UDP
	Wide              float64 // most remotes in one window of 10 s
	Slot, SlotSeconds uint32  // the same for 10 minutes of DNS
	DNSOut, DNSPeak   float64

	relays []pair
	recent []told
	flood  struct {
		key uint64
		at  uint32
	}
	logins struct {
		slot, failed uint32
	}
	held []*held
}

// remote is one service of one host that the device talks to.
type remote struct {
	Key         uint64 // host and service
	Prefix      uint64 // /24 or /48 of the host
	First, Last uint32
	Port        uint16
	Proto       uint8
	Learned     bool // it belongs to the device's normal life
	// The beat: how regular the traffic is.
	Beat        uint32 // when the last one began
	Beats       uint16 // intervals between them
	Skips       uint8  // of them that were far too long, and left out
	Mean, Sum2  float32
	Bytes       float32 // mean of a beat
	Current     float32 // of the beat under way
	In, Out     float32 // since First
	Hour        uint32  // of HourOut
	HourOut     float32
	HoursActive uint16
}

type service struct {
	Key   uint32 // protocol, port, side
	First uint32
}

// sweep counts the distinct hosts of which one service was asked in this hour and the last.
type sweep struct {
	Service   uint32
	Hour      uint32
	Last      uint32
	Since     uint32
	Now, Past distinct
}

// distinct estimates how many different things were added, by linear counting; good to a tenth up to 500.
type distinct [4]uint64

func (s *distinct) add(h uint64) { s[h>>62] |= 1 << (h >> 56 & 63) }

func (s *distinct) or(o *distinct) (u distinct) {
	for i := range s {
		u[i] = s[i] | o[i]
	}
	return u
}

func (s *distinct) count() int {
	const n = 256
	set := 0
	for _, w := range s {
		set += bits.OnesCount64(w)
	}
	if set == n {
		return 1500
	}
	return int(math.Round(-n * math.Log(1-float64(set)/n)))
}

// pair is two flows of which one may carry what the other brought.
type pair struct {
	key   uint64
	first uint32
	last  uint32
	n     int
}

// told is a finding that was told a moment ago.
type told struct {
	key uint64
	at  uint32
}

// held is a finding that waits for what the group does.
type held struct {
	due     uint32
	weak    bool   // it is told only of a device that is caught meanwhile
	peers   uint64 // what peers would know too
	finding Finding
}

// size is about what a device takes, with its place in the map.
func (d *device) size() int64 {
	n := int(unsafe.Sizeof(*d)) + 2*len(d.ID.Device) + 2*len(d.ID.Module) + 64
	n += cap(d.Remotes)*int(unsafe.Sizeof(remote{})) + cap(d.Services)*int(unsafe.Sizeof(service{})) + cap(d.Sweeps)*int(unsafe.Sizeof(sweep{}))
	n += cap(d.relays)*int(unsafe.Sizeof(pair{})) + cap(d.recent)*int(unsafe.Sizeof(told{})) + cap(d.held)*(8+int(unsafe.Sizeof(held{}))+256)
	return int64(n)
}

func (e *Engine) device(id iot.ID, now uint32) *device {
	d := e.devices[id]
	if d == nil {
		d = &device{ID: id, First: now, Seen: now}
		e.devices[id] = d
		e.bytes += d.size()
		e.makeRoom(d)
	}
	return d
}

func (e *Engine) forget(d *device) {
	e.bytes -= d.size()
	if g := e.groups[d.Group]; g != nil && d.Group != "" {
		g.Members--
	}
	delete(e.devices, d.ID)
	e.dirty[shard(d.ID)] = true
}

// learning reports whether the device is young.
func (w *watch) learning(at uint32) bool { return at < w.d.First+w.learn }

// settle brings the device's time to now.
func (w *watch) settle(now uint32) {
	d := w.d
	if now+stepBack < d.Seen { // the hub's clock was ahead, and is right again
		d.Seen, d.First = now, min(d.First, now)
		d.Hour, d.HourSeconds, d.HourOut, d.Slot, d.SlotSeconds, d.DNSOut = 0, 0, 0, 0, 0, 0
		d.Sweeps, d.relays, d.recent, d.held = nil, nil, nil, nil
		d.Changed, d.Struck = min(d.Changed, now), min(d.Struck, now)
		d.flood.key, d.logins.slot = 0, 0
		for i := range d.Remotes {
			r := &d.Remotes[i]
			r.First, r.Last, r.Hour, r.HourOut = min(r.First, now), min(r.Last, now), 0, 0
			r.restart(now)
		}
	}
}

func (r *remote) restart(at uint32) {
	r.Beat, r.Beats, r.Skips, r.Mean, r.Sum2, r.Bytes, r.Current = at, 0, 0, 0, 0, 0, 0
}

// group is what its devices do, so that what several do is no news.
type group struct {
	Name    string
	Members int
	Known   map[uint64]*common
}

// common is something that devices of a group have in common.
type common struct {
	Devices uint64 // each sets a bit by its hash
	Last    uint32
}

func (e *Engine) groupOf(d *device) *group {
	g := e.groups[d.Group]
	if g == nil {
		if len(e.groups) >= maxGroups {
			return e.shared()
		}
		g = &group{Name: d.Group, Known: make(map[uint64]*common)}
		e.groups[d.Group] = g
	}
	return g
}

// shared is the group of those for whose group there is no room.
func (e *Engine) shared() *group {
	g := e.groups[""]
	if g == nil {
		g = &group{Known: make(map[uint64]*common)}
		e.groups[""] = g
	}
	return g
}

func (e *Engine) join(d *device, name string) {
	if name == d.Group {
		return
	}
	if g := e.groups[d.Group]; g != nil && d.Group != "" {
		g.Members--
	}
	d.Group = name
	e.groupOf(d).Members++
}

// commonFrom is how many devices make something common to the group: three, a tenth of it when that is more, five at most.
func (g *group) commonFrom() int { return max(3, min(g.Members/10, 5)) }

// knows reports whether so many devices of the group know a thing that it is no news.
func (g *group) knows(key uint64) bool {
	c := g.Known[key]
	return c != nil && bits.OnesCount64(c.Devices) >= g.commonFrom()
}

// teach says that a device knows a thing.
func (w *watch) teach(key uint64, at uint32) {
	if w.struck(at) {
		return
	}
	c := w.g.Known[key]
	if c == nil {
		if len(w.g.Known) >= maxKnown {
			w.g.drop()
		}
		c = new(common)
		w.g.Known[key] = c
	}
	c.Devices |= 1 << (w.self() & 63)
	c.Last = max(c.Last, at)
}

// drop forgets the oldest of a few, rather one that only one device knows.
func (g *group) drop() {
	const sample = 16
	var worst uint64
	var oldest *common
	n := 0
	for k, c := range g.Known {
		if oldest == nil || c.Devices&(c.Devices-1) == 0 && oldest.Devices&(oldest.Devices-1) != 0 || c.Last < oldest.Last && (c.Devices&(c.Devices-1) == 0) == (oldest.Devices&(oldest.Devices-1) == 0) {
			worst, oldest = k, c
		}
		if n++; n == sample {
			break
		}
	}
	delete(g.Known, worst)
}

// struck reports whether the device was caught within the last day.
func (w *watch) struck(at uint32) bool { return w.d.Struck != 0 && at < w.d.Struck+day }

// Hashes are the same on every server and after a restart.
func mix(h uint64) uint64 {
	h ^= h >> 30
	h *= 0xbf58476d1ce4e5b9
	h ^= h >> 27
	h *= 0x94d049bb133111eb
	return h ^ h>>31
}

func hashBytes(seed uint64, b []byte) uint64 {
	h := seed
	for len(b) >= 8 {
		h = mix(h ^ (uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 | uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56))
		b = b[8:]
	}
	for _, c := range b {
		h = mix(h ^ uint64(c) + 0x9e3779b97f4a7c15)
	}
	return mix(h ^ 0x9e3779b97f4a7c15)
}

func hashText(seed uint64, s string) uint64 { return hashBytes(seed, []byte(s)) }

func hashAddr(a netip.Addr) uint64 {
	b := a.As16()
	return hashBytes(1, b[:])
}

// neighbourhood is the /24 or /48 of an address: what moves within it stays where it was.
func neighbourhood(a netip.Addr) uint64 {
	b := a.As16()
	if a.Is4() {
		b[15] = 0
		return hashBytes(2, b[:])
	}
	return hashBytes(3, b[:6])
}

func (w *watch) self() uint64 { return hashText(hashText(4, w.d.ID.Device), w.d.ID.Module) }

// A shard is a part of what is remembered that is kept at once.
func shard(id iot.ID) int { return int(hashText(5, id.Device) % Shards) }

func groupShard(name string) int { return int(hashText(5, name) % Shards) }

package board

import (
	"fmt"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/rtos"
)

// Power is a state of the processor. While no thread is ready it is in the one that SetIdle chose.
type Power uint8

const (
	Run     Power = iota
	Sleep         // the core stands still, its clock and the peripherals go on
	Stop          // the clock stands still, RAM is kept
	Standby       // RAM is lost; only the backup domain is powered
	powers
)

func (p Power) String() string {
	if p < powers {
		return [...]string{"run", "sleep", "stop", "standby"}[p]
	}
	return "unknown"
}

// Currents is what the processor takes in each state, in microamperes at the board's voltage.
type Currents [powers]float64

// Energy is what the board took since it was made.
type Energy struct {
	Time   [powers]time.Duration // in each state
	Charge float64               // microampere-hours, of the processor and of its loads
	Loads  []Load
}

// Load is something on the board that takes current besides the processor.
type Load struct {
	Name      string
	Microamps float64 // now
	Charge    float64 // microampere-hours until now
	since     time.Duration
}

const maxLoads = 32

type meter struct {
	time  [powers]time.Duration
	idle  Power
	now   rtos.Cycles // of the present kernel, up to where time was accounted
	still rtos.Cycles // of it idle
	loads []Load
}

func (m *meter) begin() { m.now, m.still, m.idle = 0, 0, Sleep }

func (m *meter) spend(p Power, d time.Duration) { m.time[p] += d }

// account1 brings the times of states up to the present.
func (b *Board) account1(k *rtos.Kernel) {
	m := &b.meter
	now, idle := k.Now(), k.Idle()
	still := idle - m.still
	m.spend(m.idle, b.duration(still))
	m.spend(Run, b.duration(now-m.now-min(still, now-m.now)))
	m.now, m.still = now, idle
}

// SetIdle chooses the state in which the processor waits while no thread is ready: Sleep, as after a reset, or Stop.
func (b *Board) SetIdle(p Power) error {
	if p != Sleep && p != Stop {
		return fmt.Errorf("board %s: a processor cannot wait for interrupts in %v", b.cfg.Name, p)
	}
	if k := b.Kernel(); k != nil {
		b.account1(k)
	}
	b.meter.idle = p
	return nil
}

// Draw says that something on the board takes so much current from now on. At most 32 loads have a name.
func (b *Board) Draw(name string, microamps float64) error {
	m := &b.meter
	i := slices.IndexFunc(m.loads, func(l Load) bool { return l.Name == name })
	if i < 0 {
		if len(m.loads) == maxLoads {
			return fmt.Errorf("board %s: load %q: %d loads are known already", b.cfg.Name, name, maxLoads)
		}
		i = len(m.loads)
		m.loads = append(m.loads, Load{Name: name})
	}
	m.loads[i].advance(b.Uptime())
	m.loads[i].Microamps = microamps
	return nil
}

func (l *Load) advance(now time.Duration) {
	l.Charge += l.Microamps * (now - l.since).Hours()
	l.since = now
}

// Energy says what was taken until now.
func (b *Board) Energy() Energy {
	if k := b.Kernel(); k != nil {
		b.account1(k)
	}
	e := Energy{Time: b.meter.time}
	for p, d := range e.Time {
		e.Charge += b.cfg.Profile.Power[p] * d.Hours()
	}
	now := b.Uptime()
	for i := range b.meter.loads {
		l := &b.meter.loads[i]
		l.advance(now)
		e.Charge += l.Charge
	}
	e.Loads = slices.Clone(b.meter.loads)
	return e
}

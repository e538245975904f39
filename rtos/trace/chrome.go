package trace

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"github.com/vauban-iot/vauban/rtos"
)

// Chrome writes the trace as Chrome's trace events (JSON object format), which Perfetto and chrome://tracing draw: a track for each thread with
// the stretches in which it ran, one for interrupts and one for initialization; services, and events of the
// application, as instants on the track of who called them. hz is how many of the trace's ticks make a second: the core clock, on Vauban's boards.
func (t *Trace) Chrome(w io.Writer, board string, hz uint64) error {
	if hz == 0 {
		return fmt.Errorf("a trace cannot be drawn without the rate of its clock")
	}
	c := &chrome{w: bufio.NewWriter(w), hz: hz, names: map[uint32]string{}, tracks: map[uint32]int{}}
	// An address that was used again is called by who has it now.
	for i := range t.Objects {
		o := &t.Objects[i]
		if _, taken := c.names[o.Address]; taken && o.Deleted {
			continue
		}
		c.names[o.Address] = o.Name
	}
	c.text(`{"displayTimeUnit":"ns","traceEvents":[`)
	c.record(`"name":"process_name","ph":"M","pid":1,"tid":0,"args":{"name":` + quote(board) + `}`)
	c.track(rtos.ContextISR, "interrupts")
	for i := range t.Objects {
		if o := &t.Objects[i]; o.Kind == rtos.KindThread {
			c.track(o.Address, o.Name)
		}
	}
	for i := range t.Events {
		c.event(&t.Events[i])
	}
	if n := len(t.Events); n > 0 {
		c.switchTo(0, t.Events[n-1].Time)
		for ; c.depth > 0; c.depth-- {
			c.mark("E", "interrupt", c.tracks[rtos.ContextISR], t.Events[n-1].Time, "")
		}
	}
	c.text("\n]}\n")
	if c.err != nil {
		return c.err
	}
	return c.w.Flush()
}

type chrome struct {
	w      *bufio.Writer
	err    error
	some   bool
	hz     uint64
	names  map[uint32]string
	tracks map[uint32]int

	runs  uint32 // the thread that runs; 0: nobody is known to
	since rtos.Cycles
	depth int // of interrupts
}

func (c *chrome) text(s string) {
	if c.err == nil {
		_, c.err = c.w.WriteString(s)
	}
}

func (c *chrome) record(fields string) {
	if c.some {
		c.text(",")
	}
	c.some = true
	c.text("\n{" + fields + "}")
}

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil { // strings can always be written
		panic(err)
	}
	return string(b)
}

// micros is a time in microseconds, to the nanosecond.
func (c *chrome) micros(t rtos.Cycles) string {
	s, r := uint64(t)/c.hz, uint64(t)%c.hz
	// A clock of up to 18 GHz does not overflow here.
	nanos := r * 1_000_000_000 / c.hz
	return strconv.FormatUint(s*1_000_000+nanos/1000, 10) + fmt.Sprintf(".%03d", nanos%1000)
}

// track is the number of a context's track, which is made and named when it is new.
func (c *chrome) track(context uint32, name string) int {
	n, ok := c.tracks[context]
	if !ok {
		n = len(c.tracks) + 1
		c.tracks[context] = n
		c.record(fmt.Sprintf(`"name":"thread_name","ph":"M","pid":1,"tid":%d,"args":{"name":%s}`, n, quote(name)))
		c.record(fmt.Sprintf(`"name":"thread_sort_index","ph":"M","pid":1,"tid":%d,"args":{"sort_index":%d}`, n, n))
	}
	return n
}

func (c *chrome) object(address uint32) string {
	if n, ok := c.names[address]; ok {
		return n
	}
	return fmt.Sprintf("0x%08x", address)
}

func (c *chrome) mark(phase, name string, tid int, at rtos.Cycles, more string) {
	c.record(fmt.Sprintf(`"name":%s,"ph":%q,"pid":1,"tid":%d,"ts":%s%s`, quote(name), phase, tid, c.micros(at), more))
}

func (c *chrome) switchTo(thread uint32, at rtos.Cycles) {
	if c.runs == thread {
		return
	}
	if c.runs != 0 && at > c.since {
		c.mark("X", "running", c.track(c.runs, c.object(c.runs)), c.since, `,"dur":`+c.micros(at-c.since))
	}
	c.runs, c.since = thread, at
}

func (c *chrome) event(e *Event) {
	tid := 0
	switch e.Thread {
	case rtos.ContextISR:
		tid = c.tracks[rtos.ContextISR]
	case rtos.ContextInitialization:
		tid = c.track(e.Thread, "initialization")
	default:
		tid = c.track(e.Thread, c.object(e.Thread))
		c.switchTo(e.Thread, e.Time)
	}
	switch e.ID {
	case rtos.EventRunning:
		return
	case rtos.EventISREnter:
		c.depth++
		c.mark("B", "interrupt", tid, e.Time, fmt.Sprintf(`,"args":{"number":%d}`, e.Info[1]))
		return
	case rtos.EventISRExit:
		if c.depth > 0 { // its beginning may be older than the trace
			c.depth--
			c.mark("E", "interrupt", tid, e.Time, "")
		}
		return
	}
	category := "kernel"
	if filterOf(uint32(e.ID)) == UserEvents {
		category = "user"
	}
	c.mark("i", EventWord(e.ID), tid, e.Time, `,"s":"t","cat":"`+category+`","args":{`+c.arguments(e)+`}`)
	if e.ID == rtos.EventThreadSuspend && e.Info[0] == c.runs {
		c.switchTo(0, e.Time)
	}
}

// arguments shows an event's words with what they mean.
func (c *chrome) arguments(e *Event) string {
	m, ok := meanings[e.ID]
	if !ok {
		m.words = [4]string{"info1", "info2", "info3", "info4"}
	}
	var b []byte
	for i, w := range m.words {
		if w == "" || w == "stack" {
			continue
		}
		if len(b) > 0 {
			b = append(b, ',')
		}
		b = append(b, quote(w)...)
		b = append(b, ':')
		v := e.Info[i]
		switch w {
		case "thread", "next", "owner", "pool", "group", "mutex", "queue", "semaphore", "timer":
			name := "none"
			if v != 0 {
				name = c.object(v)
			}
			b = append(b, quote(name)...)
		case "state", "new state":
			b = append(b, quote(rtos.State(v).String())...)
		case "wait":
			if v == rtos.WaitForever {
				b = append(b, `"forever"`...)
				break
			}
			fallthrough
		default:
			b = strconv.AppendUint(b, uint64(v), 10)
		}
	}
	return string(b)
}

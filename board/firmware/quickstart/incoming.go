package quickstart

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/vauban-iot/vauban/board/stm32l475"
	"github.com/vauban-iot/vauban/rtos"
	"github.com/vauban-iot/vauban/sdk/device"
)

// maxIncoming is how much of the hub may wait for the board: the client brings at most 16 commands at a time and one change.
const maxIncoming = 32

// push is what the hub sent by itself: a command or a change of the twin.
type push struct {
	command device.Method
	answer  chan<- int // of a command: its status
	change  *device.TwinEvent
}

// cloud is the thread that does what the hub asks for.
func (r *run) cloud(uint32) {
	for {
		p, ok := r.inbox.Get(rtos.WaitForever)
		switch {
		case !ok:
		case p.change != nil:
			r.desired(*p.change)
		default:
			r.command(p)
		}
	}
}

func (r *run) command(p push) {
	r.printf("Received command: %s\n\tPayload: %s\n", p.command.Name, p.command.Payload)
	on, known := false, p.command.Name == "setLedState"
	status := 200
	switch payload := string(p.command.Payload); {
	case !known:
		status = 501
		r.printf("The command is not for this device\n")
	case payload == "true" || payload == "false":
		on = payload == "true"
		r.light(on)
	default:
		status = 400
		r.printf("The payload is neither true nor false\n")
	}
	p.answer <- status
	r.tell(Event{Kind: Command, Text: p.command.Name, Status: status})
	if status == 200 {
		_ = r.report(ledState(on)) // the session's end is the main thread's; the next one begins with it
	}
}

// light turns LED2 on or off.
func (r *run) light(on bool) {
	word := "OFF"
	if on {
		word = "ON"
	}
	r.led = on
	if err := r.board.GPIO.Write(stm32l475.LED2, on); err != nil {
		panic(err)
	}
	r.printf("\tLED is turned %s\n", word)
	r.tell(Event{Kind: LED, Text: map[bool]string{false: "off", true: "on"}[on]})
}

// desired does what a change of the twin says.
func (r *run) desired(e device.TwinEvent) {
	r.printf("Received properties: %s\n", e.Patch)
	seconds, given, ok := parseInterval(e.Patch)
	if !given {
		return
	}
	code := 200
	if ok {
		r.interval = time.Duration(seconds) * time.Second
		r.printf("Updating telemetryInterval to %d\n", seconds)
		if r.session != nil {
			r.pace()
		}
		r.tell(Event{Kind: Interval, Text: strconv.FormatInt(seconds, 10)})
	} else {
		code = 400
		r.printf("The telemetryInterval is not 1 to %d\n", maxInterval)
	}
	_ = r.report(acknowledged(r.seconds(), code, e.Version))
}

// maxInterval is how many seconds a timer of 32 bits with a hundred ticks in each can count.
const maxInterval = 42_949_672

func fits(seconds int64) bool { return seconds >= 1 && seconds <= maxInterval }

// parseInterval reads telemetryInterval out of desired properties. One that was removed is not given.
func parseInterval(properties json.RawMessage) (seconds int64, given, ok bool) {
	var doc map[string]json.RawMessage
	if json.Unmarshal(properties, &doc) != nil {
		return 0, false, false
	}
	v := doc["telemetryInterval"]
	if v == nil || string(v) == "null" {
		return 0, false, false
	}
	seconds, err := strconv.ParseInt(string(v), 10, 64)
	return seconds, true, err == nil && fits(seconds)
}

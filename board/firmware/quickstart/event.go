package quickstart

// What an Event tells of.
const (
	NetworkReady EventKind = iota + 1 // the board has an address: Text
	ClockSet                          // the time came: Text is RFC 3339
	Provisioned                       // Text is the hub and the device, with a slash between
	Connected                         // Text is the hub and the device
	Lost                              // the connection, or an attempt at any of the above, was lost: Err says why
	Sent                              // a message is with the hub: Text is its body
	Command                           // Text is the name, Status what was answered
	Interval                          // the twin changed it: Text is in seconds
	LED                               // LED2 changed: Text is on or off
)

// EventKind says what an Event tells of.
type EventKind uint8

var eventWords = [...]string{"", "network", "clock", "provisioned", "connected", "lost", "sent", "command", "interval", "led"}

func (k EventKind) String() string {
	if int(k) < len(eventWords) {
		return eventWords[k]
	}
	return "unknown"
}

// Event is something that the firmware did.
type Event struct {
	Kind   EventKind
	Text   string
	Status int
	Err    error
}

func (f *Firmware) tell(e Event) {
	if f.cfg.Event != nil {
		f.cfg.Event(e)
	}
}

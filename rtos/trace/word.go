package trace

import (
	"fmt"

	"github.com/vauban-iot/vauban/rtos"
)

// Events of the application that Vauban's own tools write (rtos §16 leaves their numbers free).
const (
	EventDeadlineMissed rtos.EventID = 4096 + 0x444D // thread, job, response or age in cycles, deadline in cycles
)

var kindWords = map[rtos.ObjectKind]string{
	1: "thread", 2: "timer", 3: "queue", 4: "semaphore", 5: "mutex", 6: "event flags", 7: "block pool", 8: "byte pool", 9: "media", 10: "file", 11: "IP",
	12: "packet pool", 13: "TCP socket", 14: "UDP socket",
}

// KindWord is the word for a type of object.
func KindWord(k rtos.ObjectKind) string {
	if w, ok := kindWords[k]; ok {
		return w
	}
	return fmt.Sprintf("type %d", k)
}

// meaning says what an event is called and what its four words are; an empty word is not shown.
type meaning struct {
	name  string
	words [4]string
}

// stack is a word that says little, and is shown as a number.
var meanings = map[rtos.EventID]meaning{
	1: {"resume", [4]string{"thread", "state", "stack", "next"}}, 2: {"suspend", [4]string{"thread", "state", "stack", "next"}},
	3: {"ISR enter", [4]string{"stack", "number", "system state", "preempt disable"}}, 4: {"ISR exit", [4]string{"stack", "number", "system state", "preempt disable"}},
	5: {"time slice", [4]string{"next", "system state", "preempt disable", "stack"}}, 6: {name: "running"},
	10: {"block allocate", [4]string{"pool", "memory", "wait", "left"}}, 11: {"block pool create", [4]string{"pool", "start", "blocks", "size"}},
	12: {"block pool delete", [4]string{"pool"}}, 13: {"block pool info", [4]string{"pool"}}, 14: {"block pool performance", [4]string{"pool"}},
	15: {name: "block pools performance"}, 16: {"block pool prioritize", [4]string{"pool", "suspended"}}, 17: {"block release", [4]string{"pool", "memory", "suspended"}},
	20: {"byte allocate", [4]string{"pool", "memory", "size", "wait"}}, 21: {"byte pool create", [4]string{"pool", "start", "size"}},
	22: {"byte pool delete", [4]string{"pool"}}, 23: {"byte pool info", [4]string{"pool"}}, 24: {"byte pool performance", [4]string{"pool"}},
	25: {name: "byte pools performance"}, 26: {"byte pool prioritize", [4]string{"pool", "suspended"}}, 27: {"byte release", [4]string{"pool", "memory", "suspended", "available"}},
	30: {"event flags create", [4]string{"group"}}, 31: {"event flags delete", [4]string{"group"}}, 32: {"event flags get", [4]string{"group", "requested", "current", "option"}},
	33: {"event flags info", [4]string{"group"}}, 34: {"event flags performance", [4]string{"group"}}, 35: {name: "all event flags performance"},
	36: {"event flags set", [4]string{"group", "flags", "option", "suspended"}}, 37: {"event flags set notify", [4]string{"group"}},
	40: {"interrupt control", [4]string{"posture"}},
	50: {"mutex create", [4]string{"mutex", "inherit"}}, 51: {"mutex delete", [4]string{"mutex"}}, 52: {"mutex get", [4]string{"mutex", "wait", "owner", "count"}},
	53: {"mutex info", [4]string{"mutex"}}, 54: {"mutex performance", [4]string{"mutex"}}, 55: {name: "mutexes performance"},
	56: {"mutex prioritize", [4]string{"mutex", "suspended"}}, 57: {"mutex put", [4]string{"mutex", "owner", "count"}},
	60: {"queue create", [4]string{"queue", "words", "start", "size"}}, 61: {"queue delete", [4]string{"queue"}}, 62: {"queue flush", [4]string{"queue"}},
	63: {"queue front send", [4]string{"queue", "source", "wait", "enqueued"}}, 64: {"queue info", [4]string{"queue"}}, 65: {"queue performance", [4]string{"queue"}},
	66: {name: "queues performance"}, 67: {"queue prioritize", [4]string{"queue", "suspended"}}, 68: {"queue receive", [4]string{"queue", "destination", "wait", "enqueued"}},
	69: {"queue send", [4]string{"queue", "source", "wait", "enqueued"}}, 70: {"queue send notify", [4]string{"queue"}},
	80: {"semaphore ceiling put", [4]string{"semaphore", "count", "suspended", "ceiling"}}, 81: {"semaphore create", [4]string{"semaphore", "count"}},
	82: {"semaphore delete", [4]string{"semaphore"}}, 83: {"semaphore get", [4]string{"semaphore", "wait", "count"}}, 84: {"semaphore info", [4]string{"semaphore"}},
	85: {"semaphore performance", [4]string{"semaphore"}}, 86: {name: "semaphores performance"}, 87: {"semaphore prioritize", [4]string{"semaphore", "suspended"}},
	88: {"semaphore put", [4]string{"semaphore", "count", "suspended"}}, 89: {"semaphore put notify", [4]string{"semaphore"}},
	100: {"thread create", [4]string{"thread", "priority", "stack", "size"}}, 101: {"thread delete", [4]string{"thread"}}, 102: {"thread entry exit notify", [4]string{"thread", "state"}},
	103: {name: "thread identify"}, 104: {"thread info", [4]string{"thread", "state"}}, 105: {"thread performance", [4]string{"thread", "state"}},
	106: {name: "threads performance"}, 107: {"preemption change", [4]string{"thread", "new threshold", "old threshold", "state"}},
	108: {"priority change", [4]string{"thread", "new priority", "old priority", "state"}}, 109: {"relinquish", [4]string{"stack", "next"}},
	110: {"thread reset", [4]string{"thread", "state"}}, 111: {"thread resume", [4]string{"thread", "state"}}, 112: {"sleep", [4]string{"ticks", "state"}},
	113: {name: "stack error notify"}, 114: {"thread suspend", [4]string{"thread", "state"}}, 115: {"terminate", [4]string{"thread", "state"}},
	116: {"time slice change", [4]string{"thread", "new", "old"}}, 117: {"wait abort", [4]string{"thread", "state"}},
	120: {"time get", [4]string{"time"}}, 121: {"time set", [4]string{"time"}}, 122: {"timer activate", [4]string{"timer"}},
	123: {"timer change", [4]string{"timer", "initial", "reschedule"}}, 124: {"timer create", [4]string{"timer", "initial", "reschedule", "activate"}},
	125: {"timer deactivate", [4]string{"timer"}}, 126: {"timer delete", [4]string{"timer"}}, 127: {"timer info", [4]string{"timer"}}, 128: {"timer performance", [4]string{"timer"}},
	129: {name: "timers performance"},

	EventDeadlineMissed: {"deadline missed", [4]string{"thread", "job", "response", "deadline"}},
}

// EventWord is the word for an event; events of the application are called by their number.
func EventWord(id rtos.EventID) string {
	if m, ok := meanings[id]; ok {
		return m.name
	}
	return fmt.Sprintf("user %d", uint32(id))
}

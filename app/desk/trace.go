package desk

import (
	"github.com/vauban-iot/vauban/board/firmware"
	"github.com/vauban-iot/vauban/rtos"
	"github.com/vauban-iot/vauban/rtos/trace"
)

// traceArea is where events are kept: memory that the board does not have, so that a trace takes nothing of what it has. The last
// 65,000 events fit.
var traceArea = rtos.Region{Start: 0x6000_0000, Size: 2 << 20}

const traceObjects = 256

// recording traces a kernel beside who traces it already, the crash report.
type recording struct {
	*trace.Recorder
	also rtos.Tracer
}

func record(k *rtos.Kernel) *recording {
	r := &recording{Recorder: trace.NewRecorder(k, nil), also: k.Config().Tracer}
	firmware.Must(r.Enable(traceArea, traceObjects))
	k.SetTracer(r)
	return r
}

func (r *recording) Event(e rtos.Event) {
	r.Recorder.Event(e)
	r.also.Event(e)
}

func (r *recording) Created(o rtos.ObjectInfo) {
	r.Recorder.Created(o)
	r.also.Created(o)
}

func (r *recording) Deleted(address uint32) {
	r.Recorder.Deleted(address)
	r.also.Deleted(address)
}

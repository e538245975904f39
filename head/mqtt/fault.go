package mqtt

import (
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/iot"
)

// Properties by which a device asks for a fault (hub-device §11). The official SDKs' end-to-end suites send them.
const (
	faultType     = "AzIoTHub_FaultOperationType"
	faultReason   = "AzIoTHub_FaultOperationCloseReason"
	faultDelay    = "AzIoTHub_FaultOperationDelayInSecs"
	faultDuration = "AzIoTHub_FaultOperationDurationInSecs"
)

// maxFault bounds both times of a fault.
const maxFault = time.Hour

// faults are those under way. Only a server with Config.FaultInjection looks at them.
type faults struct {
	mu     sync.Mutex
	active map[iot.ID]activeFault
}

// activeFault holds for new connections, or for messages, until its time is over.
type activeFault struct {
	kind  string
	until time.Time
}

var (
	errFaultAsked = fault.New(fault.ConnectionClosed, "the device asked for this close")
	errFaultAuth  = fault.New(fault.Unauthorized, "the device asked for refusals")
	errFaultQuota = fault.New(fault.Throttled, "the device asked to be throttled")
)

// connect reports the fault that keeps id from connecting.
func (f *faults) connect(id iot.ID) error {
	if f.of(id) == "InvokeAuthError" {
		return errFaultAuth
	}
	return nil
}

func (f *faults) of(id iot.ID) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, ok := f.active[id]
	if ok && time.Now().After(a.until) {
		delete(f.active, id)
		return ""
	}
	return a.kind
}

// telemetry looks at a message. asked tells that it asks for a fault: it is neither stored nor acknowledged. An error closes
// the connection.
func (f *faults) telemetry(d *device, m *iot.Message) (asked bool, err error) {
	kind, reason := "", ""
	var delay, duration time.Duration
	for _, p := range m.Properties {
		switch p.Name {
		case faultType:
			kind = p.Value
		case faultReason:
			reason = p.Value
		case faultDelay:
			delay = faultTime(p.Value)
		case faultDuration:
			duration = faultTime(p.Value)
		}
	}
	var begin func()
	switch kind {
	case "KillTcp":
		begin = d.c.abort
		if reason == "byebye" {
			begin = func() { d.c.end(errFaultAsked) }
		}
	case "ShutDownMqtt":
		begin = func() { d.c.end(errFaultAsked) }
	case "InvokeAuthError":
		begin = func() {
			f.start(d.id, kind, duration)
			d.c.end(errFaultAuth)
		}
	case "InvokeThrottling", "InvokeMaxMessageQuota":
		begin = func() {
			f.start(d.id, kind, duration)
			d.c.end(errFaultQuota)
		}
	default: // none, or one of AMQP's: an ordinary message
		switch f.of(d.id) {
		case "InvokeThrottling", "InvokeMaxMessageQuota":
			return false, errFaultQuota // severed when it sends (hub-device §2.9)
		}
		return false, nil
	}
	d.c.srv.log.Info("fault injected", "head", "mqtt", "device", d.c.name, "fault", kind, "reason", reason, "delay", delay, "duration", duration)
	if delay == 0 {
		begin()
		return true, nil
	}
	d.c.srv.wg.Go(func() {
		select {
		case <-d.ctx.Done():
		case <-time.After(delay):
			begin()
		}
	})
	return true, nil
}

func (f *faults) start(id iot.ID, kind string, d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.active == nil {
		f.active = make(map[iot.ID]activeFault)
	}
	f.active[id] = activeFault{kind, time.Now().Add(d)}
}

// faultTime reads seconds; what cannot be read is none.
func faultTime(s string) time.Duration {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0
	}
	return min(time.Duration(n)*time.Second, maxFault)
}

// abort ends the connection as a broken network does, without a goodbye.
func (c *conn) abort() {
	if below, ok := c.nc.(interface{ NetConn() net.Conn }); ok {
		raw := below.NetConn()
		if t, ok := raw.(*net.TCPConn); ok {
			_ = t.SetLinger(0) // with a reset, if it can be had
		}
		raw.Close()
	}
	c.end(errFaultAsked)
}

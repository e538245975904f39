package service

import (
	"net/http"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/meter"
	"github.com/vauban-iot/vauban/hub/throttle"
)

// operation is what requests of a route count as; ok is false for those that are not limited.
func (rt *route) operation() (o throttle.Operation, ok bool) {
	last := rt.path[len(rt.path)-1]
	switch rt.path[0] {
	case "twins", "digitaltwins":
		switch rt.method {
		case http.MethodPost:
			return throttle.Methods, true
		case http.MethodGet:
			return throttle.TwinReads, true
		}
		return throttle.TwinUpdates, true
	case "jobs":
		return throttle.Jobs, true
	case "configurations":
		return throttle.Configurations, true
	case "devices":
		switch last {
		case "query":
			return throttle.Queries, true
		case "deviceBound":
			return throttle.Sends, true
		case "applyConfigurationContent":
			return throttle.Configurations, true
		case "commands":
			return 0, false
		}
		return throttle.Registry, true
	case "statistics":
		return throttle.Registry, true
	}
	return 0, false
}

// take counts a request against its limit. It may wait for its turn; one that would wait for too long is answered with
// 429, also where a 429 of the device means something else.
func (h *Head) take(q *request, rt *route) error {
	if h.limit == nil {
		return nil
	}
	o, ok := rt.operation()
	if !ok {
		return nil
	}
	n := 1
	if o == throttle.Methods {
		n = throttle.Steps(len(q.body))
	}
	return h.takeMore(q, o, n)
}

// takeMore counts n operations; a request may stand for many.
func (h *Head) takeMore(q *request, o throttle.Operation, n int) error {
	if n <= 0 {
		return nil
	}
	err := h.limit.Wait(q.Context(), o, n)
	if fault.Is(err, fault.Throttled) {
		return coded{codeOf(fault.Throttled), err}
	}
	return err
}

// count counts what a request came to. What the hub itself knows of is counted there.
func (h *Head) count(rt *route, err error) {
	if h.meter == nil || len(rt.path) == 0 || fault.Is(err, fault.Unauthorized) || fault.Is(err, fault.Forbidden) {
		return
	}
	switch rt.path[0] {
	case "configurations":
		if rt.path[len(rt.path)-1] != "testQueries" && err == nil {
			h.meter.Count(meter.Configurations)
		}
	case "jobs":
		switch {
		case len(rt.path) == 1 && rt.method == http.MethodGet:
			h.meter.Outcome(err, meter.ListJobsSuccess, meter.ListJobsFailure)
		case rt.path[len(rt.path)-1] == "query":
			h.meter.Outcome(err, meter.QueryJobsSuccess, meter.QueryJobsFailure)
		case rt.path[len(rt.path)-1] == "cancel":
			h.meter.Outcome(err, meter.CancelJobSuccess, meter.CancelJobFailure)
		}
	}
}

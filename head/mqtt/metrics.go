package mqtt

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/vauban-iot/vauban/fault"
)

// Metrics of the head.
type Metrics struct {
	connects prometheus.Counter
	messages prometheus.Counter
	lost     prometheus.Counter
	refusals *prometheus.CounterVec
	closes   *prometheus.CounterVec
}

// NewMetrics registers the head's metrics with reg; nil keeps them to themselves.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	return &Metrics{
		connects: f.NewCounter(prometheus.CounterOpts{Name: "vauban_mqtt_connects_total", Help: "Sessions opened."}),
		messages: f.NewCounter(prometheus.CounterOpts{Name: "vauban_mqtt_messages_total", Help: "Device-to-cloud messages received."}),
		lost:     f.NewCounter(prometheus.CounterOpts{Name: "vauban_mqtt_messages_refused_total", Help: "Messages that could not be stored; their devices were disconnected and will send them again."}),
		refusals: f.NewCounterVec(prometheus.CounterOpts{Name: "vauban_mqtt_refusals_total", Help: "Connections refused before a session, by kind of failure."}, []string{"kind"}),
		closes:   f.NewCounterVec(prometheus.CounterOpts{Name: "vauban_mqtt_closes_total", Help: "Sessions closed, by kind of reason."}, []string{"kind"}),
	}
}

func (m *Metrics) refused(err error) { m.refusals.WithLabelValues(fault.KindOf(err).String()).Inc() }

func (m *Metrics) closed(cause error) {
	kind := fault.KindOf(cause).String()
	if isDisconnect(cause) {
		kind = "disconnect"
	}
	m.closes.WithLabelValues(kind).Inc()
}

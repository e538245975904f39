package node

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/vauban-iot/vauban/central/api"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/meter"
	"github.com/vauban-iot/vauban/pki"
	"github.com/vauban-iot/vauban/storage/sqlstore"
)

// authorities are the CAs that prove hub devices: those the operator added, and those of
// X.509 enrollment groups, since the one binary holds both ends of that trust.
type authorities struct {
	store  *sqlstore.Store
	groups func(context.Context) ([]*x509.Certificate, error) // CAs of enrollment groups
	mu     sync.Mutex                                         // one change at a time
}

const certificatesSetting = "hub/certificates"

func (a *authorities) saved(ctx context.Context) (map[string]string, error) {
	data, err := a.store.Setting(ctx, certificatesSetting)
	if fault.Is(err, fault.NotFound) {
		return map[string]string{}, nil
	}
	if err != nil {
		return nil, err
	}
	var m map[string]string
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("setting %s is damaged: %w", certificatesSetting, err)
	}
	return m, nil
}

func (a *authorities) change(ctx context.Context, change func(map[string]string) error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	m, err := a.saved(ctx)
	if err != nil {
		return err
	}
	if err := change(m); err != nil {
		return err
	}
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return a.store.PutSetting(ctx, certificatesSetting, data)
}

// Certificates implements api.CertificateStore.
func (a *authorities) Certificates(ctx context.Context) ([]api.Certificate, error) {
	m, err := a.saved(ctx)
	if err != nil {
		return nil, err
	}
	var cs []api.Certificate
	for name, text := range m {
		cs = append(cs, api.Certificate{Name: name, PEM: text})
	}
	slices.SortFunc(cs, func(x, y api.Certificate) int { return strings.Compare(x.Name, y.Name) })
	return cs, nil
}

// maxCertificates is Azure's limit too (hub-device §7).
const maxCertificates = 25

// PutCertificate implements api.CertificateStore.
func (a *authorities) PutCertificate(ctx context.Context, name, text string) error {
	return a.change(ctx, func(m map[string]string) error {
		if _, ok := m[name]; !ok && len(m) >= maxCertificates {
			return fault.New(fault.Invalid, "there are %d certificates already; delete one first", maxCertificates)
		}
		m[name] = text
		return nil
	})
}

// DeleteCertificate implements api.CertificateStore.
func (a *authorities) DeleteCertificate(ctx context.Context, name string) error {
	return a.change(ctx, func(m map[string]string) error {
		if _, ok := m[name]; !ok {
			return fault.New(fault.NotFound, "there is no certificate %q", name)
		}
		delete(m, name)
		return nil
	})
}

// all returns every CA the hub accepts at this moment. Disabling an enrollment group stops new registrations and leaves
// devices that have their place; disabling a device is how one of them is cut off.
func (a *authorities) all(ctx context.Context) ([]*x509.Certificate, error) {
	m, err := a.saved(ctx)
	if err != nil {
		return nil, err
	}
	cas, err := a.groups(ctx)
	if err != nil {
		return nil, err
	}
	for _, text := range m {
		cs, err := pki.ParseCertificates([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("a stored certificate is damaged: %w", err)
		}
		cas = append(cas, cs[0])
	}
	return cas, nil
}

// stored counts what is on the log, which is the built-in endpoint, too.
func (n *Node) stored(report func(messages, bytes int, err error)) func(messages, bytes int, err error) {
	return func(messages, bytes int, err error) {
		report(messages, bytes, err)
		if err != nil {
			return
		}
		n.meter.BuiltIn(messages)
		if n.routes.plain.Load() {
			n.meter.Add(meter.EgressFallback, messages)
		}
	}
}

type intakeMetrics struct {
	batches  prometheus.Histogram
	bytes    prometheus.Counter
	failures prometheus.Counter
}

func newIntakeMetrics(reg prometheus.Registerer) *intakeMetrics {
	f := promauto.With(reg)
	return &intakeMetrics{
		batches: f.NewHistogram(prometheus.HistogramOpts{
			Name: "vauban_telemetry_batch_messages", Help: "Messages of one fsynced append.", Buckets: prometheus.ExponentialBuckets(1, 4, 7),
		}),
		bytes:    f.NewCounter(prometheus.CounterOpts{Name: "vauban_telemetry_bytes_total", Help: "Bytes appended to the telemetry log."}),
		failures: f.NewCounter(prometheus.CounterOpts{Name: "vauban_telemetry_failed_appends_total", Help: "Appends that failed; their messages were not acknowledged."}),
	}
}

func (m *intakeMetrics) report(messages, bytes int, err error) {
	if err != nil {
		m.failures.Inc()
		return
	}
	m.batches.Observe(float64(messages))
	m.bytes.Add(float64(bytes))
}

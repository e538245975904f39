package node

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/storage/sqlstore"
)

// postured is how well devices and the hub are set up: what tells of it, who judges it, and what the operator asks.
type postured struct {
	*sqlstore.Store
	book    *posture.Book
	links   *posture.Links
	watcher *posture.Watcher
	judge   *posture.Judge
	changed func([]posture.Recommendation) // counts and logs
}

func newPosture(n *Node, cas *authorities) (*postured, error) {
	p := &postured{Store: n.State, book: posture.NewBook(n.State, n.State)}
	var err error
	if p.links, err = posture.NewLinks(n.State, n.log, n.metrics); err != nil {
		return nil, err
	}
	counter := promauto.With(n.metrics).NewCounterVec(prometheus.CounterOpts{
		Name: "vauban_posture_changes_total", Help: "Recommendations that changed, by what they became: Active or Resolved.",
	}, []string{"state"})
	changed := func(rs []posture.Recommendation) {
		for i := range rs {
			r := &rs[i]
			counter.WithLabelValues(string(r.State)).Inc()
			n.log.Debug("recommendation changed", "type", r.Type, "device", r.Device, "module", r.Module, "state", string(r.State))
		}
	}
	p.changed = changed
	if p.watcher, err = posture.NewWatcher(n.State, p.book.Disabled, changed); err != nil {
		return nil, err
	}
	p.judge, err = posture.NewJudge(posture.JudgeConfig{
		Store: n.State, Disabled: p.book.Disabled, Network: n.network.Network, Changed: changed, Logger: n.log, Metrics: n.metrics,
		Logged: func() bool { return n.interest.Wants(iot.DeviceConnectionState) },
		Authorities: func(ctx context.Context) ([]posture.Authority, error) {
			all, err := cas.Certificates(ctx)
			if err != nil {
				return nil, err
			}
			var as []posture.Authority
			for _, c := range all {
				block, _ := pem.Decode([]byte(c.PEM))
				if block == nil {
					continue
				}
				if ca, err := x509.ParseCertificate(block.Bytes); err == nil {
					as = append(as, posture.Authority{Name: c.Name, NotAfter: ca.NotAfter})
				}
			}
			return as, nil
		},
	})
	return p, err
}

// Disabled implements api.RecommendationStore.
func (p *postured) Disabled(ctx context.Context) (posture.Disabled, error) {
	return p.book.Disabled(ctx)
}

// Enable implements api.RecommendationStore.
func (p *postured) Enable(ctx context.Context, enabled bool, at time.Time, names ...string) (int, error) {
	return p.book.Enable(ctx, enabled, at, names...)
}

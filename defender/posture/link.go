package posture

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/vauban-iot/vauban/iot"
)

// Link is how a device, or a module, connected last.
type Link struct {
	ID          iot.ID
	Remote      netip.Addr
	Version     uint16 // of TLS, as crypto/tls numbers them; 0: not known
	CipherSuite uint16
	// NotBefore and NotAfter are those of the certificate that proved the device; zero: something else did.
	NotBefore, NotAfter time.Time
	At                  time.Time
}

// LinkStore is what [Links] needs of a [Store].
type LinkStore interface {
	KeepLinks(ctx context.Context, links []Link) error
}

// Links notes how devices connect. Who tells it waits for nothing: what comes within seconds becomes one write, and the last link of a
// device is the one that counts.
type Links struct {
	store LinkStore
	log   *slog.Logger
	now   func() time.Time
	lost  prometheus.Counter

	mu      sync.Mutex
	pending map[iot.ID]Link
}

const (
	linkPeriod = 2 * time.Second
	// maxLinks bounds what waits for the store: a fleet that comes back all at once.
	maxLinks = 100_000
)

// NewLinks returns an empty note; Run writes it.
func NewLinks(store LinkStore, log *slog.Logger, reg prometheus.Registerer) (*Links, error) {
	if store == nil {
		return nil, errors.New("posture: links need a store")
	}
	if log == nil {
		log = slog.Default()
	}
	return &Links{store: store, log: log, now: time.Now, pending: make(map[iot.ID]Link), lost: promauto.With(reg).NewCounter(prometheus.CounterOpts{
		Name: "vauban_posture_links_lost_total", Help: "Connections of devices that were not noted because too many waited for the store.",
	})}, nil
}

// Seen hears of a device that proved itself, for itself and over a connection of its own.
func (l *Links) Seen(c iot.Credentials) {
	k := Link{ID: c.ID, Version: c.TLSVersion, CipherSuite: c.CipherSuite, At: l.now()}
	if ap, err := netip.ParseAddrPort(c.Remote); err == nil {
		k.Remote = ap.Addr().Unmap().WithZone("")
	}
	if c.Token == "" && len(c.Certificates) > 0 { // a token decides even beside a certificate
		k.NotBefore, k.NotAfter = c.Certificates[0].NotBefore, c.Certificates[0].NotAfter
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.pending[c.ID]; !ok && len(l.pending) >= maxLinks {
		l.lost.Inc()
		return
	}
	l.pending[c.ID] = k
}

// Run writes until ctx ends, and what is left then.
func (l *Links) Run(ctx context.Context) error {
	tick := time.NewTicker(linkPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			l.flush(context.WithoutCancel(ctx))
			return nil
		case <-tick.C:
			l.flush(ctx)
		}
	}
}

func (l *Links) flush(ctx context.Context) {
	l.mu.Lock()
	now := l.pending
	l.pending = make(map[iot.ID]Link)
	l.mu.Unlock()
	if len(now) == 0 {
		return
	}
	links := make([]Link, 0, len(now))
	for _, k := range now {
		links = append(links, k)
	}
	err := l.store.KeepLinks(ctx, links)
	if err == nil {
		return
	}
	if ctx.Err() == nil {
		l.log.Warn("how devices connected waits for the store", "devices", len(links), "err", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, k := range now {
		if _, ok := l.pending[id]; ok {
			continue
		}
		if len(l.pending) >= maxLinks {
			l.lost.Inc()
			continue
		}
		l.pending[id] = k
	}
}

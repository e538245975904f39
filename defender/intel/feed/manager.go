package feed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/defender/intel/format"
	"github.com/vauban-iot/vauban/fault"
)

// ManagerConfig is what a Manager works with.
type ManagerConfig struct {
	Store      Store                 // required
	Engine     *intel.Engine         // required
	Dir        string                // folder that files of feeds are below; required
	Now        func() time.Time      // nil: time.Now
	Logger     *slog.Logger          // nil: slog.Default
	Registerer prometheus.Registerer // may be nil
}

// Manager keeps feeds.
type Manager struct {
	cfg ManagerConfig
	log *slog.Logger

	fetches *prometheus.CounterVec

	mu      sync.Mutex // held while contents are brought into use; stores are read under it
	loaded  map[string]loaded
	version int64 // of the store, that was brought into use
	known   bool
	begun   map[string]bool // feeds that are being fetched
}

// loaded is what of a feed is in use.
type loaded struct {
	revision   int64
	generation int64
	use        intel.Use
}

const (
	poll = 500 * time.Millisecond
	// atOnce is how many feeds are fetched at the same time.
	atOnce = 3
	// piece is what one write of the store carries: small, so that nobody who writes waits for a feed.
	piece = 256 << 10
	// minShrink is how many indicators a feed must have had for its shrinking to be suspicious.
	minShrink  = 10
	minBackoff = time.Minute
	maxBackoff = 6 * time.Hour
	// exemptions is the name of the operator's own ones in explanations.
	exemptions = "allowed by the operator"
	maxAllowed = 100_000
)

// NewManager makes a manager. It reads nothing yet.
func NewManager(cfg ManagerConfig) (*Manager, error) {
	if cfg.Store == nil || cfg.Engine == nil || cfg.Dir == "" {
		return nil, errors.New("feed: Store, Engine and Dir are required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Manager{cfg: cfg, log: cfg.Logger, loaded: make(map[string]loaded), begun: make(map[string]bool),
		fetches: promauto.With(cfg.Registerer).NewCounterVec(prometheus.CounterOpts{
			Name: "vauban_intel_fetches_total", Help: "Fetches of feeds, by outcome: new, unchanged, kept (it shrank) or failed.",
		}, []string{"outcome"})}, nil
}

// Load brings what the store has into use, where it changed.
func (m *Manager) Load(ctx context.Context) error {
	v, err := m.cfg.Store.IntelVersion(ctx)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known && v == m.version {
		return nil
	}
	feeds, err := m.cfg.Store.Feeds(ctx)
	if err != nil {
		return err
	}
	there := make(map[string]bool)
	var failed error
	for i := range feeds {
		f := &feeds[i]
		if f.Disabled || f.State.Revision == 0 {
			continue
		}
		there[f.Name] = true
		if m.loaded[f.Name] == inUse(f) {
			continue
		}
		b, err := m.content(ctx, f)
		if err != nil {
			// The leader fetches it again when it cannot be read, and replaces what stands.
			failed = errors.Join(failed, fmt.Errorf("feed %s: %w", f.Name, err))
			continue
		}
		m.bring(f, b)
	}
	for name, l := range m.loaded {
		if !there[name] {
			m.cfg.Engine.Remove(l.use, name)
			delete(m.loaded, name)
		}
	}
	if err := m.exempt(ctx); err != nil {
		return err
	}
	if failed == nil {
		m.version, m.known = v, true
	}
	return failed
}

func inUse(f *Feed) loaded { return loaded{f.State.Revision, f.Generation, f.use()} }

// bring puts a block into use. The caller holds mu.
func (m *Manager) bring(f *Feed, b *intel.Block) {
	if l, ok := m.loaded[f.Name]; ok && l.use != f.use() {
		m.cfg.Engine.Remove(l.use, f.Name)
	}
	m.cfg.Engine.Put(f.use(), b)
	m.loaded[f.Name] = inUse(f)
	m.log.Info("feed in use", "feed", f.Name, "indicators", b.Len())
}

// exempt brings the operator's exemptions into use. The caller holds mu.
func (m *Manager) exempt(ctx context.Context) error {
	all, err := m.cfg.Store.Exemptions(ctx)
	if err != nil {
		return err
	}
	b := intel.NewBuilder(intel.Source{Name: exemptions, Own: true})
	for i, e := range all {
		_, it, err := ParseExemption(e.Value)
		if err != nil {
			continue
		}
		it.Line = i + 1
		b.Add(&it)
	}
	m.cfg.Engine.Put(intel.ToAllow, b.Block())
	return nil
}

// content reads what a feed gave from the store.
func (m *Manager) content(ctx context.Context, f *Feed) (*intel.Block, error) {
	r, w := io.Pipe()
	go func() {
		w.CloseWithError(m.cfg.Store.FeedContent(ctx, f.Name, f.State.Revision, func(p []byte) error {
			_, err := w.Write(p)
			return err
		}))
	}()
	b, err := intel.Decode(f.source(version(f.State.Revision)), r)
	r.CloseWithError(errors.New("the content was not read to its end"))
	return b, err
}

func version(revision int64) string { return time.UnixMicro(revision).UTC().Format(time.RFC3339Nano) }

// Follow brings changes of the store into use until ctx ends: those of this server and of others.
func (m *Manager) Follow(ctx context.Context) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	told := ""
	for {
		err := m.Load(ctx)
		if ctx.Err() != nil {
			return nil
		}
		text := ""
		if err != nil {
			if text = err.Error(); text != told {
				m.log.Warn("feeds cannot be read from the store; what is in use stays", "err", err)
			}
		}
		told = text
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Fetch fetches what is due until ctx ends.
func (m *Manager) Fetch(ctx context.Context) error {
	var fetching sync.WaitGroup
	defer fetching.Wait()
	room := make(chan struct{}, atOnce)
	tick := time.NewTicker(poll)
	defer tick.Stop()
	var feeds []Feed
	have := int64(-1)
	for {
		v, err := m.cfg.Store.IntelVersion(ctx)
		if err == nil && v != have {
			if feeds, err = m.cfg.Store.Feeds(ctx); err == nil {
				have = v
			}
		}
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("read the feeds: %w", err)
		}
		for _, f := range feeds {
			if !m.due(&f) || !m.begin(f.Name) {
				continue
			}
			select {
			case room <- struct{}{}:
			default:
				m.end(f.Name)
				continue // at the next look
			}
			fetching.Go(func() {
				defer func() { m.end(f.Name); <-room }()
				// The list may be older than what another fetch wrote.
				f, err := m.cfg.Store.Feed(ctx, f.Name)
				if err != nil || !m.due(&f) {
					return
				}
				m.fetch(ctx, &f)
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (m *Manager) begin(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.begun[name] {
		return false
	}
	m.begun[name] = true
	return true
}

func (m *Manager) end(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.begun, name)
}

// due reports whether a feed is to be fetched now: at its time, when somebody asked, and files when they changed.
func (m *Manager) due(f *Feed) bool {
	switch {
	case f.Disabled:
		return false
	case !f.Wanted.IsZero(), !m.cfg.Now().Before(f.State.NextAttempt):
		return true
	case f.File == "" || f.Format == format.MISP || f.State.Failures > 0 || f.State.Warning != "":
		return false
	}
	root, err := os.OpenRoot(m.cfg.Dir)
	if err != nil {
		return false
	}
	defer root.Close()
	info, err := root.Stat(f.File)
	return err == nil && fmt.Sprintf("%d-%d", info.ModTime().UnixNano(), info.Size()) != f.State.ETag
}

// fetch fetches a feed and keeps what came of it.
func (m *Manager) fetch(ctx context.Context, f *Feed) {
	log := m.log.With("feed", f.Name)
	began := m.cfg.Now()
	s, b, outcome, err := m.attempt(ctx, f)
	if ctx.Err() != nil {
		return // asked again after the next start
	}
	now := m.cfg.Now()
	s.LastAttempt = began
	switch {
	case err != nil:
		s.Failures++
		s.Error = fault.Public(err)
		if s.Error == "" || fault.KindOf(err) == fault.Internal {
			s.Error = err.Error()
		}
		wait := min(minBackoff<<min(s.Failures-1, 16), max(maxBackoff, f.interval()))
		if e, ok := errors.AsType[*statusError](err); ok {
			wait = max(wait, e.after)
		}
		s.NextAttempt = now.Add(wait)
		log.Warn("a feed was not fetched; what it gave before stays in use", "failures", s.Failures, "next", s.NextAttempt, "err", err)
	default:
		s.Failures, s.Error = 0, ""
		s.LastSuccess = began
		// Spread, so that not all of a publisher's users come at the full hour.
		s.NextAttempt = now.Add(f.interval() + time.Duration(rand.Int64N(int64(f.interval()/20)+1)))
		log.Info("feed fetched", "outcome", outcome, "indicators", s.Indicators, "bad_lines", s.BadLines, "duration", now.Sub(began))
	}
	m.fetches.WithLabelValues(outcome).Inc()
	if err := m.cfg.Store.SetFeedState(ctx, f.Name, f.Generation, s, f.Wanted); err != nil {
		if !fault.Is(err, fault.PreconditionFailed) {
			log.Warn("the state of a feed was not kept", "err", err)
		}
		return
	}
	if b != nil {
		m.mu.Lock()
		now := *f
		now.State = s
		m.bring(&now, b)
		m.mu.Unlock()
		if err := m.cfg.Store.DropFeedContent(ctx, f.Name, s.Revision); err != nil {
			log.Warn("an old content of a feed was not removed", "err", err)
		}
	}
}

// attempt fetches and stores a content. The state it returns is f's with what is new.
func (m *Manager) attempt(ctx context.Context, f *Feed) (State, *intel.Block, string, error) {
	const failed = "failed"
	old, err := m.standing(ctx, f)
	if err != nil {
		// What cannot be read cannot be gone on from.
		m.log.Warn("what a feed gave cannot be read from the store; it is fetched anew", "feed", f.Name, "err", err)
		f.State.ETag, f.State.Modified, f.State.Cursor, f.State.Revision = "", "", "", 0
	}
	x, err := newFetcher(f, m.cfg.Dir)
	if err != nil {
		return f.State, nil, failed, err
	}
	defer x.close()
	revision := max(m.cfg.Now().UnixMicro(), f.State.Revision+1)
	b, err := x.fetch(ctx, old, version(revision))
	if errors.Is(err, errUnchanged) {
		s := f.State
		s.ETag, s.Modified, s.Cursor = x.state.ETag, x.state.Modified, x.state.Cursor
		return s, nil, "unchanged", nil
	}
	if err != nil {
		return f.State, nil, failed, err
	}
	if had := f.State.Indicators; !f.Accept && f.State.Revision != 0 && had >= minShrink && b.Len() < (had+1)/2 {
		s := f.State
		s.Warning = fmt.Sprintf("it shrank from %d indicators to %d, which is more often a fault than good news, so the former stay in use; `vauban intel feed refresh %s --accept-shrink` takes the new ones", had, b.Len(), f.Name)
		m.log.Warn("a feed shrank by more than half; what it gave before stays in use", "feed", f.Name, "had", had, "has", b.Len())
		return s, nil, "kept", nil
	}
	s := x.state
	s.Revision, s.Indicators, s.Warning = revision, b.Len(), ""
	pieces := &pieceWriter{ctx: ctx, store: m.cfg.Store, name: f.Name, revision: revision}
	if err := errors.Join(b.Encode(pieces), pieces.flush()); err != nil {
		return f.State, nil, failed, fmt.Errorf("keep what it gave: %w", err)
	}
	return s, b, "new", nil
}

// standing is what the feed gave before; nil: nothing.
func (m *Manager) standing(ctx context.Context, f *Feed) (*intel.Block, error) {
	if f.State.Revision == 0 {
		return nil, nil
	}
	m.mu.Lock()
	same := m.loaded[f.Name] == inUse(f)
	m.mu.Unlock()
	if same {
		if b := m.cfg.Engine.Block(f.use(), f.Name); b != nil {
			return b, nil
		}
	}
	return m.content(ctx, f)
}

// pieceWriter cuts a content into what one write of the store carries.
type pieceWriter struct {
	ctx      context.Context
	store    Store
	name     string
	revision int64
	n        int
	buf      []byte
}

func (w *pieceWriter) Write(p []byte) (int, error) {
	w.buf = append(w.buf, p...)
	for len(w.buf) >= piece {
		if err := w.put(w.buf[:piece]); err != nil {
			return 0, err
		}
		w.buf = append(w.buf[:0], w.buf[piece:]...)
	}
	return len(p), nil
}

func (w *pieceWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	return w.put(w.buf)
}

func (w *pieceWriter) put(p []byte) error {
	err := w.store.AddFeedContent(w.ctx, w.name, w.revision, w.n, append([]byte(nil), p...))
	w.n++
	return err
}

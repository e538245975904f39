package vuln

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/vauban-iot/vauban/defender/vuln/format"
	"github.com/vauban-iot/vauban/fault"
)

// ManagerConfig is what a Manager works with.
type ManagerConfig struct {
	Store   Store                 // required
	Dir     string                // the watched folder; required, and there
	Now     func() time.Time      // nil: time.Now
	Logger  *slog.Logger          // nil: slog.Default
	Metrics prometheus.Registerer // may be nil
}

// Manager is what the operator does with database and documents. It is safe for concurrent use.
type Manager struct {
	Store
	cfg ManagerConfig
	log *slog.Logger

	mu      sync.Mutex // one import at a time
	now     sync.Mutex
	running Import
	imports *prometheus.CounterVec
	records *prometheus.GaugeVec
}

// Import is one that goes on, on this server.
type Import struct {
	Name    string    `json:"name"`
	Began   time.Time `json:"began"`
	Records int       `json:"records"`
}

// NewManager makes a manager; RunFolder watches the folder.
func NewManager(cfg ManagerConfig) (*Manager, error) {
	if cfg.Store == nil || cfg.Dir == "" {
		return nil, errors.New("vuln: a manager needs a store and a folder")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	f := promauto.With(cfg.Metrics)
	return &Manager{Store: cfg.Store, cfg: cfg, log: cfg.Logger,
		imports: f.NewCounterVec(prometheus.CounterOpts{Name: "vauban_vulnerability_imports_total", Help: "Files of vulnerabilities that were imported, by outcome: done or failed."}, []string{"outcome"}),
		records: f.NewGaugeVec(prometheus.GaugeOpts{Name: "vauban_vulnerability_records", Help: "Records of the last import of each kind: kept, broken or left out."}, []string{"kind", "what"}),
	}, nil
}

var goodName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// CheckName refuses names that sources and documents cannot have.
func CheckName(name string) error {
	if !goodName.MatchString(name) {
		return fault.New(fault.Invalid, "a name has letters, digits, dots, dashes and underscores, at most 128, and begins with a letter or digit; not %q", format.Clip(name, 60))
	}
	return nil
}

// Import reads a file from a stream and puts it into the database. An empty name: what the file is named by what stands in it.
func (m *Manager) Import(ctx context.Context, name string, body io.Reader) (Source, error) {
	if name != "" {
		if err := CheckName(name); err != nil {
			return Source{}, err
		}
	}
	f, err := os.CreateTemp(m.cfg.Dir, ".import-*")
	if err != nil {
		return Source{}, fmt.Errorf("keep the upload: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	n, err := io.Copy(f, io.LimitReader(body, MaxFile+1))
	if err != nil {
		return Source{}, fmt.Errorf("take the upload: %w", err)
	}
	if n > MaxFile {
		return Source{}, fault.New(fault.Invalid, "the file is over %d GiB", MaxFile>>30)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return Source{}, err
	}
	return m.read(ctx, f, name, "")
}

func (m *Manager) read(ctx context.Context, f *os.File, name, origin string) (s Source, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.progress(Import{Name: cmp.Or(name, "upload"), Began: m.cfg.Now().UTC()})
	defer m.progress(Import{})
	defer func() {
		outcome := "done"
		if err != nil {
			outcome = "failed"
		}
		m.imports.WithLabelValues(outcome).Inc()
	}()
	s, data, err := Read(ctx, f, name, func(records int) {
		m.now.Lock()
		m.running.Records = records
		m.now.Unlock()
	})
	if err != nil {
		return s, err
	}
	if err := CheckName(s.Name); err != nil {
		return s, fault.New(fault.Invalid, "the file does not say a name; give one")
	}
	s.Imported, s.Origin = m.cfg.Now().UTC(), origin
	if len(s.Ecosystems) > 50 {
		s.Ecosystems = s.Ecosystems[:50]
	}
	if s, err = m.PutSource(ctx, s, data); err != nil {
		return s, err
	}
	for what, n := range map[string]int{"kept": s.Records, "broken": s.Broken, "left": s.Left} {
		m.records.WithLabelValues(string(s.Kind), what).Set(float64(n))
	}
	m.log.Info("vulnerabilities imported", "source", s.Name, "kind", string(s.Kind), "records", s.Records, "broken", s.Broken, "left", s.Left)
	return s, nil
}

func (m *Manager) progress(i Import) {
	m.now.Lock()
	m.running = i
	m.now.Unlock()
}

// Running tells of the import that goes on; ok is false when there is none.
func (m *Manager) Running() (i Import, ok bool) {
	m.now.Lock()
	defer m.now.Unlock()
	return m.running, m.running.Name != ""
}

// AddVEX keeps a document of VEX.
func (m *Manager) AddVEX(ctx context.Context, name string, scope Scope, text []byte) (VEX, error) {
	if err := CheckName(name); err != nil {
		return VEX{}, err
	}
	statements, err := format.ParseVEX(text)
	if err != nil {
		return VEX{}, fault.New(fault.Invalid, "the document cannot be read: %v", err)
	}
	v := VEX{name, scope, statements, m.cfg.Now().UTC()}
	return v, m.PutVEX(ctx, v)
}

// AddBill keeps a bill of materials; left is how many of its components are too many.
func (m *Manager) AddBill(ctx context.Context, name string, scope Scope, text []byte) (d Document, left int, err error) {
	if err := CheckName(name); err != nil {
		return d, 0, err
	}
	if scope == (Scope{}) {
		return d, 0, fault.New(fault.Invalid, "say for which devices the document is: a device, a group, or a product and its firmware")
	}
	b, err := format.ParseBill(text)
	if err != nil {
		return d, 0, fault.New(fault.Invalid, "the document cannot be read: %v", err)
	}
	if len(b.Components) == 0 {
		return d, 0, fault.New(fault.Invalid, "the document names no component")
	}
	set, left := NewSet(Packages(b))
	d = Document{Name: name, Scope: scope, Format: b.Format, Packages: len(set.Packages), Set: set.ID, Updated: m.cfg.Now().UTC()}
	return d, left, m.PutBill(ctx, d, set)
}

// SoftwareOf is what is known of a device's software, from its agents and from documents; fault.NotFound.
func (m *Manager) SoftwareOf(ctx context.Context, device string) ([]Package, error) {
	sets, err := m.DeviceSets(ctx, device)
	if err != nil {
		return nil, err
	}
	var all []Package
	for _, name := range sets {
		s, err := Resolve(ctx, m.Store, name)
		if err != nil {
			return nil, err
		}
		all = append(all, s.Packages...)
	}
	s, _ := NewSet(all)
	return s.Packages, nil
}

// The pace of the folder: a file is imported when it did not change from one look to the next.
const folderPause = 5 * time.Second

// RunFolder imports files that are put into the folder, or changed there, until ctx ends. One server of a cluster does. What a file gave
// stays when the file is taken away.
func (m *Manager) RunFolder(ctx context.Context) error {
	seen := make(map[string]string)   // the state of each file at the last look
	failed := make(map[string]string) // the state in which it could not be imported
	for {
		if err := m.lookFolder(ctx, seen, failed); err != nil && ctx.Err() == nil {
			m.log.Warn("the folder of vulnerabilities cannot be looked at; trying again", "folder", m.cfg.Dir, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(folderPause):
		}
	}
}

// maxFiles bounds the files of the folder that are looked at.
const maxFiles = 1000

func (m *Manager) lookFolder(ctx context.Context, seen, failed map[string]string) error {
	dir, err := os.Open(m.cfg.Dir)
	if err != nil {
		return err
	}
	names, err := dir.Readdirnames(maxFiles)
	dir.Close()
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	sources, err := m.Sources(ctx)
	if err != nil {
		return err
	}
	origins := make(map[string]string)
	for _, s := range sources {
		origins[s.Name] = s.Origin
	}
	for _, file := range names {
		name, ok := sourceName(file)
		if !ok {
			continue
		}
		path := filepath.Join(m.cfg.Dir, file)
		st, err := os.Stat(path)
		if err != nil || !st.Mode().IsRegular() {
			continue
		}
		state := originOf(path, st)
		was := seen[file]
		seen[file] = state
		if state != was || state == failed[file] || origins[name] == state {
			continue
		}
		f, err := os.Open(path)
		if err == nil {
			_, err = m.read(ctx, f, name, state)
			f.Close()
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			failed[file] = state
			m.log.Warn("a file of vulnerabilities is not imported; it is tried again when it changes", "file", path, "err", err)
		}
	}
	return nil
}

// sourceName is a file's name without what its ending says.
func sourceName(file string) (string, bool) {
	if strings.HasPrefix(file, ".") {
		return "", false
	}
	name := strings.TrimSuffix(file, ".gz")
	ext := filepath.Ext(name)
	switch ext {
	case ".zip", ".json", ".jsonl", ".ndjson", ".csv":
		name = strings.TrimSuffix(name, ext)
		return name, goodName.MatchString(name)
	}
	return "", false
}

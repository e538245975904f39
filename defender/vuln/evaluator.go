package vuln

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/iot"
)

// EvaluatorConfig is what an Evaluator works with. All are required unless they say otherwise.
type EvaluatorConfig struct {
	Store Store
	// Assess keeps recommendations, and Disabled tells which are not wanted; see [posture.Store] and [posture.Book].
	Assess   func(ctx context.Context, a posture.Assessment) ([]posture.Recommendation, error)
	Disabled func(ctx context.Context) (posture.Disabled, error)
	Changed  func([]posture.Recommendation) // hears what changed; may be nil
	Limits   Limits                         // zero: Limited
	// Settle is how long a snapshot waits for further parts; default 5 s.
	Settle  time.Duration
	Now     func() time.Time      // nil: time.Now
	Logger  *slog.Logger          // nil: slog.Default
	Metrics prometheus.Registerer // may be nil
}

// Evaluator finds again whenever something changes. One server of a cluster runs it.
type Evaluator struct {
	cfg EvaluatorConfig
	log *slog.Logger

	db       *Database
	loaded   string             // the sources of db
	sets     map[string]matched // of db; see match
	version  int64              // that was evaluated last
	disabled bool               // it was then
	looked   time.Time          // when all was looked at last

	passes  prometheus.Counter
	took    prometheus.Gauge
	fresh   prometheus.Counter
	refused prometheus.Counter
}

// matched is what is found of a set, without VEX.
type matched struct {
	found          []Finding
	packages, left int
}

// NewEvaluator makes an evaluator; Run evaluates.
func NewEvaluator(cfg EvaluatorConfig) (*Evaluator, error) {
	if cfg.Store == nil || cfg.Assess == nil || cfg.Disabled == nil {
		return nil, errors.New("vuln: Store, Assess and Disabled are required")
	}
	cfg.Settle = cmp.Or(cfg.Settle, 5*time.Second)
	if cfg.Limits == (Limits{}) {
		cfg.Limits = Limited
	}
	if cfg.Changed == nil {
		cfg.Changed = func([]posture.Recommendation) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	f := promauto.With(cfg.Metrics)
	return &Evaluator{cfg: cfg, log: cfg.Logger,
		passes:  f.NewCounter(prometheus.CounterOpts{Name: "vauban_vulnerability_passes_total", Help: "Times that the software of all devices was compared with the database of vulnerabilities."}),
		took:    f.NewGauge(prometheus.GaugeOpts{Name: "vauban_vulnerability_pass_seconds", Help: "How long the last of them took."}),
		fresh:   f.NewCounter(prometheus.CounterOpts{Name: "vauban_vulnerability_sets_total", Help: "Sets of software that were compared; devices with the same software are one."}),
		refused: f.NewCounter(prometheus.CounterOpts{Name: "vauban_vulnerability_sets_left_out_total", Help: "Lists of software that were left out, as too many different ones are kept, or of one device."}),
	}, nil
}

const (
	minPause  = 2 * time.Second
	idleShare = 10 // a pass is at most a tenth of the time
	// lookAgain is how late a changed tag or twin is seen, which is told nobody.
	lookAgain  = 5 * time.Minute
	pageOf     = 500
	maxWaiting = 1000 // snapshots settled at once
)

// Run evaluates until ctx ends. A pass that fails is tried again.
func (e *Evaluator) Run(ctx context.Context) error {
	e.version, e.db, e.loaded = 0, nil, "" // another server may have led meanwhile
	for {
		began := time.Now()
		if err := e.Look(ctx); err != nil && ctx.Err() == nil {
			e.log.Warn("vulnerabilities of devices are not up to date; the next look tries again", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(minPause, idleShare*time.Since(began))):
		}
	}
}

// Look settles what came and, when anything changed, evaluates all.
func (e *Evaluator) Look(ctx context.Context) error {
	if err := e.settle(ctx); err != nil {
		return err
	}
	version, err := e.cfg.Store.VulnVersion(ctx)
	if err != nil {
		return err
	}
	off, err := e.cfg.Disabled(ctx)
	if err != nil {
		return err
	}
	disabled := off.Has(posture.VulnerableSoftware)
	now := e.cfg.Now()
	if version == e.version && disabled == e.disabled && now.Sub(e.looked) < lookAgain {
		return nil
	}
	began := time.Now()
	if err := e.evaluate(ctx, disabled); err != nil {
		return err
	}
	e.version, e.disabled, e.looked = version, disabled, now
	e.passes.Inc()
	e.took.Set(time.Since(began).Seconds())
	return nil
}

// settle makes sets of snapshots whose last part came a while ago: parts of one may be on their way in several messages.
func (e *Evaluator) settle(ctx context.Context) error {
	for {
		waiting, err := e.cfg.Store.WaitingParts(ctx, e.cfg.Now().Add(-e.cfg.Settle), maxWaiting)
		if err != nil {
			return err
		}
		for _, w := range waiting {
			packages, err := e.cfg.Store.PartsOf(ctx, w)
			if err != nil {
				return err
			}
			if w.Set != "" { // more of the same
				before, err := e.cfg.Store.SoftwareSet(ctx, w.Set)
				if err != nil && !fault.Is(err, fault.NotFound) {
					return err
				}
				packages = append(packages, before.Packages...)
			}
			set, left := NewSet(packages)
			if left > 0 {
				e.log.Warn("a device has more software than is kept", "device", w.ID.Device, "left", left)
			}
			switch err := e.cfg.Store.SettleSoftware(ctx, w, set, e.cfg.Limits); {
			case fault.Is(err, fault.QuotaExceeded):
				e.refused.Inc()
				e.log.Warn("what a device tells of its software is left out", "device", w.ID.Device, "module", w.ID.Module, "err", err)
			case err != nil:
				return err
			}
		}
		if len(waiting) < maxWaiting {
			return nil
		}
	}
}

// load opens the database when it changed. Its name is what it is made of.
func (e *Evaluator) load(ctx context.Context) error {
	sources, err := e.cfg.Store.Sources(ctx)
	if err != nil {
		return err
	}
	name := ""
	for _, s := range sources {
		name += fmt.Sprintf("%s/%d ", s.Name, s.Generation)
	}
	if e.db != nil && e.loaded == name {
		return nil
	}
	e.db = nil // not two at once
	data := make([][]byte, len(sources))
	for i, s := range sources {
		if data[i], err = e.cfg.Store.SourceData(ctx, s); err != nil {
			return err
		}
	}
	db, err := Open(sources, data)
	if err != nil {
		return err
	}
	e.db, e.loaded, e.sets = db, name, make(map[string]matched)
	return nil
}

// pass is one evaluation.
type pass struct {
	*Evaluator
	at       time.Time
	vex      []VEX
	bills    []Document
	states   map[string]string // of profiles that are kept
	profiles map[string]*kept
	used     map[string]bool // sets
}

// kept is a profile in this pass.
type kept struct {
	severity alert.Severity // of its recommendation; empty: it has none
	data     any
}

func (e *Evaluator) evaluate(ctx context.Context, disabled bool) (err error) {
	if err := e.load(ctx); err != nil {
		return err
	}
	p := &pass{Evaluator: e, at: e.cfg.Now().UTC(), profiles: make(map[string]*kept), used: make(map[string]bool)}
	if p.vex, err = e.cfg.Store.VEXDocuments(ctx); err != nil {
		return err
	}
	if p.bills, err = e.cfg.Store.Bills(ctx); err != nil {
		return err
	}
	if p.states, err = e.cfg.Store.ProfileStates(ctx); err != nil {
		return err
	}
	after := ""
	for {
		devices, err := e.cfg.Store.SoftwareDevices(ctx, after, pageOf)
		if err != nil {
			return fmt.Errorf("read the software of devices: %w", err)
		}
		if len(devices) == 0 {
			break
		}
		if err := p.page(ctx, devices, disabled); err != nil {
			return err
		}
		after = devices[len(devices)-1].ID
	}
	for id := range e.sets {
		if !p.used[id] {
			delete(e.sets, id)
		}
	}
	return e.cfg.Store.TidyVuln(ctx)
}

// page evaluates some devices.
func (p *pass) page(ctx context.Context, devices []Device, disabled bool) error {
	var findings []posture.Finding
	changed := make(map[string]string)
	for i := range devices {
		d := &devices[i]
		profile, k, err := p.profile(ctx, d)
		if err != nil {
			return err
		}
		if profile != d.Profile {
			changed[d.ID] = profile
		}
		if k != nil && k.severity != "" {
			findings = append(findings, posture.Finding{Type: posture.VulnerableSoftware, About: iot.ID{Device: d.ID}, Severity: k.severity, Data: k.data})
		}
	}
	if len(changed) > 0 {
		if err := p.cfg.Store.AssignProfiles(ctx, changed); err != nil {
			return err
		}
	}
	if disabled {
		return nil // the judge of posture resolves what stands
	}
	resolved, err := p.cfg.Assess(ctx, posture.Assessment{At: p.at, Findings: findings,
		Scope: posture.Scope{Types: []string{posture.VulnerableSoftware}, First: devices[0].ID, Last: devices[len(devices)-1].ID}})
	if err != nil {
		return fmt.Errorf("keep recommendations: %w", err)
	}
	if len(resolved) > 0 {
		p.cfg.Changed(resolved)
	}
	return nil
}

// profile finds what a device's software has, once for all devices that have the same.
func (p *pass) profile(ctx context.Context, d *Device) (string, *kept, error) {
	sets := slices.Clone(d.Sets)
	for i := range p.bills {
		if p.bills[i].Scope.Holds(d) {
			sets = append(sets, p.bills[i].Set)
		}
	}
	if len(sets) == 0 {
		return "", nil, nil
	}
	slices.Sort(sets)
	sets = slices.Compact(sets)
	var documents []*VEX
	h := sha256.New()
	for _, s := range sets {
		fmt.Fprintf(h, "%s\n", s)
	}
	state := p.loaded
	for i := range p.vex {
		if v := &p.vex[i]; v.Scope.Holds(d) {
			documents = append(documents, v)
			fmt.Fprintf(h, "vex %q\n", v.Name)
			state += fmt.Sprintf("vex %q %d ", v.Name, v.Updated.UnixMicro())
		}
	}
	if len(documents) > 0 { // statements may name the product
		fmt.Fprintf(h, "of %q %q\n", d.Product, d.Firmware)
	}
	sum := h.Sum(nil)
	id := hex.EncodeToString(sum[:16])
	if k := p.profiles[id]; k != nil {
		return id, k, nil
	}
	digest := sha256.Sum256([]byte(state))
	state = hex.EncodeToString(digest[:16])
	var found []Finding
	if p.states[id] == state {
		var err error
		if found, err = p.cfg.Store.ProfileFindings(ctx, id); err != nil {
			return "", nil, err
		}
		for _, s := range sets {
			p.used[s] = true
		}
	} else {
		profile := Profile{ID: id, Sets: sets, State: state}
		for _, s := range sets {
			m, err := p.match(ctx, s)
			if err != nil {
				return "", nil, err
			}
			profile.Findings = append(profile.Findings, m.found...)
			profile.Packages += m.packages
			profile.Left += m.left
		}
		if len(sets) > 1 { // what an agent and a document tell is one
			slices.SortStableFunc(profile.Findings, func(a, b Finding) int {
				return cmp.Or(-cmp.Compare(a.Priority.Rank(), b.Priority.Rank()), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Package, b.Package), cmp.Compare(a.Installed, b.Installed))
			})
			profile.Findings = slices.CompactFunc(profile.Findings, func(a, b Finding) bool { return a.ID == b.ID && a.Package == b.Package && a.Installed == b.Installed })
			profile.Findings = profile.Findings[:min(len(profile.Findings), MaxFindings)]
		}
		judge(profile.Findings, documents, d.Product, d.Firmware)
		if err := p.cfg.Store.PutProfile(ctx, profile); err != nil {
			return "", nil, err
		}
		found = profile.Findings
	}
	k := recommend(found)
	p.profiles[id] = k
	return id, k, nil
}

// Resolve reads the set that [Software] named, and gives packages of a distribution the device's.
func Resolve(ctx context.Context, store interface {
	SoftwareSet(ctx context.Context, id string) (Set, error)
}, software string) (Set, error) {
	id, distro, _ := strings.Cut(software, " ")
	set, err := store.SoftwareSet(ctx, id)
	for i := range set.Packages {
		if p := &set.Packages[i]; p.Distro == "" && (p.Type == "deb" || p.Type == "apk" || p.Type == "rpm") {
			p.Distro = distro
		}
	}
	return set, err
}

func (p *pass) match(ctx context.Context, id string) (matched, error) {
	p.used[id] = true
	m, ok := p.sets[id]
	if !ok {
		set, err := Resolve(ctx, p.cfg.Store, id)
		if err != nil {
			return m, err
		}
		m.packages = len(set.Packages)
		if m.found, m.left, err = p.db.Match(set); err != nil {
			return m, err
		}
		p.sets[id] = m
		p.fresh.Inc()
	}
	m.found = slices.Clone(m.found) // VEX is the profile's
	return m, nil
}

// line is one of the additional data of IoT_VulnerableSoftware.
type line struct {
	Vulnerability string
	Package       string
	Installed     string
	Fixed         string  `json:",omitempty"`
	Severity      string  `json:",omitempty"`
	Exploited     bool    `json:",omitempty"`
	Due           string  `json:",omitempty"`
	Ransomware    bool    `json:",omitempty"`
	Score         float64 // EPSS x CVSS
}

const maxLines = 20

// recommend makes the recommendation of what is not suppressed: of high severity when something is exploited, of medium when something has
// a base score of 7 or more, of low otherwise.
func recommend(found []Finding) *kept {
	k := new(kept)
	var data struct {
		Vulnerabilities []line
		More            int `json:",omitempty"`
	}
	for i := range found {
		f := &found[i]
		if f.Status != Unsuppressed {
			continue
		}
		severity := alert.Low
		if f.CVSS >= 7 {
			severity = alert.Medium
		}
		if f.Exploited != nil {
			severity = alert.High
		}
		if k.severity == "" || posture.Weight(severity) > posture.Weight(k.severity) {
			k.severity = severity
		}
		if len(data.Vulnerabilities) == maxLines {
			data.More++
			continue
		}
		l := line{Vulnerability: short(f.ID), Package: short(f.Package), Installed: short(f.Installed), Fixed: short(f.Fixed), Severity: f.Severity, Score: f.Priority.Score}
		if x := f.Exploited; x != nil {
			l.Exploited, l.Due, l.Ransomware = true, x.Due, x.Ransomware
		}
		data.Vulnerabilities = append(data.Vulnerabilities, l)
	}
	k.data = data
	return k
}

// short bounds a text, so that maxLines of them stay under posture.MaxData.
func short(s string) string {
	const longest = 60
	if len(s) > longest {
		return strings.ToValidUTF8(s[:longest], "") + "..."
	}
	return s
}

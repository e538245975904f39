package posture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/vauban-iot/vauban/access/ipfilter"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/iot"
)

// Fact is what the hub knows of a device or a module.
type Fact struct {
	ID              iot.ID
	Edge            bool
	Authentication  registry.Authentication
	ModelID         string
	Group           string          // the device's tag SecurityGroup; empty: none
	Desired         json.RawMessage // of modules
	DesiredUpdated  time.Time       // of security modules
	Reported        json.RawMessage // of devices and of security modules
	Link            Link            // zero: it did not connect
	SecurityMessage bool            // of devices: security messages of it are kept
}

// Modules that are security agents (defender §1.5).
const (
	AgentModule      = "azureiotsecurity"
	MicroAgentModule = "DefenderIotMicroAgent"
)

// Securing reports whether a module is a security agent's.
func Securing(module string) bool { return module == AgentModule || module == MicroAgentModule }

// Authority is a CA whose certificates prove devices.
type Authority struct {
	Name     string
	NotAfter time.Time
}

// JudgeConfig is what a Judge looks at. All are required unless they say otherwise.
type JudgeConfig struct {
	Store       Store
	Disabled    func(ctx context.Context) (Disabled, error)
	Network     func(ctx context.Context) (*ipfilter.Filter, error)
	Authorities func(ctx context.Context) ([]Authority, error)
	// Logged reports whether somebody keeps when devices connect and leave.
	Logged  func() bool
	Changed func([]Recommendation) // hears what changed; may be nil
	Now     func() time.Time       // nil: time.Now
	Logger  *slog.Logger           // nil: slog.Default
	Metrics prometheus.Registerer  // may be nil
}

// Judge looks at what the hub knows. One server of a cluster does.
type Judge struct {
	cfg    JudgeConfig
	log    *slog.Logger
	passes prometheus.Counter
	took   prometheus.Gauge
}

// NewJudge makes a judge; Run looks.
func NewJudge(cfg JudgeConfig) (*Judge, error) {
	if cfg.Store == nil || cfg.Disabled == nil || cfg.Network == nil || cfg.Authorities == nil || cfg.Logged == nil {
		return nil, errors.New("posture: Store, Disabled, Network, Authorities and Logged are required")
	}
	if cfg.Changed == nil {
		cfg.Changed = func([]Recommendation) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	f := promauto.With(cfg.Metrics)
	return &Judge{cfg: cfg, log: cfg.Logger,
		passes: f.NewCounter(prometheus.CounterOpts{Name: "vauban_posture_passes_total", Help: "Times that what the hub knows was judged."}),
		took:   f.NewGauge(prometheus.GaugeOpts{Name: "vauban_posture_pass_seconds", Help: "How long the last of them took."}),
	}, nil
}

// The pace of looking: a pass is at most a fiftieth of the time.
const (
	minPause  = 2 * time.Second
	idleShare = 50
	// pageDevices is how many devices are read at once.
	pageDevices = 200
	// remembered is how long what was resolved is kept.
	remembered = 90 * 24 * time.Hour
)

// Run looks until ctx ends. A pass that fails is tried again.
func (j *Judge) Run(ctx context.Context) error {
	for {
		began := time.Now()
		if err := j.Look(ctx); err != nil && ctx.Err() == nil {
			j.log.Warn("recommendations are not up to date; the next look tries again", "err", err)
		}
		took := time.Since(began)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(minPause, idleShare*took)):
		}
	}
}

// pass is one look at everything.
type pass struct {
	*Judge
	at       time.Time
	disabled Disabled
	errors   map[iot.ID]map[string]time.Time // active ones about the twins of security modules: since when
	shared   sharing
	alike    alike
	firmware firmware
	networks networks
}

// Look judges everything once.
func (j *Judge) Look(ctx context.Context) error {
	began := time.Now()
	p := &pass{Judge: j, at: j.cfg.Now().UTC(), shared: newSharing(), alike: newAlike(), firmware: newFirmware(), networks: newNetworks()}
	var err error
	if p.disabled, err = j.cfg.Disabled(ctx); err != nil {
		return err
	}
	if err := p.clean(ctx); err != nil {
		return err
	}
	if p.errors, err = p.twinErrors(ctx); err != nil {
		return err
	}
	if err := p.devices(ctx); err != nil {
		return err
	}
	for _, across := range []struct {
		kind     string
		findings []Finding
	}{{SharedCredentials, p.shared.findings()}, {InconsistentModuleSettings, p.alike.findings()}, {OldFirmware, p.firmware.findings()}} {
		if err := p.across(ctx, across.kind, across.findings); err != nil {
			return err
		}
	}
	if err := p.hub(ctx); err != nil {
		return err
	}
	j.passes.Inc()
	j.took.Set(time.Since(began).Seconds())
	return nil
}

// clean resolves what is of disabled types or of nobody: a type may have been disabled while another server judged it.
func (p *pass) clean(ctx context.Context) error {
	if len(p.disabled) > 0 {
		var names []string
		for name := range p.disabled {
			names = append(names, name)
		}
		slices.Sort(names)
		if _, err := p.cfg.Store.ResolveTypes(ctx, names, p.at); err != nil {
			return err
		}
	}
	_, _, err := p.cfg.Store.Tidy(ctx, p.at, p.at.Add(-remembered))
	return err
}

// assess keeps the outcome of a look at types that are enabled.
func (p *pass) assess(ctx context.Context, s Scope, findings []Finding) error {
	s.Types = slices.DeleteFunc(slices.Clone(s.Types), p.disabled.Has)
	if len(s.Types) == 0 {
		return nil
	}
	findings = slices.DeleteFunc(findings, func(f Finding) bool { return p.disabled.Has(f.Type) })
	changed, err := p.cfg.Store.Assess(ctx, Assessment{At: p.at, Scope: s, Findings: findings})
	if err != nil {
		return fmt.Errorf("keep recommendations: %w", err)
	}
	if len(changed) > 0 {
		p.cfg.Changed(changed)
	}
	return nil
}

// ofDevices are the types that are judged device by device.
var ofDevices = []string{
	VulnerableTLSCipherSuite, InstallAgent, ExpiringCertificate, OldCertificate, SymmetricKey,
	PrivilegedDockerOptions, ACRAuthentication, EdgeHubMemOptimize, EdgeLoggingOptions,
}

func (p *pass) devices(ctx context.Context) error {
	after := ""
	for {
		facts, err := p.cfg.Store.DeviceFacts(ctx, after, pageDevices)
		if err != nil {
			return fmt.Errorf("read what is known of devices: %w", err)
		}
		if len(facts) == 0 {
			return nil
		}
		var found []Finding
		devices := 0
		for some := range chunksOf(facts) {
			devices++
			found = append(found, p.device(some)...)
			for i := range some {
				if err := p.twin(ctx, &some[i]); err != nil {
					return err
				}
			}
		}
		after = facts[len(facts)-1].ID.Device
		if err := p.assess(ctx, Scope{Types: ofDevices, First: facts[0].ID.Device, Last: after}, found); err != nil {
			return err
		}
		if devices < pageDevices {
			return nil
		}
	}
}

// chunksOf yields the facts of one device after the other.
func chunksOf(facts []Fact) func(yield func([]Fact) bool) {
	return func(yield func([]Fact) bool) {
		for from := 0; from < len(facts); {
			to := from + 1
			for to < len(facts) && facts[to].ID.Device == facts[from].ID.Device {
				to++
			}
			if !yield(facts[from:to]) {
				return
			}
			from = to
		}
	}
}

// device judges a device and its modules, and notes what is compared with others.
func (p *pass) device(facts []Fact) (found []Finding) {
	id := facts[0].ID.Device
	agent := false
	for i := range facts {
		f := &facts[i]
		found = append(found, p.link(f)...)
		agent = agent || f.SecurityMessage || Securing(f.ID.Module)
		p.shared.add(f)
		p.networks.add(f.Link.Remote)
		if f.ID.Module == "" && f.Authentication.Type == registry.SAS {
			found = append(found, Finding{Type: SymmetricKey, About: f.ID, Data: struct{ Authentication string }{string(registry.SAS)}})
		}
	}
	if !agent {
		found = append(found, Finding{Type: InstallAgent, About: iot.ID{Device: id}, Data: struct{ Modules []string }{[]string{AgentModule, MicroAgentModule}}})
	}
	p.alike.add(facts)
	p.firmware.add(&facts[0])
	return append(found, edges(id, facts)...)
}

// maxTwinErrors bounds the modules whose active errors are remembered; the others' wait for a later look.
const maxTwinErrors = 10_000

// twinErrors returns the active recommendations about the twins of security modules.
func (p *pass) twinErrors(ctx context.Context) (map[iot.ID]map[string]time.Time, error) {
	all := make(map[iot.ID]map[string]time.Time)
	for _, kind := range []string{TwinNotOptimal, TwinConflict} {
		f := Filter{Type: kind, State: Active, Limit: 1000}
		for len(all) < maxTwinErrors {
			some, err := p.cfg.Store.Recommendations(ctx, f)
			if err != nil {
				return nil, err
			}
			for i := range some {
				var d configurationData
				if json.Unmarshal(some[i].Data, &d) != nil || d.Reported.IsZero() {
					d.Reported = some[i].StatusChanged
				}
				id := some[i].Of()
				if all[id] == nil {
					all[id] = make(map[string]time.Time)
				}
				all[id][kind] = d.Reported
			}
			if len(some) < f.Limit {
				break
			}
			f.Before = some[len(some)-1].Sequence
		}
	}
	return all, nil
}

// twin judges a security module's twin: what its agent complained of is over when the twin was changed since, and what the micro agent
// reports counts by itself (defender §1.5).
func (p *pass) twin(ctx context.Context, f *Fact) error {
	if !Securing(f.ID.Module) {
		return nil
	}
	s := Scope{First: f.ID.Device, Last: f.ID.Device, Module: &f.ID.Module}
	var reported struct {
		State   string          `json:"latest_state"`
		Invalid json.RawMessage `json:"latest_invalid_fields"`
	}
	_ = json.Unmarshal(f.Reported, &reported) // of another form: it says nothing
	var found []Finding
	failed := f.ID.Module == MicroAgentModule && reported.State == "failed"
	if failed {
		found = append(found, Finding{Type: TwinConflict, About: f.ID, Data: struct {
			LatestInvalidFields string `json:",omitempty"`
		}{clip(string(reported.Invalid))}})
		s.Types = append(s.Types, TwinConflict)
	}
	for kind, since := range p.errors[f.ID] {
		succeeded := kind == TwinConflict && reported.State == "success"
		if (kind != TwinConflict || !failed) && (f.DesiredUpdated.After(since) || succeeded) {
			s.Types = append(s.Types, kind)
		}
	}
	if len(s.Types) == 0 {
		return nil
	}
	return p.assess(ctx, s, found)
}

// maxPerWrite bounds the findings of one transaction.
const maxPerWrite = 500

// across keeps the findings of a type about any devices, in the order of devices, so many at a time.
func (p *pass) across(ctx context.Context, kind string, found []Finding) error {
	slices.SortStableFunc(found, func(a, b Finding) int { return compareIDs(a.About, b.About) })
	first := "\x01" // the devices' own scope: the hub's is empty
	for {
		n := min(len(found), maxPerWrite)
		for n < len(found) && found[n].About.Device == found[n-1].About.Device {
			n++
		}
		s := Scope{Types: []string{kind}, First: first, Open: n == len(found)}
		if n > 0 {
			s.Last = found[n-1].About.Device
		}
		if err := p.assess(ctx, s, slices.Clone(found[:n])); err != nil {
			return err
		}
		if s.Open {
			return nil
		}
		first, found = s.Last+"\x01", found[n:] // no id holds that character
	}
}

// hub judges the hub itself.
func (p *pass) hub(ctx context.Context) error {
	filter, err := p.cfg.Network(ctx)
	if err != nil {
		return fmt.Errorf("read the network rules: %w", err)
	}
	authorities, err := p.cfg.Authorities(ctx)
	if err != nil {
		return fmt.Errorf("read the certificate authorities: %w", err)
	}
	var found []Finding
	add := func(kind string, data any) { found = append(found, Finding{Type: kind, Data: data}) }
	open := !filter.DeniesRest()
	if open {
		add(IPFilterDenyAll, struct{ DefaultAction string }{"Allow"})
		if rules := p.networks.rules(); len(rules) > 0 {
			add(RecommendedIPRules, struct{ Rules []ipfilter.Rule }{rules})
		}
	}
	if wide := wideRules(filter); len(wide) > 0 {
		add(IPFilterPermissiveRule, struct{ Rules []ipfilter.Rule }{wide})
	}
	if !p.cfg.Logged() {
		add(DiagnosticsLogs, struct{ Source string }{string(iot.DeviceConnectionState)})
	}
	type expiring struct {
		Name     string
		NotAfter time.Time
	}
	var old []expiring
	for _, a := range authorities {
		if a.NotAfter.Sub(p.at) < authorityNotice {
			old = append(old, expiring{clip(a.Name), a.NotAfter.UTC()})
		}
	}
	if len(old) > 0 {
		add(ExpiringAuthority, struct{ Authorities []expiring }{old})
	}
	return p.assess(ctx, Scope{Types: []string{IPFilterDenyAll, IPFilterPermissiveRule, RecommendedIPRules, DiagnosticsLogs, ExpiringAuthority}}, found)
}

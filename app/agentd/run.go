package agentd

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/vauban-iot/vauban/agent"
	"github.com/vauban-iot/vauban/agent/baseline"
	"github.com/vauban-iot/vauban/agent/collect/dns"
	"github.com/vauban-iot/vauban/agent/collect/files"
	"github.com/vauban-iot/vauban/agent/collect/firewall"
	"github.com/vauban-iot/vauban/agent/collect/login"
	"github.com/vauban-iot/vauban/agent/collect/network"
	"github.com/vauban-iot/vauban/agent/collect/peripheral"
	"github.com/vauban-iot/vauban/agent/collect/ports"
	"github.com/vauban-iot/vauban/agent/collect/process"
	"github.com/vauban-iot/vauban/agent/collect/sbom"
	"github.com/vauban-iot/vauban/agent/collect/system"
	"github.com/vauban-iot/vauban/agent/collect/users"
	"github.com/vauban-iot/vauban/agent/config"
)

// memory is what the Go heap and its stacks may grow to before garbage is collected ever more often; with the
// binary's own pages the process stays below 30 MB (docs/agent.md has the measurement).
const memory = 14 << 20

// gcPercent trades processor time, of which an idle agent needs nearly none, for memory.
const gcPercent = 50

// frugal bounds this process, which is an agent and nothing else.
func frugal() {
	debug.SetMemoryLimit(memory)
	debug.SetGCPercent(gcPercent)
}

// sources makes the collectors for settings.
func sources(f *File, version string, log *slog.Logger) func(config.Settings) []agent.Source {
	return func(s config.Settings) []agent.Source {
		all := []agent.Source{
			{Name: config.Process, Watcher: process.New(process.Config{Mode: process.Mode(s.ProcessMode), PollingInterval: s.ProcessPolling})},
			{Name: config.NetworkActivity, Watcher: together{
				network.New(network.Config{Devices: interfaces(s.NetworkDevices)}), &dns.Watcher{},
			}},
			{Name: config.Login, Watcher: login.New(login.Config{PAM: s.LoginUsePAM})},
			{Name: config.Peripheral, Watcher: peripheral.New(peripheral.Config{Virtual: f.Collect.VirtualCards})},
			{Name: config.ListeningPorts, Snapshot: &ports.Snapshot{}},
			{Name: config.LocalUsers, Snapshot: &users.Snapshot{}},
			{Name: config.FirewallConfiguration, Snapshot: &firewall.Snapshot{}},
			{Name: config.SBoM, Snapshot: sbom.New(sbom.Config{Directories: f.Collect.SBoMDirectories})},
			{Name: config.SystemInformation, Snapshot: system.New(system.Config{
				AgentType: f.Collect.AgentType, AgentVersion: version,
				Twin: func() system.Hardware {
					h := s.Hardware
					return system.Hardware{Vendor: h.Vendor, Model: h.Model, Serial: h.SerialNumber, FirmwareVendor: h.FirmwareVendor, FirmwareVersion: h.FirmwareVersion}
				},
			})},
		}
		checks := baseline.Config{GroupsDisabled: s.BaselineGroupsDisabled, ChecksDisabled: s.BaselineChecksDisabled}
		if s.Custom.Enabled {
			checks.CustomFile, checks.CustomSHA256 = s.Custom.Path, s.Custom.Hash
		}
		if scanner, err := baseline.New(checks); err != nil {
			log.Warn("the baseline is not checked", "err", err)
		} else {
			all = append(all, agent.Source{Name: config.Baseline, Snapshot: scanner})
		}
		if len(s.FilePaths) > 0 {
			all = append(all, agent.Source{Name: config.FileSystem, Watcher: files.New(files.Config{Paths: s.FilePaths, Recursive: s.FilesRecursive})})
		}
		return all
	}
}

// interfaces are those that the twin names; the micro agent's default, eth0, is every interface, since few machines have that one.
func interfaces(names []string) []string {
	if len(names) == 1 && names[0] == "eth0" {
		return nil
	}
	return names
}

// How long until an identity that could not be found out is asked for again, and until one that the hub refuses is doubted.
const (
	minAgain = 5 * time.Second
	maxAgain = 5 * time.Minute
)

// options of Run beside the file.
type options struct {
	version string
	handler slog.Handler
	first   time.Duration // 0: the agent's own
	again   time.Duration // 0: minAgain
}

// Run runs an agent as f says until ctx ends. What needs the network is tried until it works.
func run(ctx context.Context, f File, o options) error {
	frugal()
	kept := agent.NewLog(o.handler)
	log := slog.New(kept)
	if o.again == 0 {
		o.again = minAgain
	}
	wait, fresh := o.again, false
	for {
		cfg, derived, err := f.identify(ctx, fresh)
		if err != nil {
			if !derived {
				return err
			}
			log.Warn("the agent does not know who it is yet", "err", err, "again_in", wait)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(wait):
			}
			wait = min(2*wait, maxAgain)
			continue
		}
		refused, err := once(ctx, f, o, agent.Config{
			Dir: f.StateDir, Device: cfg, Sources: sources(&f, o.version, log), Version: o.version, MaxQueue: f.MaxQueue, First: o.first, Log: kept, Logger: log,
		}, derived)
		if !refused || err != nil {
			return err
		}
		log.Warn("the hub refuses the module's key; asking for it again", "in", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait, fresh = min(2*wait, maxAgain), true
	}
}

var errRefused = errors.New("the hub refuses the credentials")

// once runs an agent until ctx ends, or until the hub refuses an identity that can be asked for again.
func once(ctx context.Context, f File, o options, cfg agent.Config, derived bool) (refused bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if derived {
		cfg.Refused = func() { cancel(errRefused) }
	}
	a, err := agent.New(cfg)
	if err != nil {
		return false, err
	}
	err = a.Run(ctx)
	return errors.Is(context.Cause(ctx), errRefused), err
}

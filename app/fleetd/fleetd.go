// Package fleetd assembles `vauban sim run`: a fleet of virtual boards against an installation that is there, or against a
// throw-away one in the same process.
package fleetd

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/vauban-iot/vauban/app/up"
	"github.com/vauban-iot/vauban/board/network/secure"
	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/sim/fleet"
)

// Config of a run. Fields are required unless they say otherwise.
type Config struct {
	File     *fleet.File
	Data     string // data folder of the installation; empty: a throw-away one
	Workers  int    // as in fleet.Config
	Progress func(fleet.Progress)
	Started  func() // hears when the installation answers; nil: nobody
	Version  string
	Logger   *slog.Logger
}

// Run plays the fleet, and returns the report of as much as was played also when ctx ended. Of a throw-away installation nothing is left.
func Run(ctx context.Context, cfg Config) (*fleet.Report, error) {
	if err := openFiles(cfg.File.Total(), cfg.Data == ""); err != nil {
		return nil, err
	}
	var clock *fleet.Clock
	if cfg.Data == "" { // one that is there lives by the machine's
		clock = fleet.NewClock(cfg.File)
	}
	to, stop, err := installation(ctx, cfg, clock)
	if err != nil {
		return nil, err
	}
	defer stop()
	if cfg.Started != nil {
		cfg.Started()
	}
	rep, err := fleet.Run(ctx, fleet.Config{File: cfg.File, To: to, Workers: cfg.Workers, Progress: cfg.Progress, Clock: clock})
	if err != nil {
		return nil, err
	}
	return rep, nil
}

func installation(ctx context.Context, cfg Config, clock *fleet.Clock) (to *fleet.Installation, stop func(), err error) {
	if clock != nil {
		return throwAway(ctx, cfg, clock)
	}
	c, err := up.LoadConnection(filepath.Join(cfg.Data, up.ConnectionFile))
	if err != nil {
		return nil, nil, err
	}
	if _, err := os.Stat(c.CA); errors.Is(err, os.ErrNotExist) { // the folder was moved or mounted elsewhere
		c.CA = filepath.Join(cfg.Data, "pki", filepath.Base(c.CA))
	}
	to, err = Reach(c, loopback(ctx, c.Hub.Hostname))
	return to, func() {}, err
}

// loopback is the address of a name that means this machine, and else the name.
func loopback(ctx context.Context, host string) string {
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return host
	}
	for _, a := range addrs {
		if a.Unmap().IsLoopback() && a.Unmap().Is4() {
			return a.Unmap().String()
		}
	}
	return host
}

// Reach is an installation as a fleet reaches it, by its connection data.
func Reach(c up.Connection, host string) (*fleet.Installation, error) {
	root, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, fmt.Errorf("the installation's CA cannot be read: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(root) {
		return nil, fmt.Errorf("%s holds no certificate", c.CA)
	}
	return &fleet.Installation{
		Hostname: c.Hub.Hostname, IDScope: c.DPS.IDScope, DPS: c.DPS.ConnectionString, API: c.API.URL, Token: c.API.Token, Roots: pool,
		MQTT: net.JoinHostPort(host, strconv.Itoa(c.Ports.MQTT)), HTTPS: net.JoinHostPort(host, strconv.Itoa(c.Ports.HTTPS)),
	}, nil
}

// Unlimited is what an installation of a virtual fleet allows: boards that are reset each minute are reset many times in a second of the machine's.
var Unlimited = dps.Limits{Registrations: 1e6, Device: 1e6}

// throwAway starts an installation on free ports of the loopback, in a folder that goes with it. It lives by the boards' time.
func throwAway(ctx context.Context, cfg Config, clock *fleet.Clock) (to *fleet.Installation, stop func(), err error) {
	dir, err := os.MkdirTemp("", "vauban-sim-")
	if err != nil {
		return nil, nil, err
	}
	u := up.Default()
	u.Data, u.MQTTPort, u.HTTPSPort, u.AMQPPort = dir, 0, 0, 0
	u.Version, u.Logger, u.Notice = cfg.Version, cfg.Logger, func(string) {}
	u.Clock = clock.Now
	u.Registrations = Unlimited
	u.StaticRSA = slices.ContainsFunc(cfg.File.Boards, func(b fleet.Boards) bool { return b.TLS == secure.GettingStarted })
	ready := make(chan up.Connection, 1)
	u.Ready = func(c up.Connection) error { ready <- c; return nil }
	// It outlives ctx, so that boards end their connections and the last alerts are read.
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- up.Run(inner, u) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) { // it may not have started yet
			cfg.Logger.Error("the throw-away installation did not end cleanly", "err", err)
		}
		os.RemoveAll(dir)
	}
	select {
	case c := <-ready:
		to, err = Reach(c, c.Address())
	case err = <-done:
		done <- nil // it is told here
		err = fmt.Errorf("the throw-away installation does not start: %w", err)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		stop()
		return nil, nil, err
	}
	return to, stop, nil
}

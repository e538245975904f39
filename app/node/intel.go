package node

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/vauban-iot/vauban/defender"
	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/defender/intel/feed"
)

// retroSetting says with which indicators the kept flows were compared.
const retroSetting = "defender/retro"

// newIntel opens lists and feeds; what feeds gave before is in use when it returns.
func (n *Node) newIntel(ctx context.Context) error {
	if err := os.MkdirAll(n.cfg.Intel, 0o700); err != nil {
		return fmt.Errorf("create %s: %w", n.cfg.Intel, err)
	}
	engine := intel.NewEngine(nil)
	n.indicators = engine
	var err error
	if n.intel, err = intel.New(intel.Config{Dir: n.cfg.Intel, Engine: engine, Logger: n.log, Registerer: n.metrics}); err != nil {
		return err
	}
	if n.feeds, err = feed.NewManager(feed.ManagerConfig{Store: n.State, Engine: engine, Dir: n.cfg.Intel, Logger: n.log, Registerer: n.metrics}); err != nil {
		return err
	}
	if err := n.feeds.Load(ctx); err != nil {
		n.log.Warn("what feeds gave before cannot be used yet", "err", err) // Follow tries again
	}
	return nil
}

// runDefender compares new traffic, and old traffic with new indicators; on one server, so that the second knows how far the first is.
func (n *Node) runDefender(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.detector.Run(ctx) })
	g.Go(func() error {
		return n.detector.LookBack(ctx, defender.Hindsight{
			Log: n.facts, Days: n.cfg.RetroDays, Sources: n.indicators.Versions,
			Done: func(ctx context.Context) ([]byte, error) { return n.State.Setting(ctx, retroSetting) },
			Save: func(ctx context.Context, done []byte) error { return n.State.PutSetting(ctx, retroSetting, done) },
		})
	})
	return g.Wait()
}

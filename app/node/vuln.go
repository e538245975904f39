package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vauban-iot/vauban/defender/vuln"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// vulnerable is how the software of devices is compared with what is known of vulnerabilities.
type vulnerable struct {
	manager   *vuln.Manager
	watcher   *vuln.Watcher
	evaluator *vuln.Evaluator
}

func newVulnerable(n *Node) (*vulnerable, error) {
	dir := filepath.Join(filepath.Dir(filepath.Clean(n.cfg.Intel)), "vuln")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create %s: %w", dir, err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".import-*")); err == nil { // of a server that was killed
		for _, f := range left {
			os.Remove(f)
		}
	}
	v := &vulnerable{}
	var err error
	if v.manager, err = vuln.NewManager(vuln.ManagerConfig{Store: n.State, Dir: dir, Logger: n.log, Metrics: n.metrics}); err != nil {
		return nil, err
	}
	if v.watcher, err = vuln.NewWatcher(n.State, n.metrics); err != nil {
		return nil, err
	}
	v.evaluator, err = vuln.NewEvaluator(vuln.EvaluatorConfig{
		Store: n.State, Assess: n.State.Assess, Disabled: n.posture.book.Disabled, Changed: n.posture.changed, Logger: n.log, Metrics: n.metrics,
	})
	return v, err
}

// reported is defender.Config.Reported: what agents say of how their devices are set up, and of their software.
func (n *Node) reported(ctx context.Context, m *iot.Message, r *secmsg.Report) error {
	if err := n.posture.watcher.Reported(ctx, m, r); err != nil {
		return err
	}
	return n.vulnerable.watcher.Reported(ctx, m, r)
}

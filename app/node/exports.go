package node

import (
	"path/filepath"

	"github.com/vauban-iot/vauban/defender/export"
)

// newExports makes what sends alerts and events to others. Their files stand beside those of routes.
func (n *Node) newExports() (err error) {
	n.exports, err = export.NewManager(export.ManagerConfig{
		Store: n.State, Alerts: n.State, Events: n.State, Recommendations: n.State, Dir: filepath.Join(n.cfg.Routed, "exports"),
		Host: n.cfg.Hostname, Version: n.cfg.Version, Logger: n.log, Registerer: n.metrics,
	})
	return err
}

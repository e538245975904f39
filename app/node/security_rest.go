package node

import (
	"github.com/vauban-iot/vauban/defender/solution"
	securityhead "github.com/vauban-iot/vauban/head/security"
)

// newDefenderREST makes the head of Defender in the shapes of Azure Resource Manager.
func (n *Node) newDefenderREST() (*securityhead.Head, error) {
	solutions, err := solution.NewBook(n.State, n.posture.book, nil)
	if err != nil {
		return nil, err
	}
	return securityhead.New(securityhead.Config{
		Hub: n.cfg.Hostname, Solutions: solutions, Roles: solution.NewRoles(n.State), Groups: n.security.groups, Alerts: n.State, Posture: n.State,
		SignIn: n.people, Administrator: n.isAdministrator, Logger: n.log,
	})
}

package node

import (
	"fmt"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/solution"
	"github.com/vauban-iot/vauban/dps"
	securityhead "github.com/vauban-iot/vauban/head/security"
	"github.com/vauban-iot/vauban/iot"
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

var notProvisioned = map[dps.Rejection]struct{ kind, text string }{
	dps.ExpiredToken:        {alert.ExpiredToken, "Device %s tried to register with a token that its key signed and that expired."},
	dps.InvalidToken:        {alert.InvalidToken, "Somebody tried to register as device %s with a token that the keys of its enrollment did not sign."},
	dps.CertificateMismatch: {alert.CertificateMismatch, "Somebody tried to register as device %s with a certificate that is not the enrolled one."},
	dps.CertificateExpired:  {alert.CertificateExpired, "Device %s tried to register with a certificate that expired."},
}

// notProvisioned is dps.Config.Rejected. Alerts about what no enrollment is about are the hub's: the caller made the registration id up, and
// would otherwise make an alert with each of them.
func (s *security) notProvisioned(c dps.Credentials, device string, why dps.Rejection) {
	if why != dps.ExpiredToken {
		s.refusedRegistration(c.RegistrationID, c.Address)
	}
	r := notProvisioned[why]
	facts := map[string]string{"registrationId": c.RegistrationID}
	if c.Address.IsValid() {
		facts["remoteAddress"] = c.Address.Unmap().String()
	}
	if len(c.Certificates) > 0 {
		leaf := c.Certificates[0]
		facts["certificateSubject"] = leaf.Subject.String()
		facts["certificateNotAfter"] = leaf.NotAfter.UTC().Format(time.RFC3339)
	}
	text := "Somebody tried to register with a token that no enrollment admits."
	if device != "" {
		text = fmt.Sprintf(r.text, device)
	}
	s.sentry.Seen(r.kind, iot.ID{Device: device}, provisioningIndicator, text, facts, s.now())
}

// provisioningIndicator keeps alerts about registrations apart from those about connections.
const provisioningIndicator = "provisioning"

package node

import (
	"context"
	"fmt"
	"time"

	"github.com/vauban-iot/vauban/defender"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/behaviour"
	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/defender/privacy"
	"github.com/vauban-iot/vauban/defender/window"
	"github.com/vauban-iot/vauban/hub"
	"github.com/vauban-iot/vauban/hub/activity"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
)

// security is Defender beside its detector: security groups, rules over time, and what the hub itself sees.
type security struct {
	groups  *group.Book
	tally   *activity.Tally
	windows *window.Service
	sentry  *defender.Sentry
	privacy *privacy.Guard
	// behaviour judges what devices do, door who connects and who cannot.
	behaviour *behaviour.Engine
	door      *behaviour.Door
	detectors *detectors
	now       func() time.Time
}

func newSecurity(ctx context.Context, n *Node) (*security, error) {
	s := &security{tally: new(activity.Tally), behaviour: behaviour.NewEngine(behaviour.Config{}), door: behaviour.NewDoor(), now: n.cfg.Clock}
	s.detectors = newDetectors(n, s)
	s.tally.Want() // nothing, before the rules are known
	key, err := n.State.InitSetting(ctx, "defender/pseudonyms", secret.Random(keySize).Reveal())
	if err != nil {
		return nil, err
	}
	if s.privacy, err = privacy.New(privacy.Config{Store: n.State, Key: secret.New(key), Logger: n.log}); err != nil {
		return nil, err
	}
	s.groups = group.NewBook(n.State, s.privacy.Pseudonym)
	if s.sentry, err = defender.NewSentry(n.State, n.log, n.metrics); err != nil {
		return nil, err
	}
	s.windows, err = window.New(window.Config{
		Store: n.State, Settings: n.State, Groups: s.groups.Compiled, Tally: s.tally, Raise: s.sentry.Raise, Logger: n.log, Metrics: n.metrics,
	})
	return s, err
}

// active is defender.Config.Active.
func (s *security) active(device string, at time.Time, connections, failedLogins int) {
	s.tally.AddAt(device, activity.ActiveConnections, connections, at)
	s.tally.AddAt(device, activity.FailedLocalLogins, failedLogins, at)
}

var rejections = map[hub.Rejection]struct{ kind, text string }{
	hub.ExpiredToken:        {alert.ExpiredToken, "Device %s tried to connect with a token that its key signed and that expired."},
	hub.InvalidToken:        {alert.InvalidToken, "Somebody tried to connect as device %s with a token that its keys did not sign."},
	hub.CertificateMismatch: {alert.CertificateMismatch, "Somebody tried to connect as device %s with a certificate whose thumbprint is not the registered one."},
	hub.CertificateExpired:  {alert.CertificateExpired, "Device %s tried to connect with a certificate that expired."},
}

// rejected is hub.Config.Rejected.
func (s *security) rejected(c iot.Credentials, why hub.Rejection) {
	// A token that expired was signed by the right key: nobody guesses.
	if why != hub.ExpiredToken && why != hub.CertificateExpired {
		s.refused(c.ID.Device, c.Remote)
	}
	r, ok := rejections[why]
	if !ok {
		return // of who is not registered there is nothing to say by itself
	}
	facts := map[string]string{"remoteAddress": c.Remote, "protocol": c.Protocol}
	if len(c.Certificates) > 0 {
		leaf := c.Certificates[0]
		facts["certificateSubject"] = leaf.Subject.String()
		facts["certificateNotAfter"] = leaf.NotAfter.UTC().Format(time.RFC3339)
	}
	s.sentry.Seen(r.kind, c.ID, "", fmt.Sprintf(r.text, c.ID), facts, s.now())
}

// certificateChanged is api.Config.CertificateChanged.
func (s *security) certificateChanged(_ context.Context, name, remote string, deleted bool, failure error) {
	kind, text := alert.CertificateAdded, "The certificate authority %s was added, whose certificates prove devices."
	switch {
	case deleted && failure != nil:
		kind, text = alert.CertificateNotDeleted, "The certificate authority %s could not be deleted."
	case deleted:
		kind, text = alert.CertificateDeleted, "The certificate authority %s was deleted."
	case failure != nil:
		kind, text = alert.CertificateNotAdded, "The certificate authority %s could not be added."
	}
	facts := map[string]string{"certificate": name, "remoteAddress": remote}
	if failure != nil {
		facts["failure"] = failure.Error()
	}
	s.sentry.Seen(kind, iot.ID{}, name, fmt.Sprintf(text, name), facts, s.now())
}

// diagnosticsChanged is api.Config.DiagnosticsChanged.
func (s *security) diagnosticsChanged(_ context.Context, name, remote string, deleted bool) {
	kind, text := alert.DiagnosticSettingSet, "What is told of this hub to others was changed: the %s was added or edited."
	if deleted {
		kind, text = alert.DiagnosticSettingUnset, "What is told of this hub to others was changed: the %s was deleted."
	}
	s.sentry.Seen(kind, iot.ID{}, name, fmt.Sprintf(text, name), map[string]string{"setting": name, "remoteAddress": remote}, s.now())
}

package hub_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub"
	"github.com/vauban-iot/vauban/hub/activity"
	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/pki"
	"github.com/vauban-iot/vauban/pki/pkitest"
	"github.com/vauban-iot/vauban/wire/sas"
)

// What a device's own credential lacks is told of, by its reason, and nothing else is.
func TestConnect_TellsOfRejections(t *testing.T) {
	t.Parallel()
	w := memory(t)
	w.Activity.Want(activity.UnauthorizedOperations)
	ca := pkitest.NewCA(t, "plant")
	w.Trust(ca.Cert)
	d := w.Device(t, lamp)
	mine, other, old := pkitest.SelfSigned(t, "x"), pkitest.SelfSigned(t, "x"), pkitest.SelfSigned(t, "x", pkitest.Expired())
	thumbprint := func(c *x509.Certificate) string { _, sum := pki.Thumbprints(c); return sum }
	pinned := w.DeviceWith(t, iot.ID{Device: "pinned"}, registry.Authentication{Type: registry.SelfSigned, PrimaryThumbprint: thumbprint(mine.Leaf), SecondaryThumbprint: thumbprint(old.Leaf)})
	signed := w.DeviceWith(t, iot.ID{Device: "signed"}, registry.Authentication{Type: registry.CertificateAuthority})
	lapsed, stranger := ca.Leaf(t, "signed", pkitest.Expired()), pkitest.NewCA(t, "another").Leaf(t, "signed")
	certificate := func(c *iot.Credentials, chain ...*x509.Certificate) { c.Token, c.Certificates = "", chain }
	token := func(key []byte, until time.Time) string {
		return sas.Sign(w.Credentials(d).Host+"/devices/lamp", key, until, "")
	}
	for name, tc := range map[string]struct {
		of     registry.Identity
		change func(*iot.Credentials)
		want   []hub.Rejection
	}{
		"good":                  {d, func(*iot.Credentials) {}, nil},
		"signed by another key": {d, func(c *iot.Credentials) { c.Token = token([]byte("0123456789abcdef"), w.Clock.Now().Add(time.Hour)) }, []hub.Rejection{hub.InvalidToken}},
		"not readable":          {d, func(c *iot.Credentials) { c.Token = "SharedAccessSignature x" }, []hub.Rejection{hub.InvalidToken}},
		"expired": {d, func(c *iot.Credentials) {
			c.Token = token(d.Authentication.PrimaryKey.Reveal(), w.Clock.Now().Add(-time.Hour))
		}, []hub.Rejection{hub.ExpiredToken}},
		"expired, signed by another key":   {d, func(c *iot.Credentials) { c.Token = token([]byte("0123456789abcdef"), w.Clock.Now().Add(-time.Hour)) }, []hub.Rejection{hub.InvalidToken}},
		"no credential":                    {d, func(c *iot.Credentials) { c.Token = "" }, nil},
		"nobody is registered":             {d, func(c *iot.Credentials) { c.ID.Device = "nobody" }, []hub.Rejection{hub.UnknownIdentity}},
		"another thumbprint":               {pinned, func(c *iot.Credentials) { certificate(c, other.Leaf) }, []hub.Rejection{hub.CertificateMismatch}},
		"the thumbprint of an expired one": {pinned, func(c *iot.Credentials) { certificate(c, old.Leaf) }, []hub.Rejection{hub.CertificateExpired}},
		"expired, of a CA":                 {signed, func(c *iot.Credentials) { certificate(c, lapsed.Leaf) }, []hub.Rejection{hub.CertificateExpired}},
		"of a CA nobody trusts":            {signed, func(c *iot.Credentials) { certificate(c, stranger.Leaf) }, nil},
	} {
		c := w.Credentials(d)
		c.ID = tc.of.ID
		tc.change(&c)
		o, err := w.Connect(t.Context(), c, iot.Opening{}, &link{})
		if err == nil {
			o.Session.End(t.Context())
		} else if !fault.Is(err, fault.Unauthorized) || fault.Public(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
		if got := w.Rejected(); !slices.Equal(got, tc.want) {
			t.Errorf("%s: told of %v, want %v (%v)", name, got, tc.want, err)
		}
	}
	counts := map[string]int{}
	for _, c := range w.Activity.Take(1 << 40) {
		counts[c.Device] += c.N
	}
	if want := map[string]int{"lamp": 5, "pinned": 2, "signed": 2}; !maps.Equal(counts, want) {
		t.Errorf("unauthorized operations %v, want %v", counts, want)
	}
}

type ack chan error

func (a ack) Acked(_ uint64, err error) { a <- err }

// What the hub does with a device is counted for its rules.
func TestHub_CountsActivity(t *testing.T) {
	t.Parallel()
	w := memory(t)
	w.Activity.Want(activity.Kinds()...)
	d, ctx := w.Device(t, lamp), t.Context()
	o, err := w.Connect(ctx, w.Credentials(d), iot.Opening{}, &link{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Session.End(ctx)
	done := make(ack, 2)
	o.Session.Telemetry(&iot.Message{Body: []byte("x")}, done, 1)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := o.Session.PatchReported(ctx, []byte(`{"a":1}`), 0); err != nil {
		t.Fatal(err)
	}
	patch, err := twin.ParsePatch([]byte(`{"tags":{"a":1}}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.PatchTwin(ctx, lamp, nil, patch); err != nil {
		t.Fatal(err)
	}
	send := func() {
		t.Helper()
		if _, err := w.Send(ctx, iot.Mail{To: lamp, Body: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	send()
	ms, err := o.Session.Mail(ctx, 1)
	if err != nil || len(ms) != 1 {
		t.Fatalf("%d messages, %v", len(ms), err)
	}
	if err := o.Session.Settle(ctx, ms[0].LockToken); err != nil {
		t.Fatal(err)
	}
	v, err := w.Visit(ctx, w.Credentials(d))
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Telemetry(ctx, []iot.Message{{Body: []byte("x")}, {Body: []byte("y")}}); err != nil {
		t.Fatal(err)
	}
	for _, how := range []iot.Settlement{iot.Completed, iot.Rejected} {
		send()
		m, ok, err := v.Receive(ctx, time.Minute)
		if err != nil || !ok {
			t.Fatalf("%v, %v", ok, err)
		}
		if err := v.Settle(ctx, m.LockToken, how); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Purge(ctx, lamp); err != nil {
		t.Fatal(err)
	}
	_, err = w.Invoke(ctx, lamp, command.Method{Name: "blink", ResponseTimeout: 5 * time.Second})
	if err == nil {
		t.Error("a device that does not listen answered")
	}
	if _, err := w.Invoke(ctx, iot.ID{Device: "nobody"}, command.Method{Name: "blink", ResponseTimeout: 5 * time.Second}); err == nil || errors.Is(err, ctx.Err()) {
		t.Errorf("nobody: %v", err)
	}
	var got []string
	for _, c := range w.Activity.Take(1 << 40) {
		got = append(got, fmt.Sprintf("%s %s %d", c.Device, c.Kind, c.N))
	}
	slices.Sort(got)
	want := []string{
		"lamp DirectMethodInvokes 1", "lamp HttpC2DMessages 1", "lamp HttpC2DRejectedMessages 1", "lamp HttpD2CMessages 2", "lamp MqttC2DMessages 1",
		"lamp MqttD2CMessages 1", "lamp QueuePurges 1", "lamp TwinUpdates 2",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

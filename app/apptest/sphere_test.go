package apptest_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/csv"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/head/mqtt/mqtttest"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/sdk/service"
	"github.com/vauban-iot/vauban/sdk/sphere"
	"github.com/vauban-iot/vauban/sphere/agent"
	"github.com/vauban-iot/vauban/wire/attestation"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
	"github.com/vauban-iot/vauban/wire/topic"
)

// plant is a tenant with a board of its own.
type plant struct {
	*apptest.Vauban
	client *sphere.Client
	tenant sphere.Tenant
	board  *agent.Agent
	image  agent.Image
}

func newPlant(t *testing.T) *plant {
	t.Helper()
	p := &plant{Vauban: apptest.Start(t)}
	var err error
	p.client, err = sphere.New(sphere.Config{
		URL: p.API.URL, TLS: p.TLS(), Address: p.Address(p.Ports.HTTPS), Tokens: sphere.Token(p.API.Token),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.client.Close() })
	if p.tenant, err = p.client.CreateTenant(t.Context(), "Plant"); err != nil {
		t.Fatal(err)
	}
	p.image = agent.Image{Image: attestation.Image{
		Component: "00000000-0000-0000-0000-000000000001", ID: "00000000-0000-0000-0000-0000000000a1", SHA256: strings.Repeat("a1", 32),
	}, Name: "system", Type: 17, Size: 4096}
	if _, err := p.client.PublishRelease(t.Context(), p.tenant.ID, sphere.Release{
		Kind: sphere.ReleaseOS, Version: "26.11", Images: []sphere.Image{{ComponentID: p.image.Component, ImageID: p.image.ID, SHA256: p.image.SHA256}},
	}); err != nil {
		t.Fatal(err)
	}
	p.board, err = agent.Open(agent.Config{
		Server: p.API.URL, Dir: t.TempDir(), RootCAs: p.Roots, Logger: slog.New(p.Log),
		Software: func() (agent.Software, error) {
			return agent.Software{OSVersion: "26.11", Images: []agent.Image{p.image}}, nil
		},
		Transport: func(c *tls.Config) http.RoundTripper {
			return &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// claim makes the board the tenant's.
func (p *plant) claim(t *testing.T) {
	t.Helper()
	challenge, _, err := p.client.ClaimChallenge(t.Context(), p.tenant.ID)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := p.board.ClaimProof(challenge)
	if err != nil {
		t.Fatal(err)
	}
	if _, claimed, err := p.client.Claim(t.Context(), p.tenant.ID, sphere.Proof{Challenge: challenge, PublicKey: p.board.PublicKey(), Signature: signature}); err != nil || !claimed {
		t.Fatalf("claimed %v, %v", claimed, err)
	}
}

// connect opens a session of the board at the hub with the newest certificate and returns the CONNACK's code.
func (p *plant) connect(t *testing.T) (*mqtttest.Client, byte) {
	t.Helper()
	cfg := p.TLS()
	cfg.GetClientCertificate = func(i *tls.CertificateRequestInfo) (*tls.Certificate, error) { return p.board.GetClientCertificate(i) }
	c := mqtttest.Dial(t, p.Address(p.Ports.MQTT), cfg)
	_, code := c.Connect(wire.Connect{
		ClientID: p.board.ID(), Username: p.Hub.Hostname + "/" + p.board.ID() + "/?api-version=2021-04-12", HasUsername: true, CleanSession: true, KeepAlive: 60,
	})
	return c, code
}

// The hub knows a tenant's devices by its CA, over a change of it, until a device is disabled.
func TestSphere_Hub(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "SPH-14", "SPH-29")
	p := newPlant(t)
	ctx := t.Context()
	attest := func() {
		t.Helper()
		if r, err := p.board.Attest(ctx); err != nil || r.Client == nil {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	var refused *agent.RefusedError
	if _, err := p.board.Attest(ctx); !errors.As(err, &refused) || refused.Status != http.StatusForbidden {
		t.Fatalf("a board that is nobody's: %v", err)
	}
	p.claim(t)
	attest()
	if _, err := p.Service().CreateDevice(ctx, service.Device{ID: p.board.ID(), CertificateSigned: true}); err != nil {
		t.Fatal(err)
	}
	const notAuthorized = 5
	if _, code := p.connect(t); code != notAuthorized {
		t.Fatalf("with a CA that the hub does not know: CONNACK %d", code)
	}
	operator(t, p.Vauban, "PUT", "/api/certificates/plant-1", p.ca(t, ".default"), 200)
	first, code := p.connect(t)
	if code != 0 {
		t.Fatalf("CONNACK %d", code)
	}

	// Another CA. The certificate below the old one stays good.
	next, err := p.client.RotateCertificate(ctx, p.tenant.ID)
	if err != nil {
		t.Fatal(err)
	}
	operator(t, p.Vauban, "PUT", "/api/certificates/plant-2", p.ca(t, next.Thumbprint), 200)
	if _, err := p.client.ActivateCertificate(ctx, p.tenant.ID, next.Thumbprint); err != nil {
		t.Fatal(err)
	}
	second, code := p.connect(t)
	if code != 0 {
		t.Fatalf("below the old CA: CONNACK %d", code)
	}
	first.Closed() // taken over
	attest()
	third, code := p.connect(t)
	if code != 0 {
		t.Fatalf("below the new CA: CONNACK %d", code)
	}
	second.Closed()

	if _, err := p.client.EnableDevice(ctx, p.tenant.ID, p.board.ID(), false); err != nil {
		t.Fatal(err)
	}
	third.Closed()
	if _, code := p.connect(t); code == 0 {
		t.Error("a disabled device is let in with the certificate it has")
	}
	if _, err := p.board.Attest(ctx); !errors.As(err, &refused) || refused.Code != "Disabled" {
		t.Errorf("a disabled device attests: %v", err)
	}
	if _, err := p.client.EnableDevice(ctx, p.tenant.ID, p.board.ID(), true); err != nil {
		t.Fatal(err)
	}
	if _, code := p.connect(t); code != 0 {
		t.Errorf("enabled again: CONNACK %d", code)
	}
}

// What a device tells of failures goes up with the attestation of the day, and comes out as a table.
func TestSphere_ErrorReport(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "SPH-25")
	p := newPlant(t)
	p.claim(t)
	product, err := p.client.CreateProduct(t.Context(), p.tenant.ID, sphere.ProductChange{Name: new("Pump")})
	if err != nil {
		t.Fatal(err)
	}
	groups, err := p.client.CreateDefaultDeviceGroups(t.Context(), p.tenant.ID, product.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range groups {
		if g.AllowCrashDumpsCollection {
			t.Errorf("%s takes dumps of memory", g.Name)
		}
	}
	start := time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)
	for range 3 {
		if err := p.board.Report(attestation.Event{Type: "AppCrash", Class: "AppCrash", Category: "OS", Description: "exit status 11, \"pump\"", Start: start, End: start}); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now().UTC().Truncate(time.Second)
	for range 2 {
		if err := p.board.Report(attestation.Event{Type: "AppExit", Class: "AppExit", Category: "OS", Description: "exit code 1", Start: now, End: now}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.board.Run(ctx) }()
	var rows [][]string
	hubtest.Until(t, "the report", func() bool {
		text, err := p.client.ErrorReport(ctx, p.tenant.ID, "", false)
		if err != nil {
			t.Fatal(err)
		}
		if rows, err = csv.NewReader(bytes.NewReader(text)).ReadAll(); err != nil {
			t.Fatal(err)
		}
		return len(rows) > 1
	})
	// The server has the events before the board has its answer.
	hubtest.Until(t, "the board's letting go of what it told", func() bool { return len(p.board.Events()) == 0 })
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	head := []string{"Device ID", "Event Type", "Event Class", "Event Count", "Description", "Start Time (UTC)", "End Time (UTC)"}
	if !slices.Equal(rows[0], head) {
		t.Errorf("columns %q", rows[0])
	}
	// The crash of the first of the month ended more than 14 days ago.
	if len(rows) != 2 || rows[1][0] != p.board.ID() || rows[1][1] != "AppExit" || rows[1][3] != "2" || rows[1][4] != "exit code 1" {
		t.Errorf("rows %q", rows[1:])
	}
}

// ca is a CA of the tenant in PEM.
func (p *plant) ca(t *testing.T, name string) string {
	t.Helper()
	der, err := p.client.CertificateContent(t.Context(), p.tenant.ID, name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// A certificate of a day does not become one of months: the hub renews none that the Security Service issued, and what is issued by it alone opens a session
// no longer than it is good.
func TestSphere_CertificatesAreNotExchanged(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.claim(t)
	if _, err := p.board.Attest(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Service().CreateDevice(t.Context(), service.Device{ID: p.board.ID(), CertificateSigned: true}); err != nil {
		t.Fatal(err)
	}
	operator(t, p.Vauban, "PUT", "/api/certificates/plant", p.ca(t, ".default"), 200)
	cfg := p.TLS()
	cfg.GetClientCertificate = func(i *tls.CertificateRequestInfo) (*tls.Certificate, error) { return p.board.GetClientCertificate(i) }
	c := mqtttest.Dial(t, p.Address(p.Ports.MQTT), cfg)
	if _, code := c.Connect(wire.Connect{
		ClientID: p.board.ID(), Username: p.Hub.Hostname + "/" + p.board.ID() + "/?api-version=2025-08-01-preview", HasUsername: true, CleanSession: true, KeepAlive: 60,
	}); code != 0 {
		t.Fatalf("CONNACK %d", code)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	c.Subscribe(1, "$iothub/credentials/res/#")
	c.Publish(string(topic.AppendCredentialRequest(nil, "1")), fmt.Appendf(nil, `{"id":%q,"csr":%q}`, p.board.ID(), base64.StdEncoding.EncodeToString(csr)))
	answer := c.NextPublish()
	if !strings.HasPrefix(string(answer.Topic), "$iothub/credentials/res/4") {
		t.Errorf("%s: %s", answer.Topic, answer.Payload)
	}
}

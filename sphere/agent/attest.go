package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/internal/atomicfile"
	"github.com/vauban-iot/vauban/wire/attestation"
)

// RefusedError is a server's no.
type RefusedError struct {
	Status     int
	Code       string // as docs/attestation.md lists them; empty: no answer of the protocol
	Message    string
	RetryAfter time.Duration // zero: the server named none
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("agent: the server refuses with status %d, %s: %s", e.Status, e.Code, e.Message)
}

// post sends v and reads the answer into reply.
func (a *Agent) post(ctx context.Context, c *http.Client, path string, v, reply any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(a.cfg.Server, "/")+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	res, err := c.Do(r)
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, attestation.MaxReply+1))
	if err != nil {
		return fmt.Errorf("agent: read the answer: %w", err)
	}
	if len(b) > attestation.MaxReply {
		return errors.New("agent: the answer is too long")
	}
	if res.StatusCode != http.StatusOK {
		return a.refused(res, b)
	}
	if err := json.Unmarshal(b, reply); err != nil { // unknown members are a newer server's
		return fmt.Errorf("agent: read the answer: %w", err)
	}
	return nil
}

func (a *Agent) refused(res *http.Response, body []byte) error {
	e := &RefusedError{Status: res.StatusCode}
	var r attestation.Refusal
	if json.Unmarshal(body, &r) == nil {
		e.Code, e.Message = r.Error.Code, r.Error.Message
		e.RetryAfter = seconds(r.RetryAfter)
	}
	if n, err := strconv.ParseInt(res.Header.Get("Retry-After"), 10, 64); err == nil && e.RetryAfter == 0 { // of a proxy
		e.RetryAfter = seconds(n)
	}
	return e
}

// seconds is at most a year: more would overflow somewhere.
func seconds(n int64) time.Duration {
	return time.Duration(max(0, min(n, 365*24*3600))) * time.Second
}

// Attest proves the device once and takes the certificates that come of it. The error is a *[RefusedError] when the server
// refuses.
func (a *Agent) Attest(ctx context.Context) (attestation.Reply, error) {
	a.attesting.Lock()
	defer a.attesting.Unlock()
	none := attestation.Reply{}

	q := attestation.NonceRequest{Version: attestation.Version, DeviceID: a.id}
	if a.cfg.TPM != nil {
		keys, err := a.cfg.TPM.Keys()
		if err != nil {
			return none, fmt.Errorf("agent: %w", err)
		}
		q.TPM = &keys
	}
	var n attestation.NonceReply
	if err := a.post(ctx, a.plain, attestation.NoncePath, q, &n); err != nil {
		return none, err
	}
	a.adopt(n.ServerTime)

	// New keys each time: a certificate's key is worth a day.
	keys := map[string]*ecdsa.PrivateKey{}
	publics := map[string][]byte{}
	for _, role := range []string{attestation.RoleClient, attestation.RoleUpdate} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return none, err
		}
		keys[role] = key
		if publics[role], err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
			return none, err
		}
	}
	st, err := a.statement(n)
	if err != nil {
		return none, err
	}
	st.ClientKey, st.UpdateKey = publics[attestation.RoleClient], publics[attestation.RoleUpdate]
	e := attestation.Evidence{Version: attestation.Version}
	if e.Statement, err = json.Marshal(st); err != nil {
		return none, err
	}
	if e.Device, err = attestation.Sign(a.key, attestation.RoleDevice, e.Statement); err != nil {
		return none, fmt.Errorf("agent: sign with the device key: %w", err)
	}
	if e.Client, err = attestation.Sign(keys[attestation.RoleClient], attestation.RoleClient, e.Statement); err != nil {
		return none, err
	}
	if e.Update, err = attestation.Sign(keys[attestation.RoleUpdate], attestation.RoleUpdate, e.Statement); err != nil {
		return none, err
	}
	if a.cfg.TPM != nil {
		e.TPM = &attestation.TPMQuoted{Attestation: q.TPM.Attestation}
		if e.TPM.Quote, e.TPM.Signature, err = a.cfg.TPM.Quote(attestation.QualifyingData(e.Statement)); err != nil {
			return none, fmt.Errorf("agent: %w", err)
		}
	}
	var r attestation.Reply
	if err := a.post(ctx, a.plain, attestation.EvidencePath, e, &r); err != nil {
		return none, err
	}
	return r, a.take(r, keys)
}

// adopt learns the server's time, which the connection's certificate vouches for.
func (a *Agent) adopt(server time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.offset, a.synced = time.Until(server), true
}

// statement is all but the keys of the certificates. Its count is on disk before it is used: a count that was used twice would
// look like a second device.
func (a *Agent) statement(n attestation.NonceReply) (attestation.Statement, error) {
	software, err := a.cfg.Software()
	if err != nil {
		return attestation.Statement{}, fmt.Errorf("agent: list the software: %w", err)
	}
	st := attestation.Statement{
		Version: attestation.Version, Kind: attestation.Software, DeviceID: a.id, Nonce: n.Nonce, OSVersion: software.OSVersion,
		Images: make([]attestation.Image, len(software.Images)), DeviceKey: a.public,
	}
	for i, image := range software.Images {
		st.Images[i] = attestation.Image{
			Component: strings.ToLower(image.Component), ID: strings.ToLower(image.ID), SHA256: strings.ToLower(image.SHA256),
		}
	}
	if a.cfg.TPM != nil {
		st.Kind = attestation.TPM
		if n.Credential == nil {
			return st, errors.New("agent: the server gave no credential for the TPM")
		}
		if st.Credential, err = a.cfg.TPM.Activate(*n.Credential); err != nil {
			return st, fmt.Errorf("agent: %w", err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cfg.TPM != nil {
		if err := a.startOfTPM(); err != nil {
			return st, err
		}
	}
	a.state.Sequence++
	if err := a.saveState(); err != nil {
		return st, err
	}
	st.Time = time.Now().Add(a.offset).UTC().Truncate(time.Millisecond)
	st.BootCounter, st.BootID, st.Sequence = a.state.BootCounter, a.state.BootID, a.state.Sequence
	st.State = a.state.Manufacturing
	for _, id := range a.installedLocked() {
		st.Capabilities = append(st.Capabilities, uint32(id))
	}
	return st, nil
}

// take keeps the certificates of a reply.
func (a *Agent) take(r attestation.Reply, keys map[string]*ecdsa.PrivateKey) error {
	if r.Update == nil {
		return errors.New("agent: the server sent no update certificate")
	}
	a.adopt(r.ServerTime)
	for _, c := range []struct {
		role, file string
		got        *attestation.Certificate
	}{{attestation.RoleUpdate, updateFile, r.Update}, {attestation.RoleClient, clientFile, r.Client}} {
		if c.got == nil {
			continue // an older client certificate stays good until it expires
		}
		key, err := encodeKey(keys[c.role])
		if err != nil {
			return err
		}
		cert, err := pair([]byte(c.got.PEM), key) // refuses a chain for another key
		if err != nil {
			return fmt.Errorf("agent: the %s certificate: %w", c.role, err)
		}
		if !cert.Leaf.NotAfter.After(r.ServerTime) {
			return fmt.Errorf("agent: the %s certificate ended at %s", c.role, cert.Leaf.NotAfter)
		}
		if err := atomicfile.Write(a.path(c.file), append(key, c.got.PEM...), 0o600); err != nil {
			return fmt.Errorf("agent: keep the %s certificate: %w", c.role, err)
		}
		if c.role == attestation.RoleUpdate {
			a.update.Store(cert)
		} else {
			a.client.Store(cert)
		}
	}
	a.mu.Lock()
	if r.ServerTime.After(a.state.Newest) {
		a.state.Newest = r.ServerTime.UTC()
	}
	err := a.saveState()
	a.mu.Unlock()
	a.trusted.CloseIdleConnections() // they were made with the old certificate
	if a.cfg.Renewed != nil {
		a.cfg.Renewed()
	}
	return err
}

// Bounds of waiting.
const (
	firstBackoff = 5 * time.Second
	lastBackoff  = 10 * time.Minute
	claimTime    = 5 * time.Minute // for which a device whose claim was proven expects to be somebody's at every moment
	minWait      = time.Minute     // between attestations that succeed, whatever a server says
)

// Kick makes Run prove the device now: after an update, or when the network is there again.
func (a *Agent) Kick() {
	select {
	case a.kick <- struct{}{}:
	default:
	}
}

// Run keeps the certificates fresh until ctx ends. A server that is away costs nothing but time: what was issued stays in use
// until it expires.
func (a *Agent) Run(ctx context.Context) error {
	failures := 0
	for {
		r, err := a.Attest(ctx)
		if ctx.Err() != nil {
			return nil
		}
		var wait time.Duration
		if err != nil {
			failures++
			wait = a.backoff(failures, err)
			a.log.WarnContext(ctx, "attestation failed", "device", a.id, "err", err, "again", wait)
		} else {
			failures = 0
			wait = a.renewal(r)
			a.log.InfoContext(ctx, "attested", "device", a.id, "client", r.Client != nil, "again", wait)
			if r.ClientRefused != nil {
				a.log.WarnContext(ctx, "no client certificate", "device", a.id, "code", r.ClientRefused.Code, "why", r.ClientRefused.Message)
			}
			if err := a.UploadEvents(ctx); err != nil && ctx.Err() == nil {
				a.log.WarnContext(ctx, "error events were not uploaded", "device", a.id, "err", err)
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-a.kick:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// renewal is how long to wait after a success. The server's times are compared with each other only; and whatever it says, a quarter of
// the life remains for trying again.
func (a *Agent) renewal(r attestation.Reply) time.Duration {
	end := r.Update.NotAfter
	if r.Client != nil && r.Client.NotAfter.Before(end) {
		end = r.Client.NotAfter
	}
	latest := end.Sub(r.ServerTime) / 4 * 3
	return max(minWait, min(r.RenewAfter.Sub(r.ServerTime), latest))
}

// backoff is how long to wait after a number of failures in a row.
func (a *Agent) backoff(failures int, err error) time.Duration {
	d := lastBackoff
	if failures < 8 {
		d = min(d, firstBackoff<<(failures-1))
	}
	wait := d/2 + time.Duration(a.cfg.Random()*float64(d/2))
	refused, ok := errors.AsType[*RefusedError](err)
	if !ok {
		return wait
	}
	if refused.Status == http.StatusForbidden && time.Now().UnixNano() < a.claiming.Load() {
		return firstBackoff/2 + time.Duration(a.cfg.Random()*float64(firstBackoff/2))
	}
	switch {
	case refused.RetryAfter > 0:
		after := min(refused.RetryAfter, a.cfg.MaxRetryAfter)
		// Later than asked, never earlier, so that a fleet does not come back as one.
		return max(wait, min(after+time.Duration(a.cfg.Random()*float64(after)/10), a.cfg.MaxRetryAfter))
	case refused.Status == http.StatusForbidden || refused.Status == http.StatusConflict && refused.Code != "NonceUsed":
		// Only people change that.
		return max(wait, a.cfg.MaxRetryAfter/2+time.Duration(a.cfg.Random()*float64(a.cfg.MaxRetryAfter)/2))
	}
	return wait
}

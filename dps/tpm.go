package dps

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/tpm"
)

// challengeLife is how long the answer to a challenge is good for: this long, and less than twice as long.
const challengeLife = 5 * time.Minute

// challengeKey is the key that the TPM of e is given to sign with at a time. It is not kept anywhere: the service makes it again when
// the answer comes, on whichever server that is. Since generation is part of it, a registration makes all earlier answers worthless.
func (s *Service) challengeKey(e *Enrollment, generation iot.ETag, at time.Time) []byte {
	h := hmac.New(sha256.New, s.cfg.Secret.Reveal())
	for _, part := range [...]string{"tpm challenge", fold(e.Name), string(e.Attestation.EndorsementKey), string(generation)} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		h.Write([]byte(part))
	}
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(at.Unix()/int64(challengeLife/time.Second))))
	return h.Sum(nil)
}

// generation is what changes with every registration of a device.
func (s *Service) generation(ctx context.Context, id string) (iot.ETag, error) {
	reg, err := s.cfg.Store.Registration(ctx, id)
	if fault.Is(err, fault.NotFound) {
		return "", nil
	}
	return reg.ETag, err
}

// Challenge answers a device that asks to register and shows nothing but its TPM's keys: a key which only that TPM can take
// out of its wrapping, to sign a token with (dps §8.4). The status of the answer is 401, as clients want.
func (s *Service) Challenge(ctx context.Context, c Credentials, body []byte) (Reply, error) {
	if !same(c.IDScope, s.cfg.IDScope) {
		return Reply{}, refused("unknown id scope %q", c.IDScope)
	}
	if err := checkName("the registration id", c.RegistrationID); err != nil {
		return Reply{}, refused("%w", err)
	}
	req, err := parseRequest(c.RegistrationID, body)
	if err != nil {
		return Reply{}, err
	}
	if req.tpm == nil {
		return Reply{}, refused("neither a token nor a certificate nor a TPM's keys were presented")
	}
	ek, err := parseTPMKey("endorsementKey", req.tpm.Endorsement)
	if err != nil {
		return Reply{}, refused("%w", err)
	}
	e, err := s.cfg.Store.Enrollment(ctx, false, c.RegistrationID)
	switch {
	case fault.Is(err, fault.NotFound):
		return Reply{}, refused("there is no enrollment of %q", c.RegistrationID)
	case err != nil:
		return Reply{}, fmt.Errorf("find the enrollment: %w", err)
	case e.Attestation.Type != TPM:
		return Reply{}, refused("enrollment %q has the attestation %q", e.Name, e.Attestation.Type)
	case !bytes.Equal(ek.Bytes(), e.Attestation.EndorsementKey):
		return Reply{}, refused("the endorsement key is not the enrolled one")
	case !e.Enabled:
		return Reply{}, fault.Wrap(fault.Disabled, fmt.Errorf("enrollment %q is disabled", e.Name), "the credentials are not accepted")
	}
	if err := s.limits.device(fold(e.Name), s.now()); err != nil {
		return Reply{}, err
	}
	srk, err := storageKey(req, &e)
	if err != nil {
		return Reply{}, err
	}
	generation, err := s.generation(ctx, e.Name)
	if err != nil {
		return Reply{}, err
	}
	blob, err := s.activation(ek, srk, s.challengeKey(&e, generation, s.now()), c)
	if err != nil {
		return Reply{}, err
	}
	// The members that C and IoT Edge read; a status would confuse C.
	return Reply{Status: 401, Body: marshal(struct {
		Message string `json:"message"`
		Key     string `json:"authenticationKey"`
		Name    string `json:"keyName"`
	}{"Authorization required; sign with the key in authenticationKey", blob, "registration"})}, nil
}

// storageKey is the storage root key that blobs are wrapped for: the request's, or else the enrolled one (dps §8.4).
func storageKey(req deviceRequest, e *Enrollment) (*tpm.Public, error) {
	if req.tpm != nil && req.tpm.Storage != "" {
		return parseTPMKey("storageRootKey", req.tpm.Storage)
	}
	if len(e.Attestation.StorageRootKey) == 0 {
		return nil, fault.New(fault.Invalid, "tpm.storageRootKey is missing")
	}
	p, err := tpm.ParsePublic(e.Attestation.StorageRootKey)
	if err != nil {
		return nil, fmt.Errorf("enrollment %q: %w", e.Name, err)
	}
	return p, nil
}

func (s *Service) activation(ek, srk *tpm.Public, key []byte, c Credentials) (string, error) {
	blob, err := tpm.Activation(ek, srk, key, c.IDScope+"/registrations/"+c.RegistrationID)
	if err != nil {
		return "", fmt.Errorf("make an activation blob: %w", err)
	}
	return base64.StdEncoding.EncodeToString(blob), nil
}

// answer checks the token of a device with a TPM.
func (s *Service) answer(ctx context.Context, c *Caller, e Enrollment) error {
	if c.creds.NoTPM {
		return refused("this protocol has no attestation by TPM")
	}
	token, err := s.token(c.creds)
	if err != nil {
		return err
	}
	generation, err := s.generation(ctx, e.Name)
	if err != nil {
		return err
	}
	for _, at := range []time.Time{s.now(), s.now().Add(-challengeLife)} {
		if key := s.challengeKey(&e, generation, at); token.Verify(key) {
			c.challenge, c.generation = key, generation
			return s.checkToken(token, c)
		}
	}
	// What a registration was begun with still asks for its outcome.
	if key := s.ops.challenge(fold(c.RegistrationID()), s.now(), token.Verify); key != nil {
		c.challenge, c.spent = key, true
		return s.checkToken(token, c)
	}
	return refused("the token's signature verifies with no challenge that is open")
}

// hubKey gives the device the key it will have at the hub, and returns the blob that tells its TPM.
func (s *Service) hubKey(c *Caller, req deviceRequest, a *Assignment) (string, error) {
	e := &c.enrollment
	if req.tpm != nil {
		ek, err := parseTPMKey("endorsementKey", req.tpm.Endorsement)
		if err != nil {
			return "", err
		}
		if !bytes.Equal(ek.Bytes(), e.Attestation.EndorsementKey) {
			return "", refused("the endorsement key is not the enrolled one")
		}
	}
	srk, err := storageKey(req, e)
	if err != nil {
		return "", err
	}
	ek, err := tpm.ParsePublic(e.Attestation.EndorsementKey)
	if err != nil {
		return "", fmt.Errorf("enrollment %q: %w", e.Name, err)
	}
	a.AuthType = AuthSAS
	a.PrimaryKey, a.SecondaryKey = secret.Random(32), secret.Random(32) // the second is nobody's
	return s.activation(ek, srk, a.PrimaryKey.Reveal(), c.creds)
}

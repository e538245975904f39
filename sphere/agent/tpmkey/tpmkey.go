// Package tpmkey keeps a device's key in a TPM 2.0 and lets that TPM vouch for what the device runs (docs/attestation.md).
//
// The device key and the attestation key are primary keys of the endorsement hierarchy, made from fixed templates: the TPM makes the
// same ones again after every start, so nothing is stored, and they never leave it. Clearing the owner does not change
// them; changing the endorsement seed (TPM2_ChangeEPS) makes another device of it.
package tpmkey

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/vauban-iot/vauban/wire/attestation"
)

// Key is the device key in a TPM. It is safe for concurrent use. It occupies two slots for objects until Close.
type Key struct {
	mu     sync.Mutex // the TPM does one thing at a time
	tpm    transport.TPM
	device *tpm2.CreatePrimaryResponse
	ak     *tpm2.CreatePrimaryResponse
	public *ecdsa.PublicKey
}

var _ crypto.Signer = (*Key)(nil)

// template is an ECDSA P-256 signing key. Label keeps keys of different purposes, and of other programs, apart.
func template(label string, restricted bool) tpm2.TPMTPublic {
	unique := sha256.Sum256([]byte(label))
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true, Restricted: restricted,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: unique[:]}, Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)},
		}),
	}
}

// Open makes the keys in a TPM, which stays the caller's to close, after the Key.
func Open(tpm transport.TPM) (*Key, error) {
	k := &Key{tpm: tpm}
	var err error
	if k.device, err = k.primary(template("Vauban device key 1", false)); err != nil {
		return nil, fmt.Errorf("tpm: make the device key: %w", err)
	}
	if k.ak, err = k.primary(template("Vauban attestation key 1", true)); err != nil {
		k.Close()
		return nil, fmt.Errorf("tpm: make the attestation key: %w", err)
	}
	public, err := k.device.OutPublic.Contents()
	if err == nil {
		k.public, err = publicKey(public)
	}
	if err != nil {
		k.Close()
		return nil, fmt.Errorf("tpm: the device key: %w", err)
	}
	return k, nil
}

func publicKey(p *tpm2.TPMTPublic) (*ecdsa.PublicKey, error) {
	point, err := p.Unique.ECC()
	if err != nil {
		return nil, err
	}
	b := make([]byte, 65)
	b[0] = 4
	if len(point.X.Buffer) > 32 || len(point.Y.Buffer) > 32 {
		return nil, errors.New("its point is too long")
	}
	copy(b[33-len(point.X.Buffer):], point.X.Buffer)
	copy(b[65-len(point.Y.Buffer):], point.Y.Buffer)
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), b)
}

func (k *Key) primary(t tpm2.TPMTPublic) (*tpm2.CreatePrimaryResponse, error) {
	return tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(t)}.Execute(k.tpm)
}

func (k *Key) flush(r *tpm2.CreatePrimaryResponse) error {
	if r == nil {
		return nil
	}
	_, err := tpm2.FlushContext{FlushHandle: r.ObjectHandle}.Execute(k.tpm)
	return err
}

// Close gives the TPM's slots back.
func (k *Key) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := errors.Join(k.flush(k.device), k.flush(k.ak))
	k.device, k.ak = nil, nil
	return err
}

var errClosed = errors.New("tpm: the key is closed")

// Public implements crypto.Signer with an *ecdsa.PublicKey on P-256.
func (k *Key) Public() crypto.PublicKey { return k.public }

// Sign implements crypto.Signer for SHA-256 digests. The signature is ASN.1.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != crypto.SHA256 || len(digest) != sha256.Size {
		return nil, errors.New("tpm: the device key signs SHA-256 digests")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.device == nil {
		return nil, errClosed
	}
	r, err := tpm2.Sign{
		KeyHandle: tpm2.AuthHandle{Handle: k.device.ObjectHandle, Name: k.device.Name, Auth: tpm2.PasswordAuth(nil)},
		Digest:    tpm2.TPM2BDigest{Buffer: digest},
		InScheme:  tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		Validation: tpm2.TPMTTKHashCheck{
			Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull,
		},
	}.Execute(k.tpm)
	if err != nil {
		return nil, fmt.Errorf("tpm: sign: %w", err)
	}
	s, err := r.Signature.Signature.ECDSA()
	if err != nil {
		return nil, fmt.Errorf("tpm: sign: %w", err)
	}
	return asn1.Marshal(struct{ R, S *big.Int }{
		new(big.Int).SetBytes(s.SignatureR.Buffer), new(big.Int).SetBytes(s.SignatureS.Buffer),
	})
}

// BootCounter is how often the TPM was started.
func (k *Key) BootCounter() (uint64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r, err := tpm2.ReadClock{}.Execute(k.tpm)
	if err != nil {
		return 0, fmt.Errorf("tpm: read the clock: %w", err)
	}
	return uint64(r.CurrentTime.ClockInfo.ResetCount), nil
}

// endorsement runs do with the endorsement key loaded; it is needed for moments only, and a TPM has few slots.
func (k *Key) endorsement(do func(ek *tpm2.CreatePrimaryResponse) error) error {
	ek, err := k.primary(tpm2.RSAEKTemplate)
	if err != nil {
		return fmt.Errorf("tpm: make the endorsement key: %w", err)
	}
	return errors.Join(do(ek), k.flush(ek))
}

// Keys are the public areas of the endorsement and attestation keys.
func (k *Key) Keys() (attestation.TPMKeys, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ak == nil {
		return attestation.TPMKeys{}, errClosed
	}
	keys := attestation.TPMKeys{Attestation: tpm2.Marshal(k.ak.OutPublic)}
	err := k.endorsement(func(ek *tpm2.CreatePrimaryResponse) error {
		keys.Endorsement = tpm2.Marshal(ek.OutPublic)
		return nil
	})
	return keys, err
}

// EndorsementKey is the public endorsement key, which manufacture records name by its hash.
func (k *Key) EndorsementKey() (*rsa.PublicKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var key *rsa.PublicKey
	err := k.endorsement(func(ek *tpm2.CreatePrimaryResponse) error {
		public, err := ek.OutPublic.Contents()
		if err != nil {
			return err
		}
		unique, err := public.Unique.RSA()
		if err != nil {
			return err
		}
		parameters, err := public.Parameters.RSADetail()
		if err != nil {
			return err
		}
		key, err = tpm2.RSAPub(parameters, unique)
		return err
	})
	return key, err
}

// Activate takes the secret out of a credential.
func (k *Key) Activate(c attestation.Credential) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ak == nil {
		return nil, errClosed
	}
	var secret []byte
	err := k.endorsement(func(ek *tpm2.CreatePrimaryResponse) error {
		session := tpm2.Policy(tpm2.TPMAlgSHA256, 16, func(tpm transport.TPM, handle tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
			_, err := tpm2.PolicySecret{
				AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)}, PolicySession: handle, NonceTPM: nonce,
			}.Execute(tpm)
			return err
		})
		r, err := tpm2.ActivateCredential{
			ActivateHandle: tpm2.AuthHandle{Handle: k.ak.ObjectHandle, Name: k.ak.Name, Auth: tpm2.PasswordAuth(nil)},
			KeyHandle:      tpm2.AuthHandle{Handle: ek.ObjectHandle, Name: ek.Name, Auth: session},
			CredentialBlob: tpm2.TPM2BIDObject{Buffer: c.Blob},
			Secret:         tpm2.TPM2BEncryptedSecret{Buffer: c.Seed},
		}.Execute(k.tpm)
		if err != nil {
			return fmt.Errorf("tpm: activate the credential: %w", err)
		}
		secret = bytes.Clone(r.CertInfo.Buffer)
		return nil
	})
	return secret, err
}

var selection = tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
	{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(attestation.PCR)},
}}

// Quote lets the TPM sign what it measured, together with qualifying.
func (k *Key) Quote(qualifying []byte) (quote, signature []byte, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ak == nil {
		return nil, nil, errClosed
	}
	r, err := tpm2.Quote{
		SignHandle:     tpm2.AuthHandle{Handle: k.ak.ObjectHandle, Name: k.ak.Name, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: qualifying},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		PCRSelect:      selection,
	}.Execute(k.tpm)
	if err != nil {
		return nil, nil, fmt.Errorf("tpm: quote: %w", err)
	}
	return r.Quoted.Bytes(), tpm2.Marshal(r.Signature), nil
}

// Measure extends the TPM's register with images. It is for whoever starts them, once for each start of the machine and before
// they run; what is measured later, or twice, does not match what the device lists.
func (k *Key) Measure(images ...attestation.Image) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, i := range images {
		m, err := attestation.Measurement(i)
		if err != nil {
			return err
		}
		_, err = tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(attestation.PCR), Auth: tpm2.PasswordAuth(nil)},
			Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: m}}},
		}.Execute(k.tpm)
		if err != nil {
			return fmt.Errorf("tpm: measure %s: %w", i.ID, err)
		}
	}
	return nil
}

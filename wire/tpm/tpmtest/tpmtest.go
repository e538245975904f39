// Package tpmtest runs a software TPM 2.0 (swtpm) for tests and does with it what provisioning clients do with theirs.
package tpmtest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	wire "github.com/vauban-iot/vauban/wire/tpm"
)

// TPM is a TPM with an endorsement and a storage root key.
type TPM struct {
	Endorsement, Storage []byte // TPM2B_PUBLIC

	tpm                  transport.TPMCloser
	endorsement, storage *tpm2.CreatePrimaryResponse
	identity             tpm2.TPMHandle
	identityName         tpm2.TPM2BName
}

// Socket runs a software TPM until the test ends and returns the Unix socket it listens on: a command is written and its
// answer read on each connection. Without swtpm a test is skipped in short mode, and fails otherwise.
func Socket(t testing.TB) string {
	t.Helper()
	program, err := exec.LookPath("swtpm")
	if err != nil {
		if testing.Short() {
			t.Skip("swtpm is not installed")
		}
		t.Fatalf("%v; run `make deps`", err)
	}
	dir, err := os.MkdirTemp("", "swtpm") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "tpm")
	var output bytes.Buffer
	cmd := exec.Command(program, "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+path,
		"--ctrl", "type=unixio,path="+path+".ctrl", "--flags", "not-need-init,startup-clear")
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }() // killed, at the latest when the test ends
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-ended
	})
	for end := time.Now().Add(30 * time.Second); ; {
		if _, err := os.Stat(path); err == nil {
			return path
		}
		select {
		case <-ended:
			t.Fatalf("swtpm ended: %s", &output)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatalf("swtpm does not listen: %s", &output)
		}
	}
}

// New runs a TPM and makes its keys from the templates of Azure's SDKs.
func New(t testing.TB) *TPM {
	t.Helper()
	dev, err := linuxudstpm.Open(Socket(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	m := &TPM{tpm: dev}
	m.endorsement = m.primary(t, tpm2.TPMRHEndorsement, tpm2.RSAEKTemplate)
	m.storage = m.primary(t, tpm2.TPMRHOwner, tpm2.RSASRKTemplate)
	m.Endorsement = tpm2.Marshal(m.endorsement.OutPublic)
	m.Storage = tpm2.Marshal(m.storage.OutPublic)
	return m
}

func (m *TPM) primary(t testing.TB, hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) *tpm2.CreatePrimaryResponse {
	t.Helper()
	r, err := tpm2.CreatePrimary{PrimaryHandle: hierarchy, InPublic: tpm2.New2B(template)}.Execute(m.tpm)
	if err != nil {
		t.Fatalf("create a primary key: %v", err)
	}
	return r
}

// Activate takes the key out of an activation blob. The key that the TPM held before is gone when it succeeds.
func (m *TPM) Activate(blob []byte) error {
	parts, err := wire.ParseBlob(blob)
	if err != nil {
		return err
	}
	session := tpm2.Policy(tpm2.TPMAlgSHA256, 16, func(tpm transport.TPM, handle tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicySecret{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
			PolicySession: handle, NonceTPM: nonce}.Execute(tpm)
		return err
	})
	inner, err := tpm2.ActivateCredential{
		ActivateHandle: tpm2.AuthHandle{Handle: m.storage.ObjectHandle, Name: m.storage.Name, Auth: tpm2.PasswordAuth(nil)},
		KeyHandle:      tpm2.AuthHandle{Handle: m.endorsement.ObjectHandle, Name: m.endorsement.Name, Auth: session},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: parts.Credential},
		Secret:         tpm2.TPM2BEncryptedSecret{Buffer: parts.CredentialSeed},
	}.Execute(m.tpm)
	if err != nil {
		return err
	}
	public := tpm2.BytesAs2B[tpm2.TPMTPublic](parts.Public)
	parent := tpm2.AuthHandle{Handle: m.storage.ObjectHandle, Name: m.storage.Name, Auth: tpm2.PasswordAuth(nil)}
	imported, err := tpm2.Import{
		ParentHandle: parent, EncryptionKey: tpm2.TPM2BData{Buffer: inner.CertInfo.Buffer}, ObjectPublic: public,
		Duplicate: tpm2.TPM2BPrivate{Buffer: parts.Duplicate}, InSymSeed: tpm2.TPM2BEncryptedSecret{Buffer: parts.DuplicateSeed},
		Symmetric: tpm2.TPMTSymDef{
			Algorithm: tpm2.TPMAlgAES, KeyBits: tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)),
			Mode: tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
		},
	}.Execute(m.tpm)
	if err != nil {
		return err
	}
	if m.identity != 0 { // there is room for three keys
		if _, err := (tpm2.FlushContext{FlushHandle: m.identity}).Execute(m.tpm); err != nil {
			return err
		}
		m.identity = 0
	}
	loaded, err := tpm2.Load{ParentHandle: parent, InPrivate: imported.OutPrivate, InPublic: public}.Execute(m.tpm)
	if err != nil {
		return err
	}
	m.identity, m.identityName = loaded.ObjectHandle, loaded.Name
	return nil
}

// MAC is the HMAC-SHA256 of data with the key that came in the last blob.
func (m *TPM) MAC(t testing.TB, data []byte) []byte {
	t.Helper()
	r, err := tpm2.Hmac{
		Handle: tpm2.AuthHandle{Handle: m.identity, Name: m.identityName, Auth: tpm2.PasswordAuth(nil)},
		Buffer: tpm2.TPM2BMaxBuffer{Buffer: data}, HashAlg: tpm2.TPMAlgSHA256,
	}.Execute(m.tpm)
	if err != nil {
		t.Fatalf("HMAC in the TPM: %v", err)
	}
	return r.OutHMAC.Buffer
}

package tpmkey_test

import (
	"bytes"
	"crypto/ecdsa"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/vauban-iot/vauban/sphere/agent/tpmkey"
	"github.com/vauban-iot/vauban/wire/attestation"
	"github.com/vauban-iot/vauban/wire/tpm/tpmtest"
)

// The keys are the same after they were given back, and what the TPM makes is what the wire's parsers read.
func TestKey(t *testing.T) {
	dev, err := linuxudstpm.Open(tpmtest.Socket(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	k, err := tpmkey.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	statement := []byte("a statement")
	sig, err := attestation.Sign(k, attestation.RoleDevice, statement)
	if err != nil {
		t.Fatal(err)
	}
	public := k.Public().(*ecdsa.PublicKey)
	if err := attestation.Verify(public, attestation.RoleDevice, statement, sig); err != nil {
		t.Error(err)
	}
	if err := attestation.Verify(public, attestation.RoleClient, statement, sig); err == nil {
		t.Error("the signature passes for another role's")
	}
	keys, err := k.Keys()
	if err != nil {
		t.Fatal(err)
	}
	ak, err := attestation.ParseAttestationKey(keys.Attestation)
	if err != nil {
		t.Fatal(err)
	}
	images := []attestation.Image{
		{Component: "00000000-0000-0000-0000-000000000001", ID: "00000000-0000-0000-0000-00000000000a", SHA256: strings.Repeat("a1", 32)},
		{Component: "00000000-0000-0000-0000-000000000002", ID: "00000000-0000-0000-0000-00000000000b", SHA256: strings.Repeat("b2", 32)},
	}
	if err := k.Measure(images...); err != nil {
		t.Fatal(err)
	}
	quote, qsig, err := k.Quote(attestation.QualifyingData(statement))
	if err != nil {
		t.Fatal(err)
	}
	if err := attestation.VerifyQuoteSignature(ak.Key, quote, qsig); err != nil {
		t.Error(err)
	}
	if err := attestation.VerifyQuoteSignature(public, quote, qsig); err == nil {
		t.Error("the quote passes for the device key's")
	}
	q, err := attestation.ParseQuote(quote)
	if err != nil {
		t.Fatal(err)
	}
	value, err := attestation.PCRValue(images)
	if err != nil {
		t.Fatal(err)
	}
	if !q.Covers(value) || !bytes.Equal(q.Qualifying, attestation.QualifyingData(statement)) {
		t.Errorf("the quote is %+v", q)
	}
	images[0], images[1] = images[1], images[0]
	if value, err = attestation.PCRValue(images); err != nil || q.Covers(value) {
		t.Errorf("the order of images does not count (%v)", err)
	}
	boot, err := k.BootCounter()
	if err != nil || uint64(q.ResetCount) != boot || boot == 0 {
		t.Errorf("the quote says %d starts, the clock %d, %v", q.ResetCount, boot, err)
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
	if _, err := attestation.Sign(k, attestation.RoleDevice, statement); err == nil {
		t.Error("a closed key signs")
	}
	again, err := tpmkey.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if !public.Equal(again.Public()) {
		t.Error("opened again it is another key")
	}
}

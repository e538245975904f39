package attestation_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/vauban-iot/vauban/wire/attestation"
)

func public(x, y []byte, change func(*tpm2.TPMTPublic)) []byte {
	p := tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, SignEncrypt: true, Restricted: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: x}, Y: tpm2.TPM2BECCParameter{Buffer: y}}),
	}
	if change != nil {
		change(&p)
	}
	return tpm2.Marshal(tpm2.New2B(p))
}

func point(t testing.TB) (x, y []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b, err := k.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b[1:33], b[33:]
}

func TestParseAttestationKey(t *testing.T) {
	x, y := point(t)
	good := public(x, y, nil)
	ak, err := attestation.ParseAttestationKey(good)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := ak.Key.Bytes(); !bytes.Equal(b[1:33], x) || !bytes.Equal(b[33:], y) {
		t.Error("the key is another")
	}
	sum := sha256.Sum256(good[2:])
	if want := append([]byte{0, 0x0b}, sum[:]...); !bytes.Equal(ak.Name, want) {
		t.Errorf("its name is %x, want %x", ak.Name, want)
	}
	off := bytes.Clone(y)
	off[31] ^= 1
	for name, b := range map[string][]byte{
		"nothing": nil, "cut": good[:40], "bytes behind": append(bytes.Clone(good), 0), "too large": make([]byte, 2000),
		"off its curve": public(x, off, nil), "no point": public(nil, nil, nil), "a long coordinate": public(append([]byte{0}, x...), y, nil),
		"not restricted":   public(x, y, func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Restricted = false }),
		"for decryption":   public(x, y, func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Decrypt = true }),
		"may move":         public(x, y, func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM = false }),
		"may be copied":    public(x, y, func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedParent = false }),
		"came from abroad": public(x, y, func(p *tpm2.TPMTPublic) { p.ObjectAttributes.SensitiveDataOrigin = false }),
		"SHA-1 names":      public(x, y, func(p *tpm2.TPMTPublic) { p.NameAlg = tpm2.TPMAlgSHA1 }),
	} {
		if _, err := attestation.ParseAttestationKey(b); !errors.Is(err, attestation.ErrQuote) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func quote(change func(*tpm2.TPMSAttest)) []byte {
	q := tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestQuote, ExtraData: tpm2.TPM2BData{Buffer: []byte("statement")},
		ClockInfo: tpm2.TPMSClockInfo{Clock: 5, ResetCount: 7, RestartCount: 2, Safe: true}, FirmwareVersion: 9,
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
			PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: []byte{0, 0x40, 0}}}},
			PCRDigest: tpm2.TPM2BDigest{Buffer: bytes.Repeat([]byte{1}, 32)},
		}),
	}
	if change != nil {
		change(&q)
	}
	return tpm2.Marshal(q)
}

func TestParseQuote(t *testing.T) {
	q, err := attestation.ParseQuote(quote(nil))
	if err != nil {
		t.Fatal(err)
	}
	if string(q.Qualifying) != "statement" || q.ResetCount != 7 || q.Restarts != 2 || q.ClockMillis != 5 || !slices.Equal(q.PCRs, []int{14}) || len(q.PCRDigest) != 32 {
		t.Errorf("read %+v", q)
	}
	if q.Covers([]byte("another value")) {
		t.Error("it covers any value")
	}
	selection := func(s ...tpm2.TPMSPCRSelection) func(*tpm2.TPMSAttest) {
		return func(q *tpm2.TPMSAttest) {
			q.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: s}})
		}
	}
	good := quote(nil)
	for name, b := range map[string][]byte{
		"nothing": nil, "cut": good[:len(good)-1], "bytes behind": append(bytes.Clone(good), 0), "too large": make([]byte, 2000),
		"not made by a TPM": append([]byte{0xfe}, good[1:]...),
		"a certification":   append(append(bytes.Clone(good[:4]), 0x80, 0x17), good[6:]...),
		"no PCRs":           quote(selection()),
		"two banks":         quote(selection(tpm2.TPMSPCRSelection{Hash: tpm2.TPMAlgSHA256}, tpm2.TPMSPCRSelection{Hash: tpm2.TPMAlgSHA1})),
		"the SHA-1 bank":    quote(selection(tpm2.TPMSPCRSelection{Hash: tpm2.TPMAlgSHA1, PCRSelect: []byte{0, 0x40, 0}})),
	} {
		if _, err := attestation.ParseQuote(b); !errors.Is(err, attestation.ErrQuote) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	// A quote of more or other registers proves nothing about ours.
	value := bytes.Repeat([]byte{9}, 32)
	sum := sha256.Sum256(value)
	for _, s := range []struct {
		mask []byte
		want bool
	}{{[]byte{0, 0x40, 0}, true}, {[]byte{0, 0x40}, true}, {[]byte{0, 0x80, 0}, false}, {[]byte{1, 0x40, 0}, false}, {[]byte{0, 0, 0}, false}} {
		q, err := attestation.ParseQuote(quote(func(q *tpm2.TPMSAttest) {
			q.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
				PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: s.mask}}},
				PCRDigest: tpm2.TPM2BDigest{Buffer: sum[:]},
			})
		}))
		if err != nil || q.Covers(value) != s.want {
			t.Errorf("a quote of %x covers: %v, %v", s.mask, q.Covers(value), err)
		}
	}
}

func statement() attestation.Statement {
	return attestation.Statement{
		Version: 1, Kind: attestation.Software, DeviceID: strings.Repeat("a", 128), Nonce: "n", Time: time.Unix(1, 0).UTC(), BootCounter: 1,
		BootID: strings.Repeat("0", 32), Sequence: 1, OSVersion: "1.2",
		Images: []attestation.Image{{Component: "00000000-0000-0000-0000-000000000001", ID: "00000000-0000-0000-0000-00000000000a", SHA256: strings.Repeat("a1", 32)}},
	}
}

// Two lists of images never have the same value, however the bytes of their members are shifted.
func TestPCRValue(t *testing.T) {
	a := statement().Images[0]
	b := a
	b.SHA256 = strings.Repeat("b2", 32)
	seen := map[string]int{}
	for i, list := range [][]attestation.Image{nil, {a}, {b}, {a, b}, {b, a}, {a, a}} {
		v, err := attestation.PCRValue(list)
		if err != nil {
			t.Fatal(err)
		}
		if j, twice := seen[string(v)]; twice {
			t.Errorf("lists %d and %d have one value", i, j)
		}
		seen[string(v)] = i
	}
	if v, _ := attestation.PCRValue(nil); !bytes.Equal(v, make([]byte, 32)) {
		t.Errorf("without images it is %x", v)
	}
	a.ID = strings.ToUpper(a.ID)
	if _, err := attestation.PCRValue([]attestation.Image{a}); err == nil {
		t.Error("a GUID in upper case is taken")
	}
}

func FuzzParseEvidence(f *testing.F) {
	st, err := json.Marshal(statement())
	if err != nil {
		f.Fatal(err)
	}
	good, err := json.Marshal(attestation.Evidence{Version: 1, Statement: st, Device: []byte{1}, Client: []byte{2}, Update: []byte{3}})
	if err != nil {
		f.Fatal(err)
	}
	if _, _, err := attestation.ParseEvidence(good); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1,"statement":null}`))
	f.Add([]byte(`{"version":1,"version":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, s, err := attestation.ParseEvidence(b)
		if err != nil {
			if !errors.Is(err, attestation.ErrMalformed) && !errors.Is(err, attestation.ErrVersion) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		if len(s.Images) > attestation.MaxImages || len(e.Statement) > attestation.MaxStatement || s.Version != 1 {
			t.Fatal("over its limits")
		}
		if _, err := attestation.PCRValue(s.Images); err != nil {
			t.Fatalf("images that were taken cannot be measured: %v", err)
		}
		// What was read says the same when it is written again.
		again, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		e.Statement = again
		whole, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if len(again) > attestation.MaxStatement || len(whole) > attestation.MaxEvidence {
			return
		}
		if _, _, err := attestation.ParseEvidence(whole); err != nil {
			t.Fatalf("written again it is refused: %v", err)
		}
	})
}

func FuzzParseNonceRequest(f *testing.F) {
	f.Add([]byte(`{"version":1,"deviceId":"` + strings.Repeat("0", 128) + `","tpm":{"endorsementKey":"AA==","attestationKey":"AA=="}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, err := attestation.ParseNonceRequest(b); err == nil && len(q.DeviceID) != 128 {
			t.Fatalf("an id of %d characters", len(q.DeviceID))
		}
	})
}

// go-tpm is the judge: whatever we take, it takes, and reads the same.
func FuzzParseQuote(f *testing.F) {
	f.Add(quote(nil))
	f.Add(quote(nil)[:20])
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := attestation.ParseQuote(b)
		if err != nil {
			return
		}
		theirs, err := tpm2.Unmarshal[tpm2.TPMSAttest](b)
		if err != nil {
			return // it limits sizes that say nothing to us, such as the signer's name
		}
		if !bytes.Equal(theirs.ExtraData.Buffer, q.Qualifying) || theirs.ClockInfo.ResetCount != q.ResetCount {
			t.Fatalf("go-tpm reads %+v, we %+v", theirs, q)
		}
		info, err := theirs.Attested.Quote()
		if err != nil || !bytes.Equal(info.PCRDigest.Buffer, q.PCRDigest) {
			t.Fatalf("go-tpm reads %+v, %v, we %+v", info, err, q)
		}
	})
}

func FuzzParseAttestationKey(f *testing.F) {
	x, y := point(f)
	f.Add(public(x, y, nil))
	f.Add(public(nil, nil, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		ak, err := attestation.ParseAttestationKey(b)
		if err != nil {
			return
		}
		if len(ak.Name) != 34 || ak.Key == nil {
			t.Fatal("half a key")
		}
		if err := attestation.VerifyQuoteSignature(ak.Key, b, b); err == nil {
			t.Fatal("a key is its own signature")
		}
	})
}

package storagetest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/sphere/attest"
	"github.com/vauban-iot/vauban/wire/attestation"
)

// Attestations is what a store promises about what devices proved.
func Attestations(t *testing.T, open Open) {
	s, isStore := open(t).(attest.Store)
	if !isStore {
		t.Fatal("the store keeps no attestations")
	}
	ctx := t.Context()
	device := strings.Repeat("ab", 64)
	_, err := s.Attestation(ctx, device)
	wantKind(t, "a device that never proved anything", err, fault.NotFound)
	wantKind(t, "forget what is not there", s.DeleteAttestation(ctx, device), fault.NotFound)

	full := attest.Record{
		Device: device, Kind: attestation.TPM, BootCounter: 1 << 53, BootID: strings.Repeat("0f", 16), Sequence: 7,
		NonceIssued: Start, Attested: Start.Add(time.Second), OSVersion: "26.11", State: "DeviceComplete", Capabilities: []uint32{11, 13},
		Images:  []attestation.Image{{Component: "b", ID: "2", SHA256: "ff"}, {Component: "a", ID: "1", SHA256: "00"}},
		Outcome: attest.Full, Suspicions: 3, Suspected: Start.Add(time.Minute),
	}
	want := full
	want.NonceIssued, want.Attested, want.Suspected = kept(full.NonceIssued), kept(full.Attested), kept(full.Suspected)
	got := must(s.PutAttestation(ctx, device, func(now *attest.Record) (attest.Record, error) {
		if now != nil {
			t.Errorf("a first record stands already: %+v", now)
		}
		return full, nil
	}))(t)
	same(t, "written", got, want)
	same(t, "read back", must(s.Attestation(ctx, device))(t), want)

	other := strings.Repeat("cd", 64)
	bare := attest.Record{Device: other}
	same(t, "an empty record", must(s.PutAttestation(ctx, other, func(*attest.Record) (attest.Record, error) { return bare, nil }))(t), bare)
	same(t, "an empty record read back", must(s.Attestation(ctx, other))(t), bare)

	_, err = s.PutAttestation(ctx, device, func(now *attest.Record) (attest.Record, error) {
		same(t, "what a change sees", *now, want)
		return attest.Record{}, errNo
	})
	wantNo(t, "a change that fails", err)
	if _, err = s.PutAttestation(ctx, device, func(*attest.Record) (attest.Record, error) { return bare, nil }); err == nil {
		t.Error("a change may rename its device")
	}
	same(t, "after changes that failed", must(s.Attestation(ctx, device))(t), want)

	// Counters only count if no change is lost, of a record that stands and of one that comes to be.
	for _, d := range []string{device, strings.Repeat("ef", 64)} {
		first := uint64(0)
		if d == device {
			first = full.Sequence
		}
		parallel(t, 20, func(int) error {
			_, err := s.PutAttestation(ctx, d, func(now *attest.Record) (attest.Record, error) {
				next := attest.Record{Device: d}
				if now != nil {
					next = *now
				}
				next.Sequence++
				return next, nil
			})
			return err
		})
		same(t, fmt.Sprintf("sequence of %.4s after 20 changes", d), must(s.Attestation(ctx, d))(t).Sequence, first+20)
	}

	ok(t, s.DeleteAttestation(ctx, device))
	_, err = s.Attestation(ctx, device)
	wantKind(t, "a record that was forgotten", err, fault.NotFound)
	same(t, "another's record", must(s.Attestation(ctx, other))(t), bare)
}

package storagetest

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/credential"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// Credentials is what every credential.Store promises.
func Credentials(t *testing.T, open Open) {
	id := iot.ID{Device: "d"}
	hour := Start.Add(time.Hour)
	op := func(id iot.ID, name string) credential.Operation {
		return credential.Operation{
			CertificateOperation: iot.CertificateOperation{RequestID: "r-" + name, CorrelationID: "c-" + name, Expires: kept(hour)},
			ID:                   id, Request: []byte{0, 1, 0xff}, Began: kept(Start),
		}
	}
	put := func(next credential.Operation) func(*credential.Operation) (credential.Operation, error) {
		return func(*credential.Operation) (credential.Operation, error) { return next, nil }
	}
	start := func(t *testing.T) Store {
		s := open(t)
		create(t, s, "d", "e")
		return s
	}

	t.Run("one for each identity", func(t *testing.T) {
		s, ctx := start(t), t.Context()
		ok(t, s.Create(ctx, module("d", "m"), fresh))
		sub := iot.ID{Device: "d", Module: "m"}
		_, err := s.Credential(ctx, id, Start)
		wantKind(t, "before", err, fault.NotFound)
		for _, of := range []iot.ID{id, sub} {
			got := must(s.BeginCredential(ctx, of, Start, func(standing *credential.Operation) (credential.Operation, error) {
				if standing != nil {
					t.Errorf("%v: %+v stands already", of, standing)
				}
				return op(of, of.String()), nil
			}))(t)
			same(t, "begun", got, op(of, of.String()))
			same(t, "kept", must(s.Credential(ctx, of, Start))(t), got)
		}
		_, err = s.BeginCredential(ctx, id, Start, func(standing *credential.Operation) (credential.Operation, error) {
			same(t, "standing", *standing, op(id, "d"))
			return op(id, "never"), errNo
		})
		wantNo(t, "a change that refuses", err)
		same(t, "after a refusal", must(s.Credential(ctx, id, Start))(t), op(id, "d"))
		must(s.BeginCredential(ctx, id, Start, put(op(id, "2"))))(t)
		same(t, "replaced", must(s.Credential(ctx, id, Start))(t), op(id, "2"))
		same(t, "the module's", must(s.Credential(ctx, sub, Start))(t), op(sub, "d/m"))
		_, err = s.BeginCredential(ctx, iot.ID{Device: "none"}, Start, put(op(id, "3")))
		wantKind(t, "a stranger", err, fault.NotFound)
	})

	t.Run("an outcome is kept once", func(t *testing.T) {
		s, ctx := start(t), t.Context()
		for name, o := range map[string]credential.Outcome{
			"issued": {Certificates: [][]byte{{1, 0xff}, {2}, {3}}}, "refused": {Refusal: "no <☂>"},
		} {
			want := op(id, name)
			must(s.BeginCredential(ctx, id, Start, put(want)))(t)
			wantKind(t, "another operation", s.FinishCredential(ctx, id, "c-other", o, Start, nil), fault.NotFound)
			wantKind(t, "another's", s.FinishCredential(ctx, iot.ID{Device: "e"}, want.CorrelationID, o, Start, nil), fault.NotFound)
			wantKind(t, "a stranger's", s.FinishCredential(ctx, iot.ID{Device: "none"}, want.CorrelationID, o, Start, nil), fault.NotFound)
			wantKind(t, "one that is over", s.FinishCredential(ctx, id, want.CorrelationID, o, hour, nil), fault.NotFound)
			ok(t, s.FinishCredential(ctx, id, want.CorrelationID, o, Start, nil))
			want.Outcome = o
			same(t, name, must(s.Credential(ctx, id, Start))(t), want)
			wantKind(t, "twice", s.FinishCredential(ctx, id, want.CorrelationID, credential.Outcome{Refusal: "late"}, Start, nil), fault.NotFound)
			same(t, name, must(s.Credential(ctx, id, Start))(t), want)
		}
	})

	t.Run("the identity changes with the outcome or not at all", func(t *testing.T) {
		s, ctx := start(t), t.Context()
		must(s.BeginCredential(ctx, id, Start, put(op(id, "1"))))(t)
		before := must(s.Identity(ctx, id))(t)
		issued := credential.Outcome{Certificates: [][]byte{{1}}}
		thumbprint := func(p string) func(registry.Identity) (registry.Identity, error) {
			return func(d registry.Identity) (registry.Identity, error) {
				d.Authentication.SecondaryThumbprint = p
				return d, nil
			}
		}
		wantNo(t, "a change that refuses", s.FinishCredential(ctx, id, "c-1", issued, Start,
			func(d registry.Identity) (registry.Identity, error) { return d, errNo }))
		same(t, "after a refusal", must(s.Credential(ctx, id, Start))(t), op(id, "1"))
		ok(t, s.FinishCredential(ctx, id, "c-1", issued, Start, thumbprint("AA")))
		wantKind(t, "twice", s.FinishCredential(ctx, id, "c-1", issued, Start, thumbprint("BB")), fault.NotFound)
		before.Authentication.SecondaryThumbprint = "AA"
		same(t, "identity", must(s.Identity(ctx, id))(t), before)
	})

	t.Run("it ends", func(t *testing.T) {
		s, ctx := start(t), t.Context()
		e := iot.ID{Device: "e"}
		gone := func(what string, id iot.ID) {
			t.Helper()
			_, err := s.Credential(ctx, id, Start)
			wantKind(t, what, err, fault.NotFound)
		}
		must(s.BeginCredential(ctx, id, Start, put(op(id, "1"))))(t)
		must(s.BeginCredential(ctx, e, Start, put(op(e, "2"))))(t)
		ok(t, s.EndCredential(ctx, id, "c-2"))
		ok(t, s.EndCredential(ctx, iot.ID{Device: "none"}, "c-2"))
		same(t, "still there", must(s.Credential(ctx, id, Start))(t), op(id, "1"))
		ok(t, s.EndCredential(ctx, id, "c-1"))
		gone("ended", id)
		same(t, "the other", must(s.Credential(ctx, e, Start))(t), op(e, "2"))

		_, err := s.Credential(ctx, e, hour)
		wantKind(t, "expired", err, fault.NotFound)
		later := op(e, "3")
		later.Expires = kept(hour.Add(time.Hour))
		must(s.BeginCredential(ctx, e, hour, func(standing *credential.Operation) (credential.Operation, error) {
			if standing != nil {
				t.Error("what is expired stands in the way")
			}
			return later, nil
		}))(t)
		must(s.BeginCredential(ctx, id, Start, put(op(id, "4"))))(t)
		if n := must(s.ExpireCredentials(ctx, hour))(t); n != 1 {
			t.Errorf("%d operations expired, want 1", n)
		}
		gone("expired", id)
		same(t, "not expired", must(s.Credential(ctx, e, hour))(t), later)

		ok(t, s.Delete(ctx, e, anyIdentity, nil))
		ok(t, s.Create(ctx, device("e"), twin.Twin{}))
		gone("of a device that had the id before", e)
	})

	t.Run("of many that begin at once one does", func(t *testing.T) {
		s, ctx := start(t), t.Context()
		var begun atomic.Int32
		parallel(t, 20, func(i int) error {
			_, err := s.BeginCredential(ctx, id, Start, func(standing *credential.Operation) (credential.Operation, error) {
				if standing != nil {
					return *standing, errNo
				}
				return op(id, fmt.Sprint(i)), nil
			})
			if err == errNo {
				return nil
			}
			begun.Add(1)
			return err
		})
		if n := begun.Load(); n != 1 {
			t.Errorf("%d operations began, want 1", n)
		}
	})
}

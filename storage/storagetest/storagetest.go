// Package storagetest is the contract of the stores as code: what every backend
// promises to the domain rooms. storage/sqlite and storage/postgres run [All]; so
// does any new backend. [Bench] holds the benchmarks they share.
package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vauban-iot/vauban/access/signin"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/baseline"
	"github.com/vauban-iot/vauban/defender/export"
	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/defender/host"
	"github.com/vauban-iot/vauban/defender/intel/feed"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/defender/vuln"
	"github.com/vauban-iot/vauban/defender/window"
	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/hub/credential"
	"github.com/vauban-iot/vauban/hub/event"
	"github.com/vauban-iot/vauban/hub/fleet"
	"github.com/vauban-iot/vauban/hub/fleet/configuration"
	"github.com/vauban-iot/vauban/hub/fleet/job"
	"github.com/vauban-iot/vauban/hub/notice"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/routing"
	"github.com/vauban-iot/vauban/hub/throttle"
	"github.com/vauban-iot/vauban/hub/transfer"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/hub/upload"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/sphere"
)

// Store is everything a backend keeps.
type Store interface {
	registry.Store
	twin.Store
	command.Mailbox
	command.Sessions
	dps.Store
	alert.Store
	alert.AggregateStore
	record.Store
	window.Store
	posture.Store
	fleet.Store
	job.Store
	transfer.Store
	configuration.Store
	credential.Store
	notice.Store
	upload.Store
	event.Store
	routing.DeadLetterStore
	sphere.Store
	Setting(ctx context.Context, name string) ([]byte, error)
	PutSetting(ctx context.Context, name string, value []byte) error
	InitSetting(ctx context.Context, name string, value []byte) ([]byte, error)
	UpdateSetting(ctx context.Context, name string, change func([]byte) ([]byte, error)) error
	throttle.UsageStore
	signin.Store
	feed.Store
	baseline.Store
	export.Store
	GroupSizes(ctx context.Context, limit int) (sizes []group.Size, untagged int, err error)
	alert.Changes
	host.SilenceStore
	vuln.Store
}

// Open makes an empty store and arranges that it is closed when t ends.
type Open func(t testing.TB) Store

// All runs the whole contract.
func All(t *testing.T, open Open) {
	t.Run("Registry", func(t *testing.T) { Registry(t, open) })
	t.Run("Containment", func(t *testing.T) { Containment(t, open) })
	t.Run("Twins", func(t *testing.T) { Twins(t, open) })
	t.Run("Fleet", func(t *testing.T) { Fleet(t, open) })
	t.Run("Configurations", func(t *testing.T) { Configurations(t, open) })
	t.Run("Jobs", func(t *testing.T) { Jobs(t, open) })
	t.Run("Batches", func(t *testing.T) { Batches(t, open) })
	t.Run("Transfers", func(t *testing.T) { Transfers(t, open) })
	t.Run("Mailbox", func(t *testing.T) { Mailbox(t, open) })
	t.Run("Notices", func(t *testing.T) { Notices(t, open) })
	t.Run("Credentials", func(t *testing.T) { Credentials(t, open) })
	t.Run("Uploads", func(t *testing.T) { Uploads(t, open) })
	t.Run("Sessions", func(t *testing.T) { Sessions(t, open) })
	t.Run("Enrollments", func(t *testing.T) { Enrollments(t, open) })
	t.Run("EnrollmentBatches", func(t *testing.T) { EnrollmentBatches(t, open) })
	t.Run("Registrations", func(t *testing.T) { Registrations(t, open) })
	t.Run("CAs", func(t *testing.T) { CAs(t, open) })
	t.Run("LinkedHubs", func(t *testing.T) { LinkedHubs(t, open) })
	t.Run("Sphere", func(t *testing.T) { Sphere(t, open) })
	t.Run("Alerts", func(t *testing.T) { Alerts(t, open) })
	t.Run("AlertLives", func(t *testing.T) { AlertLives(t, open) })
	t.Run("Aggregates", func(t *testing.T) { Aggregates(t, open) })
	t.Run("SecurityEvents", func(t *testing.T) { SecurityEvents(t, open) })
	t.Run("Activity", func(t *testing.T) { Activity(t, open) })
	t.Run("Silence", func(t *testing.T) { Silence(t, open) })
	t.Run("Posture", func(t *testing.T) { Posture(t, open) })
	t.Run("AlertChanges", func(t *testing.T) { AlertChanges(t, open) })
	t.Run("Exports", func(t *testing.T) { Exports(t, open) })
	t.Run("Vulnerabilities", func(t *testing.T) { Vulnerabilities(t, open) })
	t.Run("Intel", func(t *testing.T) { Intel(t, open) })
	t.Run("Baselines", func(t *testing.T) { Baselines(t, open) })
	t.Run("Settings", func(t *testing.T) { Settings(t, open) })
	t.Run("Usage", func(t *testing.T) { Usage(t, open) })
	t.Run("Facts", func(t *testing.T) { Facts(t, open) })
	t.Run("DeadLetters", func(t *testing.T) { DeadLetters(t, open) })
	t.Run("Attestations", func(t *testing.T) { Attestations(t, open) })
	t.Run("SignIn", func(t *testing.T) { SignIn(t, open) })
	t.Run("Writes", func(t *testing.T) { Writes(t, open) })
}

// Start is a moment with all seven digits of Azure's times, of which six are kept.
var Start = time.Date(2026, 1, 2, 3, 4, 5, 678901200, time.UTC)

// kept is a time as stores return it.
func kept(t time.Time) time.Time { return t.Truncate(time.Microsecond) }

var errNo = errors.New("the caller says no")

// same compares what a store returned. Empty and nil slices are the same; secrets compare by content.
func same(t testing.TB, what string, got, want any) {
	t.Helper()
	d := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b secret.Secret) bool {
		return bytes.Equal(a.Reveal(), b.Reveal())
	}))
	if d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		ok(t, err)
		return v
	}
}

func wantKind(t testing.TB, what string, err error, k fault.Kind) {
	t.Helper()
	if !fault.Is(err, k) {
		t.Errorf("%s: got error %v (%v), want kind %q", what, err, fault.KindOf(err), k)
	}
}

func wantNo(t testing.TB, what string, err error) {
	t.Helper()
	if err != errNo {
		t.Errorf("%s: got error %v, want the caller's own error as it is", what, err)
	}
}

// device is a full identity.
func device(id string) registry.Identity {
	return registry.Identity{
		ID: iot.ID{Device: id}, Generation: "638396666123456789", ETag: iot.ETag("AAAA/" + id), Status: registry.Enabled,
		StatusReason: "because ☂", StatusTime: kept(Start),
		Authentication: registry.Authentication{
			Type: registry.SAS, PrimaryKey: secret.New([]byte("primary-of-" + id)), SecondaryKey: secret.New([]byte{0, 1, 2, 0xff}),
			PrimaryThumbprint: "0123456789ABCDEF0123456789ABCDEF01234567",
		},
		Edge: true, Scope: "ms-azure-iot-edge://" + id, ParentScopes: []string{"a", "b"},
	}
}

func module(id, m string) registry.Identity {
	d := device(id)
	d.ID.Module = m
	return d
}

func create(t testing.TB, s Store, ids ...string) {
	t.Helper()
	for _, id := range ids {
		ok(t, s.Create(t.Context(), device(id), twin.Twin{Version: 1, DesiredVersion: 1, ReportedVersion: 1}))
	}
}

// parallel runs do n times at once and fails on the first error.
func parallel(t testing.TB, n int, do func(i int) error) {
	t.Helper()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = do(i) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("number %d of %d: %v", i, n, err)
			return
		}
	}
}

// awkward are ids that break what quotes or matches carelessly. All are legal device ids.
var awkward = []string{`%`, `_`, `'`, `''`, `a%`, `a_`, `';DROP-TABLE-twins;`, `$1`, `?`, `A`, `a`, `B`, `b`, `#`, `:x`, `@x`, `(*)`}

// Settings is what a store promises about settings.
func Settings(t *testing.T, open Open) {
	s, ctx := open(t), t.Context()
	_, err := s.Setting(ctx, "ca")
	wantKind(t, "a missing setting", err, fault.NotFound)
	value := []byte{0, 1, 0xff, '"'}
	same(t, "first value", must(s.InitSetting(ctx, "ca", value))(t), value)
	same(t, "what stands", must(s.InitSetting(ctx, "ca", []byte("other")))(t), value)
	same(t, "read back", must(s.Setting(ctx, "ca"))(t), value)
	ok(t, s.PutSetting(ctx, "ca", []byte("other")))
	ok(t, s.PutSetting(ctx, "CA", nil))
	same(t, "replaced", must(s.Setting(ctx, "ca"))(t), []byte("other"))
	same(t, "empty", must(s.Setting(ctx, "CA"))(t), []byte(nil))

	t.Run("changes of one setting follow each other", func(t *testing.T) {
		parallel(t, 20, func(int) error {
			return s.UpdateSetting(ctx, "count", func(v []byte) ([]byte, error) { return append(v, 'x'), nil })
		})
		same(t, "after 20 changes", must(s.Setting(ctx, "count"))(t), bytes.Repeat([]byte{'x'}, 20))
		wantNo(t, "a change that fails", s.UpdateSetting(ctx, "count", func(v []byte) ([]byte, error) { return nil, errNo }))
		same(t, "after a failed change", must(s.Setting(ctx, "count"))(t), bytes.Repeat([]byte{'x'}, 20))
	})

	t.Run("one of many first values wins", func(t *testing.T) {
		got := make([]string, 20)
		parallel(t, len(got), func(i int) error {
			v, err := s.InitSetting(ctx, "race", fmt.Appendf(nil, "value %d", i))
			got[i] = string(v)
			return err
		})
		for _, v := range got {
			if v == "" || v != got[0] {
				t.Errorf("got values %q and %q, want one for all", got[0], v)
			}
		}
	})
}

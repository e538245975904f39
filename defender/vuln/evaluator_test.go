package vuln_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/defender/vuln"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/storage/sqlite"
	"github.com/vauban-iot/vauban/storage/sqlstore"
	"github.com/vauban-iot/vauban/storage/storagetest"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

var morning = time.Date(2099, 1, 1, 8, 0, 0, 0, time.UTC)

type bench struct {
	testing.TB
	store     *sqlstore.Store
	book      *posture.Book
	dir       string
	manager   *vuln.Manager
	watcher   *vuln.Watcher
	evaluator *vuln.Evaluator
	now       time.Time
	sequence  uint64
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{TB: t, now: morning, dir: t.TempDir()}
	var err error
	b.store, err = sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "state.db"), Sealer: storagetest.Sealer(t)})
	b.check(err)
	t.Cleanup(func() { b.store.Close() })
	b.book = posture.NewBook(b.store, b.store)
	clock, logger := func() time.Time { return b.now }, slog.New(slog.DiscardHandler)
	b.manager, err = vuln.NewManager(vuln.ManagerConfig{Store: b.store, Dir: b.dir, Now: clock, Logger: logger})
	b.check(err)
	b.watcher, err = vuln.NewWatcher(b.store, nil)
	b.check(err)
	b.evaluator, err = vuln.NewEvaluator(vuln.EvaluatorConfig{Store: b.store, Assess: b.store.Assess, Disabled: b.book.Disabled, Now: clock, Logger: logger})
	b.check(err)
	return b
}

func (b *bench) check(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// look passes time and looks.
func (b *bench) look(d time.Duration) {
	b.Helper()
	b.now = b.now.Add(d)
	b.check(b.evaluator.Look(b.Context()))
}

func (b *bench) devices(from, n int) {
	b.Helper()
	var ids []string
	for i := range n {
		ids = append(ids, fmt.Sprintf("d%06d", from+i))
	}
	b.check(b.store.ChangeDevices(b.Context(), ids, func(rs []registry.Record) {
		for i := range rs {
			r := &rs[i]
			id := r.Identity.ID
			r.Identity = registry.Identity{ID: id, Generation: "1", ETag: "1", Status: registry.Enabled, Authentication: registry.Authentication{Type: registry.CertificateAuthority}}
			r.Twin, r.Write = twin.New(iot.ID{Device: id.Device}), registry.WriteIdentity|registry.WriteTwin
		}
	}))
}

func (b *bench) twin(device, tags, reported string) {
	b.Helper()
	_, err := b.store.UpdateTwin(b.Context(), iot.ID{Device: device}, func(tw twin.Twin) (twin.Twin, error) {
		tw.Tags, tw.Reported = []byte(tags), []byte(reported)
		return tw, nil
	})
	b.check(err)
}

// told is what an agent sends.
func (b *bench) told(device string, taken time.Time, packages ...secmsg.Package) {
	b.Helper()
	e := secmsg.Event{Name: "SBoM", Time: taken}
	for _, p := range packages {
		e.Payload = append(e.Payload, p)
	}
	b.sequence++
	b.check(b.watcher.Reported(b.Context(), &iot.Message{From: iot.ID{Device: device}, Sequence: b.sequence, Enqueued: b.now}, &secmsg.Report{Events: []secmsg.Event{e}}))
}

func (b *bench) imports(text string) {
	b.Helper()
	_, err := b.manager.Import(b.Context(), "own", strings.NewReader(text))
	b.check(err)
}

// stands tells the state of each device's recommendation.
func (b *bench) stands(want string) {
	b.Helper()
	all, err := b.store.Recommendations(b.Context(), posture.Filter{Type: posture.VulnerableSoftware, State: posture.Active})
	b.check(err)
	var got []string
	for i := range all {
		got = append(got, all[i].Device[6:]+" "+string(all[i].Severity))
	}
	if g := strings.Join(got, ", "); g != want {
		b.Errorf("got %q, want %q", g, want)
	}
}

const record = `{"id":"CVE-2099-1000","severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],"affected":[{"package":{"ecosystem":"npm","name":"x"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"},{"fixed":"2.0.0"}]}]}]}`

func TestEvaluator(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.devices(0, 3)
	b.imports(record)
	x := secmsg.Package{Name: "x", Version: "1.0.0", Type: "npm"}
	y := secmsg.Package{Name: "y", Version: "1.0.0", Type: "npm"}
	b.told("d000000", morning, x)
	b.look(time.Second)
	b.stands("") // parts may follow
	b.told("d000000", morning, y)
	b.look(10 * time.Second)
	b.stands("0 Medium")
	software, err := b.manager.SoftwareOf(t.Context(), "d000000")
	if err != nil || len(software) != 2 {
		t.Errorf("software: %v %v", software, err)
	}
	// A part that comes later still is added, and does not replace.
	b.told("d000000", morning, secmsg.Package{Name: "z", Version: "1", Type: "npm"})
	b.look(10 * time.Second)
	if software, err = b.manager.SoftwareOf(t.Context(), "d000000"); err != nil || len(software) != 3 {
		t.Errorf("software: %v %v", software, err)
	}
	b.stands("0 Medium")

	// Bills of materials by group and by firmware; what is on the twin is seen when the time has come.
	cdx := `{"bomFormat":"CycloneDX","components":[{"name":"x","purl":"pkg:npm/x@1.0.0"}]}`
	_, _, err = b.manager.AddBill(t.Context(), "fw", vuln.Scope{Product: "Acme Cam", Firmware: "2.1"}, []byte(cdx))
	b.check(err)
	_, _, err = b.manager.AddBill(t.Context(), "g", vuln.Scope{Group: "plant"}, []byte(cdx))
	b.check(err)
	b.look(time.Second)
	b.stands("0 Medium")
	b.twin("d000001", `{}`, `{"deviceInformation":{"manufacturer":"Acme","model":"Cam","swVersion":"2.1"}}`)
	b.twin("d000002", `{"SecurityGroup":"plant"}`, `{}`)
	b.look(time.Second)
	b.look(10 * time.Minute)
	b.stands("2 Medium, 1 Medium, 0 Medium")

	// VEX of the firmware.
	_, err = b.manager.AddVEX(t.Context(), "fw", vuln.Scope{Firmware: "2.1"}, []byte(`{"statements":[{"vulnerability":"CVE-2099-1000","products":["Acme Cam"],"status":"not_affected","justification":"component_not_present"}]}`))
	b.check(err)
	b.look(time.Second)
	b.stands("2 Medium, 0 Medium")
	rows, err := b.store.Vulnerabilities(t.Context(), vuln.Filter{Device: "d000001"})
	if err != nil || len(rows) != 1 || rows[0].Status != vuln.Suppressed || rows[0].VEX != "fw" {
		t.Errorf("suppressed: %+v %v", rows, err)
	}

	// Exploited, then mended by the publisher, then no more in the database.
	_, err = b.manager.Import(t.Context(), "", strings.NewReader(`{"catalogVersion":"1","vulnerabilities":[{"cveID":"CVE-2099-1000"}]}`))
	b.check(err)
	b.look(time.Second)
	b.stands("2 High, 0 High")
	_, err = b.book.Enable(t.Context(), false, b.now, posture.VulnerableSoftware)
	b.check(err)
	b.look(time.Second)
	b.stands("")
	_, err = b.book.Enable(t.Context(), true, b.now, posture.VulnerableSoftware)
	b.check(err)
	b.look(time.Second)
	b.stands("2 High, 0 High")
	b.imports(strings.ReplaceAll(record, "2.0.0", "0.9.0"))
	b.look(time.Second)
	b.stands("")
	b.imports(record)
	b.look(time.Second)
	b.stands("2 High, 0 High")
	b.told("d000000", morning.Add(time.Hour)) // nothing is installed any more
	b.look(time.Hour)
	b.stands("2 High")
	b.check(b.manager.DeleteBill(t.Context(), "g"))
	b.look(time.Second)
	b.stands("")
}

// A bad file changes nothing of what stands, and a file of the folder is imported when it is whole, once.
// Who tells more than is kept loses its own, and nobody else waits for it.
func TestEvaluator_Floods(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.devices(0, 3)
	var err error
	b.evaluator, err = vuln.NewEvaluator(vuln.EvaluatorConfig{Store: b.store, Assess: b.store.Assess, Disabled: b.book.Disabled, Limits: vuln.Limits{Sets: 1, Bytes: 1 << 20, Agents: 1},
		Now: func() time.Time { return b.now }, Logger: slog.New(slog.DiscardHandler)})
	b.check(err)
	b.imports(record)
	npm := func(version string) secmsg.Package { return secmsg.Package{Name: "x", Version: version, Type: "npm"} }
	b.told("d000000", morning, npm("1.0.0"))
	b.look(time.Minute)
	b.stands("0 Medium")
	for range vuln.MaxParts + 10 {
		b.told("d000001", morning, npm("1.1.0"))
	}
	b.told("d000002", morning, npm("1.0.0"))
	parts, err := b.store.PartsOf(t.Context(), vuln.Waiting{ID: iot.ID{Device: "d000001"}, Taken: morning})
	b.check(err)
	if len(parts) != vuln.MaxParts {
		t.Errorf("%d parts of one device wait, want %d", len(parts), vuln.MaxParts)
	}
	b.look(time.Minute) // the set of d000001 would be the second
	b.stands("2 Medium, 0 Medium")
}

func TestManager(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.imports(record)
	for name, text := range map[string]string{"own": "{", "": "", "a b": record, "own2": strings.Replace(record, "npm", "OSS-Fuzz", 1)} {
		if _, err := b.manager.Import(t.Context(), name, strings.NewReader(text)); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q %q: %v", name, text, err)
		}
	}
	if _, err := b.manager.Import(t.Context(), "own", io.MultiReader(strings.NewReader(record), broken{})); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("an upload that breaks off: %v", err)
	}
	if _, _, err := b.manager.AddBill(t.Context(), "x", vuln.Scope{}, []byte(`{}`)); !fault.Is(err, fault.Invalid) {
		t.Errorf("a bill for nobody: %v", err)
	}
	all, err := b.store.Sources(t.Context())
	if err != nil || len(all) != 1 || all[0].Records != 1 {
		t.Errorf("sources: %+v %v", all, err)
	}
	if left, err := filepath.Glob(filepath.Join(b.dir, ".*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
	if i, ok := b.manager.Running(); ok {
		t.Errorf("%+v goes on", i)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// BenchmarkEvaluate is a pass over 100,000 devices with 50 different sets of 500 packages and a database of 100,000 records: after an import,
// and when nothing changed but the twin of some device.
func BenchmarkEvaluate(b *testing.B) {
	w := newBench(b)
	const fleet, page = 100_000, 500
	var sets []vuln.Set
	for i := range 50 {
		s, _ := vuln.NewSet(vuln.SomePackages(i))
		sets = append(sets, s)
	}
	for from := 0; from < fleet; from += page {
		w.devices(from, page)
	}
	for i := range fleet {
		id := iot.ID{Device: fmt.Sprintf("d%06d", i)}
		w.check(w.store.SettleSoftware(b.Context(), vuln.Waiting{ID: id, Taken: morning}, sets[i%len(sets)], vuln.Limited))
	}
	f, err := os.CreateTemp(b.TempDir(), "")
	w.check(err)
	w.check(vuln.Generated(f, 100_000))
	again := func(ctx context.Context) {
		_, err := f.Seek(0, io.SeekStart)
		w.check(err)
		_, err = w.manager.Import(ctx, "debian", f)
		w.check(err)
	}
	again(b.Context())
	began := time.Now()
	w.look(time.Second)
	first := time.Since(began)
	b.Run("after import", func(b *testing.B) {
		b.ReportMetric(first.Seconds(), "s-first")
		for b.Loop() {
			b.StopTimer()
			again(b.Context())
			b.StartTimer()
			w.look(time.Second)
		}
	})
	b.Run("nothing changed", func(b *testing.B) {
		for b.Loop() {
			w.look(time.Hour)
		}
	})
	rows, err := w.store.Recommendations(b.Context(), posture.Filter{Type: posture.VulnerableSoftware, Severity: alert.Medium, Limit: 1})
	if err != nil || len(rows) != 1 {
		b.Errorf("%v %v", rows, err)
	}
}

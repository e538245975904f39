package transfer_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/transfer"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

type world struct {
	*hubtest.World
	blobs *memory
}

func open(t testing.TB) *world {
	t.Helper()
	m := newMemory()
	return &world{hubtest.New(t, hubtest.Options{Memory: true, Blobs: m}), m}
}

// over waits for the end of a job.
func (w *world) over(t testing.TB, id string) transfer.Job {
	t.Helper()
	var j transfer.Job
	hubtest.Until(t, "the end of the job", func() bool {
		var err error
		if j, err = w.Transfer(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		return j.Status.Over()
	})
	return j
}

func (w *world) start(t testing.TB, body string) transfer.Job {
	t.Helper()
	r, err := transfer.Parse([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	j, err := w.CreateTransfer(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

const importJob = `{"type":"import","inputBlobContainerUri":"m","outputBlobContainerUri":"m"}`

// load imports lines and returns what was refused: "line code id".
func (w *world) load(t testing.TB, lines ...string) []string {
	t.Helper()
	w.blobs.set("devices.txt", []byte(strings.Join(lines, "\n")))
	j := w.over(t, w.start(t, importJob).ID)
	if j.Status != transfer.Completed || j.Progress != 100 || j.Began.IsZero() || j.End.IsZero() {
		t.Fatalf("the job is %+v", j)
	}
	var refused []string
	for line := range strings.Lines(w.blobs.get("importErrors.log")) {
		var r struct {
			Line int    `json:"lineNumber"`
			ID   string `json:"id"`
			Mod  string `json:"moduleId"`
			Code string `json:"errorCode"`
			Text string `json:"errorStatus"`
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.Text == "" {
			t.Fatalf("importErrors.log holds %q: %v", line, err)
		}
		refused = append(refused, strings.TrimSpace(strings.TrimSuffix(fmt.Sprintf("%d %s %s/%s", r.Line, r.Code, r.ID, r.Mod), "/")))
	}
	slices.SortFunc(refused, func(a, b string) int { // lines of a batch that make no sense come first
		m, n := 0, 0
		_, _ = fmt.Sscan(a, &m)
		_, _ = fmt.Sscan(b, &n)
		return m - n
	})
	if (j.Failure != "") != (len(refused) > 0) {
		t.Errorf("%d lines refused, failureReason %q", len(refused), j.Failure)
	}
	return refused
}

func (w *world) device(t testing.TB, id string) registry.Identity {
	t.Helper()
	d, err := w.Device(t, id)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Device is the hub's, without the helper of hubtest that makes one.
func (w *world) Device(t testing.TB, id string) (registry.Identity, error) {
	return w.Hub.Device(t.Context(), iot.ID{Device: id})
}

func (w *world) twin(t testing.TB, id string) twin.Twin {
	t.Helper()
	_, tw, err := w.Twin(t.Context(), iot.ID{Device: id})
	if err != nil {
		t.Fatal(err)
	}
	return tw
}

func is(t testing.TB, what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

const key = "MDEyMzQ1Njc4OWFiY2RlZg=="

func TestImport_Modes(t *testing.T) {
	t.Parallel()
	w := open(t)
	is(t, "new", w.load(t,
		"\ufeff"+`{"id":"a","importMode":"create","authentication":{"symmetricKey":{"primaryKey":"`+key+`"}},"tags":{"n":1},"properties":{"desired":{"x":1},"reported":{"r":1}}}`+"\r",
		`{"id":"b","status":"disabled","statusReason":"new"}`, // createOrUpdate when nothing is said
		"", "   ",
		`{"id":"c","importMode":"CREATEORUPDATE","authentication":{"type":"certificateAuthority"}}`,
		`{"id":"d","authentication":{"x509Thumbprint":{"primaryThumbprint":"0123456789abcdef0123456789abcdef01234567"}}}`,
		`{"id":"e"}`,
	), []string(nil))
	a, ta := w.device(t, "a"), w.twin(t, "a")
	is(t, "key of a", a.Authentication.PrimaryKey.Base64(), key)
	is(t, "keys that are missing are made", a.Authentication.SecondaryKey.IsZero(), false)
	is(t, "twin of a", string(ta.Tags)+string(ta.Desired)+string(ta.Reported), `{"n":1}{"x":1}{}`)
	b := w.device(t, "b")
	is(t, "b", string(b.Status)+b.StatusReason, "disablednew")
	is(t, "c and d", w.device(t, "c").Authentication.Type+w.device(t, "d").Authentication.Type, "certificateAuthorityselfSigned")

	is(t, "changes and refusals", w.load(t,
		`{"id":"a","importMode":"create"}`,
		`{"id":"b","importMode":"update","status":"enabled","tags":{"k":2}}`,
		`{"id":"nobody","importMode":"update"}`,
		`{"id":"c","importMode":"updateIfMatchETag","eTag":"stale","status":"disabled"}`,
		`{"id":"d","importMode":"updateIfMatchETag","eTag":"`+string(w.device(t, "d").ETag)+`","statusReason":"matched"}`,
		`{"id":"e","importMode":"delete"}`,
		`{"id":"e2","importMode":"delete"}`,
		`{"id":"no etag","importMode":"deleteIfMatchETag"}`,
		`not JSON`,
		`{"id":"x","importMode":"explode"}`,
		`{"importMode":"create"}`,
		`{"id":"sp ace","importMode":"create"}`,
		`{"id":"f","importMode":"create","tags":{"a.b":1}}`,
		`{"id":"g","authentication":{"symmetricKey":{"primaryKey":"c2hvcnQ="}}}`,
	), []string{
		"1 DeviceAlreadyExists a", "3 DeviceNotFound nobody", "4 PreconditionFailed c", "7 DeviceNotFound e2", "8 ArgumentInvalid no etag",
		"9 IotHubFormatError", "10 ArgumentInvalid x", "11 ArgumentInvalid", "12 ArgumentInvalid sp ace", "13 ArgumentInvalid f", "14 ArgumentInvalid g",
	})
	is(t, "b", string(w.device(t, "b").Status)+string(w.twin(t, "b").Tags), `enabled{"k":2}`)
	is(t, "c stays", w.device(t, "c").Status, "enabled")
	is(t, "d", w.device(t, "d").StatusReason, "matched")
	if _, err := w.Device(t, "e"); !fault.Is(err, fault.NotFound) {
		t.Errorf("e is still there: %v", err)
	}

	is(t, "twins and conditional deletes", w.load(t,
		`{"id":"a","importMode":"updateTwin","tags":{"n":null,"m":3},"properties":{"desired":{"x":2}}}`,
		`{"id":"b","importMode":"updateTwinIfMatchETag","twinETag":"stale","tags":{"k":3}}`,
		`{"id":"d","importMode":"updateTwinIfMatchETag","twinETag":"`+string(w.twin(t, "d").ETag())+`","tags":{"k":4}}`,
		`{"id":"c","importMode":"deleteIfMatchETag","eTag":"stale"}`,
		`{"id":"b","importMode":"deleteIfMatchETag","eTag":"`+string(w.device(t, "b").ETag)+`"}`,
		`{"id":"n","importMode":"createOrUpdateIfMatchETag","eTag":"*"}`,
		`{"id":"d","importMode":"createOrUpdateIfMatchETag","eTag":"stale"}`,
		`{"id":"nobody","importMode":"updateTwin","tags":{}}`,
	), []string{"2 PreconditionFailed b", "4 PreconditionFailed c", "7 PreconditionFailed d", "8 DeviceNotFound nobody"})
	ta = w.twin(t, "a")
	is(t, "twin of a", string(ta.Tags)+string(ta.Desired), `{"m":3}{"x":2}`)
	is(t, "tags of d", string(w.twin(t, "d").Tags), `{"k":4}`)
	w.device(t, "n")
	w.device(t, "c")

	// Nothing that was refused once is in the file of the next import.
	is(t, "a clean one", w.load(t, `{"id":"a","importMode":"update"}`), []string(nil))
}

func TestImport_ModulesAndEdge(t *testing.T) {
	t.Parallel()
	w := open(t)
	// Modules may stand before their device; an edge device has its own.
	is(t, "refused", w.load(t,
		`{"id":"a","moduleId":"m","importMode":"create","managedBy":"me"}`,
		`{"id":"a"}`,
		`{"id":"edge","capabilities":{"iotEdge":true}}`,
		`{"id":"nobody","moduleId":"m"}`,
		`{"id":"a","moduleId":"$edgeHub"}`,
		`{"id":"child","deviceScope":"ms-azure-iot-edge://none-1"}`,
		`{"id":"a","status":"disabled"}`, // the same device again
	), []string{"4 ModuleNotFound nobody/m", "5 SystemModuleModifyUnauthorizedAccess a/$edgeHub", "6 InvalidDeviceScope child"})
	m, err := w.Hub.Device(t.Context(), iot.ID{Device: "a", Module: "m"})
	if err != nil || m.ManagedBy != "me" {
		t.Errorf("module: %+v, %v", m, err)
	}
	is(t, "a", w.device(t, "a").Status, "disabled")
	ms, err := w.Modules(t.Context(), "edge")
	if err != nil || len(ms) != 2 {
		t.Errorf("modules of the edge device: %v, %v", ms, err)
	}
	scope := w.device(t, "edge").Scope
	is(t, "children", w.load(t, `{"id":"child","deviceScope":"`+scope+`"}`, `{"id":"child2","parentScopes":["`+scope+`"]}`), []string(nil))
	is(t, "scope", w.device(t, "child").Scope+w.device(t, "child2").Scope, scope+scope)
	// A change that says nothing of its place leaves a child where it is; one that says "none" takes it away.
	is(t, "changes", w.load(t, `{"id":"child","importMode":"update","statusReason":"x"}`, `{"id":"child2","importMode":"update","deviceScope":""}`,
		`{"id":"edge","importMode":"update","statusReason":"x","capabilities":{"iotEdge":true}}`), []string(nil))
	is(t, "scopes", w.device(t, "child").Scope+"|"+w.device(t, "child2").Scope, scope+"|")
	is(t, "an edge device stays one", w.device(t, "edge").Edge, true)
}

func TestImport_LongLinesAndManyBatches(t *testing.T) {
	t.Parallel()
	w := open(t)
	var lines []string
	for i := range 2500 {
		lines = append(lines, fmt.Sprintf(`{"id":"d%04d","tags":{"i":%d}}`, i, i))
	}
	lines[1200] = `{"id":"long","tags":{"x":"` + strings.Repeat("y", transfer.MaxLine) + `"}}`
	lines[2400] = `{"id":"d0000","importMode":"create"}` // in another batch than the first
	is(t, "refused", w.load(t, lines...), []string{"1201 ArgumentInvalid", "2401 DeviceAlreadyExists d0000"})
	s, err := w.Statistics(t.Context())
	if err != nil || s.Total != 2498 {
		t.Errorf("%d devices, %v", s.Total, err)
	}
	is(t, "the last", string(w.twin(t, "d2499").Tags), `{"i":2499}`)
}

// A device that is connected hears of what an import changes, and is cut off when it may not stay.
func TestImport_TellsDevices(t *testing.T) {
	t.Parallel()
	w := open(t)
	links := map[string]*link{}
	for _, id := range []string{"told", "disabled", "deleted"} {
		d := w.World.Device(t, iot.ID{Device: id})
		l := &link{desired: make(chan string, 1), closed: make(chan error, 1)}
		opened, err := w.Connect(t.Context(), w.Credentials(d), iot.Opening{Clean: true}, l)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { opened.Session.End(t.Context()) })
		opened.Session.Listen(iot.DesiredUpdates)
		links[id] = l
	}
	is(t, "refused", w.load(t, `{"id":"told","importMode":"updateTwin","properties":{"desired":{"x":1}}}`,
		`{"id":"disabled","importMode":"update","status":"disabled"}`, `{"id":"deleted","importMode":"delete"}`), []string(nil))
	is(t, "desired", <-links["told"].desired, `{"x":1,"$version":2}`)
	if err := <-links["disabled"].closed; !fault.Is(err, fault.Disabled) {
		t.Errorf("the disabled device: %v", err)
	}
	if err := <-links["deleted"].closed; !fault.Is(err, fault.NotFound) {
		t.Errorf("the deleted device: %v", err)
	}
}

type link struct {
	desired chan string
	closed  chan error
}

func (l *link) Method(string, []byte, func(int, []byte, error)) {}
func (l *link) Desired(_ int64, patch []byte)                   { l.desired <- string(patch) }
func (l *link) MailWaits()                                      {}
func (l *link) Close(reason error) {
	select {
	case l.closed <- reason:
	default:
	}
}

func TestExport(t *testing.T) {
	t.Parallel()
	w := open(t)
	is(t, "refused", w.load(t,
		`{"id":"a","authentication":{"symmetricKey":{"primaryKey":"`+key+`","secondaryKey":"`+key+`"}},"status":"disabled","statusReason":"<why>","tags":{"t":"é"},"properties":{"desired":{"d":1.50}}}`,
		`{"id":"b","authentication":{"x509Thumbprint":{"primaryThumbprint":"0123456789abcdef0123456789abcdef01234567"}}}`,
		`{"id":"b","moduleId":"m","managedBy":"me"}`,
		`{"id":"edge","capabilities":{"iotEdge":true}}`,
	), []string(nil))
	export := func(more string) []string {
		t.Helper()
		j := w.over(t, w.start(t, `{"type":"export","outputBlobContainerUri":"m"`+more+`}`).ID)
		if j.Status != transfer.Completed || j.Failure != "" || j.Progress != 100 {
			t.Fatalf("the export is %+v", j)
		}
		return strings.Split(strings.TrimSuffix(w.blobs.get("devices.txt"), "\n"), "\n")
	}
	lines := export(`,"excludeKeysInExport":false`)
	is(t, "lines", len(lines), 6) // with the modules of the edge device
	a := w.device(t, "a")
	want := `{"id":"a","eTag":"` + string(a.ETag) + `","importMode":"updateIfMatchETag","status":"disabled","statusReason":"<why>",` +
		`"authentication":{"type":"sas","symmetricKey":{"primaryKey":"` + key + `","secondaryKey":"` + key + `"},"x509Thumbprint":{"primaryThumbprint":null,"secondaryThumbprint":null}},` +
		`"capabilities":{"iotEdge":false},"twinETag":"` + string(w.twin(t, "a").ETag()) + `","tags":{"t":"é"},"properties":` + string(w.twin(t, "a").Properties()) + `}`
	is(t, "first line", lines[0], want)
	is(t, "module", strings.HasPrefix(lines[2], `{"id":"b","moduleId":"m","eTag":`) && strings.Contains(lines[2], `"managedBy":"me"`), true)
	is(t, "no keys", strings.Contains(strings.Join(export(`,"excludeKeysInExport":true`), ""), key), false)

	// What was exported can be imported: as it is while nothing changed, and made anew elsewhere.
	lines = export("")
	is(t, "imported as it is", w.load(t, lines...), []string(nil))
	other := open(t)
	for i := range lines {
		lines[i] = strings.Replace(lines[i], "updateIfMatchETag", "createOrUpdate", 1)
	}
	is(t, "imported elsewhere", other.load(t, lines...), []string(nil))
	is(t, "key", other.device(t, "a").Authentication.PrimaryKey.Base64(), key)
	is(t, "twin", string(other.twin(t, "a").Tags)+string(other.twin(t, "a").Desired), `{"t":"é"}{"d":1.50}`)
	is(t, "status", string(other.device(t, "a").Status)+other.device(t, "a").StatusReason, "disabled<why>")
}

func TestExport_Names(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.World.Device(t, iot.ID{Device: "a"})
	w.over(t, w.start(t, `{"type":"EXPORT","outputBlobContainerUri":"m","outputBlobName":"out/all.txt","includeConfigurations":true,"configurationsBlobName":"c.txt"}`).ID)
	is(t, "file", strings.HasPrefix(w.blobs.get("out/all.txt"), `{"id":"a",`), true)
	w.blobs.set("in.txt", []byte(`{"id":"b"}`))
	w.blobs.set("c.txt", []byte(`{"id":"conf","targetCondition":"*","content":{"deviceContent":{"properties.desired.x":1}},"priority":3}`+"\n{broken\n"))
	j := w.over(t, w.start(t, `{"type":"import","inputBlobContainerUri":"m","outputBlobContainerUri":"m","inputBlobName":"in.txt","includeConfigurations":true,"configurationsBlobName":"c.txt"}`).ID)
	is(t, "status", j.Status, "completed")
	c, err := w.Configuration(t.Context(), "conf")
	if err != nil || c.Priority != 3 {
		t.Errorf("configuration %+v, %v", c, err)
	}
	is(t, "refused", strings.Contains(w.blobs.get("importErrors.log"), `"lineNumber":2`), true)
	w.over(t, w.start(t, `{"type":"export","outputBlobContainerUri":"m","includeConfigurations":true}`).ID)
	is(t, "exported", strings.HasPrefix(w.blobs.get("configurations.txt"), `{"id":"conf",`), true)
}

func TestJob_States(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.blobs.set("devices.txt", []byte(`{"id":"a"}`))
	w.blobs.block = make(chan struct{})
	j := w.start(t, importJob)
	is(t, "at first", j.Status, "enqueued")
	hubtest.Until(t, "the job to run", func() bool { j, _ := w.Transfer(t.Context(), j.ID); return j.Status == transfer.Running })
	r, err := transfer.Parse([]byte(importJob))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.CreateTransfer(t.Context(), r); !fault.Is(err, fault.QueueFull) {
		t.Errorf("a second job: %v", err)
	}
	if _, err := w.CancelTransfer(t.Context(), "nobody"); !fault.Is(err, fault.NotFound) {
		t.Errorf("an unknown job: %v", err)
	}
	if _, err := w.CancelTransfer(t.Context(), j.ID); err != nil {
		t.Fatal(err)
	}
	j = w.over(t, j.ID)
	is(t, "cancelled", j.Status, "cancelled")
	if _, err := w.CancelTransfer(t.Context(), j.ID); !fault.Is(err, fault.PreconditionFailed) {
		t.Errorf("cancelled twice: %v", err)
	}
	// The hub is free for another one at once, and the cancelled one did nothing.
	w.blobs.mu.Lock()
	w.blobs.block = nil
	w.blobs.mu.Unlock()
	if _, err := w.Device(t, "a"); !fault.Is(err, fault.NotFound) {
		t.Errorf("the cancelled import made a device: %v", err)
	}
	second := w.start(t, importJob)
	is(t, "second", w.over(t, second.ID).Status, "completed")

	missing := w.over(t, w.start(t, strings.Replace(importJob, "}", `,"inputBlobName":"none.txt"}`, 1)).ID)
	is(t, "a missing file", string(missing.Status)+" "+missing.Failure, "failed none.txt is not in the container")
	all, err := w.Transfers(t.Context())
	if err != nil || len(all) != 3 || all[0].ID != missing.ID || all[2].ID != j.ID {
		t.Errorf("list: %v, %v", all, err)
	}
	r.Output = "refused"
	if _, err := w.CreateTransfer(t.Context(), r); !fault.Is(err, fault.Invalid) {
		t.Errorf("a host that is not allowed: %v", err)
	}
}

// A server that stops in the middle of an import says so afterwards; an export begins again.
func TestJob_Restart(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"import", "export"} {
		w := open(t)
		w.World.Device(t, iot.ID{Device: "a"})
		w.blobs.set("devices.txt", []byte(`{"id":"b"}`))
		w.blobs.block = make(chan struct{})
		j := w.start(t, importJob)
		if kind == "export" {
			if _, err := w.CancelTransfer(t.Context(), j.ID); err != nil {
				t.Fatal(err)
			}
			w.over(t, j.ID)
			// An export ends too soon to be caught: put it into the store as a crash would leave it.
			r, _ := transfer.Parse([]byte(`{"type":"export","outputBlobContainerUri":"m"}`))
			var err error
			w.Close()
			w.Restart(t)
			if j, err = w.Store.CreateTransfer(t.Context(), transfer.Job{ID: "crashed", Request: r, Status: transfer.Running}); err != nil {
				t.Fatal(err)
			}
		} else {
			hubtest.Until(t, "the job to run", func() bool { j, _ := w.Transfer(t.Context(), j.ID); return j.Status == transfer.Running })
		}
		w.Restart(t)
		j = w.over(t, j.ID)
		want := map[string]transfer.Status{"import": transfer.Failed, "export": transfer.Completed}[kind]
		if j.Status != want || kind == "import" && !strings.Contains(j.Failure, "the server stopped") {
			t.Errorf("%s: %s %q", kind, j.Status, j.Failure)
		}
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		body string
		kind fault.Kind
	}{
		"no JSON":                  {`{`, fault.Malformed},
		"no type":                  {`{"outputBlobContainerUri":"m"}`, fault.Invalid},
		"another type":             {`{"type":"move","outputBlobContainerUri":"m"}`, fault.Invalid},
		"no input":                 {`{"type":"import","outputBlobContainerUri":"m"}`, fault.Invalid},
		"no output":                {`{"type":"export"}`, fault.Invalid},
		"another authentication":   {`{"type":"export","outputBlobContainerUri":"m","storageAuthenticationType":"none"}`, fault.Invalid},
		"a name that is a path up": {`{"type":"export","outputBlobContainerUri":"m","outputBlobName":"a/../b"}`, fault.Invalid},
		"a name with a backslash":  {`{"type":"export","outputBlobContainerUri":"m","outputBlobName":"a\\b"}`, fault.Invalid},
		"a long URI":               {`{"type":"export","outputBlobContainerUri":"` + strings.Repeat("m", 9000) + `"}`, fault.Invalid},
	} {
		if _, err := transfer.Parse([]byte(c.body)); !fault.Is(err, c.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r, err := transfer.Parse([]byte(`{"type":"Import","inputBlobContainerUri":"i","outputBlobContainerUri":"o","storageAuthenticationType":"IdentityBased","identity":{"userAssignedIdentity":"x"},"jobId":"ignored"}`))
	want := transfer.Request{Type: transfer.Import, Input: "i", Output: "o", InputBlob: "devices.txt", OutputBlob: "devices.txt", ConfigurationsBlob: "configurations.txt", IdentityBased: true}
	if err != nil || r != want {
		t.Errorf("got %+v, %v", r, err)
	}
}

// Whoever reads of a job does not get its tokens.
func TestDocument_HidesSignatures(t *testing.T) {
	t.Parallel()
	j := transfer.Job{ID: "1", Request: transfer.Request{Type: transfer.Import, Input: "https://h/i?sv=1&sig=c2VjcmV0&se=2", Output: "https://h/o?%73ig=c2VjcmV0&sv=1"}}
	doc := j.Document()
	if bytes.Contains(doc, []byte("c2VjcmV0")) || !bytes.Contains(doc, []byte(`"https://h/i?sv=1&sig=hidden&se=2"`)) || !bytes.Contains(doc, []byte(`"startTimeUtc":null`)) {
		t.Errorf("document %s", doc)
	}
}

// FuzzEachLine: every line is seen once, in order, and what is no row says why.
func FuzzEachLine(f *testing.F) {
	f.Add([]byte(`{"id":"a","importMode":"create"}` + "\r\n\n{\"id\":\"b\",\"tags\":{\"x\":1}}\nnonsense"))
	f.Add(append([]byte("\ufeff"), bytes.Repeat([]byte("x"), transfer.MaxLine+10)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		last := 0
		err := transfer.EachLine(bytes.NewReader(data), func(l transfer.Line) error {
			if l.Number <= last || l.Number > bytes.Count(data, []byte("\n"))+1 {
				t.Fatalf("line %d after %d", l.Number, last)
			}
			last = l.Number
			if l.Err == nil && (l.Entry.ID.Device == "" || l.Entry.Mode == "") {
				t.Fatalf("line %d is a row without id or mode", l.Number)
			}
			if l.Err != nil && !fault.Is(l.Err, fault.Malformed) && !fault.Is(l.Err, fault.Invalid) {
				t.Fatalf("line %d: %v", l.Number, l.Err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

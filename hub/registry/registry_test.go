package registry_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/storage/sqlite"
	"github.com/vauban-iot/vauban/wire/sas"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 678901200, time.UTC)

// world is a registry on a real store, with a clock that moves when it is told to.
type world struct {
	*registry.Registry
	ctx context.Context
	now time.Time
}

func open(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	sealer, err := secret.OpenSealer(dir + "/key")
	if err != nil {
		t.Fatal(err)
	}
	store, err := sqlite.Open(t.Context(), sqlite.Config{Path: dir + "/state.db", Sealer: sealer})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	w := &world{ctx: t.Context(), now: start}
	w.Registry, err = registry.New(registry.Config{Store: store, Now: func() time.Time { return w.now }})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func id(device string) iot.ID { return iot.ID{Device: device} }

// put is a PUT of a document: it creates without match, and updates with one.
func (w *world) put(t *testing.T, device, match, body string) (registry.Identity, error) {
	t.Helper()
	c, err := registry.ParseIdentity([]byte(body))
	if err != nil {
		return registry.Identity{}, err
	}
	if m := iot.ParseMatch(match); m != nil {
		return w.Update(w.ctx, id(device), m, c)
	}
	return w.Create(w.ctx, c.New(id(device)), nil)
}

func (w *world) mustPut(t *testing.T, device, match, body string) registry.Identity {
	t.Helper()
	d, err := w.put(t, device, match, body)
	if err != nil {
		t.Fatalf("put %s %s: %v", device, body, err)
	}
	return d
}

func refused(t *testing.T, what string, err error, k fault.Kind) {
	t.Helper()
	if !fault.Is(err, k) {
		t.Errorf("%s: got %v (%v), want %v", what, err, fault.KindOf(err), k)
	}
}

func TestRegistry_Create(t *testing.T) {
	w := open(t)
	for name, body := range map[string]string{
		"absent": `{"deviceId":"absent"}`, "null": `{"authentication":null}`,
		"empty": `{"deviceId":"empty","authentication":{"type":"sas","symmetricKey":{"primaryKey":"","secondaryKey":""}}}`,
		"nulls": `{"authentication":{"symmetricKey":{"primaryKey":null,"secondaryKey":null},"x509Thumbprint":{"primaryThumbprint":null}}}`,
	} {
		d := w.mustPut(t, name, "", body)
		a := d.Authentication
		if a.Type != registry.SAS || len(a.PrimaryKey.Reveal()) != 32 || len(a.SecondaryKey.Reveal()) != 32 || a.PrimaryKey.Matches(a.SecondaryKey.Reveal()) {
			t.Errorf("keys %s: got type %q, keys of %d and %d bytes", name, a.Type, len(a.PrimaryKey.Reveal()), len(a.SecondaryKey.Reveal()))
		}
		if d.Status != registry.Enabled || d.ETag == "" || len(d.Generation) != 18 {
			t.Errorf("%s: status %q, etag %q, generation %q", name, d.Status, d.ETag, d.Generation)
		}
		if tag, err := base64.StdEncoding.DecodeString(string(d.ETag)); err != nil || strings.Trim(string(tag), "0123456789") != "" {
			t.Errorf("etag %q is not the base64 of a number", d.ETag)
		}
	}
	_, err := w.put(t, "absent", "", `{}`)
	refused(t, "create again", err, fault.AlreadyExists)

	key := base64.StdEncoding.EncodeToString([]byte("0123456789abcdef"))
	d := w.mustPut(t, "one-key", "", `{"AUTHENTICATION":{"SymmetricKey":{"PrimaryKey":"`+key+`"}},"status":"disabled","statusReason":"not yet"}`)
	if d.Authentication.PrimaryKey.Base64() != key || d.Authentication.SecondaryKey.IsZero() || d.Status != registry.Disabled || d.StatusReason != "not yet" {
		t.Errorf("one key: got %+v", d)
	}

	d = w.mustPut(t, "thumb", "", `{"authentication":{"x509Thumbprint":{"primaryThumbprint":"`+strings.Repeat("a1:", 19)+`a1"}}}`)
	if d.Authentication.Type != registry.SelfSigned || d.Authentication.PrimaryThumbprint != strings.Repeat("A1", 20) || !d.Authentication.PrimaryKey.IsZero() {
		t.Errorf("thumbprint: got %+v", d.Authentication)
	}
	d = w.mustPut(t, "ca", "", `{"authentication":{"type":"certificateAuthority","symmetricKey":{"primaryKey":"`+key+`"}}}`)
	if !d.Authentication.PrimaryKey.IsZero() {
		t.Error("a certificateAuthority identity kept a key")
	}

	for name, body := range map[string]string{
		"short key":       `{"authentication":{"type":"sas","symmetricKey":{"primaryKey":"AAAA"}}}`,
		"long key":        `{"authentication":{"symmetricKey":{"primaryKey":"` + base64.StdEncoding.EncodeToString(make([]byte, 65)) + `"}}}`,
		"no base64":       `{"authentication":{"symmetricKey":{"primaryKey":"not base64!"}}}`,
		"type":            `{"authentication":{"type":"password"}}`,
		"no thumbprint":   `{"authentication":{"type":"selfSigned"}}`,
		"bad thumbprint":  `{"authentication":{"x509Thumbprint":{"primaryThumbprint":"abc"}}}`,
		"status":          `{"status":"asleep"}`,
		"reason":          `{"statusReason":"` + strings.Repeat("é", 129) + `"}`,
		"reason type":     `{"statusReason":7}`,
		"parent type":     `{"parentScopes":"x"}`,
		"a bad device id": `{}`,
	} {
		if name != "a bad device id" {
			name = strings.ReplaceAll(name, " ", "-")
		}
		_, err := w.put(t, name, "", body)
		refused(t, name, err, fault.Invalid)
		if _, err := w.Identity(w.ctx, id(name)); !fault.Is(err, fault.NotFound) {
			t.Errorf("%s was refused and still exists (%v)", name, err)
		}
	}
	for _, body := range []string{``, `[]`, `{"deviceId":`, `{"status":7}`, `{"capabilities":[]}`} {
		_, err := registry.ParseIdentity([]byte(body))
		refused(t, body, err, fault.Malformed)
	}
}

func TestRegistry_Update(t *testing.T) {
	w := open(t)
	old := w.mustPut(t, "d", "", `{}`)
	w.now = start.Add(time.Hour)
	d := w.mustPut(t, "d", `"*"`, `{"deviceId":"d","status":"disabled","statusReason":"lost","authentication":{"type":"sas","symmetricKey":{"primaryKey":"","secondaryKey":""}}}`)
	if !d.Authentication.PrimaryKey.Matches(old.Authentication.PrimaryKey.Reveal()) || !d.Authentication.SecondaryKey.Matches(old.Authentication.SecondaryKey.Reveal()) {
		t.Error("an update without key material changed the keys")
	}
	if d.ETag == old.ETag || d.Generation != old.Generation || !d.StatusTime.Equal(w.now.Truncate(time.Microsecond)) {
		t.Errorf("after the update: etag %s (was %s), generation %s (was %s), status time %v", d.ETag, old.ETag, d.Generation, old.Generation, d.StatusTime)
	}
	_, err := w.put(t, "d", `"`+string(old.ETag)+`"`, `{"status":"enabled"}`)
	refused(t, "a stale etag", err, fault.PreconditionFailed)
	_, err = w.put(t, "d", `"abc"`, `{"status":"enabled"}`)
	refused(t, "a nonsense etag", err, fault.PreconditionFailed)
	d = w.mustPut(t, "d", `W/"`+string(d.ETag)+`"`, `{"status":"enabled","statusReason":null}`)
	if d.Status != registry.Enabled || d.StatusReason != "" {
		t.Errorf("after enabling: %q %q", d.Status, d.StatusReason)
	}
	key := secret.Random(64)
	d = w.mustPut(t, "d", `*`, `{"authentication":{"type":"sas","symmetricKey":{"primaryKey":"`+key.Base64()+`"}}}`)
	if !d.Authentication.PrimaryKey.Matches(key.Reveal()) || !d.Authentication.SecondaryKey.Matches(old.Authentication.SecondaryKey.Reveal()) {
		t.Error("a new primary key was not stored, or changed the secondary one")
	}
	d = w.mustPut(t, "d", `*`, `{"authentication":{"type":"selfSigned","x509Thumbprint":{"primaryThumbprint":"`+strings.Repeat("0", 64)+`"}}}`)
	if !d.Authentication.PrimaryKey.IsZero() {
		t.Error("the keys outlived the change to a thumbprint")
	}
	d = w.mustPut(t, "d", `*`, `{"authentication":{"type":"selfSigned"},"status":"enabled"}`)
	if d.Authentication.PrimaryThumbprint != strings.Repeat("0", 64) {
		t.Error("an update without thumbprints lost them")
	}
	if d = w.mustPut(t, "d", `*`, `{"authentication":{"type":"sas"}}`); d.Authentication.PrimaryKey.IsZero() || d.Authentication.PrimaryThumbprint != "" {
		t.Error("back to keys: none was made, or the thumbprint stayed")
	}
	_, err = w.put(t, "d", `*`, `{"status":"x"}`)
	refused(t, "a bad status", err, fault.Invalid)
	_, err = w.put(t, "nobody", `*`, `{}`)
	refused(t, "an unknown device", err, fault.NotFound)

	refused(t, "delete with a stale etag", w.Delete(w.ctx, id("d"), iot.ParseMatch(`"x"`)), fault.PreconditionFailed)
	if err := w.Delete(w.ctx, id("d"), iot.ParseMatch("*")); err != nil {
		t.Fatal(err)
	}
	refused(t, "delete again", w.Delete(w.ctx, id("d"), nil), fault.NotFound)
	if again := w.mustPut(t, "d", "", `{}`); again.Generation == old.Generation {
		t.Error("a device made again has the generation of the old one")
	}
}

func TestRegistry_Scopes(t *testing.T) {
	w := open(t)
	edge := w.mustPut(t, "gw-1", "", `{"capabilities":{"iotEdge":true}}`)
	if want := "ms-azure-iot-edge://gw-1-" + edge.Generation; edge.Scope != want {
		t.Fatalf("scope of an edge device is %q, want %q", edge.Scope, want)
	}
	w.mustPut(t, "no-edge", "", `{}`)
	leaf := w.mustPut(t, "leaf", "", `{"deviceScope":"`+edge.Scope+`"}`)
	if leaf.Scope != edge.Scope || len(leaf.ParentScopes) != 1 || leaf.ParentScopes[0] != edge.Scope {
		t.Errorf("leaf stands in %q under %q", leaf.Scope, leaf.ParentScopes)
	}
	for _, scope := range []string{"nonsense", "ms-azure-iot-edge://gw-1-1", "ms-azure-iot-edge://nobody-1", "ms-azure-iot-edge://no-edge-1", "ms-azure-iot-edge://"} {
		_, err := w.put(t, "leaf", "*", `{"deviceScope":"`+scope+`"}`)
		refused(t, "scope "+scope, err, fault.InvalidScope)
	}
	// The CLI changes one member and sends the other as it was.
	leaf = w.mustPut(t, "leaf", "*", `{"deviceScope":"","parentScopes":["`+edge.Scope+`"]}`)
	if leaf.Scope != "" || leaf.ParentScopes != nil {
		t.Errorf("after clearing: %q under %q", leaf.Scope, leaf.ParentScopes)
	}
	leaf = w.mustPut(t, "leaf", "*", `{"deviceScope":"","parentScopes":["`+edge.Scope+`"]}`)
	if leaf.Scope != edge.Scope {
		t.Errorf("a parent given by parentScopes alone: %q", leaf.Scope)
	}
	w.mustPut(t, "gw-2", "", `{"capabilities":{"iotEdge":true},"parentScopes":["`+edge.Scope+`"]}`)
	inner := w.mustPut(t, "gw-2", "*", `{"capabilities":{"iotEdge":true},"deviceScope":"ignored","statusReason":"x"}`)
	if inner.Scope != "ms-azure-iot-edge://gw-2-"+inner.Generation || len(inner.ParentScopes) != 1 {
		t.Errorf("an update without parents: %q under %q", inner.Scope, inner.ParentScopes)
	}
	if inner = w.mustPut(t, "gw-2", "*", `{"parentScopes":[]}`); len(inner.ParentScopes) != 0 {
		t.Errorf("cleared parents are %q", inner.ParentScopes)
	}
	_, err := w.put(t, "gw-2", "*", `{"parentScopes":["`+inner.Scope+`"]}`)
	refused(t, "its own parent", err, fault.InvalidScope)
	if d := w.mustPut(t, "gw-2", "*", `{"capabilities":{"iotEdge":false}}`); d.Edge || d.Scope != "" {
		t.Errorf("no edge device any more: edge %v, scope %q", d.Edge, d.Scope)
	}
	if d := w.mustPut(t, "leaf", "*", `{"capabilities":{"iotEdge":true}}`); d.Scope != "ms-azure-iot-edge://leaf-"+d.Generation || d.ParentScopes != nil {
		t.Errorf("a leaf made a gateway: %q under %q", d.Scope, d.ParentScopes)
	}
}

func TestIdentity_Proves(t *testing.T) {
	primary, secondary := secret.Random(32), secret.Random(32)
	d := registry.Identity{Authentication: registry.Authentication{Type: registry.SAS, PrimaryKey: primary, SecondaryKey: secondary}}
	token := func(key secret.Secret) sas.Token {
		tok, err := sas.Parse(sas.Sign("host/devices/d", key.Reveal(), start, ""))
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	if !d.VerifyToken(token(primary)) || !d.VerifyToken(token(secondary)) || d.VerifyToken(token(secret.Random(32))) {
		t.Error("want both keys and no other to verify")
	}
	if (registry.Identity{Authentication: registry.Authentication{Type: registry.SAS}}).VerifyToken(token(primary)) {
		t.Error("an identity without keys verified a token")
	}
	one, two := strings.Repeat("AB", 20), strings.Repeat("CD", 32)
	d.Authentication = registry.Authentication{Type: registry.SelfSigned, PrimaryThumbprint: one, SecondaryThumbprint: two}
	if !d.MatchesThumbprint(strings.ToLower(one), "x") || !d.MatchesThumbprint("x", strings.ToLower(two)) {
		t.Error("want either thumbprint to match in lower case")
	}
	if d.MatchesThumbprint(strings.Repeat("00", 20), "") {
		t.Error("an unknown thumbprint matched")
	}
	d.Authentication.Type = registry.CertificateAuthority
	if d.MatchesThumbprint(one, two) {
		t.Error("a thumbprint matched on an identity of another type")
	}
}

func TestDocuments(t *testing.T) {
	d := registry.Identity{
		ID: id("d&1"), Generation: "638", ETag: "MQ==", Status: registry.Enabled, StatusTime: start,
		Authentication: registry.Authentication{Type: registry.SAS, PrimaryKey: secret.New([]byte("0123456789abcdef")), SecondaryKey: secret.New([]byte("fedcba9876543210"))},
		Connected:      true, ConnectionTime: start, Pending: 3,
	}
	want := `{"deviceId":"d&1","generationId":"638","etag":"MQ==","connectionState":"Connected","status":"enabled","statusReason":null,` +
		`"connectionStateUpdatedTime":"2026-01-02T03:04:05.6789012Z","statusUpdatedTime":"2026-01-02T03:04:05.6789012Z","lastActivityTime":"0001-01-01T00:00:00Z",` +
		`"cloudToDeviceMessageCount":3,"authentication":{"symmetricKey":{"primaryKey":"MDEyMzQ1Njc4OWFiY2RlZg==","secondaryKey":"ZmVkY2JhOTg3NjU0MzIxMA=="},` +
		`"x509Thumbprint":{"primaryThumbprint":null,"secondaryThumbprint":null},"type":"sas"},"capabilities":{"iotEdge":false},"parentScopes":[]}`
	if got := string(d.MarshalDocument()); got != want {
		t.Errorf("identity document\n got %s\nwant %s", got, want)
	}
	tw := twin.New(d.ID)
	tw.Tags = json.RawMessage(`{"a":"<&>"}`)
	tw.ModelID = "dtmi:x;1"
	want = `{"deviceId":"d&1","modelId":"dtmi:x;1","etag":"AAAAAAAAAAE=","deviceEtag":"MQ==","status":"enabled","statusReason":null,"statusUpdateTime":"2026-01-02T03:04:05.6789012Z",` +
		`"connectionState":"Connected","lastActivityTime":"0001-01-01T00:00:00Z","cloudToDeviceMessageCount":3,"authenticationType":"sas",` +
		`"x509Thumbprint":{"primaryThumbprint":null,"secondaryThumbprint":null},"version":2,"tags":{"a":"<&>"},"properties":` + string(tw.Properties()) +
		`,"capabilities":{"iotEdge":false},"parentScopes":[]}`
	if got := string(registry.TwinDocument(d, tw)); got != want {
		t.Errorf("twin document\n got %s\nwant %s", got, want)
	}
}

func TestDocuments_EveryAuthentication(t *testing.T) {
	conform.Covers(t, "HS-027", "HS-028")
	for typ, want := range map[registry.AuthType]string{
		registry.SAS:                  `{"symmetricKey":{"primaryKey":"AQE=","secondaryKey":"AgI="},"x509Thumbprint":{"primaryThumbprint":null,"secondaryThumbprint":null},"type":"sas"}`,
		registry.SelfSigned:           `{"symmetricKey":{"primaryKey":null,"secondaryKey":null},"x509Thumbprint":{"primaryThumbprint":"AA","secondaryThumbprint":"BB"},"type":"selfSigned"}`,
		registry.CertificateAuthority: `{"symmetricKey":{"primaryKey":null,"secondaryKey":null},"x509Thumbprint":{"primaryThumbprint":null,"secondaryThumbprint":null},"type":"certificateAuthority"}`,
		registry.None:                 `{"symmetricKey":{"primaryKey":null,"secondaryKey":null},"x509Thumbprint":{"primaryThumbprint":null,"secondaryThumbprint":null},"type":"none"}`,
	} {
		a := registry.Authentication{Type: typ}
		switch typ {
		case registry.SAS:
			a.PrimaryKey, a.SecondaryKey = secret.New([]byte{1, 1}), secret.New([]byte{2, 2})
		case registry.SelfSigned:
			a.PrimaryThumbprint, a.SecondaryThumbprint = "AA", "BB"
		}
		var doc struct{ Authentication json.RawMessage }
		if err := json.Unmarshal(registry.Identity{Authentication: a}.MarshalDocument(), &doc); err != nil {
			t.Fatal(err)
		}
		if string(doc.Authentication) != want {
			t.Errorf("%s:\n got %s\nwant %s", typ, doc.Authentication, want)
		}
	}
}

// FuzzParseIdentity requires that what is accepted makes an identity whose document reads
// back as the same change.
func FuzzParseIdentity(f *testing.F) {
	f.Add([]byte(`{"deviceId":"d","status":"disabled","statusReason":"x","authentication":{"type":"sas","symmetricKey":{"primaryKey":"AAAAAAAAAAAAAAAAAAAAAA=="}},"capabilities":{"iotEdge":true},"parentScopes":["a"]}`))
	f.Add([]byte(`{"deviceScope":"s","authentication":{"x509Thumbprint":{"primaryThumbprint":"aa:bb"}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := registry.ParseIdentity(body)
		if err != nil {
			return
		}
		d := c.New(id("d"))
		again, err := registry.ParseIdentity(d.MarshalDocument())
		if err != nil {
			t.Fatalf("%s reads as a document that does not read back: %v", body, err)
		}
		e := again.New(id("d"))
		if e.Status != d.Status || e.Edge != d.Edge || e.StatusReason != d.StatusReason || e.Scope != d.Scope {
			t.Fatalf("%s gave %+v, its document %+v", body, d, e)
		}
	})
}

func TestIdentity_WithThumbprint(t *testing.T) {
	t.Parallel()
	a, b, fresh := strings.Repeat("A", 64), strings.Repeat("B", 40), strings.Repeat("c", 64)
	done := strings.ToUpper(fresh)
	for name, tc := range map[string]struct {
		primary, secondary string
		shown              []string
		want               [2]string
		ok                 bool
	}{
		"primary shown":          {a, "", []string{"00", strings.ToLower(a)}, [2]string{a, done}, true},
		"primary shown of two":   {a, b, []string{a}, [2]string{a, done}, true},
		"secondary shown":        {a, b, []string{strings.ToLower(b), "00"}, [2]string{done, b}, true},
		"secondary shown of one": {"", b, []string{b}, [2]string{done, b}, true},
		"both the same":          {a, a, []string{a}, [2]string{a, done}, true},
		"another shown":          {a, b, []string{"00"}, [2]string{a, b}, false},
		"nothing shown":          {a, "", nil, [2]string{a, ""}, false},
		"empty shown":            {a, "", []string{""}, [2]string{a, ""}, false},
	} {
		d := registry.Identity{ETag: "e", Authentication: registry.Authentication{Type: registry.SelfSigned, PrimaryThumbprint: tc.primary, SecondaryThumbprint: tc.secondary}}
		got, ok := d.WithThumbprint(fresh, tc.shown...)
		if has := [2]string{got.Authentication.PrimaryThumbprint, got.Authentication.SecondaryThumbprint}; ok != tc.ok || has != tc.want || (got.ETag != d.ETag) != tc.ok {
			t.Errorf("%s: got %v, %v with ETag %q; want %v, %v", name, has, ok, got.ETag, tc.want, tc.ok)
		}
	}
	d := registry.Identity{Authentication: registry.Authentication{Type: registry.CertificateAuthority, PrimaryThumbprint: a}}
	if _, ok := d.WithThumbprint(fresh, a); ok {
		t.Error("a device that is not known by thumbprints got one")
	}
}

package dps_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/dps/dpstest"
	"github.com/vauban-iot/vauban/fault"
)

func rows(texts ...string) (rs []json.RawMessage) {
	for _, t := range texts {
		rs = append(rs, json.RawMessage(t))
	}
	return rs
}

func TestImport(t *testing.T) {
	for _, group := range []bool{false, true} {
		t.Run(fmt.Sprintf("group %v", group), func(t *testing.T) {
			w, ctx := dpstest.New(t), t.Context()
			id := "registrationId"
			if group {
				id = "enrollmentGroupId"
			}
			row := func(name, more string) string {
				return fmt.Sprintf(`{%q:%q,"attestation":{"type":"symmetricKey"}%s}`, id, name, more)
			}
			in := dps.Import{Group: group, Mode: "create", DryRun: true, Rows: rows(
				row("a", ""), row("b", disabled), `{`, row("A", ""), row("c", `,"iotHubs":["other"]`), row("", ""), `{"`+id+`":"d"}`)}
			want := func(what string, out dps.Imported, err error, created, updated int, refused ...string) {
				t.Helper()
				if err != nil || out.Created != created || out.Updated != updated || len(out.Errors) != len(refused) {
					t.Fatalf("%s: %+v, %v; want %d created, %d updated, %d refused", what, out, err, created, updated, len(refused))
				}
				for i, e := range out.Errors {
					if got := fmt.Sprintf("%d %s %d %s", e.Row, e.Name, e.Code, e.Message); !strings.HasPrefix(got, refused[i]) {
						t.Errorf("%s: refused %q, want %q", what, got, refused[i])
					}
				}
			}
			refused := []string{"2  400006 the body is not the JSON", "3 A 400004 A is there twice", `4 c 400004 hub "other" is not linked`, "5  400004 " + id, "6 d 400004 attestation is missing"}
			out, err := w.Import(ctx, in)
			want("dry run", out, err, 2, 0, refused...)
			if _, err := w.Enrollment(ctx, group, "a"); !fault.Is(err, fault.NotFound) {
				t.Fatalf("a dry run wrote: %v", err)
			}
			in.DryRun = false
			out, err = w.Import(ctx, in)
			want("create", out, err, 2, 0, refused...)
			keys, err := w.Attestation(ctx, group, "a")
			if err != nil || strings.Count(string(keys), "Key\":\"\"") > 0 {
				t.Fatalf("keys %s, %v", keys, err)
			}
			out, err = w.Import(ctx, in)
			want("again", out, err, 0, 0, append([]string{"0 a 409001 a exists", "1 b 409001 b exists"}, refused...)...)

			out, err = w.Import(ctx, dps.Import{Group: group, Mode: "update", Rows: rows(row("A", disabled), row("z", ""))})
			want("update", out, err, 0, 1, "1 z 404001 there is no z")
			kept, err := w.Attestation(ctx, group, "a")
			if err != nil || string(kept) != string(keys) {
				t.Errorf("an update without keys changed them: %s, %v", kept, err)
			}
			if d, err := w.Enrollment(ctx, group, "a"); err != nil || !strings.Contains(string(d.JSON), `"provisioningStatus":"disabled"`) {
				t.Errorf("after the update %s, %v", d.JSON, err)
			}
			out, err = w.Import(ctx, dps.Import{Group: group, Mode: "createOrUpdate", Rows: rows(row("a", ""), row("n", ""))})
			want("both", out, err, 1, 1)
		})
	}
	w := dpstest.New(t)
	for _, in := range []dps.Import{{Mode: "replace"}, {Mode: "create", Rows: make([]json.RawMessage, dps.MaxImport+1)}} {
		if _, err := w.Import(t.Context(), in); !fault.Is(err, fault.Invalid) {
			t.Errorf("mode %s with %d rows: %v", in.Mode, len(in.Rows), err)
		}
	}
}

// BenchmarkImport measures an import of 100,000 enrollments with keys of their own, in parts as the command line sends them.
// The work order allows 10 s.
func BenchmarkImport(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		w := dpstest.New(b)
		b.StartTimer()
		const total = 100_000
		for from := 0; from < total; from += dps.MaxImport {
			in := dps.Import{Mode: "create"}
			for i := range dps.MaxImport {
				in.Rows = append(in.Rows, json.RawMessage(fmt.Sprintf(
					`{"registrationId":"dev-%06d","attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":%q,"secondaryKey":%q}},"initialTwin":{"tags":{"site":"lyon"}}}`,
					from+i, groupKey, otherKey)))
			}
			out, err := w.Import(b.Context(), in)
			if err != nil || out.Created != dps.MaxImport {
				b.Fatalf("%+v, %v", out, err)
			}
		}
	}
}

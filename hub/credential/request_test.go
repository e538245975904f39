package credential

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/fault"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]request{
		`{"id":"d/m","csr":"AAE="}`:                                             {csr: []byte{0, 1}},
		" {\"csr\":\"AAE=\",\n\"id\":\"d/m\",\"replace\":\"*\"}\t":              {csr: []byte{0, 1}, replace: "*"},
		`{"id":"d\u002fm","csr":"AAE=","replace":null}`:                         {csr: []byte{0, 1}},
		`{"id":"d/m","csr":"AAE=","replace":"a-b9"}`:                            {csr: []byte{0, 1}, replace: "a-b9"},
		`{"id":"d/m","csr":"AAE=","replace":"1234"}`:                            {csr: []byte{0, 1}, replace: "1234"},
		`{"id":"d/m","csr":"AAE=","replace":"` + strings.Repeat("z", 36) + `"}`: {csr: []byte{0, 1}, replace: strings.Repeat("z", 36)},
	} {
		if got, err := parse("d/m", []byte(body)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v; want %+v", body, got, err, want)
		}
	}
	largest := base64.StdEncoding.EncodeToString(make([]byte, 6144))
	if got, err := parse("d", fmt.Appendf(nil, `{"id":"d","csr":%q}`, largest)); err != nil || len(largest) != maxRequestText || len(got.csr) != 6144 {
		t.Errorf("the largest request: %d bytes, %v", len(got.csr), err)
	}
	// What devices may get wrong on the wire is in head/mqtt's table; here are the bodies that tell this parser from a lax one.
	for body, want := range map[string]fault.Kind{
		`{"id":"d","csr":"AAE"}`:                        fault.Invalid, // no padding
		`{"id":"d","csr":"AAF="}`:                       fault.Invalid, // bits left over
		`{"id":"d","csr":"===="}`:                       fault.Invalid,
		`{"id":"d","csr":"\n"}`:                         fault.Invalid, // decodes to nothing
		`{"id":"d","csr":"AAE=","replace":"*a"}`:        fault.Invalid,
		`{"id":"d","csr":"AAE=","replace":"a\u00e9bc"}`: fault.Invalid,
		`{"id":"d","csr":"AAE=","replace":false}`:       fault.Invalid,
		`{"id":"d","csr":"AAE=","":1}`:                  fault.Invalid,
		`{"id":["d"],"csr":"AAE="}`:                     fault.Invalid,
		"{\"id\":\"d\",\"csr\":\"AAE=\"}\f":             fault.Malformed, // JSON's white space is less than Unicode's
		`{"id":"d","csr":"AAE="}x`:                      fault.Malformed,
		"{\"id\":\"d\",\"csr\":\"AAE=\n\"}":             fault.Malformed, // a raw line feed in a string
		strings.Repeat("[", 1<<16):                      fault.Malformed,
	} {
		if got, err := parse("d", []byte(body)); !fault.Is(err, want) || !reflect.DeepEqual(got, request{}) {
			t.Errorf("%.60s: got %+v, %v; want %v", body, got, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", "{}", `{"id":"d","csr":"AAE="}`, `{"id":"d","csr":"AAE=","replace":"*"}`, `{"id":"d","csr":"AAE=","replace":"a-b-c"}`,
		`{"id":"d","csr":`, `["id"]`, `{"id":1,"csr":null,"replace":{}}`, `{"id":"d","id":"e","csr":"AAE=","unknownField":[]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := parse("d", body)
		if err != nil {
			if k := fault.KindOf(err); k != fault.Invalid && k != fault.Malformed || (k == fault.Malformed) == (json.Valid(body) || len(bytes.Trim(body, " \t\r\n")) == 0) || !reflect.DeepEqual(r, request{}) {
				t.Fatalf("parse(%q) = %+v, %v (%v)", body, r, err, k)
			}
			return
		}
		if len(r.csr) == 0 || len(r.csr) > maxRequestText {
			t.Fatalf("parse(%q) takes a request of %d bytes", body, len(r.csr))
		}
		m := map[string]any{"id": "d", "csr": r.csr}
		if r.replace != "" {
			m["replace"] = r.replace
		}
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parse("d", text); err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("%q as %q is %+v, %v; was %+v", body, text, again, err, r)
		}
	})
}

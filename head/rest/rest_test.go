package rest

import (
	"net/http/httptest"
	"slices"
	"testing"
)

func TestSegments(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		path string
		want []string
	}{
		{"/", nil},
		{"/devices/d1", []string{"devices", "d1"}},
		{"/devices/", []string{"devices"}},
		{"/devices/d%231", []string{"devices", "d#1"}},
		{"/devices%2Fd1", []string{"devices", "d1"}},
		{"/twins%2fd1%2Fmodules%2Fm1", []string{"twins", "d1", "modules", "m1"}},
		{"/devices%2Fd%25231%2Fmessages%2FdeviceBound", []string{"devices", "d#1", "messages", "deviceBound"}},
		{"/devices/a%2Fb", []string{"devices", "a/b"}},
	} {
		r := httptest.NewRequest("GET", "https://hub"+c.path, nil)
		if got := Segments(r); !slices.Equal(got, c.want) {
			t.Errorf("Segments(%q) = %q, want %q", c.path, got, c.want)
		}
	}
}

func TestLiteral(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		path string
		want []string
	}{
		{"/devices/a%2520b", nil},
		{"/devices%2Fd1", nil},
		{"/devices%2Fa%2541", []string{"devices", "a%41"}},
		{"/devices%2Fa%25b", nil}, // a broken escape was taken literally already
	} {
		r := httptest.NewRequest("GET", "https://hub"+c.path, nil)
		if got := Literal(r); !slices.Equal(got, c.want) {
			t.Errorf("Literal(%q) = %q, want %q", c.path, got, c.want)
		}
	}
}

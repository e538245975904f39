package fault_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/fault"
)

func TestKinds_AllNamed(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for i, k := range fault.Kinds() {
		if int(k) != i || strings.HasPrefix(k.String(), "kind ") || seen[k.String()] {
			t.Errorf("kind %d is called %q", i, k)
		}
		seen[k.String()] = true
	}
	if n := len(fault.Kinds()); fault.Kind(n).String() != fmt.Sprint("kind ", n) || fault.Kind(-1).String() != "kind -1" {
		t.Error("a kind that does not exist has a name")
	}
}

func TestError(t *testing.T) {
	t.Parallel()
	wrapped := fault.Wrap(fault.Unavailable, io.ErrUnexpectedEOF, "the log %s", "is gone")
	outer := fmt.Errorf("append: %w", wrapped)
	for name, tc := range map[string]struct {
		err    error
		kind   fault.Kind
		text   string
		public string
	}{
		"new":           {fault.New(fault.Invalid, "bad %d", 1), fault.Invalid, "bad 1", "bad 1"},
		"wrapped":       {wrapped, fault.Unavailable, "the log is gone: unexpected EOF", "the log is gone"},
		"further in":    {outer, fault.Unavailable, "append: the log is gone: unexpected EOF", "the log is gone"},
		"the outermost": {fault.Wrap(fault.NotFound, outer, "no device"), fault.NotFound, "no device: append: the log is gone: unexpected EOF", "no device"},
		"unclassified":  {io.EOF, fault.Internal, "EOF", "the server could not complete the request"},
		"internal":      {fault.New(fault.Internal, "nil pointer in /secret"), fault.Internal, "nil pointer in /secret", "the server could not complete the request"},
	} {
		if got := fault.KindOf(tc.err); got != tc.kind || !fault.Is(tc.err, tc.kind) {
			t.Errorf("%s: kind %v, want %v", name, got, tc.kind)
		}
		if tc.err.Error() != tc.text || fault.Public(tc.err) != tc.public {
			t.Errorf("%s: %q, public %q; want %q, %q", name, tc.err, fault.Public(tc.err), tc.text, tc.public)
		}
	}
	if !errors.Is(outer, io.ErrUnexpectedEOF) {
		t.Error("the cause is lost")
	}
	if fault.Is(nil, fault.Internal) {
		t.Error("no error is an internal one")
	}
}

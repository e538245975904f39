package mqtt

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/fault"
)

// The tables are complete: each kind has its own answer, in words a device knows.
func TestErrors_EveryKind(t *testing.T) {
	t.Parallel()
	codes := map[int]fault.Kind{}
	for _, k := range fault.Kinds() {
		err := fault.New(k, "a reason of kind %v", k)
		connack := refusal(err)
		want := byte(refusedCredentials)
		switch k {
		case fault.Disabled, fault.Throttled, fault.Unavailable, fault.Timeout, fault.Internal, fault.QueueFull, fault.QuotaExceeded:
			want = refusedUnavailable // come back later
		}
		if connack != want {
			t.Errorf("%v: CONNACK %d, want %d", k, connack, want)
		}

		status, code := twinCode(k)
		if code/1000 != status {
			t.Errorf("%v: status %d does not fit code %d", k, status, code)
		}
		if k != fault.Internal && code == 500001 {
			t.Errorf("%v is answered like a defect of ours", k)
		}
		if other, ok := codes[code]; ok && code != 400004 && code != 401003 {
			t.Errorf("%v and %v share code %d", k, other, code)
		}
		codes[code] = k

		wantStatus, wantCode := status, code
		switch k {
		case fault.AlreadyExists:
			wantStatus, wantCode = 409, 409004
		case fault.Throttled:
			wantStatus, wantCode = 429, 429002
		}
		var refused certificateError
		certStatus, certBody := certificateRefusal(err)
		if jerr := json.Unmarshal(certBody, &refused); jerr != nil || certStatus != wantStatus || refused.ErrorCode != wantCode || refused.Info != nil {
			t.Errorf("%v: a certificate request is refused with %d %s (%v), want %d and %d", k, certStatus, certBody, jerr, wantStatus, wantCode)
		}

		gotStatus, body := twinRefusal(err)
		var e struct {
			ErrorCode int
			Message   string
		}
		if jerr := json.Unmarshal(body, &e); jerr != nil || gotStatus != status || e.ErrorCode != code {
			t.Errorf("%v: body %s (%v), want status %d and code %d", k, body, jerr, status, code)
		}
		if opaque := k == fault.Internal; strings.Contains(e.Message, "a reason") == opaque {
			t.Errorf("%v: message %q", k, e.Message)
		}
	}
}

// What nobody classified says nothing to the device, nor does the cause of what was.
func TestErrors_CausesStayInside(t *testing.T) {
	t.Parallel()
	inner := errors.New("open /secret/path: permission denied")
	for _, err := range []error{inner, fault.Wrap(fault.Unavailable, inner, "the database is not available"), fault.Wrap(fault.Internal, inner, "/secret")} {
		if _, body := twinRefusal(err); strings.Contains(string(body), "secret") {
			t.Errorf("the device reads %s", body)
		}
		if _, body := certificateRefusal(err); strings.Contains(string(body), "secret") {
			t.Errorf("the device reads %s", body)
		}
	}
}

func TestPacketIDs_SkipZero(t *testing.T) {
	t.Parallel()
	var p packetIDs
	p.n.Store(65534)
	if a, b := p.next(), p.next(); a != 65535 || b != 1 {
		t.Errorf("after 65534 come %d and %d, want 65535 and 1", a, b)
	}
}

func TestMethodIDs_WrapAndSkip(t *testing.T) {
	t.Parallel()
	d := newTestDevice(t)
	seen := map[uint32]bool{}
	// Five hexadecimal digits at most: small boards have a buffer of six bytes.
	d.rid = 0xfffff - 2
	for range 5 {
		d.Method("m", nil, func(int, []byte, error) {})
	}
	for rid := range d.calls {
		seen[rid] = true
	}
	for _, want := range []uint32{0xffffe, 0xfffff, 1, 2, 3} {
		if !seen[want] {
			t.Errorf("rid %x was not given out: %v", want, seen)
		}
	}
	d.rid = 0xfffff - 2 // all of the next five are taken
	d.Method("m", nil, func(int, []byte, error) {})
	if _, ok := d.calls[4]; !ok || len(d.calls) != 6 {
		t.Errorf("a live rid was given out again: %v", d.calls)
	}
}

// The calls of one device are bounded.
func TestMethod_Bound(t *testing.T) {
	t.Parallel()
	d := newTestDevice(t)
	for range maxCalls {
		d.Method("m", nil, func(int, []byte, error) { t.Error("answered") })
	}
	var got error
	d.Method("m", nil, func(_ int, _ []byte, err error) { got = err })
	if !fault.Is(got, fault.Throttled) {
		t.Errorf("one call too many got %v, want throttled", got)
	}
	for rid, c := range d.calls { // nobody waits for these any more
		c.until = c.until.Add(-2 * callLife)
		d.calls[rid] = c
	}
	got = nil
	d.Method("m", nil, func(_ int, _ []byte, err error) { got = err })
	if got != nil || len(d.calls) != 1 {
		t.Errorf("stale calls were not dropped: %d left, %v", len(d.calls), got)
	}
}

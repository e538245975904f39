package i2c

import (
	"errors"
	"testing"
	"time"
)

type clock struct{ now time.Duration }

func (c *clock) Uptime() time.Duration { return c.now }
func (c *clock) Busy(d time.Duration)  { c.now += d }

type echo struct {
	got  []byte
	at   time.Duration
	fail error
}

func (e *echo) Write(now time.Duration, data []byte) error {
	e.got, e.at = append(e.got[:0], data...), now
	return e.fail
}

func (e *echo) Read(_ time.Duration, data []byte) error {
	for i := range data {
		data[i] = byte(i + 1)
	}
	return nil
}

func TestBus_TakesTheTimeOfItsClocks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		out, in int
		bits    int
	}{
		{0, 0, 2 + 9},            // address only
		{2, 0, 2 + 9 + 18},       // address, two bytes
		{1, 6, 2 + 18 + 10 + 54}, // register, repeated start, six bytes
		{0, 1, 2 + 10 + 9},       // read only: its start counts once more
	} {
		cpu := &clock{now: time.Second}
		b, err := New(cpu, 100_000)
		if err != nil {
			t.Fatal(err)
		}
		d := &echo{}
		if err := b.Attach(0x5F, d); err != nil {
			t.Fatal(err)
		}
		if err := b.Transfer(0x5F, make([]byte, c.out), make([]byte, c.in)); err != nil {
			t.Fatal(err)
		}
		if got, want := cpu.now-time.Second, time.Duration(c.bits)*10*time.Microsecond; got != want {
			t.Errorf("%d bytes out, %d in: %v, want %v", c.out, c.in, got, want)
		}
		if n := b.Count(); n.Transfers != 1 || n.Bytes != uint64(c.out+c.in) || n.Refused != 0 {
			t.Errorf("count %+v", n)
		}
	}
}

func TestBus_NobodyAcknowledges(t *testing.T) {
	t.Parallel()
	cpu := &clock{}
	b, err := New(cpu, 400_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []uint8{0x10, 0x77, 0x80, 0xFF} {
		if err := b.Transfer(address, []byte{1}, nil); !errors.Is(err, ErrNoAcknowledge) {
			t.Errorf("address %#x: %v", address, err)
		}
	}
	if cpu.now == 0 || b.Count().Refused != 4 {
		t.Errorf("it took %v, count %+v", cpu.now, b.Count())
	}
	refused := errors.New("not now")
	if err := b.Attach(0x20, &echo{fail: refused}); err != nil {
		t.Fatal(err)
	}
	if err := b.Transfer(0x20, []byte{1}, make([]byte, 1)); !errors.Is(err, refused) {
		t.Errorf("a device's own refusal came as %v", err)
	}
}

func TestBus_IsStuckUntilRecovered(t *testing.T) {
	t.Parallel()
	cpu := &clock{}
	b, err := New(cpu, 400_000)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Attach(0x20, &echo{}); err != nil {
		t.Fatal(err)
	}
	broken := ErrBus
	b.Break(func(uint8, time.Duration) error { defer func() { broken = nil }(); return broken })
	for range 2 {
		if err := b.Transfer(0x20, []byte{1}, nil); !errors.Is(err, ErrBus) {
			t.Errorf("got %v", err)
		}
	}
	b.Recover()
	if err := b.Transfer(0x20, []byte{1}, nil); err != nil {
		t.Errorf("after Recover: %v", err)
	}
}

func TestBus_Refusals(t *testing.T) {
	t.Parallel()
	if _, err := New(&clock{}, 10); err == nil {
		t.Error("a bus of 10 Hz")
	}
	b, err := New(&clock{}, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	if b.Attach(0x07, &echo{}) == nil || b.Attach(0x78, &echo{}) == nil {
		t.Error("a device at a reserved address")
	}
	if b.Attach(0x20, &echo{}) != nil || b.Attach(0x20, &echo{}) == nil {
		t.Error("two devices at one address")
	}
}

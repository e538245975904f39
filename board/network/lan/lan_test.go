package lan

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func frame(to, from MAC, data byte) []byte {
	return append(append(append([]byte(nil), to[:]...), from[:]...), 0x08, 0x00, data)
}

var all = MAC{255, 255, 255, 255, 255, 255}

type bench struct {
	sw    *Switch
	ports []*Port
	log   []string
}

func newBench(t *testing.T, cfg Config, links ...Link) *bench {
	t.Helper()
	b := &bench{sw: New(cfg)}
	for i, l := range links {
		p, err := b.sw.Connect(l, func(f []byte) {
			b.log = append(b.log, fmt.Sprintf("%v %d<%d", b.sw.Now(), i, f[14]))
		})
		if err != nil {
			t.Fatal(err)
		}
		b.ports = append(b.ports, p)
	}
	return b
}

func (b *bench) take(to time.Duration) string {
	b.sw.Advance(to)
	s := strings.Join(b.log, "; ")
	b.log = nil
	return s
}

func TestSwitch_LearnsAndFloods(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{}, Link{}, Link{Latency: time.Millisecond}, Link{})
	b.ports[0].Send(frame(Address(1), Address(0), 7))
	if got := b.take(time.Second); got != "0s 2<7; 1ms 1<7" {
		t.Errorf("an unknown station: %s; want all to get it", got)
	}
	b.ports[1].Send(frame(Address(0), Address(1), 8))
	if got := b.take(2 * time.Second); got != "1.001s 0<8" {
		t.Errorf("a station that has spoken: %s; want it alone to get it", got)
	}
	b.ports[2].Send(frame(all, Address(2), 9))
	if got := b.take(3 * time.Second); got != "2s 0<9; 2.001s 1<9" {
		t.Errorf("broadcast: %s", got)
	}
	b.ports[0].SetGroup(1)
	b.ports[0].Send(frame(all, Address(0), 1))
	b.ports[2].Send(frame(Address(1), Address(2), 2))
	if got := b.take(4 * time.Second); got != "3.001s 1<2" {
		t.Errorf("a parted network: %s; want nothing to pass", got)
	}
	b.ports[0].SetGroup(0)
	b.sw.Advance(10 * time.Minute)
	b.ports[2].Send(frame(Address(1), Address(2), 3))
	if got := b.take(11 * time.Minute); got != "10m0s 0<3; 10m0.001s 1<3" {
		t.Errorf("a station that was silent for long: %s; want it forgotten", got)
	}
}

func TestSwitch_Bounds(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{Ports: 2}, Link{Rate: 8 * 15 * 1000, Queue: 3}, Link{})
	if _, err := b.sw.Connect(Link{}, nil); !errors.Is(err, ErrFull) {
		t.Errorf("a third station in a switch of two ports: %v", err)
	}
	for _, l := range []Link{{Latency: -1}, {Loss: 1.5}, {Rate: -1}} {
		if b.ports[0].SetLink(l) == nil {
			t.Errorf("%+v is a cable", l)
		}
	}
	b.ports[0].Send(make([]byte, 13))
	b.ports[0].Send(make([]byte, MaxFrame+1))
	for i := range 5 {
		b.ports[0].Send(frame(all, Address(0), byte(i)))
	}
	if got := b.take(time.Second); got != "1ms 1<0; 2ms 1<1; 3ms 1<2" {
		t.Errorf("a cable of 1000 frames a second: %s", got)
	}
	b.ports[1].SetUp(false)
	b.ports[1].Send(frame(all, Address(1), 1))
	b.ports[0].Send(frame(all, Address(0), 9))
	if got := b.take(2 * time.Second); got != "" {
		t.Errorf("a cable that is out carries %s", got)
	}
	if s := b.ports[0].Stats(); s.Full != 2 || s.Refused != 2 || s.Sent != 6 {
		t.Errorf("%+v; want 2 without room, 2 refused, 6 sent", s)
	}
}

func TestSwitch_RepeatsBySeed(t *testing.T) {
	t.Parallel()
	run := func(seed uint64) (string, uint64) {
		b := newBench(t, Config{Seed: seed}, Link{Latency: time.Millisecond, Jitter: 5 * time.Millisecond, Loss: 0.2}, Link{Jitter: time.Millisecond, Loss: 0.1})
		for i := range 200 {
			b.ports[i%2].Send(frame(all, Address(uint64(i%2)), byte(i)))
			b.sw.Advance(time.Duration(i) * time.Millisecond)
		}
		got := b.take(time.Minute)
		return got, b.ports[0].Stats().Lost
	}
	a, lost := run(1)
	again, _ := run(1)
	other, _ := run(2)
	if a != again || a == other {
		t.Error("the same seed must give the same arrivals, and another seed others")
	}
	if lost < 20 || lost > 60 {
		t.Errorf("%d of 200 frames lost at 20%% of one cable", lost)
	}
}

func TestSwitch_KeepsOrderAndBytes(t *testing.T) {
	t.Parallel()
	s := New(Config{Seed: 3})
	var got []byte
	a, _ := s.Connect(Link{Jitter: 10 * time.Millisecond}, func([]byte) {})
	if _, err := s.Connect(Link{Jitter: 10 * time.Millisecond}, func(f []byte) { got = append(got, f[14]) }); err != nil {
		t.Fatal(err)
	}
	f := frame(all, Address(1), 0)
	var want []byte
	for i := range 100 {
		f[14] = byte(i)
		a.Send(f)
		want = append(want, byte(i))
	}
	s.Advance(time.Second)
	if !bytes.Equal(got, want) {
		t.Errorf("arrived as %v", got)
	}
}

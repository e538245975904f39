package gather

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

func process(key, command string, hits uint32) collect.Observation {
	return collect.Observation{Event: "Process", Key: key, Hits: hits, Item: secmsg.Process{CommandLine: command, EventType: "EXEC", HitCount: 1}}
}

func TestCache_Counts(t *testing.T) {
	t.Parallel()
	c := New(10, false)
	f := secmsg.Flow{BytesIn: 1, BytesOut: 2, Hits: 1}
	first := time.Unix(1700000000, 0)
	o := collect.Observation{Event: "NetworkActivity", Key: "5", Time: first, Flow: &f}
	c.Add(o)
	f.BytesIn, f.BytesOut, f.Hits = 10, 20, 0 // it goes on: it is no other connection
	o.Time = first.Add(time.Hour)
	c.Add(o)
	f.BytesIn = 1000 // nothing of it was kept
	c.Add(process("a", "first", 0))
	c.Add(process("a", "second", 4))
	c.Add(process("", "alone", 1))
	c.Add(process("", "alone", 1))
	c.Add(collect.Observation{Event: "Login", Key: "a", Item: secmsg.LoginRecord{UserName: "root"}}) // another event's key
	all, dropped := c.Take()
	if len(all) != 5 || dropped != 0 {
		t.Fatalf("%d observations, %d dropped", len(all), dropped)
	}
	if got := all[0].Flow; got.BytesIn != 11 || got.BytesOut != 22 || got.Hits != 1 || !got.First.Equal(first) || got.Last.Sub(first) != time.Hour {
		t.Errorf("flow %+v", got)
	}
	if got := all[1].Item.(secmsg.Process); got.CommandLine != "first" || got.HitCount != 5 || all[1].Hits != 5 {
		t.Errorf("process %+v", got)
	}
	if got := all[4].Item.(secmsg.LoginRecord); got.HitCount != 1 {
		t.Errorf("login %+v", got)
	}
	if all, _ := c.Take(); len(all) != 0 || c.Len() != 0 {
		t.Errorf("it is not empty: %d", len(all))
	}
}

func TestCache_EvictsTheOldest(t *testing.T) {
	t.Parallel()
	c := New(3, false)
	for i := range 5 {
		c.Add(process(fmt.Sprint(i), fmt.Sprint(i), 2))
	}
	c.Add(process("0", "0 again", 1)) // it is new: the first was pushed out
	all, dropped := c.Take()
	var got []string
	for _, o := range all {
		got = append(got, o.Item.(secmsg.Process).CommandLine)
	}
	if !slices.Equal(got, []string{"3", "4", "0 again"}) || dropped != 6 {
		t.Errorf("%q, %d dropped", got, dropped)
	}
	if _, dropped := c.Take(); dropped != 0 {
		t.Errorf("%d dropped twice", dropped)
	}
}

// Few observations with long texts are bounded, too.
func TestCache_IsBoundedInBytes(t *testing.T) {
	t.Parallel()
	c := New(1000, false)
	long := strings.Repeat("x", 100<<10)
	for i := range 30 {
		c.Add(process(fmt.Sprint(i), long, 1))
	}
	all, dropped := c.Take()
	if len(all) > 10 || len(all) < 9 || len(all)+int(dropped) != 30 {
		t.Errorf("%d of 30 are kept, %d dropped", len(all), dropped)
	}
	c.Add(process("a", strings.Repeat("x", 2<<20), 1))
	if all, _ := c.Take(); len(all) != 1 {
		t.Error("the only one is not kept")
	}
}

func TestCache_Apart(t *testing.T) {
	t.Parallel()
	c := New(10, true)
	c.Add(process("a", "x", 1))
	c.Add(process("a", "x", 1))
	if all, _ := c.Take(); len(all) != 2 {
		t.Errorf("%d observations", len(all))
	}
}

func TestCache_Concurrent(t *testing.T) {
	t.Parallel()
	c := New(8, false)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 1000 {
				c.Add(process(fmt.Sprint(i%16), "x", 1))
			}
		})
	}
	wg.Wait()
	all, dropped := c.Take()
	for _, o := range all {
		dropped += uint64(o.Hits)
	}
	if dropped != 4000 {
		t.Errorf("%d hits of 4000 are accounted for", dropped)
	}
}

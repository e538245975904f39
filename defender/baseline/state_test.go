package baseline_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/baseline"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/mud"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

var brief = baseline.Terms{MinTime: "1h", MinDevices: 1}

// enforced is a stage with a baseline of what hours does.
func enforced(t *testing.T, devices, hours int) *stage {
	t.Helper()
	s := newStage(t, devices)
	must(s.Learn(t.Context(), plant, "ann", brief))(t)
	s.hours(hours, nil)
	must(s.Propose(t.Context(), plant, "ann"))(t)
	must(s.Enforce(t.Context(), plant, "ann"))(t)
	time.Sleep(2 * time.Second)
	return s
}

func TestService_RestartAndCrash(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 3)
		defer func() { s.stop() }()
		must(s.Learn(t.Context(), plant, "ann", brief))(t)
		s.hours(3, nil)
		learned := must(s.Baseline(t.Context(), plant))(t).Learned
		s.stop()
		s.world.Rewind(10) // as if the log had forgotten its worker's last place
		s.start()
		synctest.Wait()
		if again := must(s.Baseline(t.Context(), plant))(t).Learned; again.Messages != learned.Messages || again.Flows != learned.Flows || again.Devices != 3 {
			t.Errorf("after a restart %+v, before %+v", again, learned)
		}
		must(s.Propose(t.Context(), plant, "ann"))(t)
		must(s.Enforce(t.Context(), plant, "ann"))(t)
		time.Sleep(2 * time.Second)

		// A store that fails gets the alert later; the message counts once.
		s.world.Do(func() { s.world.Fail = errors.New("the disk is full") })
		s.send(report("d0", out("203.0.113.66:4444")))
		time.Sleep(3 * time.Second)
		s.world.Do(func() { s.world.Fail = nil })
		time.Sleep(3 * time.Second)
		all := s.world.Raised()
		if len(all) != 1 || all[0].Count != 1 {
			t.Fatalf("%+v", all)
		}
		// A crash: what is in memory goes, the log gives its last entries again.
		s.send(report("d0", out("203.0.113.66:4444")), report("d1", out("203.0.113.66:4444")))
		s.world.Do(func() { s.world.Fail = errors.New("no power") })
		s.stop()
		s.world.Rewind(2)
		s.world.Do(func() { s.world.Fail = nil })
		s.start()
		synctest.Wait()
		if all = s.world.Raised(); len(all) != 2 || all[0].Count != 2 || all[1].Count != 1 {
			t.Errorf("after a crash: %+v", all)
		}
	})
}

func TestService_QuietDevices(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := enforced(t, 4, 30)
		defer func() { s.stop() }()
		s.hours(1, nil)
		gone := func(device string) { s.world.Do(func() { delete(s.world.Groups, device) }) }
		silent := "d3"
		gone("d2") // deleted: nobody waits for it
		for range 3 * 5 {
			s.send(telemetry("d0"), telemetry("d0"), telemetry("d1"), telemetry("d1"))
			time.Sleep(12 * time.Minute)
		}
		time.Sleep(30 * time.Second)
		all := s.world.Raised()
		if len(all) == 0 || len(all) > 2 { // one a day
			t.Fatalf("%+v", all)
		}
		n := 0
		for _, a := range all {
			n += a.Count
			if a.Device != silent || a.Type != alert.BaselineQuiet || a.Severity != alert.Low || !strings.Contains(a.Description, "Device d3 sent 0 messages from ") ||
				!strings.Contains(a.Description, "The baseline of its security group plant expects: at least 2 in an hour (half of the hours had 10 or more).") {
				t.Errorf("%+v", a)
			}
		}
		if n < 2 || n > 3 {
			t.Errorf("%d hours are counted", n)
		}
		// While no server runs, nobody is quiet.
		s.stop()
		time.Sleep(5 * time.Hour)
		s.start()
		time.Sleep(10 * time.Minute)
		s.send(telemetry("d0"))
		after := 0
		for _, a := range s.world.Raised() {
			after += a.Count
		}
		if after != n {
			t.Errorf("%d hours after a pause, %d before", after, n)
		}
	})
}

func TestService_NamesOfAddresses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 3)
		defer func() { s.stop() }()
		ctx := t.Context()
		must(s.Learn(ctx, plant, "ann", brief))(t)
		resolved := func(device, name, address string) iot.Message {
			return says(device, "DNS", fmt.Sprintf(`{"Name":%q,"Addresses":[%q]}`, name, address))
		}
		s.hours(2, func(_ int, device string) []iot.Message {
			address := "192.0.2.5" + strings.TrimPrefix(device, "d")
			return []iot.Message{resolved(device, "updates.example", address), report(device, out(address+":443"))}
		})
		b := must(s.Propose(ctx, plant, "ann"))(t)
		if e := find(t, b, "updates.example", "443"); e.Decision != baseline.Accepted || e.Devices != 3 {
			t.Errorf("%+v", e)
		}
		must(s.Enforce(ctx, plant, "ann"))(t)
		time.Sleep(2 * time.Second)
		s.send(resolved("d0", "updates.example", "192.0.2.99"), report("d0", out("192.0.2.99:443")))
		if all := s.world.Raised(); len(all) != 0 {
			t.Errorf("a new address of the name: %+v", all)
		}
		// What one device says of a name lends it to no other one.
		s.send(report("d1", out("192.0.2.99:443")))
		if all := s.world.Raised(); len(all) != 1 || all[0].Device != "d1" || !strings.Contains(all[0].Description, "it may be updates.example, of which no address is known") {
			t.Errorf("%+v", all)
		}
		must(s.Edit(ctx, plant, "ann", baseline.Edit{Names: map[string][]string{"updates.example": {"192.0.2.0/24"}}}))(t)
		time.Sleep(2 * time.Second)
		s.send(report("d2", out("192.0.2.99:443")))
		if all := s.world.Raised(); len(all) != 1 {
			t.Errorf("an address that was given: %+v", all)
		}
	})
}

// What one device says of a name is learned for that device alone: who was taken over makes its peer nobody else's.
func TestService_NamesLearnedFromOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 3)
		defer func() { s.stop() }()
		ctx := t.Context()
		must(s.Learn(ctx, plant, "ann", brief))(t)
		s.hours(2, func(_ int, device string) []iot.Message {
			messages := []iot.Message{report(device, out("192.0.2.99:443"))}
			if device == "d0" {
				messages = append([]iot.Message{says(device, "DNS", `{"Name":"updates.example","Addresses":["192.0.2.99"]}`)}, messages...)
			}
			return messages
		})
		b := must(s.Propose(ctx, plant, "ann"))(t)
		if e := find(t, b, "updates.example", "443"); e.Devices != 1 {
			t.Errorf("by its name: %+v", e)
		}
		if e := find(t, b, "192.0.2.99", "443"); e.Devices != 2 {
			t.Errorf("by its address: %+v", e)
		}
	})
}

func TestService_BoundsWhatOneDeviceDoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 3)
		defer func() { s.stop() }()
		ctx := t.Context()
		must(s.Learn(ctx, plant, "ann", brief))(t)
		scan := func(device string, n, from int) []iot.Message {
			var all []iot.Message
			for i := range n {
				all = append(all, report(device, out(fmt.Sprintf("203.0.%d.%d:23", (from+i)/250, (from+i)%250+1))))
			}
			return all
		}
		s.hours(20, func(h int, device string) []iot.Message {
			if device == "d1" {
				return scan(device, 200, h*200)
			}
			return nil
		})
		b := must(s.Baseline(ctx, plant))(t)
		if b.Learned.Peers > 512 || b.Learned.Overflow["peers"] == 0 {
			t.Errorf("%+v", b.Learned)
		}
		b = must(s.Propose(ctx, plant, "ann"))(t)
		for _, e := range b.Entries {
			if e.Decision == baseline.Accepted && strings.HasPrefix(e.Peer, "203.0.") {
				t.Errorf("%+v", e)
			}
		}
		if e := find(t, b, "198.51.100.10", "8883"); e.Decision != baseline.Accepted || e.Devices != 3 {
			t.Errorf("a scan pushed out what all do: %+v", e)
		}
		must(s.Enforce(ctx, plant, "ann"))(t)
		time.Sleep(2 * time.Second)
		s.send(scan("d1", 200, 0)...)
		all := s.world.Raised()
		if len(all) != 20+1+3 { // peers, what is beyond, and its volumes
			t.Fatalf("%d alerts", len(all))
		}
		i := slices.IndexFunc(all, func(a alert.Alert) bool { return a.Indicator == "more" })
		if i < 0 || all[i].Count != 180 || !strings.Contains(all[i].Description, "deviates in more ways than have alerts of their own (20)") {
			t.Errorf("%+v", all)
		}
	})
}

func TestService_MUD(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../wire/mud/testdata/thermostat.json")
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 3)
		defer func() { s.stop() }()
		ctx := t.Context()
		_, err := s.ImportMUD(ctx, plant, "ann", []byte("{}"), false)
		wantKind(t, "no MUD file", err, fault.Malformed, "it has no member ietf-mud:mud")
		_, err = s.ImportMUD(ctx, plant, "ann", text, true)
		wantKind(t, "nothing to merge with", err, fault.PreconditionFailed, "no baseline to merge with")
		b := must(s.ImportMUD(ctx, plant, "ann", text, false))(t)
		var got []string
		for _, e := range b.Entries {
			if e.Source != baseline.FromMUD || e.Decision != baseline.Accepted {
				t.Errorf("%+v", e)
			}
			got = append(got, e.Says())
		}
		want := []string{
			"from local-networks, TCP port 0-22,24-65535", "to 192.0.2.0/24, UDP port 123", "to 198.51.100.1, ICMP", "to cloud.things.example, TCP port 443", "to controller:urn:example:boiler, any protocol",
			"to local-networks, UDP port 49152-65535", "to manufacturer:other.example, any protocol", "to model:https://things.example/mud/display-1, any protocol",
			"to my-controller, TCP port 8883-8884", "to same-manufacturer, TCP",
		}
		if !slices.Equal(got, want) || b.State != baseline.Proposed || b.MUD.Model != "thermostat-2" || len(b.MUD.Notes) != 1 {
			t.Errorf("got  %q\nwant %q\n%+v", got, want, b)
		}
		_, err = s.Propose(ctx, plant, "ann")
		wantKind(t, "propose what was imported", err, fault.PreconditionFailed, "learned nothing")
		must(s.Enforce(ctx, plant, "ann"))(t)
		time.Sleep(2 * time.Second)
		s.send(report("d0", out("198.51.100.10:8883"), flow("10.0.0.9:50000", "192.0.2.9:123", "UDP"), flow("10.0.0.9:80", "10.5.5.5:40000", "TCP"), flow("10.0.0.9:0", "198.51.100.1:0", "ICMP")))
		if all := s.world.Raised(); len(all) != 0 {
			t.Errorf("what the maker declared: %+v", all)
		}
		s.send(report("d0", out("203.0.113.1:443")), report("d0", flow("10.0.0.9:23", "10.5.5.5:40000", "TCP")))
		if all := s.world.Raised(); len(all) != 2 || !strings.Contains(all[1].Description, "it may be cloud.things.example") || !strings.Contains(all[0].Description, "was connected to from 10.5.5.5 by TCP port 23") {
			t.Errorf("%+v", all)
		}
		_, err = s.Promote(ctx, plant)
		wantKind(t, "names without addresses", err, fault.PreconditionFailed, "no address is known of cloud.things.example")
		_, err = s.ImportMUD(ctx, plant, "ann", text, false)
		wantKind(t, "import into what is enforced", err, fault.PreconditionFailed, "relax it")

		// Both ways: what is written says the same.
		file := must(s.ExportMUD(ctx, plant, "", ""))(t)
		f, err := mud.Parse(file)
		if err != nil || f.URL != "https://things.example/mud/thermostat-2" || len(f.Notes) != 0 {
			t.Fatalf("%v %+v", err, f)
		}
		must(s.Relax(ctx, plant, "ann"))(t)
		again := must(s.ImportMUD(ctx, plant, "ann", file, false))(t)
		var back []string
		for _, e := range again.Entries {
			back = append(back, e.Says())
		}
		back = slices.DeleteFunc(back, func(text string) bool {
			// Ranges are entries of their own, and ICMP has no direction there.
			return strings.HasPrefix(text, "from local-networks, TCP port ") || text == "from 198.51.100.1, ICMP"
		})
		if !slices.Equal(back, want[1:]) {
			t.Errorf("got  %q\nwant %q", back, want[1:])
		}

		// Merged with what was learned: the maker vouches for what one device did.
		must(s.Learn(ctx, plant, "ann", brief))(t)
		_, err = s.ImportMUD(ctx, plant, "ann", text, true)
		wantKind(t, "merge too early", err, fault.PreconditionFailed, "not learned enough to merge")
		s.hours(2, func(_ int, device string) []iot.Message {
			if device == "d0" {
				return []iot.Message{report(device, secmsg.Flow{Local: netip.MustParseAddrPort("10.0.0.9:0"), Remote: netip.MustParseAddrPort("198.51.100.1:0"), Protocol: "ICMP", BytesOut: 1})}
			}
			return nil
		})
		merged := must(s.ImportMUD(ctx, plant, "ann", text, true))(t)
		if e := find(t, merged, "198.51.100.1", ""); e.Decision != baseline.Accepted || e.Source != baseline.FromMUD || e.Devices != 1 {
			t.Errorf("%+v", e)
		}
		if e := find(t, merged, "198.51.100.10", "8883"); e.Source != baseline.FromLearning || e.Devices != 3 || merged.State != baseline.Proposed || len(merged.Limits) == 0 {
			t.Errorf("%+v", merged)
		}
		// The hub itself is my-controller in what is written.
		f, err = mud.Parse(must(s.ExportMUD(ctx, plant, "https://hub.example/mud/plant", "Pumps"))(t))
		if err != nil {
			t.Fatal(err)
		}
		ours := slices.ContainsFunc(f.Rules, func(r mud.Rule) bool {
			return r.Peer.Kind == mud.MyController && slices.Equal(r.Remote, []mud.Ports{{First: 8883, Last: 8883}})
		})
		address := slices.ContainsFunc(f.Rules, func(r mud.Rule) bool {
			return r.Peer.Kind == mud.Network && r.Peer.Prefix.Addr().String() == "198.51.100.10"
		})
		if !ours || address {
			t.Errorf("%+v", f.Rules)
		}
	})
}

package storagetest

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/vuln"
	"github.com/vauban-iot/vauban/defender/vuln/format"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// Vulnerabilities is what every vuln.Store promises.
func Vulnerabilities(t *testing.T, open Open) {
	at := func(n int) time.Time { return kept(Start).Add(time.Duration(n) * time.Minute).UTC() }
	pkg := func(name string) vuln.Package { return vuln.Package{Name: name, Version: "1☂", Type: "deb"} }
	add := func(t *testing.T, s Store, name, tags, reported string) {
		t.Helper()
		d := device(name)
		tw := twin.New(d.ID)
		if tags != "" {
			tw.Tags = []byte(tags)
		}
		if reported != "" {
			tw.Reported = []byte(reported)
		}
		ok(t, s.Create(t.Context(), d, tw))
	}

	keep := func(t *testing.T, s Store, parts []vuln.Part) {
		t.Helper()
		same(t, "parts left out", must(s.KeepParts(t.Context(), parts, vuln.MaxParts))(t), 0)
	}

	t.Run("sources are replaced whole", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		wantKind(t, "a missing source", s.DeleteSource(ctx, "debian"), fault.NotFound)
		version := must(s.VulnVersion(ctx))(t)
		big := bytes.Repeat([]byte("0123456789abcdef"), 150_000) // three rows
		src := vuln.Source{Name: "debian", Kind: vuln.OSV, Records: 3, Bytes: int64(len(big)), Imported: at(0), Published: at(1), Ecosystems: []string{"Debian"}}
		first := must(s.PutSource(ctx, src, big))(t)
		src.Generation = first.Generation
		same(t, "listed", must(s.Sources(ctx))(t), []vuln.Source{src})
		if got := must(s.SourceData(ctx, first))(t); !bytes.Equal(got, big) {
			t.Errorf("%d bytes came back of %d", len(got), len(big))
		}
		if must(s.VulnVersion(ctx))(t) == version {
			t.Error("a source does not change the version")
		}
		src.Bytes, src.Records = 3, 4
		second := must(s.PutSource(ctx, src, []byte("abc")))(t)
		if second.Generation <= first.Generation {
			t.Errorf("generation %d after %d", second.Generation, first.Generation)
		}
		_, err := s.SourceData(ctx, first)
		wantKind(t, "what was replaced", err, fault.NotFound)
		same(t, "after it", string(must(s.SourceData(ctx, second))(t)), "abc")
		ok(t, s.DeleteSource(ctx, "debian"))
		_, err = s.SourceData(ctx, second)
		wantKind(t, "what was deleted", err, fault.NotFound)
	})

	t.Run("documents", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		v := vuln.VEX{Name: "acme", Scope: vuln.Scope{Group: "plant ☂"}, Updated: at(0), Statements: []format.Statement{{Vulnerabilities: []string{"CVE-2099-1000"}, Status: format.Fixed}}}
		wantKind(t, "a missing one", s.DeleteVEX(ctx, "acme"), fault.NotFound)
		ok(t, s.PutVEX(ctx, v))
		v.Scope.Firmware = "2"
		ok(t, s.PutVEX(ctx, v))
		same(t, "VEX", must(s.VEXDocuments(ctx))(t), []vuln.VEX{v})
		ok(t, s.DeleteVEX(ctx, "acme"))
		same(t, "no VEX", len(must(s.VEXDocuments(ctx))(t)), 0)

		set, _ := vuln.NewSet([]vuln.Package{pkg("a"), pkg("b")})
		b := vuln.Document{Name: "fw", Scope: vuln.Scope{Product: "Acme Cam"}, Format: "SPDX-2.3", Packages: 2, Set: set.ID, Updated: at(0)}
		ok(t, s.PutBill(ctx, b, set))
		same(t, "bills", must(s.Bills(ctx))(t), []vuln.Document{b})
		same(t, "its set", must(s.SoftwareSet(ctx, set.ID))(t), set)
		ok(t, s.TidyVuln(ctx))
		same(t, "its set, tidied", must(s.SoftwareSet(ctx, set.ID))(t), set)
		ok(t, s.DeleteBill(ctx, "fw"))
		ok(t, s.TidyVuln(ctx))
		_, err := s.SoftwareSet(ctx, set.ID)
		wantKind(t, "a set of nobody", err, fault.NotFound)
		wantKind(t, "deleting it again", s.DeleteBill(ctx, "fw"), fault.NotFound)
	})

	t.Run("software comes in parts", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		add(t, s, "cam", `{"SecurityGroup":"plant"}`, `{"deviceInformation":{"manufacturer":"Acme","model":"Cam","swVersion":"2.1"}}`)
		id := iot.ID{Device: "cam"}
		part := func(taken int, message uint64, names ...string) vuln.Part {
			p := vuln.Part{ID: id, Taken: at(taken), Message: message, Enqueued: at(10 + taken)}
			for _, n := range names {
				p.Packages = append(p.Packages, pkg(n))
			}
			return p
		}
		keep(t, s, []vuln.Part{part(1, 5, "old"), part(2, 6, "a"), part(2, 7, "b"), part(2, 7, "b"), part(1, 8, "late")})
		keep(t, s, []vuln.Part{{ID: iot.ID{Device: "nobody"}, Taken: at(1), Message: 9, Enqueued: at(1)}})
		same(t, "too early", len(must(s.WaitingParts(ctx, at(12), 10))(t)), 0)
		waiting := must(s.WaitingParts(ctx, at(13), 10))(t)
		same(t, "waiting", waiting, []vuln.Waiting{{ID: id, Taken: at(2)}})
		same(t, "its packages", must(s.PartsOf(ctx, waiting[0]))(t), []vuln.Package{pkg("a"), pkg("b")})
		set, _ := vuln.NewSet([]vuln.Package{pkg("a"), pkg("b")})
		version := must(s.VulnVersion(ctx))(t)
		ok(t, s.SettleSoftware(ctx, waiting[0], set, vuln.Limited))
		if must(s.VulnVersion(ctx))(t) == version {
			t.Error("new software does not change the version")
		}
		same(t, "settled", len(must(s.WaitingParts(ctx, at(60), 10))(t)), 0)
		keep(t, s, []vuln.Part{part(2, 7, "b")}) // the log gives it again
		same(t, "again", len(must(s.WaitingParts(ctx, at(60), 10))(t)), 0)
		keep(t, s, []vuln.Part{part(2, 11, "c")})
		same(t, "more of the same", must(s.WaitingParts(ctx, at(60), 10))(t), []vuln.Waiting{{ID: id, Taken: at(2), Set: set.ID}})
		version = must(s.VulnVersion(ctx))(t)
		ok(t, s.SettleSoftware(ctx, waiting[0], set, vuln.Limited))
		if must(s.VulnVersion(ctx))(t) != version {
			t.Error("the same software changes the version")
		}
		ok(t, s.KeepSystem(ctx, vuln.System{ID: id, Distro: "debian-12"}))
		if must(s.VulnVersion(ctx))(t) == version {
			t.Error("a new system does not change the version")
		}
		add(t, s, "lamp", "", "")
		same(t, "devices", must(s.SoftwareDevices(ctx, "", 10))(t), []vuln.Device{
			{ID: "cam", Group: "plant", Product: "Acme Cam", Firmware: "2.1", Sets: []string{vuln.Software(set.ID, "debian-12")}}, {ID: "lamp", Group: "default"}})
		same(t, "behind", must(s.SoftwareDevices(ctx, "cam", 10))(t), []vuln.Device{{ID: "lamp", Group: "default"}})
	})

	t.Run("a flood of parts", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		add(t, s, "loud", "", "")
		add(t, s, "calm", "", "")
		part := func(device string, taken int, message uint64) vuln.Part {
			return vuln.Part{ID: iot.ID{Device: device}, Taken: at(taken), Message: message, Enqueued: at(taken), Packages: []vuln.Package{pkg(fmt.Sprint(message))}}
		}
		same(t, "left out", must(s.KeepParts(ctx, []vuln.Part{part("loud", 1, 1), part("loud", 1, 2), part("loud", 1, 3), part("calm", 1, 4), part("loud", 1, 5)}, 2))(t), 2)
		waiting := must(s.WaitingParts(ctx, at(60), 10))(t)
		same(t, "waiting", waiting, []vuln.Waiting{{ID: iot.ID{Device: "calm"}, Taken: at(1)}, {ID: iot.ID{Device: "loud"}, Taken: at(1)}})
		same(t, "of the calm", must(s.PartsOf(ctx, waiting[0]))(t), []vuln.Package{pkg("4")})
		same(t, "of the loud", must(s.PartsOf(ctx, waiting[1]))(t), []vuln.Package{pkg("1"), pkg("2")})
		// A later snapshot finds room: it takes the place of the earlier one.
		same(t, "left out of the next", must(s.KeepParts(ctx, []vuln.Part{part("loud", 2, 6), part("loud", 2, 7), part("loud", 2, 8)}, 2))(t), 1)
		same(t, "of the next", must(s.PartsOf(ctx, vuln.Waiting{ID: iot.ID{Device: "loud"}, Taken: at(2)}))(t), []vuln.Package{pkg("6"), pkg("7")})
	})

	t.Run("a flood of sets", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		for _, d := range []string{"a", "b", "c"} {
			add(t, s, d, "", "")
		}
		sets := map[string]string{} // of devices
		limits := vuln.Limits{Sets: 2, Bytes: 1 << 20, Agents: 1}
		settle := func(device string, taken int, name string) error {
			t.Helper()
			w := vuln.Waiting{ID: iot.ID{Device: device}, Taken: at(taken)}
			keep(t, s, []vuln.Part{{ID: w.ID, Taken: w.Taken, Message: uint64(taken), Enqueued: at(taken), Packages: []vuln.Package{pkg(name)}}})
			set, _ := vuln.NewSet([]vuln.Package{pkg(name)})
			err := s.SettleSoftware(ctx, w, set, limits)
			if err == nil {
				sets[device] = set.ID
			}
			same(t, "parts that wait", len(must(s.WaitingParts(ctx, at(1000), 10))(t)), 0)
			for _, d := range must(s.SoftwareDevices(ctx, "", 10))(t) {
				if got := strings.Join(d.Sets, " "); got != sets[d.ID] {
					t.Errorf("%s has %q, want %q", d.ID, got, sets[d.ID])
				}
			}
			return err
		}
		ok(t, settle("a", 1, "x"))
		ok(t, settle("b", 2, "y"))
		ok(t, settle("c", 3, "x")) // what another has, too
		wantKind(t, "a third set", settle("c", 4, "z"), fault.QuotaExceeded)
		ok(t, settle("b", 5, "z")) // in the place of its own, which nobody has any more
		ok(t, settle("a", 6, "z"))
		ok(t, settle("c", 7, "w")) // as nobody has x any more
		limits = vuln.Limits{Sets: 9, Bytes: 1000, Agents: 1}
		wantKind(t, "a set that is too long", settle("c", 8, noise(2000)), fault.QuotaExceeded)
		ok(t, settle("c", 9, noise(20)))
		// Agents of one device are counted by themselves.
		ok(t, s.Create(ctx, module("a", "m"), twin.New(iot.ID{Device: "a", Module: "m"})))
		set, _ := vuln.NewSet([]vuln.Package{pkg("z")})
		w := vuln.Waiting{ID: iot.ID{Device: "a", Module: "m"}, Taken: at(10)}
		wantKind(t, "a second agent", s.SettleSoftware(ctx, w, set, vuln.Limits{Sets: 9, Bytes: 1 << 20, Agents: 1}), fault.QuotaExceeded)
		ok(t, s.SettleSoftware(ctx, w, set, vuln.Limits{Sets: 9, Bytes: 1 << 20, Agents: 2}))
	})

	t.Run("findings", func(t *testing.T) {
		s, ctx := open(t), t.Context()
		for i := range 3 {
			add(t, s, fmt.Sprintf("d%d", i), "", "")
		}
		finding := func(id, pkg, installed string, score float64, exploited, suppressed bool) vuln.Finding {
			f := vuln.Finding{ID: id, Records: []string{id}, Package: pkg, Installed: installed, Status: vuln.Unsuppressed, Priority: vuln.Priority{Exploited: exploited, Score: score}}
			if exploited {
				f.Exploited = &format.Exploited{CVE: id}
			}
			if suppressed {
				f.Status = vuln.Suppressed
			}
			return f
		}
		one := vuln.Profile{ID: "p1", Sets: []string{"s1"}, State: "x", Packages: 5, Left: 2, Findings: []vuln.Finding{
			finding("CVE-2099-1000", "a", "1", 1, true, false), finding("CVE-2099-1001", "a", "1", 9, false, false), finding("CVE-2099-1001", "b", "1", 9, false, false), finding("CVE-2099-1002", "c", "1", 2, false, true)}}
		two := vuln.Profile{ID: "p2", Sets: []string{"s1", "s2"}, State: "x", Findings: []vuln.Finding{finding("CVE-2099-1001", "a", "0.9", 9, false, false)}}
		ok(t, s.PutProfile(ctx, vuln.Profile{ID: "p1", State: "old", Sets: []string{"s1"}, Findings: []vuln.Finding{finding("CVE-2098-1000", "z", "1", 1, false, false)}}))
		ok(t, s.PutProfile(ctx, one))
		ok(t, s.PutProfile(ctx, two))
		ok(t, s.AssignProfiles(ctx, map[string]string{"d0": "p1", "d1": "p1", "d2": "p2", "nobody": "p1"}))
		same(t, "states", must(s.ProfileStates(ctx))(t), map[string]string{"p1": "x", "p2": "x"})
		same(t, "of a profile", must(s.ProfileFindings(ctx, "p1"))(t), one.Findings)
		lines := func(f vuln.Filter) (all []string) {
			t.Helper()
			for _, r := range must(s.Vulnerabilities(ctx, f))(t) {
				all = append(all, fmt.Sprint(r.ID[9:], r.Package, r.Installed, r.Devices))
			}
			return all
		}
		want := func(what string, f vuln.Filter, all ...string) {
			t.Helper()
			if got := lines(f); !slices.Equal(got, all) {
				t.Errorf("%s: %q, want %q", what, got, all)
			}
		}
		fleet := lines(vuln.Filter{})
		if len(fleet) != 4 || fleet[0] != "1000a12" || fleet[2] != "1001b12" || fleet[3] != "1002c12" || fleet[1][:5] != "1001a" || fleet[1][len(fleet[1])-1] != '3' {
			t.Errorf("the fleet: %q", fleet)
		}
		want("a device", vuln.Filter{Device: "d2"}, "1001a0.91")
		want("another", vuln.Filter{Device: "d0", Status: vuln.Unsuppressed}, "1000a11", "1001a11", "1001b11")
		want("suppressed", vuln.Filter{Status: vuln.Suppressed}, "1002c12")
		want("exploited", vuln.Filter{Exploited: true}, "1000a12")
		want("of a package", vuln.Filter{Package: "b"}, "1001b12")
		want("none", vuln.Filter{Device: "nobody"})
		var paged []string
		after := ""
		for {
			rows := must(s.Vulnerabilities(ctx, vuln.Filter{After: after, Limit: 1}))(t)
			if len(rows) == 0 {
				break
			}
			paged = append(paged, fmt.Sprint(rows[0].ID[9:], rows[0].Package, rows[0].Installed, rows[0].Devices))
			after = rows[0].Place
		}
		if !slices.Equal(paged, fleet) {
			t.Errorf("page by page %q, at once %q", paged, fleet)
		}
		_, err := s.Vulnerabilities(ctx, vuln.Filter{After: "x"})
		wantKind(t, "a place that is none", err, fault.Invalid)
		same(t, "devices", must(s.VulnerableDevices(ctx, "CVE-2099-1001", "d0", 10))(t), []string{"d1", "d2"})
		same(t, "suppressed on all", len(must(s.VulnerableDevices(ctx, "CVE-2099-1002", "", 10))(t)), 0)
		same(t, "totals", must(s.VulnTotals(ctx))(t), vuln.Totals{Devices: 3, Sets: 2, Vulnerabilities: 2, Exploited: 1, Suppressed: 1, NotCompared: 2})
		same(t, "sets", must(s.DeviceSets(ctx, "d2"))(t), []string{"s1", "s2"})
		_, err = s.DeviceSets(ctx, "nobody")
		wantKind(t, "the sets of a stranger", err, fault.NotFound)

		ok(t, s.AssignProfiles(ctx, map[string]string{"d2": ""}))
		ok(t, s.TidyVuln(ctx))
		same(t, "tidied", must(s.ProfileStates(ctx))(t), map[string]string{"p1": "x"})
		ok(t, s.Delete(ctx, iot.ID{Device: "d0"}, anyIdentity, nil))
		same(t, "without d0", must(s.VulnTotals(ctx))(t).Devices, 1)
	})
}

// noise is a text that takes about as many bytes when it is deflated.
func noise(bytes int) string {
	b := make([]byte, bytes)
	rand.NewChaCha8([32]byte{}).Read(b)
	return hex.EncodeToString(b)
}

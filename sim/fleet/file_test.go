package fleet

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Every bad file in testdata has its complaints in its comments, all of them.
func TestParse_Refuses(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.bad.toml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no bad files: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for line := range strings.Lines(string(text)) {
			if w, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "#! "); ok {
				want = append(want, w)
			}
		}
		_, err = Parse(filepath.Base(file), text)
		if err == nil || err.Error() != strings.Join(want, "\n") {
			t.Errorf("%s: got\n%v\nwant\n%s", file, err, strings.Join(want, "\n"))
		}
	}
}

const small = `duration = "1h"
[[board]]
name = "lamp"
`

// One thing is wrong with each of these, and the complaint names its line.
func TestParse_RefusesOne(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`duration = "1h"`:                                                   "f: board: no boards; add a table [[board]] with a name",
		small + `count = 20001`:                                             "f:4: count: 20001 is outside 1 to 20000",
		small + `model = "ESP32"`:                                           `f:4: model: unknown word "ESP32" (want "B-L475E-IOT01A")`,
		small + `tls = "ssl3"`:                                              `f:4: tls: unknown word "ssl3" (want "modern", "getting-started", "azure-iot")`,
		small + `telemetry = "1500ms"`:                                      "f:4: telemetry: 1.5s is no whole number of seconds, and telemetryInterval is one",
		small + `security = "maybe"`:                                        `f:4: security: "maybe" is no duration; want a text such as "30s" or "24h"`,
		small + `subnet = "8.8.8.0/24"`:                                     "f:4: subnet: 8.8.8.0/24 is not private; boards live in 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16",
		small + "count = 20\nsubnet = \"10.9.0.0/28\"":                      "f:5: subnet: 20 boards, but 10.9.0.0/28 has only 13 addresses for boards; take a larger subnet, or fewer boards",
		small + `subnet = "10.9.0.1/24"`:                                    "f:4: subnet: 10.9.0.1/24 is an address; its subnet is 10.9.0.0/24",
		small + `subnet = "fd00::/64"`:                                      `f:4: subnet: "fd00::/64" is no subnet of IPv4; want one such as "10.20.0.0/16"`,
		small + `drift_ppm = nan`:                                           "f:4: drift_ppm: NaN is outside 0 to 1000",
		small + `reboot = "yes"`:                                            `f:4: reboot: "yes" is neither true nor false`,
		small + `name2 = "x"`:                                               "f:4: name2: unknown key; did you mean \"name\"?",
		small + `link = "lte"`:                                              `f:4: link: there is no link "lte"; add a table [[link]]`,
		"board = 5\n" + `duration = "1h"`:                                   "f:1: board: want tables [[board]]",
		"board = [5]\n" + `duration = "1h"`:                                 "f:1: board: want tables [[board]]",
		"seed = -1\n" + small:                                               "f:1: seed: -1 is outside 0 to 9007199254740992",
		"epoch = \"today\"\n" + small:                                       `f:1: epoch: "today" is no moment; want one such as 2026-03-01T06:00:00Z`,
		"epoch = 0001-01-01T00:00:00Z\n" + small:                            "f:1: epoch: 0001-01-01T00:00:00Z is before 2000, where the boards' clocks begin",
		"epoch = \"1999-12-31T23:59:59Z\"\n" + small:                        "f:1: epoch: 1999-12-31T23:59:59Z is before 2000, where the boards' clocks begin",
		"speed = 1e-300\n" + small:                                          "f:1: speed: 1e-300 would take for ever; at least 0.01, or 0 for as fast as possible",
		"epoch = 2026-03-01\n" + small:                                      "f:1: epoch: 2026-03-01 is no moment; want one such as 2026-03-01T06:00:00Z",
		"time = \"real\"\nspeed = 5\n" + small:                              "f:2: speed: real time goes at its own speed; leave it out, or set time = \"virtual\"",
		"time = \"real\"\nepoch = 2026-03-01T06:00:00Z\n" + small:           "f:2: epoch: in real time it is now; leave it out, or set time = \"virtual\"",
		"trace = [\"a\", \"a\"]\n" + small:                                  `f:1: trace: "a" stands there twice`,
		"trace = [1]\n" + small:                                             "f:1: trace: 1 is no text; write it in quotes",
		"window = \"2h\"\n" + small:                                         "f:1: window: 2h0m0s is outside 100ms to 1m0s",
		small + "[[board]]\nname = \"b\"\nsubnet = \"10.16.7.0/24\"":        `f:6: subnet: 10.16.7.0/24 overlaps with 10.16.0.0/16 of "lamp"; each entry has one of its own`,
		small + "count = 15000\n[[board]]\nname = \"b\"\ncount = 6000":      "f:7: count: 21000 boards in all; at most 20000",
		"time = \"real\"\n" + small + "network = \"netstack\"\ncount = 501": "f:6: count: 501 boards with a TCP/IP stack each; at most 500: take network = \"facade\"",
		"time = \"real\"\n" + small + "network = \"netstack\"\nsubnet = \"10.9.0.0/16\"":                            `f:6: subnet: boards with network = "netstack" ask for their addresses (DHCP); leave it out`,
		small + "[[fault]]\nkind = \"reset\"":                                                                       "f:4: every: required: how long a board goes without it on average, such as \"12h\"",
		small + "[[fault]]\nevery = \"1h\"":                                                                         `f:4: kind: required: "reset", "brown-out", "flash-wear", "network-loss", "panic"`,
		small + "[[fault]]\nkind = \"reset\"\nevery = \"1h\"\nlasts = \"1s\"":                                       "f:7: lasts: network-loss needs it, and no other fault: how long it lasts on average",
		small + "[[fault]]\nkind = \"flash-wear\"\nevery = \"1h\"":                                                  "f:4: erases: flash-wear needs it, and no other fault: by how many erases the pages in use are older then",
		small + "[[fault]]\nkind = \"flash-wear\"\nevery = \"1h\"\nerases = 5":                                      `f:5: kind: none of its boards writes to its flash; give them a log = "1m"`,
		small + "[[fault]]\nkind = \"network-loss\"\nevery = \"1h\"\nlasts = \"2h\"":                                "f:7: lasts: 2h0m0s is longer than every, 1h0m0s: the boards would never be connected",
		small + "count = 20000\n[[fault]]\nkind = \"reset\"\nevery = \"1s\"":                                        "f:7: every: about 72000000 faults and outages in 1h0m0s; a run has at most 1000000: give a longer one",
		small + "[[attack]]\nname = \"mirais\"\ncount = 1":                                                          `f:5: name: unknown attack "mirais"; did you mean "mirai"? (there are ` + quoted(attackNames()) + ")",
		small + "[[attack]]\nname = \"mirai\"\ncount = 1\naddress = \"10.0.0.1\"":                                   `f:7: address: "10.0.0.1" is no address of the Internet; want one such as "203.0.113.5"`,
		small + "[[attack]]\nname = \"mirai\"":                                                                      "f:4: share: want one of share, such as 0.05, and count, the first so many boards of each entry",
		small + "[[attack]]\nname = \"mirai\"\ncount = 1\nonset = \"30m\"\nspread = \"31m\"":                        "f:8: spread: the attack would begin up to 1h1m0s after the start, but the run is over after 1h0m0s",
		small + "[[link]]\nname = \"l\"\nloss = 0.6":                                                                "f:6: loss: 0.6 lets no connection come about; at most 0.5 (an outage is outage_every and outage_lasts)",
		small + "[[link]]\nname = \"l\"\noutage_every = \"1h\"":                                                     "f:6: outage_every: outages need both, outage_every and outage_lasts",
		small + strings.Repeat("[[site]]\n", 65):                                                                    "f:4: site: 65 tables; at most 64",
		"time = \"real\"\n" + small + "link = \"l\"\n[[link]]\nname = \"l\"\nloss = 0.1":                            `f:5: link: "l" is slow or lossy, which a facade is not in real time; set network = "netstack" or time = "virtual"`,
		strings.Repeat("#", maxFile+1):                                                                              fmt.Sprintf("f: a fleet file has at most %d bytes", maxFile),
		small + "[[board]]\nname = \"a\"\ncount = 3\n[[board]]\nname = \"a-0002\"":                                  `f:8: name: "a-0002" is the id of one of the boards of "a"`,
		small + "count = 20000\nlink = \"l\"\n[[link]]\nname = \"l\"\noutage_every = \"1m\"\noutage_lasts = \"1s\"": "f:8: outage_every: about 1200000 outages of boards in 1h0m0s; a run has at most 1000000: give a longer one",
		small + "count = 10000\nlink = \"l\"\n[[link]]\nname = \"l\"\noutage_every = \"1m\"\noutage_lasts = \"1s\"\n[[fault]]\nkind = \"reset\"\nevery = \"1m\"": "f:12: every: about 1200000 faults and outages in 1h0m0s; a run has at most 1000000: give a longer one",
	} {
		_, err := Parse("f", []byte(text))
		if err == nil || err.Error() != want {
			t.Errorf("%.200s\ngot  %v\nwant %s", text, err, want)
		}
	}
}

// A file that says next to nothing has safe defaults.
func TestParse_Defaults(t *testing.T) {
	t.Parallel()
	f, err := Parse("f", []byte(small))
	if err != nil {
		t.Fatal(err)
	}
	b := f.Boards[0]
	if f.Name != "fleet" || f.Seed != 1 || f.RealTime || f.Speed != 0 || f.Window != 10*time.Second || b.Count != 1 || b.id(0) != "lamp" || b.Network != Facade ||
		b.Interval != 10*time.Second || b.Security != 10*time.Second || b.Subnet.String() != "10.16.0.0/16" || b.Reboot {
		t.Errorf("%+v", f)
	}
	now := time.Date(2026, 5, 1, 12, 0, 0, 5, time.UTC)
	if at := f.start(now); !at.Equal(now.Add(-time.Hour).Truncate(time.Second)) {
		t.Errorf("a virtual run ends now: it starts %v", at)
	}
	if f, err = Parse("f", []byte("epoch = 2026-03-01T06:00:00+01:00\n"+small+`security = "off"`)); err != nil {
		t.Fatal(err)
	}
	if got := f.start(now).Format(time.RFC3339); got != "2026-03-01T05:00:00Z" || f.Boards[0].Security != 0 {
		t.Errorf("epoch %s, security %v", got, f.Boards[0].Security)
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none.toml")); err == nil || !strings.HasPrefix(err.Error(), "there is no fleet file") {
		t.Errorf("a missing file: %v", err)
	}
}

// Boards with packets get their addresses by DHCP: the subnet that they would have without is free for others.
func TestParse_PacketsTakeNoSubnet(t *testing.T) {
	t.Parallel()
	text := "time = \"real\"\n" + small + "network = \"netstack\"\n[[board]]\nname = \"b\"\nsubnet = \"10.16.0.0/16\""
	if _, err := Parse("f", []byte(text)); err != nil {
		t.Error(err)
	}
}

// What has no size, such as a device, is not read without end.
func TestLoad_Endless(t *testing.T) {
	t.Parallel()
	if _, err := Load("/dev/zero"); err == nil || !strings.Contains(err.Error(), "a fleet file has at most") {
		t.Error(err)
	}
}

// A link takes its latency twice, up to twice its jitter, and more when something was lost.
func TestLink(t *testing.T) {
	t.Parallel()
	l := Link{Latency: 20 * time.Millisecond, Jitter: 10 * time.Millisecond, Loss: 0.1}
	clean, lost := 0, 0
	for n := range uint64(1000) {
		switch d := l.trip(n); {
		case d >= 40*time.Millisecond && d <= 60*time.Millisecond:
			clean++
		case d >= 240*time.Millisecond && d <= 260*time.Millisecond+retransmit<<attempts:
			lost++
		default:
			t.Errorf("%v", d)
		}
	}
	if lost < 150 || lost > 230 { // 0.19 of them, by seeds that are fixed
		t.Errorf("%d of %d lost something", lost, clean+lost)
	}
	// Each further time that something is lost takes twice as long.
	l, long := Link{Loss: 0.5}, map[time.Duration]bool{}
	for n := range uint64(1000) {
		long[l.trip(n)/retransmit] = true
	}
	for times := range attempts + 1 {
		if d := time.Duration(1<<times - 1); !long[d] {
			t.Errorf("nothing was lost %d times", times)
		}
		delete(long, 1<<times-1)
	}
	if len(long) > 0 {
		t.Errorf("times %v", long)
	}
}

func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.toml")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(small + "[[fault]]\nkind='panic'\nevery='1m'\n[[attack]]\nname='beacon'\nshare=0.5"))
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := Parse("f", text)
		if err != nil {
			if len(err.(Problems)) == 0 || file != nil {
				t.Fatalf("refused without a reason, or with a file: %v", err)
			}
			return
		}
		if n := file.Total(); n < 1 || n > MaxBoards || file.Duration < time.Second {
			t.Fatalf("%d boards for %v were taken", n, file.Duration)
		}
		if file.Total() > 50 || file.Duration > 24*time.Hour {
			return // plans of large fleets take too long for a fuzzer
		}
		for _, b := range file.Plan().Boards {
			if b.Of.Network == Facade && !b.Of.Subnet.Contains(b.Address.Addr()) {
				t.Fatalf("%s has %s, outside of %s", b.ID, b.Address, b.Of.Subnet)
			}
			for i, e := range b.Events {
				if e.At >= file.Duration || i > 0 && e.At < b.Events[i-1].At {
					t.Fatalf("%s: %v", b.ID, b.Events)
				}
			}
		}
	})
}

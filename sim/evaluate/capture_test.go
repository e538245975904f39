package evaluate

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/sim/traffic"
	"github.com/vauban-iot/vauban/wire/connlog"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// iot23 is a capture of one infected device in the form of IoT-23, with its lines in the order in which connections ended.
func iot23(t *testing.T, attack traffic.Attack) (log []byte, host netip.Addr) {
	t.Helper()
	f, err := traffic.New(traffic.Config{Seed: 5, Attacks: 1, Days: 2})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(f.Devices, func(d *traffic.Device) bool { return d.Attack == attack })
	log = connlog.AppendHead(nil)
	var held [][]byte
	r := rand.New(rand.NewPCG(1, 1))
	for w := range f.Of(i) {
		if w.Start.After(f.Devices[i].Onset.Add(map[bool]time.Duration{true: time.Hour, false: 6 * time.Hour}[attack == traffic.Mirai])) {
			break
		}
		for _, rec := range w.Records() {
			if host == (netip.Addr{}) && rec.Orig.Addr().Is4() {
				host = rec.Orig.Addr()
			}
			held = append(held, connlog.Append(nil, &rec))
			if len(held) > 50 {
				n := r.IntN(len(held))
				log = append(log, held[n]...)
				held = slices.Delete(held, n, n+1)
			}
		}
	}
	for _, line := range held {
		log = append(log, line...)
	}
	return log, host
}

func capture(t *testing.T, run *Run, c Capture) Report {
	t.Helper()
	c.Dir = t.TempDir()
	r, err := run.Capture(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What a command makes of files that a user has: in the form of IoT-23, split by capture and projected to what boards tell, per device-day; the
// figure for another set, in the form of TON_IoT, by the same command. The sets themselves are not ours to keep (docs/detection.md).
func TestCapture_ReproducesFromFiles(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-36")
	run := NewRun()
	for _, tc := range []struct {
		attack traffic.Attack
		want   string
	}{{traffic.Mirai, alert.NetworkScan}, {traffic.SYNFlood, alert.DenialOfService}} {
		log, host := iot23(t, tc.attack)
		log = append(log, "1545403824.181240\tbroken\n"...)
		r := capture(t, run, Capture{Name: string(tc.attack), Log: bytes.NewReader(log), Hosts: []netip.Addr{host}})
		i := slices.IndexFunc(r.Attacks, func(c Class) bool { return c.Name == string(tc.attack) })
		if i < 0 || r.Attacks[i].Found != 1 || r.Attacks[i].FoundDays != 1 || !slices.Contains(r.Attacks[i].By, tc.want) || r.Benign.DeviceDays != 1 {
			t.Errorf("%s: %+v", tc.attack, r)
		}
		if !strings.Contains(strings.Join(r.Notes, "\n"), "1 of them broken") {
			t.Errorf("%s: %q", tc.attack, r.Notes)
		}
	}
	total := run.Total()
	if run.Captures() != 2 || total.Devices != 2 || total.Benign.DeviceDays != 2 || len(total.Attacks) != 2 {
		t.Errorf("in all: %+v", total)
	}
	cross := capture(t, NewRun(), Capture{Name: "ton", Log: strings.NewReader(ton()), All: true})
	i := slices.IndexFunc(cross.Attacks, func(c Class) bool { return c.Name == "scanning" })
	if i < 0 || cross.Attacks[i].Found != 1 || !slices.ContainsFunc(cross.Attacks, func(c Class) bool { return c.Name == "scanning"+targetSuffix }) {
		t.Errorf("TON_IoT: %+v", cross)
	}
}

// ton is a network in the form of TON_IoT: one host that scans the others, and others that do nothing wrong.
func ton() string {
	var b strings.Builder
	w := csv.NewWriter(&b)
	w.Write(strings.Split("ts,src_ip,src_port,dst_ip,dst_port,proto,service,duration,src_bytes,dst_bytes,conn_state,missed_bytes,src_pkts,src_ip_bytes,dst_pkts,dst_ip_bytes,dns_query,label,type", ","))
	at := 1556436000
	for i := range 2000 {
		w.Write([]string{strconv.Itoa(at + 10*i), "192.168.1.152", strconv.Itoa(50000 + i%1000), "192.168.1.190", "1883", "tcp", "-", "0.5", "100", "50", "SF", "0", "4", "268", "3", "182", "-", "0", "normal"})
	}
	for i := range 900 {
		w.Write([]string{strconv.Itoa(at + 5000 + i/20), "192.168.1.31", "44001", fmt.Sprintf("192.168.1.%d", 40+i%150), "22", "tcp", "-", "0", "0", "0", "S0", "0", "1", "44", "0", "0", "-", "1", "scanning"})
	}
	w.Flush()
	return b.String()
}

// The projection keeps what there was: a window that is logged as connections and projected again is the window.
func TestCapture_ProjectsBack(t *testing.T) {
	t.Parallel()
	f, err := traffic.New(traffic.Config{Seed: 9, Honest: 5, Days: 2})
	if err != nil {
		t.Fatal(err)
	}
	for i := range f.Devices {
		want, hosts := map[string]uint64{}, map[netip.Addr]bool{}
		log := connlog.AppendHead(nil)
		for w := range f.Of(i) {
			if w.Start.Hour() > 11 {
				break
			}
			for j, rec := range w.Records() {
				log = connlog.Append(log, &rec)
				fl := w.Flows[j]
				hosts[fl.Local.Addr()] = true
				want[fmt.Sprint(w.Start.Unix(), fl.Remote, fl.Local, fl.Protocol)] += fl.BytesIn<<32 | fl.BytesOut
			}
		}
		got := map[string]uint64{}
		s := newSpool(t.TempDir())
		in, err := connlog.NewReader(bytes.NewReader(log))
		if err != nil {
			t.Fatal(err)
		}
		for rec, err := in.Next(); err == nil; rec, err = in.Next() {
			if _, err := s.add(&rec); err != nil {
				t.Fatal(err)
			}
		}
		for host := range hosts {
			p := newProjector(host, collect(got))
			if err := s.each(func(v *row) error {
				if v.orig.Addr() != host && v.resp.Addr() != host {
					return nil
				}
				return p.add(v, "")
			}); err != nil {
				t.Fatal(err)
			}
			if err := p.end(); err != nil {
				t.Fatal(err)
			}
		}
		s.close()
		for k, v := range want {
			if got[k] != v {
				t.Fatalf("%s: %s is %x, want %x", f.Devices[i].ID, k, got[k], v)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%d flows, want %d", len(got), len(want))
		}
	}
}

func collect(got map[string]uint64) func(time.Time, []secmsg.Flow, []string) error {
	return func(start time.Time, flows []secmsg.Flow, _ []string) error {
		for _, f := range flows {
			got[fmt.Sprint(start.Unix(), f.Remote, f.Local, f.Protocol)] += f.BytesIn<<32 | f.BytesOut
		}
		return nil
	}
}

// A long connection is spread evenly over its windows, and its bytes are all there; beyond 64 flows of a window the cache is full.
func TestProjector_SpreadsAndLoses(t *testing.T) {
	t.Parallel()
	host := netip.MustParseAddr("10.0.0.1")
	var sizes []uint64
	var widest int
	p := newProjector(host, func(_ time.Time, flows []secmsg.Flow, _ []string) error {
		for _, f := range flows {
			if f.Remote.Port() == 443 {
				sizes = append(sizes, f.BytesOut)
			}
		}
		widest = max(widest, len(flows))
		return nil
	})
	at := int64(1_700_000_000_000_000) / windowMicros * windowMicros
	remote := netip.MustParseAddrPort("198.51.100.7:443")
	if err := p.add(&row{at: at, last: 100_000, orig: netip.AddrPortFrom(host, 50000), resp: remote, out: 10_001}, ""); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if err := p.add(&row{at: at + 30_000_000, orig: netip.AddrPortFrom(host, uint16(1000+i)), resp: netip.MustParseAddrPort("203.0.113.9:23"), out: 40}, "scan"); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.end(); err != nil {
		t.Fatal(err)
	}
	sum := uint64(0)
	for _, s := range sizes {
		sum += s
		if s > 1001 {
			t.Errorf("a window of %d bytes", s)
		}
	}
	// The one window in which the cache is full loses its share of the long one.
	if widest != traffic.Cache || p.lost != 37 || len(sizes) != 9 || sum != 9001 {
		t.Errorf("widest window %d, %d lost; %d windows with %d bytes: %v", widest, p.lost, len(sizes), sum, sizes)
	}
}

// Connections are brought into order also when they do not fit in memory.
func TestSpool_MergesParts(t *testing.T) {
	t.Parallel()
	s := newSpool(t.TempDir())
	defer s.close()
	r := rand.New(rand.NewPCG(3, 3))
	const n = 10_000
	for i := range n {
		rec := connlog.Record{
			Start: time.Unix(1_700_000_000, 0).Add(time.Duration(r.IntN(1e9)) * time.Microsecond), Protocol: "udp", Duration: time.Duration(i) * time.Millisecond,
			Orig: netip.MustParseAddrPort("10.0.0.1:5000"), Resp: netip.MustParseAddrPort("[2001:db8::1]:53"), OrigIPBytes: uint64(i) + 28, OrigPackets: 1, Malicious: i%3 == 0, Label: "x",
		}
		if _, err := s.add(&rec); err != nil {
			t.Fatal(err)
		}
		if i%1500 == 1499 {
			if err := s.spill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	seen := make([]bool, n)
	var last int64
	if err := s.each(func(v *row) error {
		if v.at < last {
			t.Fatal("out of order")
		}
		last = v.at
		i := int(v.last)
		if seen[i] || int(v.out) != i+8 || v.resp.String() != "[2001:db8::1]:53" || (v.label == 0) != (i%3 == 0) {
			t.Fatalf("%d: %+v", i, v)
		}
		seen[i] = true
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(seen, false) {
		t.Error("records are lost")
	}
}

func TestCapture_Refuses(t *testing.T) {
	t.Parallel()
	for want, text := range map[string]string{
		"neither Zeek's conn.log":                  "hello\n",
		"is a connection that can be read; line 8": string(connlog.AppendHead(nil)) + "x\ty\n",
		"name the device with --ho":                string(connlog.AppendHead(nil)) + "1545403816.9\tC\t8.8.8.8\t41040\t9.9.9.9\t80\ttcp\t-\t3\t0\t0\tS0\t-\t-\t0\tS\t3\t180\t0\t0\t-   Benign   -\n",
	} {
		_, err := NewRun().Capture(t.Context(), Capture{Name: "f", Log: strings.NewReader(text), Dir: t.TempDir()})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %q", text, err, want)
		}
	}
}

package vuln

import (
	"archive/zip"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/vuln/format"
	"github.com/vauban-iot/vauban/fault"
)

// osv writes a record.
func osv(id, aliases, severity, ecosystem, name, events, versions string) string {
	return fmt.Sprintf(`{"id":%q,"aliases":[%s],"modified":"2099-01-01T00:00:00Z","severity":[%s],"affected":[{"package":{"ecosystem":%q,"name":%q},"ranges":[{"type":"ECOSYSTEM","events":[%s]}],"versions":[%s]}]}`,
		id, aliases, severity, ecosystem, name, events, versions)
}

const critical = `{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}`

func file(t testing.TB, name, text string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	w := func() error { _, err := f.WriteString(text); return err }
	if strings.HasSuffix(name, ".gz") {
		w = func() error {
			z := gzip.NewWriter(f)
			_, err := z.Write([]byte(text))
			if err == nil {
				err = z.Close()
			}
			return err
		}
	}
	if err := w(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	return f
}

// database reads files and opens what they give.
func database(t testing.TB, files ...*os.File) *Database {
	t.Helper()
	var sources []Source
	var all [][]byte
	for _, f := range files {
		s, data, err := Read(t.Context(), f, "", nil)
		if s.Name == "" {
			s.Name = filepath.Base(f.Name())
		}
		if err != nil {
			t.Fatal(err)
		}
		sources, all = append(sources, s), append(all, data)
	}
	db, err := Open(sources, all)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func found(t testing.TB, db *Database, packages ...Package) (lines []string) {
	t.Helper()
	set, _ := NewSet(packages)
	all, left, err := db.Match(set)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		lines = append(lines, fmt.Sprintf("%s %s %s->%s", f.ID, f.Package, f.Installed, f.Fixed))
	}
	if left > 0 {
		lines = append(lines, fmt.Sprint("left ", left))
	}
	return lines
}

func TestMatch(t *testing.T) {
	t.Parallel()
	db := database(t, file(t, "a.jsonl", strings.Join([]string{
		osv("DEBIAN-CVE-2099-1000", `"CVE-2099-1000"`, "", "Debian:12", "openssl", `{"introduced":"0"},{"fixed":"3.0-2"}`, ""),
		osv("DEBIAN-CVE-2099-1000x", `"CVE-2099-1000"`, "", "Debian:11", "openssl", `{"introduced":"0"}`, ""),
		osv("USN-1", `"CVE-2099-1001","CVE-2099-1002"`, "", "Ubuntu:22.04:LTS", "curl", `{"introduced":"0"},{"fixed":"7.81.0-1ubuntu1.2"}`, ""),
		osv("USN-2", `"CVE-2099-1003"`, "", "Ubuntu:Pro:18.04:LTS", "curl", `{"introduced":"0"},{"fixed":"7.58+esm1"}`, ""),
		osv("ALPINE-CVE-2099-1004", `"CVE-2099-1004"`, "", "Alpine:v3.18", "busybox", `{"introduced":"0"},{"fixed":"1.36.1-r2"}`, ""),
		osv("RHSA-1", `"CVE-2099-1005"`, "", "Red Hat:enterprise_linux:9::baseos", "glibc", `{"introduced":"0"},{"fixed":"0:2.34-60.el9_2.7"}`, ""),
		osv("GO-1", `"CVE-2099-1006"`, critical, "Go", "golang.org/x/net", `{"introduced":"0"},{"fixed":"0.7.0"},{"introduced":"0.9.0"},{"last_affected":"0.9.3"}`, ""),
		osv("PYSEC-1", `"GHSA-1"`, "", "PyPI", "Foo_Bar", `{"introduced":"1.0rc1"},{"limit":"2"}`, `"0.5"`),
		osv("GHSA-1", `"PYSEC-1"`, "", "PyPI", "foo-bar", `{"introduced":"1.0"}`, ""),
		osv("MAL-1", "", "", "Packagist", "a/b", "", `"1.0"`),
	}, "\n")))
	deb := Package{Name: "libssl3", Source: "openssl", Type: "deb", Distro: "debian-12"}
	with := func(p Package, version, distro string) Package {
		p.Version = version
		if distro != "" {
			p.Distro = distro
		}
		return p
	}
	curl := Package{Name: "curl", Type: "deb"}
	for _, c := range []struct {
		p    Package
		want string
	}{
		{with(deb, "3.0-1", ""), "CVE-2099-1000 libssl3 3.0-1->3.0-2"},
		{with(deb, "3.0-1+b4", ""), "CVE-2099-1000 libssl3 3.0-1+b4->3.0-2"}, // rebuilt
		{with(deb, "3.0-2", ""), ""},
		{with(deb, "3.0-2+b1", ""), ""},
		{with(deb, "9", "debian-11"), "CVE-2099-1000 libssl3 9->"},
		{with(deb, "3.0-1", "debian-13"), ""},
		{Package{Name: "libssl3", Version: "1", Source: "openssl", Type: "deb"}, "left 1"},
		{with(curl, "7.81.0-1ubuntu1.1", "ubuntu-22.04"), "CVE-2099-1001 curl 7.81.0-1ubuntu1.1->7.81.0-1ubuntu1.2|CVE-2099-1002 curl 7.81.0-1ubuntu1.1->7.81.0-1ubuntu1.2"},
		{with(curl, "7.58", "ubuntu-18.04"), "CVE-2099-1003 curl 7.58->7.58+esm1"},
		{with(curl, "7.58", "ubuntu-18.04.6"), "CVE-2099-1003 curl 7.58->7.58+esm1"},
		{Package{Name: "busybox-binsh", Version: "1.36.1-r1", Source: "busybox", Type: "apk", Distro: "alpine-3.18.4"}, "CVE-2099-1004 busybox-binsh 1.36.1-r1->1.36.1-r2"},
		{Package{Name: "glibc", Version: "2.34-60.el9", Type: "rpm", Distro: "rhel-9.2"}, "CVE-2099-1005 glibc 2.34-60.el9->0:2.34-60.el9_2.7"},
		{Package{Name: "golang.org/x/net", Version: "v0.6.9", Type: "golang"}, "CVE-2099-1006 golang.org/x/net v0.6.9->0.7.0"},
		{Package{Name: "golang.org/x/net", Version: "v0.8.0", Type: "golang"}, ""},
		{Package{Name: "golang.org/x/net", Version: "v0.9.3", Type: "golang"}, "CVE-2099-1006 golang.org/x/net v0.9.3->"},
		{Package{Name: "golang.org/x/net", Version: "v0.9.4", Type: "golang"}, ""},
		{Package{Name: "foo.bar", Version: "1.0rc2", Type: "pypi"}, "GHSA-1 foo.bar 1.0rc2->"}, // aliases of each other are one
		{Package{Name: "foo.bar", Version: "0.5", Type: "pypi"}, "GHSA-1 foo.bar 0.5->"},       // only listed
		{Package{Name: "foo.bar", Version: "0.6", Type: "pypi"}, ""},
		{Package{Name: "a/b", Version: "1.0", Type: "composer"}, "MAL-1 a/b 1.0->"},
		{Package{Name: "a/b", Version: "1.1", Type: "composer"}, ""},
		{Package{Name: "thing", Version: "1", Type: "opkg"}, "left 1"},
	} {
		if got := strings.Join(found(t, db, c.p), "|"); got != c.want {
			t.Errorf("%+v: %q, want %q", c.p, got, c.want)
		}
	}
}

func TestPriority(t *testing.T) {
	t.Parallel()
	record := func(n int, severity string) string {
		return osv(fmt.Sprintf("CVE-2099-100%d", n), "", severity, "Go", "x", `{"introduced":"0"}`, "")
	}
	db := database(t,
		file(t, "a.jsonl", record(0, critical)+"\n"+record(1, "")+"\n"+record(2, `{"type":"CVSS_V4","score":"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N"},{"type":"CVSS_V3","score":"odd"}`)+"\n"+record(3, critical)+"\n"),
		file(t, "k.json", `{"catalogVersion":"1","vulnerabilities":[{"cveID":"CVE-2099-1003","dueDate":"2099-02-01","knownRansomwareCampaignUse":"Known"}]}`),
		file(t, "e.csv.gz", "#score_date:2099-01-01\ncve,epss,percentile\nCVE-2099-1001,0.9,0.99\nCVE-2099-1002,0.1,0.5\nCVE-2099-1003,0.00001,0.1\n"))
	set, _ := NewSet([]Package{{Name: "x", Version: "1", Type: "golang"}})
	all, _, err := db.Match(set)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range all {
		got = append(got, fmt.Sprintf("%s %v %s %s", f.ID[9:], f.CVSS, f.Severity, f.Priority.How))
	}
	want := []string{
		"1003 9.8 Critical exploited (KEV), before all that is not; then EPSS 1e-05 x CVSS 9.8 = 0.0001",
		"1001 5 Unknown EPSS 0.9 x CVSS 5 (assumed: it is not rated) = 4.5",
		"1002 9.3 Critical EPSS 0.1 x CVSS 9.3 = 0.93",
		"1000 9.8 Critical EPSS 0 (assumed: EPSS does not have it) x CVSS 9.8 = 0",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if k := recommend(all); k.severity != alert.High {
		t.Errorf("exploited, and of severity %s", k.severity)
	}
	if k := recommend(all[1:2]); k.severity != alert.Low {
		t.Errorf("not rated, and of severity %s", k.severity)
	}
}

func TestVEX(t *testing.T) {
	t.Parallel()
	day := func(n int) time.Time { return time.Date(2099, 1, n, 0, 0, 0, 0, time.UTC) }
	p := Package{Name: "libssl3", Version: "3", Source: "openssl", Type: "deb", Distro: "debian-12", Arch: "arm64"}
	say := func(status string, n int, products ...format.Product) *VEX {
		return &VEX{Name: "d", Updated: day(1), Statements: []format.Statement{{Vulnerabilities: []string{"GHSA-1", "CVE-2099-1000"}, Status: status, Time: day(n), Products: products}}}
	}
	of := func(id string, components ...string) format.Product {
		return format.Product{ID: id, Components: components}
	}
	scoped := func(v *VEX) *VEX { v.Scope.Group = "plant"; return v }
	for name, c := range map[string]struct {
		documents  []*VEX
		suppressed bool
	}{
		"none":                             {nil, false},
		"all that it is for":               {[]*VEX{say(format.NotAffected, 1)}, true},
		"the binary package":               {[]*VEX{say(format.NotAffected, 1, of("pkg:deb/debian/libssl3@3"))}, true},
		"the source package":               {[]*VEX{say(format.Fixed, 1, of("pkg:deb/debian/openssl"))}, true},
		"another version":                  {[]*VEX{say(format.NotAffected, 1, of("pkg:deb/debian/libssl3@2"))}, false},
		"another architecture":             {[]*VEX{say(format.NotAffected, 1, of("pkg:deb/debian/libssl3?arch=amd64"))}, false},
		"another package":                  {[]*VEX{say(format.NotAffected, 1, of("pkg:npm/libssl3"))}, false},
		"it is affected":                   {[]*VEX{say(format.AffectedBy, 1, of("pkg:deb/debian/libssl3"))}, false},
		"under investigation":              {[]*VEX{say(format.UnderInvestigation, 1)}, false},
		"the product of the device":        {[]*VEX{say(format.NotAffected, 1, of("pkg:generic/Acme/Cam@2.1"))}, true},
		"its other firmware":               {[]*VEX{say(format.NotAffected, 1, of("pkg:generic/Acme/Cam@2.0"))}, false},
		"a component of it":                {[]*VEX{say(format.NotAffected, 1, of("Acme Cam", "pkg:deb/debian/openssl"))}, true},
		"another component of it":          {[]*VEX{say(format.NotAffected, 1, of("Acme Cam", "pkg:deb/debian/zlib"))}, false},
		"a product that nobody has":        {[]*VEX{say(format.NotAffected, 1, of("Other"))}, false},
		"a product that the operator gave": {[]*VEX{scoped(say(format.NotAffected, 1, of("Other")))}, true},
		"a package, for a group":           {[]*VEX{scoped(say(format.NotAffected, 1, of("pkg:deb/debian/zlib")))}, false},
		"the later one counts":             {[]*VEX{say(format.NotAffected, 3), say(format.AffectedBy, 2)}, true},
		"the later one counts, again":      {[]*VEX{say(format.NotAffected, 2), say(format.AffectedBy, 3)}, false},
	} {
		all := []Finding{{ID: "CVE-2099-1000", PURL: p.PURL(), Status: Unsuppressed}, {ID: "CVE-2099-1001", PURL: p.PURL(), Status: Unsuppressed}}
		judge(all, c.documents, "Acme Cam", "2.1")
		if got := all[0].Status == Suppressed; got != c.suppressed || all[1].Status != Unsuppressed {
			t.Errorf("%s: %v, want %v", name, all, c.suppressed)
		}
	}
}

func TestRead_Refuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, says string }{
		"empty.json":   {"", "empty"},
		"text.txt":     {"hello world\n", "neither JSON nor the CSV of EPSS"},
		"object.json":  {`{"a":1}`, "without a usable id"},
		"broken.zip":   {"PK\x03\x04nothing", "not a valid zip"},
		"broken.gz":    {"\x1f\x8b\x08\x00", "cannot be imported"},
		"gone.json":    {`{"id":"X","withdrawn":"2099-01-01T00:00:00Z","affected":[]}`, "withdrawn"},
		"foreign.json": {osv("X", "", "", "OSS-Fuzz", "x", `{"introduced":"0"}`, ""), "not compared"},
	} {
		f := file(t, "x", c.text)
		if _, _, err := Read(t.Context(), f, name, nil); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

// A bomb of zeros is a broken record, not a gigabyte in memory.
func TestRead_Bomb(t *testing.T) {
	t.Parallel()
	f := file(t, "x.zip", "")
	z := zip.NewWriter(f)
	for name, n := range map[string]int{"bomb.json": 64, "good.json": 0} {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			_, err = w.Write([]byte(osv("CVE-2099-1000", "", "", "Go", "x", `{"introduced":"0"}`, "")))
		}
		zeros := make([]byte, 1<<20)
		for range n {
			if err == nil {
				_, err = w.Write(zeros)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	s, _, err := Read(t.Context(), f, "", nil)
	if err != nil || s.Records != 1 || s.Broken != 1 || s.Name != "go" {
		t.Errorf("got %+v %v", s, err)
	}
}

// Damage of what is kept is an error, never a crash or a wrong answer's memory.
func FuzzPacked(f *testing.F) {
	b := newBuilder()
	r, err := format.ParseOSV([]byte(osv("CVE-2099-1000", "", critical, "Go", "x", `{"introduced":"0"},{"fixed":"2"}`, `"3"`)))
	if err != nil {
		f.Fatal(err)
	}
	if _, err := b.add(&r); err != nil {
		f.Fatal(err)
	}
	data, err := b.finish()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(_ *testing.T, data []byte) {
		db, err := Open([]Source{{Name: "x", Kind: OSV}}, [][]byte{data})
		if err != nil {
			return
		}
		set, _ := NewSet([]Package{{Name: "x", Version: "1", Type: "golang"}})
		_, _, _ = db.Match(set)
	})
}

func TestDistroOf(t *testing.T) {
	t.Parallel()
	for details, want := range map[string]string{
		`{"os_dist":"debian","os_version":"12"}`:                                   "debian-12",
		`{"OSName":"Linux","OSVersion":"22.04.3 LTS (Jammy)","OSVendor":"Ubuntu"}`: "ubuntu-22.04.3",
		`{"OSName":"Alpine Linux","OSVersion":"3.18.4"}`:                           "alpine-3.18.4",
		`{"OSName":"Windows","OSVersion":"10"}`:                                    "",
		`{"os_info":"Azure RTOS 6.3"}`:                                             "",
		`7`:                                                                        "",
	} {
		if got := distroOf([]byte(details)); got != want {
			t.Errorf("%s: %q, want %q", details, got, want)
		}
	}
}

// generated writes n records of Debian, over a tenth as many packages, each with twenty listed versions as the real ones have.
func generated(w interface{ WriteString(string) (int, error) }, n int) error {
	for i := range n {
		var versions []string
		for v := range 20 {
			versions = append(versions, fmt.Sprintf(`"1.%d.%d-1+deb12u%d"`, i%10, v, v%4))
		}
		text := osv(fmt.Sprintf("DEBIAN-CVE-2099-%d", 10000+i), fmt.Sprintf(`"CVE-2099-%d"`, 10000+i), critical, "Debian:12", fmt.Sprintf("source-%d", i/10),
			fmt.Sprintf(`{"introduced":"0"},{"fixed":"1.%d.20-1"}`, i%10), strings.Join(versions, ","))
		if _, err := w.WriteString(text + "\n"); err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkImport reads 300,000 records.
func BenchmarkImport(b *testing.B) {
	f := file(b, "x.jsonl", "")
	if err := generated(f, 300_000); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := f.Seek(0, 0); err != nil {
			b.Fatal(err)
		}
		s, data, err := Read(b.Context(), f, "", nil)
		if err != nil || s.Records != 300_000 {
			b.Fatal(s, err)
		}
		b.ReportMetric(float64(len(data))/1e6, "MB-kept")
	}
}

// BenchmarkMatch compares 50 sets of 500 packages with 100,000 records.
func BenchmarkMatch(b *testing.B) {
	f := file(b, "x.jsonl", "")
	if err := generated(f, 100_000); err != nil {
		b.Fatal(err)
	}
	if _, err := f.Seek(0, 0); err != nil {
		b.Fatal(err)
	}
	db := database(b, f)
	var sets []Set
	for i := range 50 {
		s, _ := NewSet(somePackages(i))
		sets = append(sets, s)
	}
	for b.Loop() {
		n := 0
		for _, s := range sets {
			all, _, err := db.Match(s)
			if err != nil {
				b.Fatal(err)
			}
			n += len(all)
		}
		b.ReportMetric(float64(n)/float64(len(sets)), "findings/set")
	}
}

// somePackages are 500 of which a tenth have holes.
func somePackages(set int) []Package {
	var all []Package
	for i := range 500 {
		version := "9.0-1"
		if i%10 == 0 {
			version = "1.5.10-1"
		}
		all = append(all, Package{Name: fmt.Sprintf("lib-%d", i), Source: fmt.Sprintf("source-%d", (set*37+i*19)%10_000), Version: version, Type: "deb", Distro: "debian-12"})
	}
	return all
}

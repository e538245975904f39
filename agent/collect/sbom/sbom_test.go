package sbom

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

const (
	dpkgStatus = `Package: libc6
Status: install ok installed
Priority: optional
Maintainer: GNU Libc Maintainers <debian-glibc@lists.debian.org>
Architecture: amd64
Source: glibc (2.36-9)
Version: 2.36-9+deb12u4
Conffiles:
 /etc/ld.so.conf.d/x 123
Description: the library
 Version: 9 of nothing

Package: gone
Status: deinstall ok config-files
Version: 1

Package: half
Status: install ok half-installed
Version: 1

Package: bash
Status: install ok installed
Architecture: amd64
Version: 5.2`
	opkgStatus   = "Package: busybox\nVersion: 1.36.1-1\nStatus: install user installed\nArchitecture: mipsel_24kc\n\nPackage: no\nVersion: 1\nStatus: unknown ok not-installed\n"
	apkInstalled = "C:Q1abc=\nP:musl\nV:1.2.4-r2\nA:x86_64\no:musl\nm:Timo <t@example.org>\nF:lib\nR:ld.so\n\nP:libcrypto3\nV:3.1.4-r5\nA:x86_64\no:openssl\n\n"
	cycloneDX    = `{"bomFormat":"CycloneDX","specVersion":"1.5","components":[
		{"type":"library","name":"lodash","version":"4.17.21","purl":"pkg:npm/lodash@4.17.21","publisher":"Lodash"},
		{"name":"text","version":"v0.3.0","group":"golang.org/x","purl":"pkg:golang/golang.org/x/text@v0.3.0","components":[
			{"name":"log4j-core","version":"2.14.1","group":"org.apache","purl":"pkg:maven/org.apache/log4j-core@2.14.1"}]},
		{"name":"openssl","purl":"pkg:deb/debian/libssl3@3.0.11-1~deb12u2?arch=arm64&upstream=openssl%403.0.11","supplier":{"name":"Debian"}},{"name":"firmware","version":"7"}]}`
	spdx = `{"spdxVersion":"SPDX-2.3","packages":[{"name":"zlib","versionInfo":"1.2.13","supplier":"Organization: Zlib","externalRefs":[
		{"referenceType":"cpe23Type","referenceLocator":"cpe:2.3:a:zlib"},{"referenceType":"purl","referenceLocator":"pkg:rpm/fedora/zlib@1.2.13?arch=x86_64"}]},
		{"name":"image","supplier":"NOASSERTION"}]}`
)

func write(t *testing.T, root, name, text string) {
	t.Helper()
	p := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func packages(t *testing.T, all []collect.Observation) []secmsg.Package {
	t.Helper()
	var ps []secmsg.Package
	for _, o := range all {
		if o.Event != "SBoM" || o.Hits != 1 || o.Time.IsZero() {
			t.Errorf("observation %+v", o)
		}
		ps = append(ps, o.Item.(secmsg.Package))
	}
	return ps
}

func TestTake(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write(t, root, "var/lib/dpkg/status", dpkgStatus)
	write(t, root, "var/lib/dpkg/status.d/base", "Package: base-files\nVersion: 12.4\nArchitecture: amd64\n")
	write(t, root, "var/lib/dpkg/status.d/base.md5sums", "Package: no\nVersion: 1\n")
	write(t, root, "usr/lib/opkg/status", opkgStatus)
	write(t, root, "lib/apk/db/installed", apkInstalled)
	write(t, root, "opt/sbom/a.json", cycloneDX)
	write(t, root, "opt/sbom/b.json", spdx)
	write(t, root, "opt/sbom/c.txt", "not read")
	all, err := New(Config{Root: root, Directories: []string{"opt/sbom", "opt/none"}}).Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []secmsg.Package{
		{Name: "libc6", Version: "2.36-9+deb12u4", Vendor: "GNU Libc Maintainers <debian-glibc@lists.debian.org>", Type: "deb", Arch: "amd64", Source: "glibc"},
		{Name: "bash", Version: "5.2", Type: "deb", Arch: "amd64"},
		{Name: "base-files", Version: "12.4", Type: "deb", Arch: "amd64"},
		{Name: "busybox", Version: "1.36.1-1", Type: "opkg", Arch: "mipsel_24kc"},
		{Name: "musl", Version: "1.2.4-r2", Vendor: "Timo <t@example.org>", Type: "apk", Arch: "x86_64"},
		{Name: "libcrypto3", Version: "3.1.4-r5", Type: "apk", Arch: "x86_64", Source: "openssl"},
		{Name: "lodash", Version: "4.17.21", Vendor: "Lodash", Type: "npm"},
		{Name: "golang.org/x/text", Version: "v0.3.0", Vendor: "golang.org/x", Type: "golang"},
		{Name: "org.apache:log4j-core", Version: "2.14.1", Vendor: "org.apache", Type: "maven"},
		{Name: "openssl", Version: "3.0.11-1~deb12u2", Vendor: "Debian", Type: "deb", Arch: "arm64"},
		{Name: "firmware", Version: "7", Type: "generic"},
		{Name: "zlib", Version: "1.2.13", Vendor: "Zlib", Type: "rpm", Arch: "x86_64"},
		{Name: "image", Type: "generic"},
	}
	if got := packages(t, all); !slices.Equal(got, want) {
		for i := range max(len(got), len(want)) {
			if i >= len(got) || i >= len(want) || got[i] != want[i] {
				t.Fatalf("package %d: got %+v, want %+v", i, got[i:min(len(got), i+1)], want[i:min(len(want), i+1)])
			}
		}
	}
}

func TestTake_SaysWhatItCouldNotRead(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write(t, root, "var/lib/dpkg/status", dpkgStatus+"\n\nX: "+strings.Repeat("x", maxLine)+"\n")
	write(t, root, "bom/a.json", `{"other":1}`)
	write(t, root, "bom/b.json", `{"bomFormat":`)
	write(t, root, "bom/c.json", cycloneDX)
	all, err := New(Config{Root: root, Directories: []string{"bom"}, MaxPackages: 3}).Take(t.Context())
	if err == nil || len(all) != 3 {
		t.Fatalf("%d packages, %v", len(all), err)
	}
	for _, want := range []string{"var/lib/dpkg/status: bufio.Scanner: token too long", "a.json: neither CycloneDX nor SPDX", "b.json: neither", "4 packages are left out"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}

// The packages of the machine that runs the test, as dpkg-query names them.
func TestTake_Dpkg(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version} ${Architecture} ${source:Package}\n").Output()
	if err != nil {
		t.Skipf("this machine has no dpkg: %v", err)
	}
	all, err := New(Config{}).Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, p := range packages(t, all) {
		source := p.Source
		if source == "" {
			source = p.Name
		}
		got[fmt.Sprintf("installed %s %s %s %s", p.Name, p.Version, p.Arch, source)] = true
	}
	n := 0
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "installed ") {
			if n++; !got[line] {
				t.Errorf("%s is missing", line)
			}
		}
	}
	if n == 0 || n != len(got) {
		t.Errorf("%d packages, want %d", len(got), n)
	}
}

// A package that rpmbuild made and rpm installed, into a root of its own.
func TestTake_RPM(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("rpmbuild"); err != nil {
		t.Fatal("rpmbuild is missing: make deps installs it")
	}
	root, build := t.TempDir(), t.TempDir()
	write(t, build, "acme.spec", "Name: acme-sensor\nEpoch: 2\nVersion: 1.4\nRelease: 3\nSummary: s\nLicense: MIT\nVendor: Acme Ltd\nBuildArch: noarch\n%description\nd\n%files\n")
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	run("rpmbuild", "-bb", "--define", "_topdir "+build, filepath.Join(build, "acme.spec"))
	made, _ := filepath.Glob(filepath.Join(build, "RPMS/noarch/*.rpm"))
	if len(made) != 1 {
		t.Fatalf("rpmbuild made %v", made)
	}
	run("rpm", "--root", root, "--dbpath", "/var/lib/rpm", "-i", "--nodeps", "--justdb", made[0])
	all, err := New(Config{Root: root}).Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []secmsg.Package{{Name: "acme-sensor", Version: "2:1.4-3", Vendor: "Acme Ltd", Type: "rpm", Arch: "noarch"}}
	if got := packages(t, all); !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func FuzzParsers(f *testing.F) {
	for _, s := range []string{dpkgStatus, opkgStatus, apkInstalled, cycloneDX, spdx, "a\t(none)\t1-1\tv\tnoarch\ta-1-1.src.rpm\ngpg-pubkey\t\t\t\t\t\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l := &list{seen: map[secmsg.Package]bool{}, most: 100}
		for _, parse := range []func(io.Reader, func(secmsg.Package)) error{parseDpkg("deb"), parseApk, parseRPM} {
			_ = parse(strings.NewReader(s), l.add)
		}
		_ = parseDocument([]byte(s), l.add)
		if len(l.all) > 100 {
			t.Fatalf("%d packages", len(l.all))
		}
		for _, p := range l.all {
			if p.Name == "" || len(p.Version) > 3*maxText || p.Type == "" && !strings.Contains(s, "pkg:") {
				t.Errorf("%+v", p)
			}
		}
	})
}

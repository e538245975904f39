package format

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/internal/conform"
)

// read reads text and shows each indicator as value confidence from until ref labels.
func read(t *testing.T, k Kind, text string) (all []string, b *intel.Builder) {
	t.Helper()
	b = intel.NewBuilder(intel.Source{Name: "f"})
	if err := Read(k, strings.NewReader(text), b); err != nil {
		t.Fatalf("%s: %v", k, err)
	}
	return shown(b.Block()), b
}

func shown(block *intel.Block) (all []string) {
	day := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return t.Format(time.DateOnly)
	}
	for it := range block.Each {
		value := it.Domain
		if value == "" {
			if value = it.Value.String(); it.Value.IsSingleIP() {
				value = it.Value.Addr().String()
			}
		}
		ref := it.Ref
		if ref == "" {
			ref = fmt.Sprint(it.Line)
		}
		all = append(all, fmt.Sprintf("%s %d %s %s %s %s", intel.Indicator{Value: value, Port: it.Port}, it.Confidence, day(it.From), day(it.Until), ref, strings.Join(it.Labels, ",")))
	}
	return all
}

func same(t *testing.T, want, got []string) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("indicators (-want +got):\n%s", d)
	}
}

func TestFeodo(t *testing.T) {
	t.Parallel()
	want := []string{"198.51.100.7:8080 100 2026-01-02 - 1 QakBot", "203.0.113.5:4444 100 2026-01-01 - 2 Emotet"}
	got, _ := read(t, Feodo, `[{"ip_address":"198.51.100.7","port":8080,"status":"online","hostname":null,"as_number":64500,"as_name":"X","country":"FR","first_seen":"2026-01-02 03:04:05","last_online":"2026-02-03","malware":"QakBot"},
		{"ip_address":"203.0.113.5","port":4444,"first_seen":"2026-01-01 03:04:05","malware":"Emotet"}]`)
	same(t, want, got)
	got, b := read(t, Feodo, "################\r\n# abuse.ch Feodo Tracker\r\n#\r\n\"first_seen_utc\",\"dst_ip\",\"dst_port\",\"c2_status\",\"last_online\",\"malware\"\r\n"+
		"\"2026-01-02 03:04:05\",\"198.51.100.7\",\"8080\",\"online\",\"2026-02-03\",\"QakBot\"\r\n2026-01-01 03:04:05,203.0.113.5,4444,offline,,Emotet\r\n\"broken\nx,y,z,,,\n# END 2 entries\r\n")
	want[0], want[1] = strings.Replace(want[0], " 1 Q", " 5 Q", 1), strings.Replace(want[1], " 2 E", " 6 E", 1)
	same(t, want, got)
	if b.BadLines != 2 {
		t.Errorf("%d bad lines, want 2: %v", b.BadLines, b.Warnings)
	}
	got, _ = read(t, Feodo, "# plain\n203.0.113.5\n")
	same(t, []string{"203.0.113.5 75 - - 2 feodo"}, got)
	same(t, nil, func() []string { s, _ := read(t, Feodo, "[]"); return s }()) // as it often is
}

func TestThreatFox(t *testing.T) {
	t.Parallel()
	export := `{"1234":[{"ioc_value":"203.0.113.9:6667","ioc_type":"ip:port","threat_type":"botnet_cc","malware":"elf.mirai","malware_alias":"Katana","malware_printable":"Mirai","first_seen_utc":"2026-01-02 03:04:05","last_seen_utc":null,"confidence_level":90,"reference":null,"tags":"mirai,iot","anonymous":"0","reporter":"x"}],
	"1235":[{"ioc_value":"c2.evil.example","ioc_type":"domain","threat_type":"botnet_cc","confidence_level":50}],
	"1236":[{"ioc_value":"abcdef","ioc_type":"sha256_hash","confidence_level":50},{"ioc_value":"x.example","ioc_type":"domain","confidence_level":0}]}`
	got, b := read(t, ThreatFox, export)
	same(t, []string{"203.0.113.9:6667 90 2026-01-02 - 1 botnet_cc,Mirai,mirai,iot", "c2.evil.example 50 - - 2 botnet_cc"}, got)
	if b.Unsupported != 1 || b.Unsure != 1 {
		t.Errorf("counts: %s", b.Counts())
	}
	answer := `{"query_status":"ok","data":[{"id":"41","ioc":"http://203.0.113.9/bins.sh","ioc_type":"url","threat_type":"payload_delivery","confidence_level":75,"first_seen":"2026-01-02 03:04:05 UTC","tags":["Mozi"]}]}`
	got, _ = read(t, ThreatFox, answer)
	same(t, []string{"203.0.113.9:80 75 2026-01-02 - 41 payload_delivery,Mozi"}, got)
	got, _ = read(t, ThreatFox, `# "first_seen_utc","ioc_id","ioc_value","ioc_type","threat_type","fk_malware","malware_alias","malware_printable","last_seen_utc","confidence_level","reference","tags","anonymous","reporter"
"2026-01-02 03:04:05", "77", "203.0.113.9:23", "ip:port", "botnet_cc", "elf.mirai", "None", "Mirai", "", "100", "None", "a,b", "0", "x"
`)
	same(t, []string{"203.0.113.9:23 100 2026-01-02 - 77 botnet_cc,Mirai,a,b"}, got)
	refuse(t, ThreatFox, `{"query_status":"unknown_auth_key"}`)
}

func TestURLhaus(t *testing.T) {
	t.Parallel()
	got, b := read(t, URLhaus, `#########
# id,dateadded,url,url_status,last_online,threat,tags,urlhaus_link,reporter
"300","2026-01-02 03:04:05","http://203.0.113.8:37215/Mozi.m","online","2026-01-02 03:04:05","malware_download","elf,Mozi","https://urlhaus.abuse.ch/url/300/","x"
"301","2026-01-02 03:04:05","https://drop.evil.example/a?b","offline","","malware_download","","",""
"302","2026-01-02 03:04:05","not a url","offline","","malware_download","","",""
`)
	same(t, []string{"203.0.113.8:37215 75 2026-01-02 - 300 malware_download,elf,Mozi", "drop.evil.example 75 2026-01-02 - 301 malware_download"}, got)
	if b.BadLines != 1 {
		t.Errorf("counts: %s", b.Counts())
	}
	got, _ = read(t, URLhaus, `{"300":[{"dateadded":"2026-01-02 03:04:05 UTC","url":"http://203.0.113.8/x","url_status":"online","threat":"malware_download","tags":["elf"]}]}`)
	same(t, []string{"203.0.113.8:80 75 2026-01-02 - 1 malware_download,elf"}, got)
	got, _ = read(t, URLhaus, "http://203.0.113.8/x\r\nhttp://drop.evil.example/\r\n")
	same(t, []string{"203.0.113.8:80 75 - - 1 urlhaus", "drop.evil.example 75 - - 2 urlhaus"}, got)
}

func TestIPRep(t *testing.T) {
	t.Parallel()
	got, b := read(t, IPRep, "# comment\n203.0.113.1,1,127\n203.0.113.0/24, 5, 64\n2001:db8::1,2,1\n203.0.113.2,1,0\n203.0.113.3,60,1\n203.0.113.4,1\nx,1,1\n")
	same(t, []string{"203.0.113.1 100 - - 2 category 1", "2001:db8::1 1 - - 4 category 2", "203.0.113.0/24 50 - - 3 category 5"}, got)
	if b.BadLines != 3 || b.Unsure != 1 {
		t.Errorf("counts: %s", b.Counts())
	}
}

func TestZeek(t *testing.T) {
	t.Parallel()
	got, b := read(t, Zeek, "#fields\tindicator\tindicator_type\tmeta.source\tmeta.desc\tmeta.url\n"+
		"203.0.113.1\tIntel::ADDR\tsrc\tbad one\thttp://x\n203.0.113.0/24\tIntel::SUBNET\t-\t-\t-\nevil.example\tIntel::DOMAIN\tsrc\t-\t-\n"+
		"evil2.example/x/y\tIntel::URL\tsrc\t-\t-\n203.0.113.7:8080/x\tIntel::URL\tsrc\t-\t-\nabc\tIntel::FILE_HASH\tsrc\t-\t-\n203.0.113.2\n")
	same(t, []string{
		"203.0.113.1 75 - - 2 src,bad one", "203.0.113.7:8080 75 - - 6 src", "203.0.113.0/24 75 - - 3 ", "evil.example 75 - - 4 src", "evil2.example 75 - - 5 src",
	}, got)
	if b.BadLines != 1 || b.Unsupported != 1 {
		t.Errorf("counts: %s", b.Counts())
	}
	if _, b := read(t, Zeek, "203.0.113.1\tIntel::ADDR\n"); b.BadLines != 1 || b.Len() != 0 {
		t.Errorf("without a header: %s", b.Counts())
	}
}

func bundle(objects ...string) string {
	return `{"type":"bundle","id":"bundle--1","objects":[` + strings.Join(objects, ",") + `]}`
}

func indicator(id, pattern, more string) string {
	p, err := json.Marshal(pattern)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf(`{"type":"indicator","spec_version":"2.1","id":"indicator--%s","created":"2026-01-01T00:00:00.000Z","modified":"2026-01-01T00:00:00.000Z","pattern":%s,"pattern_type":"stix","valid_from":"2026-01-02T00:00:00Z"%s}`, id, p, more)
}

func TestSTIX(t *testing.T) {
	t.Parallel()
	got, b := read(t, STIX, bundle(
		`{"type":"identity","id":"identity--1"}`,
		indicator("1", "[ipv4-addr:value = '203.0.113.1']", `,"confidence":85,"valid_until":"2027-01-01T00:00:00.5Z","indicator_types":["malicious-activity"],"labels":["l"],"name":"A <name>"`),
		indicator("2", "[ipv4-addr:value = '203.0.113.2']", `,"revoked":true`),
		strings.Replace(indicator("3", "[ipv4-addr:value = '203.0.113.99']", ""), `"modified":"2026-01-01`, `"modified":"2025-01-01`, 1),
		indicator("3", "[ipv4-addr:value = '203.0.113.3']", ""),
		indicator("4", "[file:hashes.'SHA-256' = 'ab']", ""),
		indicator("5", "[ipv4-addr:value = '203.0.113.5", ""),
		strings.Replace(indicator("6", "alert tcp", ""), `"pattern_type":"stix"`, `"pattern_type":"snort"`, 1),
		`{"type":"indicator"}`, `17`,
	))
	same(t, []string{
		"203.0.113.1 85 2026-01-02 2027-01-01 indicator--1 malicious-activity,l,A <name>", "203.0.113.3 75 2026-01-02 - indicator--3 ",
	}, got)
	if b.Revoked != 1 || b.Unsupported != 2 || b.BadLines != 3 {
		t.Errorf("counts: %s, %v", b.Counts(), b.Warnings)
	}
	for _, bad := range []string{``, `{`, `[]`, `{"type":"bundle"}`, bundle() + `x`, `{"objects":[{"type":"x"}`, `{"objects":{}}`} {
		refuse(t, STIX, bad)
	}
}

func refuse(t *testing.T, k Kind, text string) {
	t.Helper()
	if err := Read(k, strings.NewReader(text), intel.NewBuilder(intel.Source{Name: "f"})); err == nil {
		t.Errorf("%s took %q", k, text)
	}
}

func TestPattern(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-29") // with TestManager_* of package feed
	for _, tc := range []struct {
		pattern string
		want    string // terms, then + when something was left out
	}{
		{"[ipv4-addr:value = '1.2.3.4']", "1.2.3.4"},
		{"[ipv4-addr:value='1.2.3.4' OR ipv6-addr:value = '2001:db8::1']", "1.2.3.4 2001:db8::1"},
		{"[ipv4-addr:value ISSUBSET '1.2.3.0/24']", "1.2.3.0/24"},
		{"[ipv4-addr:value IN ('1.2.3.4', '1.2.3.5')] OR [domain-name:value = 'a.example']", "1.2.3.4 1.2.3.5 a.example"},
		{"[network-traffic:dst_ref.value = '1.2.3.4' AND network-traffic:dst_port = 4444]", "1.2.3.4:4444"},
		{"[network-traffic:dst_port IN (1, 2) AND (ipv4-addr:value = '1.2.3.4' OR ipv4-addr:value = '1.2.3.5')]", "1.2.3.4:1 1.2.3.5:1 1.2.3.4:2 1.2.3.5:2"},
		{"[url:value = 'http://a.example/it\\'s']", "http://a.example/it's"},
		{"[file:hashes.'SHA-256' = 'ab' OR ipv4-addr:value = '1.2.3.4']", "1.2.3.4 +"},
		{"[ipv4-addr:value = '1.2.3.4' AND network-traffic:protocols[*] = 'tcp']", "+"},
		{"[ipv4-addr:value = '1.2.3.4' AND ipv4-addr:value = '1.2.3.5']", "+"},
		{"[ipv4-addr:value = '1.2.3.4'] AND [ipv4-addr:value = '1.2.3.5']", "+"},
		{"[ipv4-addr:value = '1.2.3.4'] FOLLOWEDBY [ipv4-addr:value = '1.2.3.5']", "+"},
		{"([ipv4-addr:value = '1.2.3.4'] OR [ipv4-addr:value = '1.2.3.5']) WITHIN 5 SECONDS", "+"},
		{"[ipv4-addr:value = '1.2.3.4'] REPEATS 5 TIMES", "+"},
		{"[ipv4-addr:value != '1.2.3.4']", "+"},
		{"[ipv4-addr:value NOT = '1.2.3.4']", "+"},
		{"[domain-name:value LIKE '%.example']", "+"},
		{"[network-traffic:dst_port = 23]", "+"},
		{"", "!"},
		{"[", "!"},
		{"[]", "!"},
		{"ipv4-addr:value = '1.2.3.4'", "!"},
		{"[ipv4-addr:value = '1.2.3.4'", "!"},
		{"[ipv4-addr:value = ]", "!"},
		{"[ipv4-addr:value = '1.2.3.4'] [", "!"},
		{"[ipv4-addr:value IN ()]", "!"},
		{strings.Repeat("(", 100) + "[a:b = 1]" + strings.Repeat(")", 100), "!"},
		{"[" + strings.Repeat("(", 100) + "a:b = 1" + strings.Repeat(")", 100) + "]", "!"},
		{"[" + strings.Repeat("x", maxPattern) + "]", "!"},
	} {
		terms, rest, err := compilePattern(tc.pattern)
		var got []string
		for _, x := range terms {
			if x.port != 0 {
				x.value += fmt.Sprint(":", x.port)
			}
			got = append(got, x.value)
		}
		if rest {
			got = append(got, "+")
		}
		if err != nil {
			got = []string{"!"}
			if !errors.Is(err, ErrFormat) {
				t.Errorf("%.60s: %v is no ErrFormat", tc.pattern, err)
			}
		}
		if s := strings.Join(got, " "); s != tc.want {
			t.Errorf("%.80s\n\tgives %q, want %q (%v)", tc.pattern, s, tc.want, err)
		}
	}
	wide := "(ipv4-addr:value IN ('1.1.1.1'" + strings.Repeat(",'1.1.1.1'", 1000) + "))"
	if _, _, err := compilePattern("[" + wide + " AND " + wide + "]"); err == nil {
		t.Error("a pattern of a million values was compiled")
	}
}

const event = `{"Event":{"uuid":"5c0b2e9d-0000-4000-8000-00000000000a","info":"Mirai wave","timestamp":"1767312000","Tag":[{"name":"tlp:white"}],
 "Attribute":[{"type":"ip-dst","to_ids":true,"value":"203.0.113.1"},{"type":"ip-dst|port","to_ids":true,"value":"203.0.113.2|4444","Tag":[{"name":"c2"}]},
  {"type":"ip-src","to_ids":false,"value":"203.0.113.3"},{"type":"domain","to_ids":true,"value":"evil.example","deleted":true},{"type":"sha256","to_ids":true,"value":"ab"},
  {"type":"domain|ip","to_ids":true,"value":"two.example|203.0.113.4"},{"type":"ip-dst|port","to_ids":true,"value":"203.0.113.5"}],
 "Object":[{"name":"network-connection","Attribute":[{"type":"hostname","to_ids":true,"value":"c2.evil.example"},{"type":"ip-dst","to_ids":true,"value":"203.0.113.0/28"}]}]}}`

func TestMISP(t *testing.T) {
	t.Parallel()
	b := intel.NewBuilder(intel.Source{Name: "f"})
	if err := ReadMISP(strings.NewReader(event), b, "ev"); err != nil {
		t.Fatal(err)
	}
	same(t, []string{
		"203.0.113.1 75 - - ev Mirai wave,tlp:white", "203.0.113.2:4444 75 - - ev Mirai wave,tlp:white,c2", "203.0.113.4 75 - - ev Mirai wave,tlp:white",
		"203.0.113.0/28 75 - - ev Mirai wave,tlp:white", "c2.evil.example 75 - - ev Mirai wave,tlp:white", "two.example 75 - - ev Mirai wave,tlp:white",
	}, shown(b.Block()))
	if b.BadLines != 1 || b.Unsupported != 1 {
		t.Errorf("counts: %s", b.Counts())
	}
	m, err := ReadManifest(strings.NewReader(`{"5C0B2E9D-0000-4000-8000-00000000000A":{"info":"x","Orgc":{"name":"o"},"timestamp":"1767312000","date":"2026-01-02","integrity:sha256":"AB"},
		"5c0b2e9d-0000-4000-8000-00000000000b":{"timestamp":17}}`))
	if err != nil || len(m) != 2 || m["5c0b2e9d-0000-4000-8000-00000000000a"] != (MISPEntry{"x", 1767312000, "ab"}) {
		t.Errorf("manifest %v, %v", m, err)
	}
	if m, err := ReadManifest(strings.NewReader(`[]`)); err != nil || len(m) != 0 {
		t.Errorf("an empty manifest: %v, %v", m, err)
	}
	for _, bad := range []string{``, `{`, `{"../../etc/passwd":{}}`, `{"5c0b2e9d-0000-4000-8000-00000000000a":{"timestamp":[]}}`, `[1]`, `7`} {
		if _, err := ReadManifest(strings.NewReader(bad)); err == nil {
			t.Errorf("the manifest %q was read", bad)
		}
	}
	for _, bad := range []string{``, `{}`, `[]`, `{"Event":{"Attribute":7}}`} {
		if err := ReadMISP(strings.NewReader(bad), intel.NewBuilder(intel.Source{Name: "f"}), "ev"); err == nil {
			t.Errorf("the event %q was read", bad)
		}
	}
}

func TestWarningList(t *testing.T) {
	t.Parallel()
	got, b := read(t, WarningList, `{"name":"public DNS","type":"cidr","version":1,"matching_attributes":["ip-dst"],"list":["8.8.8.8","8.8.0.0/16",".example.org","com","^regex$",7]}`)
	same(t, []string{"8.8.8.8 75 - - 1 ", "8.8.0.0/16 75 - - 2 ", "example.org 75 - - 3 "}, got)
	if b.BadLines != 1 || b.Unsupported != 2 {
		t.Errorf("counts: %s", b.Counts())
	}
	got, _ = read(t, WarningList, "8.8.8.8\n")
	same(t, []string{"8.8.8.8 75 - - 1 "}, got)
}

func TestRead_Limits(t *testing.T) {
	t.Parallel()
	huge := bundle(`{"type":"x","name":"` + strings.Repeat("a", 2*MaxObject+10) + `"}`)
	refuse(t, STIX, huge)
	refuse(t, Feodo, `[`+strings.Repeat(`[`, 20000)) // deeper than encoding/json goes
	for _, k := range []Kind{STIX, Feodo, ThreatFox, URLhaus, WarningList, IPRep, Zeek, List} {
		r := io.MultiReader(strings.NewReader(`{"list":[],"objects":[`), iotest.ErrReader(errors.New("the line went dead")))
		if err := Read(k, r, intel.NewBuilder(intel.Source{Name: "f"})); err == nil || !strings.Contains(err.Error(), "went dead") {
			t.Errorf("%s: a failing reader gives %v", k, err)
		}
	}
	if err := Read(TAXII, strings.NewReader(""), intel.NewBuilder(intel.Source{Name: "f"})); err == nil {
		t.Error("TAXII is one document")
	}
}

// What a parser adds is fit for a block, whatever it read.
func fuzz(f *testing.F, read func(r io.Reader, b *intel.Builder) error, seeds ...string) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		b := intel.NewBuilder(intel.Source{Name: "f", Own: true})
		_ = read(strings.NewReader(string(in)), b)
		block := b.Block()
		intel.NewSet(block)
		for it := range block.Each {
			if it.Domain == "" && (it.Value.Bits() == 0 || it.Value != it.Value.Masked()) || it.Confidence < 1 || it.Confidence > 100 {
				t.Errorf("indicator %+v", it)
			}
			for _, l := range it.Labels {
				if strings.ContainsFunc(l, func(r rune) bool { return r < ' ' }) {
					t.Errorf("label %q", l)
				}
			}
		}
	})
}

func FuzzSTIX(f *testing.F) {
	fuzz(f, func(r io.Reader, b *intel.Builder) error { return ReadSTIX(r, b, nil) }, bundle(indicator("1", "[ipv4-addr:value = '203.0.113.1']", `,"labels":["x"]`)))
}

func FuzzEnvelope(f *testing.F) {
	fuzz(f, func(r io.Reader, b *intel.Builder) error {
		_, _, err := ReadEnvelope(r, b, func(o *Object) { AddObject(b, o) })
		return err
	}, `{"more":true,"next":"2","objects":[`+indicator("1", "[domain-name:value = 'evil.example']", "")+`]}`)
}

func FuzzMISP(f *testing.F) {
	fuzz(f, func(r io.Reader, b *intel.Builder) error { return ReadMISP(r, b, "ev") }, event)
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"5c0b2e9d-0000-4000-8000-00000000000a":{"info":"x","timestamp":"1","integrity:sha256":"ab"}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		m, _ := ReadManifest(strings.NewReader(string(in)))
		for uuid := range m {
			if strings.ContainsAny(uuid, "/\\. ") {
				t.Errorf("an event is called %q", uuid)
			}
		}
	})
}

func FuzzAbuse(f *testing.F) {
	fuzz(f, func(r io.Reader, b *intel.Builder) error {
		all, err := io.ReadAll(r)
		for _, k := range []Kind{Feodo, ThreatFox, URLhaus} {
			err = errors.Join(err, Read(k, strings.NewReader(string(all)), b))
		}
		return err
	}, `{"1":[{"ioc_value":"203.0.113.9:6667","ioc_type":"ip:port","confidence_level":90}]}`, "\"300\",\"2026-01-02 03:04:05\",\"http://203.0.113.8/x\",\"online\",,\"t\",\"a\",,\n", `[{"ip_address":"198.51.100.7","port":8080}]`)
}

func FuzzText(f *testing.F) {
	fuzz(f, func(r io.Reader, b *intel.Builder) error {
		all, err := io.ReadAll(r)
		for _, k := range []Kind{IPRep, Zeek, WarningList} {
			err = errors.Join(err, Read(k, strings.NewReader(string(all)), b))
		}
		return err
	}, "203.0.113.1,1,127\n", "#fields\tindicator\tindicator_type\n203.0.113.1\tIntel::ADDR\n", `{"list":["8.8.8.8"]}`)
}

func FuzzPattern(f *testing.F) {
	f.Add("[network-traffic:dst_ref.value = '1.2.3.4' AND network-traffic:dst_port = 4444] OR ([file:hashes.'MD5' IN ('a','b')] WITHIN 5 SECONDS)")
	f.Fuzz(func(t *testing.T, s string) {
		terms, _, err := compilePattern(s)
		if err != nil && len(terms) > 0 || slices.ContainsFunc(terms, func(x term) bool { return x.value == "" }) {
			t.Errorf("%v with %v", terms, err)
		}
	})
}

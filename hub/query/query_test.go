package query

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/fault"
)

const twin = `{"deviceId":"d1","status":"enabled","capabilities":{"iotEdge":true},"parentScopes":["s1","s2"],
	"tags":{"site":"lyon","floor":3,"it's":"x","o":{"n":null,"b":false},"list":[1,"a",{"k":2}],"big":12345678901234567890.5},
	"properties":{"reported":{"t":21.5,"$version":7,"name":"Boiler"},"desired":{"$version":2}},
	"configurations":{"my-config":{"status":"Applied"}},"createdDateTimeUtc":"2026-03-01"}`

func doc(s string) Value { return JSON(s) }

func TestCondition(t *testing.T) {
	for _, c := range []struct {
		text string
		want string // true, false, undefined
	}{
		{`tags.site = 'lyon'`, "true"},
		{`TAGS.site = 'lyon'`, "undefined"}, // case is the document's to forgive
		{`tags.site = "lyon" and not (tags.floor > 3)`, "true"},
		{`tags.site != 'lyon'`, "false"},
		{`tags.site <> 'paris'`, "true"},
		{`tags.floor + 1 * 2 = 5`, "true"},
		{`(tags.floor + 1) * 2 = 8 AND tags.floor % 2 = 1 AND -tags.floor = -3 AND tags.floor / 2 = 1.5`, "true"},
		{`tags.floor = 0x3`, "true"},
		{`tags.floor = '3'`, "undefined"},
		{`tags.missing = 1`, "undefined"},
		{`NOT tags.missing = 1`, "undefined"},
		{`tags.missing = 1 OR tags.floor = 3`, "true"},
		{`tags.floor = 3 OR tags.missing = 1`, "true"},
		{`tags.missing = 1 AND tags.floor = 4`, "false"},
		{`tags.missing = 1 AND tags.floor = 3`, "undefined"},
		{`tags.o.n = null`, "true"},
		{`tags.o.n != null`, "false"},
		{`tags.site = null`, "false"},
		{`tags.missing = null`, "undefined"},
		{`tags.o.n < null`, "undefined"},
		{`tags.o.b = false`, "true"},
		{`tags.o = tags.o`, "undefined"},
		{`tags.floor`, "3"},
		{`capabilities.iotEdge`, "true"},
		{`tags.floor IN [1, 2, 3]`, "true"},
		{`tags.floor NIN [1, 2]`, "true"},
		{`tags.floor not in [1, 3]`, "false"},
		{`tags.floor IN ['3']`, "undefined"},
		{`tags.missing NIN [1]`, "undefined"},
		{`deviceId in ['d1']`, "true"},
		{`deviceId IN []`, "false"},
		{`devices.deviceId = 'd1'`, "true"},
		{`STARTSWITH(devices.deviceId, 'd')`, "true"},
		{`starts_with(tags.site, 'ly') AND ends_with(tags.site, 'on') AND contains(tags.site, 'yo')`, "true"},
		{`array_contains(parentScopes, 's2')`, "true"},
		{`array_contains(parentScopes, 's3')`, "false"},
		{`array_contains(tags.site, 's3')`, "undefined"},
		{`configurations.[[my-config]].status = 'Applied'`, "true"},
		{`configurations[[my-config]].status = 'Applied'`, "true"},
		{`properties.reported.$version >= 7`, "true"},
		{`properties.reported.t > 21 AND properties.reported.name < 'a'`, "true"},
		{`tags.list[0] = 1 AND tags.list[1] = 'a' AND tags.list[2].k = 2`, "true"},
		{`tags.list[9] = 1`, "undefined"},
		{`createdDateTimeUtc > '2016-09-01'`, "true"},
		{`IS_DEFINED(tags.site)`, "true"},
		{`IS_DEFINED(tags.missing)`, "false"},
		{`is_null(tags.o.n) AND is_bool(tags.o.b) AND is_number(tags.floor) AND is_string(tags.site) AND is_array(tags.list) AND is_object(tags.o) AND is_primitive(tags.o.n)`, "true"},
		{`is_null(tags.missing)`, "undefined"},
		{`ABS(-2) + EXP(0) + POWER(2, 3) + SQUARE(3) + CEILING(0.2) + FLOOR(1.9) + SIGN(-5) + SQRT(16)`, "25"},
		{`SQRT(-1) = 1`, "undefined"},
		{`1 / 0 = 1`, "undefined"},
		{`AS_NUMBER('12.5') = 12.5 AND AS_NUMBER(3) = 3`, "true"},
		{`AS_NUMBER('x') = 1`, "undefined"},
		{`CONCAT('a', 'b', 'c') = 'abc' AND 'a' + 'b' = 'ab'`, "true"},
		{`LENGTH('é☂') = 2 AND UPPER('é') = 'É' AND LOWER('A') = 'a'`, "true"},
		{`SUBSTRING('abcdef', 2) = 'cdef' AND SUBSTRING('abcdef', 1, 2) = 'bc' AND SUBSTRING('abc', 5, 1) = '' AND SUBSTRING('abc', -1, 99) = 'abc'`, "true"},
		{`INDEX_OF('é☂x', 'x') = 2 AND INDEX_OF('a', 'b') = -1`, "true"},
		{`'it''s' = "it's" AND 'a\'b' = "a'b" AND 'A' = 'A' AND "q\"" = 'q"'`, "true"},
		{"/* a\ncomment */ tags.site\n=\r\n'lyon' /**/", "true"},
		{`true`, "true"}, {`undefined = undefined`, "undefined"}, {`null = null`, "true"},
		{`true > false`, "true"},
		{`from devices where tags.floor = 3`, "true"},
		{`FROM devices.modules WHERE tags.floor = 3`, "true"},
		{`NOT tags.floor = 3 OR true`, "true"},
		{`tags.site = 'lyon' OR tags.site = 'x' AND false`, "true"},
		{`undefined > 3 OR undefined`, "undefined"},
	} {
		cond, err := ParseCondition(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		got := cond.Where.eval(doc(twin)).String()
		if got != c.want {
			t.Errorf("%s is %s, want %s", c.text, got, c.want)
		}
		if cond.Matches(doc(twin)) != (c.want == "true") {
			t.Errorf("%s: Matches is %v with the value %s", c.text, c.want != "true", got)
		}
		// One canonical form means the same.
		again, err := ParseCondition(cond.Where.String())
		if err != nil {
			t.Errorf("%s prints as %s, which does not parse: %v", c.text, cond.Where, err)
		} else if v := again.Where.eval(doc(twin)).String(); v != c.want {
			t.Errorf("%s prints as %s, which is %s", c.text, cond.Where, v)
		}
	}
}

func TestCondition_Forms(t *testing.T) {
	for text, want := range map[string]bool{"": false, "  ": false, "*": true, " * ": true, "FROM devices.modules": true} {
		c, err := ParseCondition(text)
		if err != nil || c.Matches(doc(twin)) != want {
			t.Errorf("%q: matches %v (%v), want %v", text, !want, err, want)
		}
	}
	c, err := ParseCondition("FROM devices.modules WHERE devices.modules.moduleId = 'm'")
	if err != nil || c.From != Modules || !c.Matches(doc(`{"moduleId":"m"}`)) {
		t.Errorf("a module condition: %+v, %v", c, err)
	}
}

func TestRow(t *testing.T) {
	for _, c := range []struct{ query, want string }{
		{`SELECT deviceId, tags.floor, tags.missing FROM devices`, `{"deviceId":"d1","floor":3}`},
		{`select deviceId as DeviceId, properties.reported.$version as V, tags.o, devices.status from devices`, `{"DeviceId":"d1","V":7,"o":{"n":null,"b":false},"status":"enabled"}`},
		{`SELECT TOP 5 tags.big, tags.list[2].k FROM devices`, `{"big":12345678901234567890.5,"k":2}`},
		{`SELECT configurations.[[my-config]].status AS [[the state]] FROM devices`, `{"the state":"Applied"}`},
	} {
		q, err := Parse(c.query)
		if err != nil {
			t.Errorf("%s: %v", c.query, err)
			continue
		}
		if got := string(q.Row(doc(twin), nil)); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.query, got, c.want)
		}
		if again, err := Parse(q.String()); err != nil || again.String() != q.String() {
			t.Errorf("%s prints as %s, which reads as %v (%v)", c.query, q, again, err)
		}
	}
}

func TestGroups(t *testing.T) {
	docs := []string{
		`{"s":"a","n":1}`, `{"s":"b","n":2.5}`, `{"s":"a","n":3}`, `{"n":10}`, `{"s":null,"n":"x"}`, `{"s":"a"}`, `{"s":1,"n":4}`, `{"s":1.0}`,
	}
	for _, c := range []struct{ query, want string }{
		{`SELECT COUNT() AS total FROM devices`, `[{"total":8}]`},
		{`SELECT COUNT() FROM devices WHERE n > 100`, `[{"count":0}]`},
		{`SELECT s, COUNT(*) AS c, SUM(n), AVG(n), MIN(n) AS lo, MAX(n) AS hi FROM devices GROUP BY s`,
			`[{"s":"a","c":3,"sum":4,"avg":2,"lo":1,"hi":3},{"s":"b","c":1,"sum":2.5,"avg":2.5,"lo":2.5,"hi":2.5},` +
				`{"c":1,"sum":10,"avg":10,"lo":10,"hi":10},{"s":null,"c":1,"sum":0,"lo":"x","hi":"x"},{"s":1,"c":2,"sum":4,"avg":4,"lo":4,"hi":4}]`},
		{`SELECT COUNT() AS numberOfDevices, s AS status FROM devices WHERE s IN ['a', 'b'] GROUP BY devices.s`,
			`[{"numberOfDevices":3,"status":"a"},{"numberOfDevices":1,"status":"b"}]`},
	} {
		q, err := Parse(c.query)
		if err != nil {
			t.Errorf("%s: %v", c.query, err)
			continue
		}
		g := NewGroups(q, nil)
		for _, d := range docs {
			if q.Matches(doc(d)) {
				if err := g.Add(doc(d)); err != nil {
					t.Fatal(err)
				}
			}
		}
		var rows []string
		for _, r := range g.Rows() {
			rows = append(rows, string(r))
		}
		if got := "[" + strings.Join(rows, ",") + "]"; got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.query, got, c.want)
		}
	}
}

func TestParse_Refuses(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{``, `the end stands where SELECT should`},
		{`SELECT`, `the end stands where a property should`},
		{`SELECT * FROM rooms`, `"rooms" stands where devices`},
		{`SELECT * FROM devices.rooms`, `"rooms" stands where`},
		{`SELECT * FROM devices WHERE`, `the end stands where a value should`},
		{`SELECT * FROM devices ORDER BY x`, `"ORDER" stands where the end should`},
		{"SELECT *\nFROM devices\nWHERE tags.x == 1", `line 3, column 14: "==" is no operator`},
		{`SELECT * FROM devices WHERE NOSUCH(x)`, `there is no function "NOSUCH"`},
		{`SELECT * FROM devices WHERE LOWER(x, y)`, `LOWER takes 1 argument, not 2`},
		{`SELECT * FROM devices WHERE x = 'open`, `a string without end`},
		{`SELECT * FROM devices WHERE x = '\q'`, `the escape \q is unknown`},
		{`SELECT * FROM devices WHERE x IN 3`, `IN needs an array`},
		{`SELECT * FROM devices WHERE (x = 1`, `the end stands where ")" should`},
		{`SELECT * FROM devices WHERE x = 1 /* no end`, `a comment without end`},
		{`SELECT * FROM devices GROUP BY x`, `GROUP BY needs a select list`},
		{`SELECT y, COUNT() FROM devices GROUP BY x`, `y is neither an aggregate nor in GROUP BY`},
		{`SELECT MEDIAN(x) FROM devices`, `is no aggregate`},
		{`SELECT deviceId FROM devices.jobs`, `only SELECT * is possible`},
		{`SELECT TOP 0 * FROM devices`, `TOP needs a number of rows`},
		{`SELECT TOP 1.5 * FROM devices`, `TOP needs a number of rows`},
		{`SELECT * FROM devices WHERE a[1.5] = 1`, `an element needs its number`},
		{`SELECT * FROM devices WHERE 12abc = 1`, `an unreadable number`},
		{`SELECT * FROM devices; DROP TABLE twins`, `the character ';' has no meaning`},
		{`SELECT * FROM devices WHERE ` + strings.Repeat("(", 100) + `x` + strings.Repeat(")", 100), `nests deeper than 64`},
		{`SELECT * FROM devices WHERE ` + strings.Repeat("NOT ", 100) + `x`, `nests deeper than 64`},
		{`SELECT * FROM devices WHERE x = '` + strings.Repeat("x", MaxText) + `'`, `8192 are allowed`},
		{"SELECT * FROM devices WHERE x = '\xff'", `not UTF-8`},
	} {
		_, err := Parse(c.text)
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.80s: got %v, want invalid: %s", c.text, err, c.want)
		}
	}
}

// Queries of shipped clients, as they are sent (hub-service §4.4).
func TestParse_ShippedQueries(t *testing.T) {
	for _, text := range []string{
		"SELECT deviceId as DeviceId,\n      status as Status,\n      lastActivityTime as LastActivityTime,\n      statusUpdatedTime as StatusUpdatedTime,\n      authenticationType as AuthenticationType,\n      cloudToDeviceMessageCount as CloudToDeviceMessageCount,\n      connectionState as ConnectionState,\n      capabilities.iotEdge as IotEdge,\n      modelId as ModelId FROM devices WHERE STARTSWITH(devices.deviceId, 'a')",
		"SELECT * FROM devices WHERE (capabilities.iotEdge=true AND status='enabled')",
		"SELECT * FROM devices.modules WHERE deviceId in ['d1']",
		"SELECT deviceId, deviceScope FROM devices",
		"select * from devices where capabilities.iotEdge = true",
		"select deviceId from devices where array_contains(parentScopes, 'ms-azure-iot-edge://a-1')",
		"SELECT * FROM devices.jobs WHERE devices.jobs.jobId = 'x'",
		"select deviceId from devices.modules where moduleId = '$edgeAgent' and configurations.[[c1]].status = 'Applied' and properties.desired.$version = properties.reported.lastDesiredVersion and properties.reported.lastDesiredStatus.code = 200",
		"SELECT properties.reported.telemetryConfig.status AS status, COUNT() AS numberOfDevices FROM devices GROUP BY properties.reported.telemetryConfig.status",
		"SELECT LastActivityTime FROM devices WHERE status = 'enabled'",
		"SELECT * FROM devices WHERE tags.location.plant IN ['Redmond43', 'Kirkland3'] AND NOT is_defined(properties.reported.x)",
	} {
		q, err := Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if again, err := Parse(q.String()); err != nil || again.String() != q.String() {
			t.Errorf("%s prints as %s, which reads as %v (%v)", text, q, again, err)
		}
	}
}

// FuzzParse requires that what parses prints as text that parses to the same, and that rows are JSON.
func FuzzParse(f *testing.F) {
	f.Add(`SELECT TOP 3 a.b AS c, d[1].[[x y]] FROM devices.modules WHERE NOT (a = 'x''y' OR b IN [1, null, "q"]) AND -c.d % 2 < 0x1F`)
	f.Add(`select count(), s from devices where contains(concat(a, 'é'), "\u00e9") group by s`)
	f.Fuzz(func(t *testing.T, text string) {
		q, err := Parse(text)
		if err != nil {
			return
		}
		printed := q.String()
		if len(printed) > MaxText {
			return
		}
		again, err := Parse(printed)
		if err != nil {
			if strings.Contains(err.Error(), "nests deeper") {
				return // a printed NOT brings its own brackets
			}
			t.Fatalf("%q prints as %q, which does not parse: %v", text, printed, err)
		}
		if again.String() != printed {
			t.Fatalf("%q prints as %q, then as %q", text, printed, again)
		}
		if q.Matches(doc(twin)) != again.Matches(doc(twin)) {
			t.Fatalf("%q and %q disagree", text, printed)
		}
		if q.Raw() && !q.Aggregates() && !json.Valid(q.Row(doc(twin), nil)) {
			t.Fatalf("%q: the row %s is no JSON", text, q.Row(doc(twin), nil))
		}
	})
}

// FuzzValue requires that any valid JSON can be walked, and that what is found is what encoding/json finds.
func FuzzValue(f *testing.F) {
	f.Add(`{"a":[1,{"b":"c\"}"}],"a b":null, "x" : -1e5 }`, "a")
	f.Fuzz(func(t *testing.T, raw, name string) {
		if !json.Valid([]byte(raw)) {
			return
		}
		v := JSON(raw)
		var m map[string]json.RawMessage
		if v.Kind == Object && json.Unmarshal([]byte(raw), &m) == nil {
			_, has := m[name]
			if got := v.Member(name).Kind != Undefined; got != has {
				t.Fatalf("%s has member %q: %v, want %v", raw, name, got, has)
			}
		}
		for _, e := range v.Elements() {
			if !json.Valid(e.AppendJSON(nil)) {
				t.Fatalf("an element of %s is %s", raw, e)
			}
		}
	})
}

func BenchmarkMatches(b *testing.B) {
	q, err := Parse(`SELECT * FROM devices WHERE tags.site = 'paris' AND properties.reported.t > 20`)
	if err != nil {
		b.Fatal(err)
	}
	d := doc(twin)
	b.ReportAllocs()
	for b.Loop() {
		if q.Matches(d) {
			b.Fatal("matched")
		}
	}
}

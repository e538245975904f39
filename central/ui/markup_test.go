package ui

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/baseline"
	"github.com/vauban-iot/vauban/defender/export"
	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/defender/intel/feed"
	"github.com/vauban-iot/vauban/defender/intel/format"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
)

// hostile is what an attacker would like to be called.
var hostile = []string{
	`<script>alert(1)</script>`,
	`"><img src=x onerror=alert(1)>`,
	`' onmouseover='alert(1)`,
	`javascript:alert(1)`,
	`</code></pre></li><svg/onload=alert(1)>`,
	`{{.Password}}`,
	"\u202Egnp.exe\u2066",
	"\x00\xff\xfe<b>",
	`<!--`,
	`]]>`,
	`<plaintext>`,
	`</title><script>alert(1)</script>`,
	strings.Repeat("<i>", 5000),
}

// The only elements and attributes of our templates. What is not here came from elsewhere.
var (
	elements = strings.Fields(`html head meta title link script body a header div nav form button svg path span main footer h1 h2 h3 p
		noscript label input table thead tbody tr th td dl dt dd time pre code bdi br ol ul li section details summary strong img select option textarea`)
	attributes = strings.Fields(`lang charset name content rel type href src defer class id tabindex action method value selected for maxlength required autofocus hidden
		autocomplete autocapitalize spellcheck role scope datetime viewbox width height fill d focusable alt data-stream data-region data-v data-list data-key
		data-label data-news data-live data-live-text data-pause data-say data-filter data-messages data-messages-empty data-lost
		aria-label aria-labelledby aria-current aria-hidden aria-describedby inputmode checked rows open download enctype accept`)
)

// inspect fails on markup that our templates do not have. It returns the number of elements.
func inspect(t testing.TB, what, text string) (n int) {
	t.Helper()
	root, err := html.Parse(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	for node := range root.Descendants() {
		switch node.Type {
		case html.CommentNode:
			t.Errorf("%s: a comment %q", what, node.Data)
		case html.ElementNode:
			n++
			if !slices.Contains(elements, node.Data) {
				t.Errorf("%s: an element %s", what, node.Data)
			}
			for _, a := range node.Attr {
				if !slices.Contains(attributes, strings.ToLower(a.Key)) {
					t.Errorf("%s: %s has an attribute %s", what, node.Data, a.Key)
				}
				switch a.Key {
				case "href", "src", "action", "data-stream":
					if !strings.HasPrefix(a.Val, "/console/") && a.Val != "#main" {
						t.Errorf("%s: %s leads to %q", what, node.Data, a.Val)
					}
				}
			}
			if node.Data == "script" && (node.FirstChild != nil || len(node.Attr) != 2) {
				t.Errorf("%s: a script with content", what)
			}
		}
	}
	return n
}

func TestMarkup_WhatDevicesChooseStaysText(t *testing.T) {
	t.Parallel()
	shape := make(map[string]int) // every hostile text must give the same tree
	for i, h := range append([]string{"harmless"}, hostile...) {
		w := newWorld(t)
		d := device(h) // the registry would refuse it: the page must not depend on that
		d.Generation, d.StatusReason, d.Status = h, h, registry.Disabled
		d.Authentication.Type = registry.AuthType(h)
		value, err := json.Marshal(map[string]string{h: h})
		if err != nil {
			t.Fatal(err)
		}
		section := json.RawMessage(value)
		w.hub.put(d, twin.Twin{Desired: section, Reported: section, Tags: section, ModelID: h})
		a := alert.Alert{
			ID: h, Group: h, Comment: h, StatusBy: h, Status: alert.Resolved, Evidence: []alert.Evidence{{Event: h, Details: value}},
			Device: h, Module: h, Type: h, Severity: alert.Severity(h), Title: h, Description: h, Indicator: h, Source: h,
			Local: h, Remote: h, Protocol: h, Direction: h, Count: 1, FirstSeen: time.Now(), LastSeen: time.Now(),
		}
		w.alerts.raise(a)

		w.hygiene.list = []posture.Recommendation{{ID: h, Type: h, Device: h, Module: h, Severity: alert.Severity(h), Title: h, Description: h, Remediation: []string{h}, State: posture.Active, Data: value}}
		w.hygiene.totals = posture.Totals{Devices: 1, Unhealthy: 1, Tallies: []posture.Tally{{Type: h, Severity: alert.Severity(h), Devices: 1, Weight: 1, HubTakes: 1}}}

		texts := map[string]string{"devices": w.page(t, "/console/devices"), "alerts": w.page(t, "/console/alerts"), "alert": w.page(t, "/console/alert?"+url.Values{"id": {h}}.Encode())}
		w.feeds.list = []feed.Feed{{Config: feed.Config{Name: h, URL: h, Format: format.Kind(h)}, State: feed.State{Error: h, LastAttempt: time.Now()}}, {Config: feed.Config{Name: h, File: h}, State: feed.State{Warning: h}}}
		one := intel.Indicator{Value: h, Source: h, Ref: h, Labels: []string{h}}
		w.feeds.verdict = intel.Verdict{Match: &one, Listed: []intel.Listed{{Indicator: one, Ignored: h}}, Exempt: h}
		texts["feeds"] = w.page(t, "/console/feeds?value=x")
		w.exports.list = []export.Export{{Config: export.Config{Name: h, Kind: export.Kind(h), Format: export.Format(h), Data: []export.Data{export.Data(h)}, Address: h, URL: "https://" + h, GiveUpAfter: h}, State: export.State{Error: h, LastGivenUp: h, NextAttempt: time.Now()}}}
		texts["exports"] = w.page(t, at("/console/exports", query("tested", h)))
		w.said.list = []record.Event{{Name: h, Module: h, Agent: h, AgentVersion: h, Problem: h, Notes: []string{h}, Details: []json.RawMessage{value, value}}, {Name: h, Details: []json.RawMessage{value}}}
		texts["events"] = w.page(t, at("/console/events", query("id", "d", "name", h)))
		w.sizes = groupSizes{{Name: h, Devices: 2}}
		texts["groups"] = w.page(t, "/console/groups")
		if group.CheckName(h) == nil {
			if _, err := w.groups.Put(t.Context(), h, group.Rules{Deny: []group.DenyRule{{RuleType: group.UserDenied, DisplayName: h, Values: []string{h}}}}); err != nil {
				t.Fatal(err)
			}
			w.baselines.all[h] = baseline.Baseline{
				Group: h, State: baseline.Proposed, By: h, Entries: []baseline.Entry{{ID: h, Kind: baseline.Process, Name: h, Reason: h, DecidedBy: h, Source: h, Decision: baseline.Held}},
				Limits: []baseline.Limit{{Measure: h, Reason: h, Decision: baseline.Held}}, MUD: &baseline.Maker{URL: h, SystemInfo: h, Notes: []string{h}}, Learned: &baseline.Summary{Waits: []string{h}},
			}
			texts["group"] = w.page(t, at(groupPath, query("name", h)))
			texts["baseline"] = w.page(t, at(baselinePath, query("group", h)))
			texts["preview"] = w.page(t, at(baselinePath+"/preview", query("group", h)))
		}
		texts["hygiene"] = w.page(t, "/console/recommendations")
		texts["recommendation"] = w.page(t, at("/console/recommendation", url.Values{"id": {h}}))
		held := registry.Containment{Level: registry.Cut, By: h, Reason: h, Before: &registry.Containment{}}
		d.Containment = held.Level
		w.hub.put(d, twin.Twin{Desired: section, Reported: section, Tags: section, ModelID: h})
		if _, err := w.holds.set(h, held); err != nil {
			t.Fatal(err)
		}
		s, err := w.deviceScreen(h)(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var page strings.Builder
		if err := w.pages["device"].ExecuteTemplate(&page, "page", frame{Title: h, Section: "devices", Stream: "/console/x", Signed: true, Host: h, Version: h, Body: deviceBody{h, s}}); err != nil {
			t.Fatal(err)
		}
		texts["device"] = page.String()
		texts["filter"] = w.page(t, "/console/devices?q="+strings.NewReplacer("%", "%25", " ", "%20", "\x00", "%00", "\xff", "%ff", "\xfe", "%fe", "#", "%23", "&", "%26", ";", "%3B").Replace(h[:min(len(h), 100)]))
		ps := []bag.Property{{Name: h, Value: h}, {Name: h, Null: true}}
		text, err := w.fragment("message", newMessageView(&iot.Message{From: iot.ID{Device: h, Module: h}, Enqueued: time.Now(), Properties: ps, System: ps, Body: value}))
		if err != nil {
			t.Fatal(err)
		}
		texts["message"] = text
		for name, text := range texts {
			n := inspect(t, name+" of "+h[:min(len(h), 40)], text)
			if i == 0 {
				shape[name] = n
			} else if n != shape[name] && name != "filter" && len(h) < maxBodyShown { // a long one is cut, and the page says so
				t.Errorf("%s of %.40q has %d elements, the harmless one has %d", name, h, n, shape[name])
			}
		}
	}
}

func TestMarkup_PagesAreAccessible(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hub.put(device("lamp"), twin.Twin{Desired: json.RawMessage(`{"a":1}`)})
	w.alerts.raise(alert.Alert{Device: "lamp", Severity: alert.High, Title: "t"})
	texts := map[string]string{"sign-in": w.ask("GET", "/console/sign-in", "").Body.String()}
	for _, p := range pagesOfConsole {
		texts[p] = w.page(t, p)
	}
	for name, text := range texts {
		root, err := html.Parse(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		ids := make(map[string]int)
		count := make(map[string]int)
		var refs []string
		for n := range root.Descendants() {
			if n.Type != html.ElementNode {
				continue
			}
			count[n.Data]++
			for _, a := range n.Attr {
				switch a.Key {
				case "id":
					ids[a.Val]++
				case "for", "aria-labelledby", "aria-describedby":
					refs = append(refs, a.Val)
				}
			}
		}
		if count["h1"] != 1 || count["main"] != 1 || count["title"] != 1 {
			t.Errorf("%s: %d h1, %d main, %d title; want one of each", name, count["h1"], count["main"], count["title"])
		}
		for id, n := range ids {
			if n != 1 {
				t.Errorf("%s: %d elements have the id %s", name, n, id)
			}
		}
		for _, r := range refs {
			if ids[r] == 0 {
				t.Errorf("%s: nothing has the id %s, which is referred to", name, r)
			}
		}
	}
}

func TestMessageView(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", 2000) + strings.Repeat("]", 2000)
	for name, c := range map[string]struct {
		body string
		kind string
		want string
		cut  bool
	}{
		"empty":             {"", "Empty", "", false},
		"JSON":              {`{"a":1.0}`, "JSON", "{\n  \"a\": 1.0\n}", false},
		"a number":          {"21.50", "JSON", "21.50", false},
		"text":              {"hello\nwörld", "Text", "hello\nwörld", false},
		"control":           {"a\x1b[31m", "Bytes", "00000000  61 1b 5b 33 31 6d                                 |a.[31m|\n", false},
		"bytes":             {"\xff\x00", "Bytes", "00000000  ff 00                                             |..|\n", false},
		"deep JSON":         {deep, "JSON", deep, false},
		"long JSON":         {`"` + strings.Repeat("x", 20<<10) + `"`, "JSON", `"` + strings.Repeat("x", maxBodyShown-1), true},
		"cut in a letter":   {strings.Repeat("x", maxBodyShown-1) + "ö", "Text", strings.Repeat("x", maxBodyShown-1), true},
		"many bytes":        {strings.Repeat("\xff", maxBytesShown+1), "Bytes", "", true},
		"JSON in bad UTF-8": {"\"\xff\"", "Bytes", "00000000  22 ff 22                                          |\".\"|\n", false},
	} {
		v := newMessageView(&iot.Message{Body: []byte(c.body)})
		if v.Kind != c.kind || v.Cut != c.cut || c.want != "" && v.Body != c.want {
			t.Errorf("%s: %s, cut %v, %.60q; want %s, %v, %.60q", name, v.Kind, v.Cut, v.Body, c.kind, c.cut, c.want)
		}
	}
	many := make([]bag.Property, bag.MaxProperties)
	if v := newMessageView(&iot.Message{Properties: many}); len(v.Properties) != maxPropertiesShown {
		t.Errorf("%d properties are shown, want %d", len(v.Properties), maxPropertiesShown)
	}
}

func FuzzMessageMarkup(f *testing.F) {
	w := newWorld(f)
	for _, h := range hostile {
		f.Add([]byte(h), h, h, true)
		f.Add([]byte(`{"x":"`+h+`"}`), h, "", false)
	}
	f.Fuzz(func(t *testing.T, body []byte, name, value string, security bool) {
		m := &iot.Message{From: iot.ID{Device: "d", Module: name}, Enqueued: time.Unix(0, 0), Body: body, Properties: []bag.Property{{Name: name, Value: value}}}
		if security {
			m.System = []bag.Property{{Name: "iothub-interface-id", Value: iot.SecurityInterface}}
		}
		v := newMessageView(m)
		if len(v.Body) > 64<<10 {
			t.Errorf("%d bytes of body are shown of %d", len(v.Body), len(body))
		}
		text, err := w.fragment("message", v)
		if err != nil {
			t.Fatal(err)
		}
		inspect(t, "message", text)
	})
}

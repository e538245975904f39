package api

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/access/ipfilter"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/baseline"
	"github.com/vauban-iot/vauban/defender/export"
	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/defender/intel/feed"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/defender/vuln"
	"github.com/vauban-iot/vauban/defender/vuln/format"
	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/hub/eventgrid"
	"github.com/vauban-iot/vauban/hub/registry"
)

// outline reads the mapping keys of a YAML document, each with the path of keys above it, and the
// scalars of lists of scalars below the same path. It knows the plain block style of our
// own file and nothing more.
func outline(t *testing.T, file string) (paths []string, lists map[string][]string, text string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lists = make(map[string][]string)
	type level struct {
		indent int
		key    string
	}
	var above []level
	block := -1 // indent of the key whose literal text we are in
	for line := range strings.Lines(string(data)) {
		trimmed := strings.TrimSpace(line)
		indent := len(line) - len(strings.TrimLeft(line, " "))
		if trimmed == "" || block >= 0 && indent > block {
			continue
		}
		block = -1
		for len(above) > 0 && above[len(above)-1].indent >= indent {
			above = above[:len(above)-1]
		}
		var at []string
		for _, l := range above {
			at = append(at, l.key)
		}
		parent := strings.Join(at, " ")
		if item, ok := strings.CutPrefix(trimmed, "- "); ok {
			lists[parent] = append(lists[parent], item)
			continue
		}
		key, rest, ok := strings.Cut(trimmed, ":")
		if !ok {
			t.Fatalf("%s: cannot read the line %q", file, line)
		}
		if strings.TrimSpace(rest) == "|" {
			block = indent
		}
		above = append(above, level{indent, key})
		paths = append(paths, strings.TrimSpace(parent+" "+key))
	}
	return paths, lists, string(data)
}

const document = "../../api/openapi/central.yaml"

func TestOpenAPI_DescribesEveryRouteAndNoOther(t *testing.T) {
	t.Parallel()
	paths, _, _ := outline(t, document)
	var described, routed []string
	for _, p := range paths {
		words := strings.Fields(p)
		if len(words) == 3 && words[0] == "paths" && words[2] != "parameters" {
			described = append(described, strings.ToUpper(words[2])+" "+words[1])
		}
	}
	for _, r := range routes {
		routed = append(routed, r.method+" "+r.path)
	}
	slices.Sort(described)
	slices.Sort(routed)
	if !slices.Equal(described, routed) {
		t.Errorf("the document describes\n\t%s\nthe API serves\n\t%s", strings.Join(described, "\n\t"), strings.Join(routed, "\n\t"))
	}
}

func TestOpenAPI_SchemasHaveTheFieldsOfTheAnswers(t *testing.T) {
	t.Parallel()
	paths, lists, text := outline(t, document)
	for name, v := range map[string]any{
		"Message": Message{}, "Dropped": Dropped{}, "Alert": alert.Alert{}, "Evidence": alert.Evidence{}, "AlertType": alert.Type{}, "Detector": Detector{}, "Suppression": alert.Suppression{}, "Until": Until{}, "Comment": Comment{},
		"SecurityEvent": record.Row{}, "SecurityRules": group.Rules{}, "WindowRule": group.WindowRule{}, "RangeRule": group.ThresholdRule{}, "AllowRule": group.AllowRule{}, "DenyRule": group.DenyRule{}, "Certificate": CertificateView{},
		"Policy": Policy{}, "IPRule": ipfilter.Rule{}, "Throttles": Throttles{}, "Containment": registry.Containment{}, "ContainmentPage": ContainmentPage{}, "ContainmentEffect": registry.Effect{}, "Subscription": eventgrid.Subscription{},
		"Baseline": baseline.Baseline{}, "BaselineTerms": baseline.Terms{}, "BaselineSummary": baseline.Summary{}, "BaselineEntry": baseline.Entry{}, "BaselineLimit": baseline.Limit{},
		"BaselineMaker": baseline.Maker{}, "BaselineEdit": baseline.Edit{}, "BaselineLimitEdit": baseline.LimitEdit{}, "BaselinePreview": baseline.Preview{}, "BaselinePromotion": baseline.Promotion{},
		"FeedConfig": feed.Config{}, "FeedState": feed.State{}, "Exemption": feed.Exemption{}, "Indicator": intel.Indicator{}, "Verdict": intel.Verdict{},
		"Recommendation": posture.Recommendation{}, "RecommendationKind": posture.Type{}, "Switch": Switch{}, "Switched": Switched{}, "Score": posture.Score{}, "ScoreLine": posture.Line{},
		"ExportConfig": export.Config{}, "ExportState": export.State{}, "ExportWaiting": export.Waiting{},
		"VulnerabilityTotals": vuln.Totals{}, "VulnerabilitySource": vuln.Source{}, "VulnerabilityImport": vuln.Import{}, "VulnerabilityFinding": vuln.Finding{}, "VulnerabilityPriority": vuln.Priority{},
		"ExploitedVulnerability": format.Exploited{}, "Vulnerability": Vulnerability{}, "SoftwareScope": vuln.Scope{}, "VEXSummary": VEXSummary{}, "VEX": vuln.VEX{},
		"VEXStatement": format.Statement{}, "VEXProduct": format.Product{}, "SBOMDocument": vuln.Document{}, "SBOM": SBOM{}, "SBOMComponent": SBOMComponent{},
		"LinkedHub": HubView{}, "Imported": dps.Imported{},
	} {
		prefix := "components schemas " + name + " properties "
		var described, sent []string
		for _, p := range paths {
			if field, ok := strings.CutPrefix(p, prefix); ok && !strings.Contains(field, " ") {
				described = append(described, field)
			}
		}
		for f := range reflect.TypeOf(v).Fields() {
			if field, _, _ := strings.Cut(f.Tag.Get("json"), ","); field != "-" {
				sent = append(sent, field)
			}
		}
		slices.Sort(described)
		slices.Sort(sent)
		if !slices.Equal(described, sent) {
			t.Errorf("schema %s has %q, answers have %q", name, described, sent)
		}
	}
	codes := []string{methodNotAllowed}
	for _, a := range answers {
		codes = append(codes, a.code)
	}
	slices.Sort(codes)
	described := lists["components schemas Error properties error properties code enum"]
	slices.Sort(described)
	if !slices.Equal(codes, described) {
		t.Errorf("the document lists the codes %q, the API answers %q", described, codes)
	}
	for ref := range strings.SplitSeq(text, `$ref: "#/`) {
		target, _, ok := strings.Cut(ref, `"}`)
		if !ok || strings.HasPrefix(ref, "openapi") {
			continue
		}
		if !slices.Contains(paths, strings.ReplaceAll(target, "/", " ")) {
			t.Errorf("the document refers to %s, which it does not have", target)
		}
	}
}

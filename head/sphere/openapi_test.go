package sphere

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const document = "../../api/openapi/sphere.yaml"

// outline reads the mapping keys of our own YAML, block style, each with the keys above it.
func outline(t *testing.T) (paths []string, text string) {
	t.Helper()
	data, err := os.ReadFile(document)
	ok(t, err)
	type level struct {
		indent int
		key    string
	}
	var above []level
	block := -1 // indent of the key whose literal text we are in
	for line := range strings.Lines(string(data)) {
		trimmed := strings.TrimSpace(line)
		indent := len(line) - len(strings.TrimLeft(line, " "))
		if trimmed == "" || strings.HasPrefix(trimmed, "- ") || block >= 0 && indent > block {
			continue
		}
		block = -1
		key, rest, is := strings.Cut(trimmed, ":")
		if !is {
			t.Fatalf("cannot read the line %q", line)
		}
		for len(above) > 0 && above[len(above)-1].indent >= indent {
			above = above[:len(above)-1]
		}
		if strings.TrimSpace(rest) == "|" {
			block = indent
		}
		above = append(above, level{indent, key})
		words := make([]string, len(above))
		for i, l := range above {
			words[i] = l.key
		}
		paths = append(paths, strings.Join(words, " "))
	}
	return paths, string(data)
}

func TestOpenAPI_DescribesEveryRouteAndNoOther(t *testing.T) {
	t.Parallel()
	paths, text := outline(t)
	var described, routed []string
	for _, p := range paths {
		words := strings.Fields(p)
		if len(words) == 3 && words[0] == "paths" && words[2] != "parameters" {
			described = append(described, strings.ToUpper(words[2])+" "+words[1])
		}
	}
	for _, r := range v2 {
		name := r.method + " /" + r.path
		routed = append(routed, name)
		// The right that it names is the one that is asked, which TestMatrix_Members proves.
		at := "paths /" + r.path + " " + strings.ToLower(r.method)
		if named := slices.Contains(paths, at+" x-role"); named != (r.right != anyone) {
			t.Errorf("%s names a role: %v, and needs %q", name, named, r.right)
		}
		if named := slices.Contains(paths, at+" x-installation"); named != (r.plus != plain) {
			t.Errorf("%s is the installation's: %v", name, named)
		}
		if has := slices.Contains(paths, at+" requestBody"); has != (r.limit > 0) {
			t.Errorf("%s has a body: %v", name, has)
		}
	}
	slices.Sort(described)
	slices.Sort(routed)
	if !slices.Equal(described, routed) {
		t.Errorf("the document describes\n\t%s\nthe API serves\n\t%s", strings.Join(described, "\n\t"), strings.Join(routed, "\n\t"))
	}
	for ref := range strings.SplitSeq(text, `$ref: "#/`) {
		target, _, is := strings.Cut(ref, `"}`)
		if !is || strings.HasPrefix(ref, "openapi") {
			continue
		}
		if !slices.Contains(paths, strings.ReplaceAll(target, "/", " ")) {
			t.Errorf("the document refers to %s, which it does not have", target)
		}
	}
}

func TestOpenAPI_SchemasHaveTheFieldsOfTheAnswers(t *testing.T) {
	t.Parallel()
	paths, _ := outline(t)
	for name, v := range map[string]any{
		"Me": meView{}, "TenantRoles": rolesView{}, "UserRoles": userRolesView{}, "User": userView{}, "Tenant": tenantView{}, "Product": productView{}, "DeviceGroup": groupView{},
		"Deployment": deploymentView{}, "Target": targetView{}, "Device": deviceView{}, "Capability": capabilityView{}, "Image": imageView{}, "Outcome": outcomeView{}, "Uploaded": uploadedView{},
		"ManufactureRecord": recordView{}, "Certificate": certificateView{}, "Release": releaseView{}, "Minimum": minimumView{}, "Insight": insightView{}, "Problem": problem{},
	} {
		var described, sent []string
		for _, p := range paths {
			if field, is := strings.CutPrefix(p, "components schemas "+name+" properties "); is && !strings.Contains(field, " ") {
				described = append(described, field)
			}
		}
		for f := range reflect.TypeOf(v).Fields() {
			field, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if field == "" {
				field = f.Name
			}
			sent = append(sent, field)
		}
		slices.Sort(described)
		slices.Sort(sent)
		if !slices.Equal(described, sent) {
			t.Errorf("schema %s has %q, answers have %q", name, described, sent)
		}
	}
}

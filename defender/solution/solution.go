// Package solution is Azure's resource iotSecuritySolutions (defender §2.5): which hub Defender looks after, and which recommendations
// it makes. An installation has one hub, and a hub is in one solution.
//
// What a solution can say that has no effect here is refused in words that say so, instead of being kept and ignored.
package solution

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/fault"
)

// Status of a solution, and of a type of recommendation.
type Status string

// The statuses.
const (
	Enabled  Status = "Enabled"
	Disabled Status = "Disabled"
)

// Name of a solution: where it is and what it is called. Names compare without case.
type Name struct {
	Subscription  string `json:"subscription"`
	ResourceGroup string `json:"resourceGroup"`
	Name          string `json:"name"`
}

// Is reports whether n and o are the same.
func (n Name) Is(o Name) bool {
	return strings.EqualFold(n.Subscription, o.Subscription) && strings.EqualFold(n.ResourceGroup, o.ResourceGroup) && strings.EqualFold(n.Name, o.Name)
}

// Solution is one. Which recommendations it makes is not kept in it but in the book of recommendations, which has other readers.
type Solution struct {
	Name
	Location    string            `json:"location,omitempty"`
	Tags        map[string]string `json:"tags,omitempty"`
	DisplayName string            `json:"displayName"`
	Workspace   string            `json:"workspace"` // kept for programs that ask for it: nothing is written there
	Hubs        []string          `json:"iotHubs"`   // ids of the hub, as they were given
	Defined     *UserDefined      `json:"userDefinedResources,omitempty"`
	Created     time.Time         `json:"created"`
	Updated     time.Time         `json:"updated"`
}

// UserDefined is a query for resources beside hubs. It is kept, and finds nothing: there is no resource graph to ask.
type UserDefined struct {
	Query         string   `json:"query"`
	Subscriptions []string `json:"querySubscriptions"`
}

// Recommendation says of a type of recommendation whether it is made.
type Recommendation struct {
	Type   string `json:"recommendationType"`
	Title  string `json:"name,omitempty"` // read-only
	Status Status `json:"status"`
}

// Bounds of a solution.
const (
	MaxSize          = 64 << 10 // of its text
	maxTags          = 50       // as Azure Resource Manager has it; the two below, too
	maxTagName       = 512
	maxTagValue      = 256
	maxText          = 1024
	maxHubs          = 10
	maxQuery         = 4 << 10
	maxSubscriptions = 100
	maxTypes         = 100
)

// Rules of names. A name of a solution is a word of a path.
var (
	solutionName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)
	workspaceID  = regexp.MustCompile(`(?i)^/?subscriptions/[^/]+/resourcegroups/[^/]+/providers/microsoft\.operationalinsights/workspaces/[^/]+$`)
	userQuery    = regexp.MustCompile(`(?i)^\s*where\s+type\s*!=\s*["']microsoft\.devices/iothubs["']`)
	guid         = regexp.MustCompile(`^(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
)

// CheckName refuses what cannot be a solution's name.
func CheckName(name string) error {
	if !solutionName.MatchString(name) {
		return fault.New(fault.Invalid, "the name of a solution has 1 to 64 letters, digits and ._-")
	}
	return nil
}

// body is a solution as a PUT or a PATCH brings it. What is read-only is read, and ignored.
type body struct {
	ID         json.RawMessage   `json:"id"`
	Name       json.RawMessage   `json:"name"`
	Type       json.RawMessage   `json:"type"`
	System     json.RawMessage   `json:"systemData"`
	Location   *string           `json:"location"`
	Tags       map[string]string `json:"tags"`
	Properties *struct {
		Workspace       *string          `json:"workspace"`
		DisplayName     *string          `json:"displayName"`
		Status          *Status          `json:"status"`
		Export          []string         `json:"export"`
		DisabledSources []string         `json:"disabledDataSources"`
		Hubs            []string         `json:"iotHubs"`
		Defined         *UserDefined     `json:"userDefinedResources"`
		Recommendations []Recommendation `json:"recommendationsConfiguration"`
		Discovered      json.RawMessage  `json:"autoDiscoveredResources"`
		// Unmasked is of later versions; clients of 2019-08-01 send it all the same. Addresses are never masked.
		Unmasked   json.RawMessage `json:"unmaskedIpLoggingStatus"`
		Workspaces []any           `json:"additionalWorkspaces"`
	} `json:"properties"`
}

func parse(text []byte) (b body, err error) {
	if len(text) > MaxSize {
		return b, fault.New(fault.TooLarge, "a solution has %d bytes at most", MaxSize)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err = d.Decode(&b); err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the object")
		}
	}
	if err != nil {
		return b, fault.Wrap(fault.Malformed, err, "the solution cannot be read: %v", err)
	}
	return b, nil
}

// Change is what a request wants of a solution.
type Change struct {
	solution        Solution // of Put
	tags            *map[string]string
	defined         *UserDefined
	recommendations []Recommendation
}

// ParsePut reads a whole solution. isHub reports whether an id is that of the installation's hub.
func ParsePut(text []byte, isHub func(id string) bool) (Change, error) {
	b, err := parse(text)
	if err != nil {
		return Change{}, err
	}
	p := b.Properties
	switch {
	case p == nil:
		return Change{}, missing("properties")
	case p.DisplayName == nil || *p.DisplayName == "":
		return Change{}, missing("properties.displayName")
	case p.Workspace == nil || *p.Workspace == "":
		return Change{}, missing("properties.workspace")
	case len(p.Hubs) == 0:
		return Change{}, missing("properties.iotHubs")
	case len(*p.DisplayName) > maxText || len(*p.Workspace) > maxText || b.Location != nil && len(*b.Location) > maxText:
		return Change{}, fault.New(fault.Invalid, "displayName, workspace and location have %d bytes at most", maxText)
	case !workspaceID.MatchString(*p.Workspace):
		return Change{}, fault.New(fault.Invalid, "properties.workspace is the id of a workspace: /subscriptions/<s>/resourceGroups/<g>/providers/Microsoft.OperationalInsights/workspaces/<name>")
	case len(p.Hubs) > maxHubs:
		return Change{}, fault.New(fault.Invalid, "properties.iotHubs has %d ids, %d are allowed", len(p.Hubs), maxHubs)
	}
	for _, id := range p.Hubs {
		if !isHub(id) {
			return Change{}, fault.New(fault.Invalid, "properties.iotHubs: %.200q is not the id of this installation's hub, which ends in /providers/Microsoft.Devices/IotHubs/ and the hub's name", id)
		}
	}
	if err := refuseDead(p.Status, p.Export, p.DisabledSources, len(p.Workspaces)); err != nil {
		return Change{}, err
	}
	c := Change{solution: Solution{Tags: b.Tags, DisplayName: *p.DisplayName, Workspace: *p.Workspace, Hubs: p.Hubs, Defined: p.Defined}, recommendations: p.Recommendations}
	if b.Location != nil {
		c.solution.Location = *b.Location
	}
	return c, c.check(b.Tags, p.Defined)
}

func missing(name string) error {
	return fault.New(fault.Invalid, "%s is required", name)
}

// refuseDead refuses what would have no effect.
func refuseDead(status *Status, export, sources []string, workspaces int) error {
	switch {
	case status != nil && *status == Disabled:
		return fault.New(fault.Invalid, "properties.status: a solution cannot be Disabled here, for alerts would go missing unseen; "+
			"suppress what disturbs (vauban alert suppress), disable types of recommendations (recommendationsConfiguration), or delete the solution")
	case status != nil && *status != Enabled:
		return fault.New(fault.Invalid, "properties.status is Enabled")
	case len(export) > 0:
		return fault.New(fault.Invalid, "properties.export must be empty: there is no workspace to export %.40q to. Raw events are kept for 7 days whatever a solution says; read them with GET /api/security-events", export[0])
	case len(sources) > 0:
		return fault.New(fault.Invalid, "properties.disabledDataSources must be empty: %.40q cannot be left out as a whole; disable the types of recommendations that read it (recommendationsConfiguration)", sources[0])
	case workspaces > 0:
		return fault.New(fault.Invalid, "properties.additionalWorkspaces must be empty: there is no workspace to write to")
	}
	return nil
}

// ParsePatch reads a change, which may name tags, userDefinedResources and recommendationsConfiguration.
func ParsePatch(text []byte) (Change, error) {
	b, err := parse(text)
	if err != nil {
		return Change{}, err
	}
	c := Change{}
	if b.Tags != nil {
		c.tags = &b.Tags
	}
	refuse := func(name string) (Change, error) {
		return Change{}, fault.New(fault.Invalid, "%s cannot be patched; tags, properties.userDefinedResources and properties.recommendationsConfiguration can: PUT the solution", name)
	}
	if b.Location != nil {
		return refuse("location")
	}
	if p := b.Properties; p != nil {
		for name, there := range map[string]bool{
			"workspace": p.Workspace != nil, "displayName": p.DisplayName != nil, "status": p.Status != nil, "export": p.Export != nil,
			"disabledDataSources": p.DisabledSources != nil, "iotHubs": p.Hubs != nil, "additionalWorkspaces": p.Workspaces != nil,
		} {
			if there {
				return refuse("properties." + name)
			}
		}
		c.defined, c.recommendations = p.Defined, p.Recommendations
	}
	return c, c.check(b.Tags, c.defined)
}

func (c *Change) check(tags map[string]string, u *UserDefined) error {
	if len(tags) > maxTags {
		return fault.New(fault.Invalid, "there are %d tags, %d are allowed", len(tags), maxTags)
	}
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		if k == "" || len(k) > maxTagName || len(tags[k]) > maxTagValue {
			return fault.New(fault.Invalid, "tag %.40q: a name has 1 to %d bytes and a value %d at most", k, maxTagName, maxTagValue)
		}
	}
	if u != nil {
		if len(u.Query) > maxQuery || !userQuery.MatchString(u.Query) {
			return fault.New(fault.Invalid, `userDefinedResources.query begins with: where type != "microsoft.devices/iothubs", and has %d bytes at most`, maxQuery)
		}
		if len(u.Subscriptions) == 0 || len(u.Subscriptions) > maxSubscriptions || slices.ContainsFunc(u.Subscriptions, func(s string) bool { return !guid.MatchString(s) }) {
			return fault.New(fault.Invalid, "userDefinedResources.querySubscriptions has 1 to %d ids of subscriptions", maxSubscriptions)
		}
	}
	if len(c.recommendations) > maxTypes {
		return fault.New(fault.Invalid, "recommendationsConfiguration has %d types, %d are allowed", len(c.recommendations), maxTypes)
	}
	seen := map[string]bool{}
	known := posture.Types()
	for i := range c.recommendations {
		r := &c.recommendations[i]
		at := slices.IndexFunc(known, func(t posture.Type) bool { return strings.EqualFold(t.Name, r.Type) })
		switch {
		case at < 0:
			return fault.New(fault.Invalid, "recommendationsConfiguration: there is no recommendationType %.80q", r.Type)
		case seen[known[at].Name]:
			return fault.New(fault.Invalid, "recommendationsConfiguration: %s is there twice", r.Type)
		}
		switch { // examples of Azure say TurnedOn, too
		case strings.EqualFold(string(r.Status), string(Enabled)), strings.EqualFold(string(r.Status), "TurnedOn"):
			r.Status = Enabled
		case strings.EqualFold(string(r.Status), string(Disabled)):
			r.Status = Disabled
		default:
			return fault.New(fault.Invalid, "recommendationsConfiguration: the status of %s is Enabled or Disabled", r.Type)
		}
		r.Type = known[at].Name
		seen[r.Type] = true
	}
	return nil
}

// Notes are what audits say of a change: the types of recommendations that it enables and disables.
func (c *Change) Notes() []any {
	var notes []any
	for _, status := range []Status{Enabled, Disabled} {
		var names []string
		for _, r := range c.recommendations {
			if r.Status == status {
				names = append(names, r.Type)
			}
		}
		if len(names) > 0 {
			notes = append(notes, "recommendations"+string(status), strings.Join(names, " "))
		}
	}
	return notes
}

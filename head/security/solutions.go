package security

import (
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/vauban-iot/vauban/defender/solution"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
)

// solutionProperties are the properties of a solution.
type solutionProperties struct {
	Workspace           string                    `json:"workspace"`
	DisplayName         string                    `json:"displayName"`
	Status              solution.Status           `json:"status"`
	Export              []string                  `json:"export"`
	DisabledDataSources []string                  `json:"disabledDataSources"`
	IoTHubs             []string                  `json:"iotHubs"`
	UserDefined         *solution.UserDefined     `json:"userDefinedResources,omitempty"`
	Discovered          []string                  `json:"autoDiscoveredResources"`
	Recommendations     []solution.Recommendation `json:"recommendationsConfiguration"`
	Unmasked            solution.Status           `json:"unmaskedIpLoggingStatus"`
}

func (h *Head) solutionResource(q *request, s solution.Solution) (resource, error) {
	made, err := h.cfg.Solutions.Configuration(q.Context())
	if err != nil {
		return resource{}, err
	}
	return resource{
		ID:   "/subscriptions/" + s.Subscription + "/resourceGroups/" + s.ResourceGroup + "/providers/" + provider + "/iotSecuritySolutions/" + s.Name.Name,
		Name: s.Name.Name, Type: provider + "/iotSecuritySolutions", Location: s.Location, Tags: s.Tags,
		Properties: solutionProperties{
			Workspace: s.Workspace, DisplayName: s.DisplayName, Status: solution.Enabled, Export: []string{}, DisabledDataSources: []string{}, IoTHubs: s.Hubs,
			UserDefined: s.Defined, Discovered: s.Hubs, Recommendations: made, Unmasked: solution.Enabled,
		},
	}, nil
}

func (q *request) solutionName() solution.Name {
	return solution.Name{Subscription: q.args["subscription"], ResourceGroup: q.args["resourceGroup"], Name: q.args["solution"]}
}

func (h *Head) solutions(q *request) error {
	hub, err := parseFilter(q.option("$filter"))
	if err != nil {
		return err
	}
	all, err := h.cfg.Solutions.All(q.Context())
	if err != nil {
		return err
	}
	found := []resource{}
	for _, s := range all {
		group, inGroup := q.args["resourceGroup"]
		if !strings.EqualFold(s.Subscription, q.args["subscription"]) || inGroup && !strings.EqualFold(s.ResourceGroup, group) ||
			hub != "" && !slices.ContainsFunc(s.Hubs, func(id string) bool { return strings.EqualFold(strings.Trim(id, "/"), strings.Trim(hub, "/")) }) {
			continue
		}
		r, err := h.solutionResource(q, s)
		if err != nil {
			return err
		}
		found = append(found, r)
	}
	return q.reply(http.StatusOK, list{Value: found})
}

// maxFilter bounds a $filter: an id and the words around it.
const maxFilter = 2 << 10

// filters is the one form of $filter that solutions have, as Azure's examples write it, with OData's quotes and names beside.
var filters = regexp.MustCompile(`^\s*(?:properties[./])?(?i:iotHubs)/any\(\s*(?:(\w{1,20})\s*:\s*)?(\w{1,20})\s+eq\s+(?:"([^"]*)"|'([^']*)')\s*\)\s*$`)

// parseFilter returns the id of the hub that solutions must have; empty: any.
func parseFilter(s string) (hub string, err error) {
	if s == "" {
		return "", nil
	}
	m := filters.FindStringSubmatch(s)
	if len(s) > maxFilter || m == nil || m[1] != "" && m[1] != m[2] || m[3]+m[4] == "" {
		return "", fault.New(fault.Invalid, `$filter cannot be read: it is properties.iotHubs/any(i eq "<id of a hub>")`)
	}
	return m[3] + m[4], nil
}

func (h *Head) getSolution(q *request) error {
	s, err := h.cfg.Solutions.Solution(q.Context(), q.solutionName())
	return h.replySolution(q, http.StatusOK, s, err)
}

func (h *Head) replySolution(q *request, status int, s solution.Solution, err error) error {
	if err != nil {
		return err
	}
	r, err := h.solutionResource(q, s)
	if err != nil {
		return err
	}
	return q.reply(status, r)
}

func (h *Head) putSolution(q *request) error {
	c, err := solution.ParsePut(q.body, h.hubID)
	if err != nil {
		return err
	}
	s, created, err := h.cfg.Solutions.Put(q.Context(), q.solutionName(), c)
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	rest.Note(q.Context(), c.Notes()...)
	return h.replySolution(q, status, s, err)
}

func (h *Head) patchSolution(q *request) error {
	c, err := solution.ParsePatch(q.body)
	if err != nil {
		return err
	}
	s, err := h.cfg.Solutions.Patch(q.Context(), q.solutionName(), c)
	rest.Note(q.Context(), c.Notes()...)
	return h.replySolution(q, http.StatusOK, s, err)
}

func (h *Head) deleteSolution(q *request) error {
	existed, err := h.cfg.Solutions.Delete(q.Context(), q.solutionName())
	if err != nil {
		return err
	}
	return q.gone(existed)
}

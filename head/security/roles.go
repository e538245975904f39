package security

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/vauban-iot/vauban/defender/solution"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
)

// assignmentProperties are those of a role assignment of Microsoft.Authorization.
type assignmentProperties struct {
	Role    string    `json:"roleDefinitionId"`
	Mail    string    `json:"principalId"`
	Kind    string    `json:"principalType"`
	Scope   string    `json:"scope"`
	Created time.Time `json:"createdOn"`
}

func (q *request) assignmentResource(a solution.Assignment) resource {
	return resource{
		ID: q.id(assignments, a.ID), Name: a.ID, Type: authorization + "/roleAssignments",
		Properties: assignmentProperties{
			Role: q.id(subscription) + "/providers/" + authorization + "/roleDefinitions/" + a.Role.ID(), Mail: a.Mail, Kind: "User", Scope: q.id(hubPath), Created: a.Time,
		},
	}
}

func (h *Head) roles(q *request) error {
	given, err := h.cfg.Roles.All(q.Context())
	if err != nil {
		return err
	}
	all := []resource{}
	for _, a := range given {
		all = append(all, q.assignmentResource(a))
	}
	return q.reply(http.StatusOK, list{Value: all})
}

func (h *Head) putRole(q *request) error {
	var b struct {
		Properties struct {
			Role string `json:"roleDefinitionId"`
			Mail string `json:"principalId"`
		} `json:"properties"`
	}
	if err := json.Unmarshal(q.body, &b); err != nil {
		return fault.Wrap(fault.Malformed, err, "the body is not a role assignment: properties.roleDefinitionId and properties.principalId")
	}
	role, err := solution.ParseRole(b.Properties.Role)
	if err != nil {
		return err
	}
	a := solution.Assignment{ID: q.args["assignment"], Mail: b.Properties.Mail, Role: role, Time: h.cfg.Now().UTC()}
	a, created, err := h.cfg.Roles.Put(q.Context(), a)
	if err != nil {
		return err
	}
	rest.Note(q.Context(), "mail", a.Mail, "role", a.Role.String())
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	return q.reply(status, q.assignmentResource(a))
}

func (h *Head) deleteRole(q *request) error {
	a, existed, err := h.cfg.Roles.Delete(q.Context(), q.args["assignment"])
	if err != nil {
		return err
	}
	if existed {
		rest.Note(q.Context(), "mail", a.Mail, "role", a.Role.String())
	}
	return q.gone(existed)
}

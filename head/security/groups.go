package security

import (
	"net/http"

	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/head/rest"
)

func (q *request) groupResource(name string, r group.Rules) resource {
	return resource{ID: q.id(groupsPath, name), Name: name, Type: provider + "/deviceSecurityGroups", Properties: r}
}

func (h *Head) groups(q *request) error {
	names, rules, err := h.cfg.Groups.Groups(q.Context())
	if err != nil {
		return err
	}
	all := []resource{}
	for _, name := range names {
		all = append(all, q.groupResource(name, rules[name]))
	}
	return q.reply(http.StatusOK, list{Value: all})
}

func (h *Head) group(q *request) error {
	name := q.args["group"]
	r, err := h.cfg.Groups.Group(q.Context(), name)
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, q.groupResource(name, r))
}

func (h *Head) putGroup(q *request) error {
	name := q.args["group"]
	r, err := group.Parse(q.body)
	if err != nil {
		return err
	}
	created, err := h.cfg.Groups.Put(q.Context(), name, r)
	if err != nil {
		return err
	}
	text, err := r.Text()
	if err != nil {
		return err
	}
	rest.Note(q.Context(), "group", name, "rules", string(text))
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	return q.reply(status, q.groupResource(name, r))
}

func (h *Head) deleteGroup(q *request) error {
	existed, err := h.cfg.Groups.Delete(q.Context(), q.args["group"])
	if err != nil {
		return err
	}
	return q.gone(existed)
}

package sphere

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/sphere"
)

// The public API.

func (h *Head) deployments(q *request) error {
	return list(q, "", func(p sphere.Page) (sphere.List[sphere.Deployment], error) {
		return h.core.Deployments(q.Context(), q.caller, q.args["tenant"], q.args["group"], p)
	}, viewDeployment)
}

func (h *Head) getDeployment(q *request) error {
	d, err := h.core.Deployment(q.Context(), q.caller, q.args["tenant"], q.args["group"], q.args["deployment"])
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, "", viewDeployment(d))
}

func (h *Head) createDeployment(q *request) error {
	b, err := decode[struct {
		ID             string `json:"Id"`
		DeployedImages []string
	}](q)
	if err != nil {
		return err
	}
	d, status, err := h.deploy(q, q.args["tenant"], q.args["group"], b.ID, b.DeployedImages)
	if err != nil {
		return err
	}
	return q.reply(status, "", viewDeployment(d))
}

// deploy makes a deployment and says whether it was made now.
func (h *Head) deploy(q *request, tenant, group, id string, images []string) (sphere.Deployment, int, error) {
	d, created, err := h.core.CreateDeployment(q.Context(), q.caller, tenant, group, id, images)
	if err != nil {
		return d, 0, err
	}
	rest.Note(q.Context(), "deployment", d.ID, "new", created, "images", d.ImageIDs())
	if created {
		return d, http.StatusCreated, nil
	}
	return d, http.StatusOK, nil
}

func (h *Head) targetedImages(q *request) error {
	t, err := h.core.TargetedImages(q.Context(), q.caller, q.args["tenant"], q.args["device"])
	if err != nil {
		return err
	}
	v := targetView{Items: viewImages(t.Images), Reason: text(t.Reason)}
	if t.Deployment != nil {
		d := viewDeployment(*t.Deployment)
		v.Deployment = &d
	}
	return q.reply(http.StatusOK, "", v)
}

// ARM.

// armImage is an image in a deployment: its id, or as much of its resource as says the id.
type armImage string

// UnmarshalJSON implements json.Unmarshaler.
func (m *armImage) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) != nil {
		var r struct {
			ID         string `json:"id"`
			Name       string `json:"name"`
			Properties struct {
				ImageID string `json:"imageId"`
			} `json:"properties"`
		}
		if err := json.Unmarshal(b, &r); err != nil {
			return err
		}
		if s = r.Properties.ImageID; s == "" {
			s = r.Name
		}
		if s == "" {
			s = r.ID
		}
	}
	*m = armImage(s[strings.LastIndexByte(s, '/')+1:])
	return nil
}

func (q *request) deploymentOf(n groupName, d sphere.Deployment) resource {
	images := each(d.Images, func(m sphere.Image) resource {
		return q.resource(q.id(q.tenant, "images", m.ID), "catalogs/images", properties{"imageId": m.ID, "componentId": m.Component}, time.Time{}, time.Time{})
	})
	r := q.resource(q.id(q.tenant, "products", n.product, "deviceGroups", n.group, "deployments", d.ID), "catalogs/products/deviceGroups/deployments",
		properties{"deploymentId": d.ID, "deployedImages": images, "deploymentDateUtc": stamp(d.Created)}, d.Created, d.Created)
	r.System.By = d.By
	return r
}

func (h *Head) armDeployments(q *request) error {
	t, err := h.target(q, q.args["product"], q.args["deviceGroup"])
	if err != nil {
		return err
	}
	get := func(_ string, p sphere.Page) (sphere.List[sphere.Deployment], error) {
		return h.core.Deployments(q.Context(), q.caller, q.tenant.ID, t.group.ID, p)
	}
	if pseudo(q.args["deviceGroup"]) { // to which nothing is deployed
		get = func(string, sphere.Page) (sphere.List[sphere.Deployment], error) {
			return sphere.List[sphere.Deployment]{}, h.readable(q)
		}
	}
	return armList(q, "", deploymentFields, get, func(d sphere.Deployment) (item, error) {
		return q.deploymentOf(groupName{t.product.Name, t.group.Name}, d).item()
	})
}

// armAllDeployments lists those of all device groups.
func (h *Head) armAllDeployments(q *request) error {
	return armList(q, "", deploymentFields, func(_ string, p sphere.Page) (sphere.List[sphere.Deployment], error) {
		return h.core.Deployments(q.Context(), q.caller, q.tenant.ID, "", p)
	}, func(d sphere.Deployment) (item, error) {
		n, err := h.nameOf(q, d.Group)
		if err != nil {
			return item{}, err
		}
		return q.deploymentOf(n, d).item()
	})
}

func (h *Head) armDeployment(q *request) error {
	t, err := h.target(q, q.args["product"], q.args["deviceGroup"])
	if err != nil {
		return err
	}
	if pseudo(q.args["deviceGroup"]) {
		if err := h.readable(q); err != nil {
			return err
		}
		return fault.New(fault.NotFound, "nothing is deployed to devices without a group")
	}
	d, err := h.core.Deployment(q.Context(), q.caller, q.tenant.ID, t.group.ID, q.args["deployment"])
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, "", q.deploymentOf(groupName{t.product.Name, t.group.Name}, d))
}

// armPutDeployment makes the deployment in force: under the id in the path, or, for .default, under the one in the body or a new one.
func (h *Head) armPutDeployment(q *request) error {
	b, err := decode[struct {
		Properties struct {
			DeploymentID   string     `json:"deploymentId"`
			DeployedImages []armImage `json:"deployedImages"`
		} `json:"properties"`
	}](q)
	if err != nil {
		return err
	}
	t, err := h.real(q)
	if err != nil {
		return err
	}
	id := b.Properties.DeploymentID
	if name := q.args["deployment"]; !pseudo(name) {
		if id != "" && !strings.EqualFold(id, name) {
			return fault.New(fault.Invalid, "properties.deploymentId is %q, but the path names deployment %q", id, name)
		}
		id = name
	}
	d, status, err := h.deploy(q, q.tenant.ID, t.group.ID, id, each(b.Properties.DeployedImages, func(m armImage) string { return string(m) }))
	if err != nil {
		return err
	}
	return q.reply(status, "", q.deploymentOf(groupName{t.product.Name, t.group.Name}, d))
}

package sphere

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
)

// Deployment is one image set for the devices of a group. The latest of a group is the one in force; those before it are its history.
type Deployment struct {
	Tenant string
	ID     string // GUID
	Group  string // id
	// Number is its place in the history of the group: one more than that of the deployment before.
	Number int64
	// Images are what was released under the ids that were asked for, when it was made: an id does not come to mean another file later. By component.
	Images  []Image
	Created time.Time
	By      string
}

// ImageIDs are those of its images.
func (d Deployment) ImageIDs() []string {
	ids := make([]string, len(d.Images))
	for i, m := range d.Images {
		ids[i] = m.ID
	}
	return ids
}

// DeploymentKey is the place of a deployment in lists.
func DeploymentKey(d Deployment) string { return d.Group + "/" + strconv.FormatInt(d.Number, 10) }

// Target is what a device should get of its group's deployment (sphere §9.1).
type Target struct {
	Deployment *Deployment // in force in the device's group; nil: there is none
	Images     []Image     // all of the deployment, or none
	Reason     string      // why there are none, for people; empty when there are
}

// maxDeployments is how many a group keeps, the one in force among them.
const maxDeployments = 50

// Deployments lists those of a group, the latest first, or with "" those of all groups, by group.
func (s *Service) Deployments(ctx context.Context, c Caller, tenant, group string, p Page) (List[Deployment], error) {
	id, err := s.allow(ctx, c, tenant, "Deployments")
	if err != nil {
		return List[Deployment]{}, err
	}
	if group = Fold(group); group != "" {
		if _, err := s.store.DeviceGroup(ctx, id, group); err != nil {
			return List[Deployment]{}, err
		}
	}
	return page(p, DeploymentKey, func(after string, limit int) ([]Deployment, error) {
		return s.store.Deployments(ctx, id, group, after, limit)
	})
}

// Deployment returns one of a group by its id, or by [PseudoDefault] the one in force.
func (s *Service) Deployment(ctx context.Context, c Caller, tenant, group, deployment string) (Deployment, error) {
	id, err := s.allow(ctx, c, tenant, "Deployment")
	if err != nil {
		return Deployment{}, err
	}
	g, err := s.store.DeviceGroup(ctx, id, Fold(group))
	if err != nil {
		return Deployment{}, err
	}
	if Fold(deployment) != PseudoDefault {
		return s.store.Deployment(ctx, id, g.ID, Fold(deployment))
	}
	if g.Deployment == nil {
		return Deployment{}, fault.New(fault.NotFound, "nothing is deployed to device group %q", g.Name)
	}
	return *g.Deployment, nil
}

// CreateDeployment puts a set of images in force for a group, in place of the set before. They are named by their ids, and a release of kind
// application, of the tenant or the installation, that counts now must hold each: fault.Invalid for one that none holds. The deployment's id may be
// left empty; one that is in force with these images already changes nothing, any other that is taken is fault.AlreadyExists.
//
// What devices get of it is [Service.TargetedImages].
func (s *Service) CreateDeployment(ctx context.Context, c Caller, tenant, group, deployment string, images []string) (d Deployment, created bool, err error) {
	id, err := s.allow(ctx, c, tenant, "CreateDeployment")
	if err != nil {
		return Deployment{}, false, err
	}
	g, err := s.store.DeviceGroup(ctx, id, Fold(group))
	if err != nil {
		return Deployment{}, false, err
	}
	d = Deployment{Tenant: id, ID: newGUID(), Group: g.ID, Created: s.now().UTC(), By: c.Subject}
	if deployment != "" {
		var ok bool
		if d.ID, ok = guid(deployment); !ok {
			return Deployment{}, false, fault.New(fault.Invalid, "the id of a deployment is a GUID, not %q", deployment)
		}
	}
	if d.Images, err = s.released(ctx, id, images); err != nil {
		return Deployment{}, false, err
	}
	made, err := s.store.AddDeployment(ctx, d, maxDeployments)
	switch {
	case err == nil:
		s.audit(c, "CreateDeployment", id, made.ID, "group", g.ID, "images", made.ImageIDs())
		return made, true, nil
	case !fault.Is(err, fault.AlreadyExists) || deployment == "":
		return Deployment{}, false, err
	}
	// The same once more is the answer to a client that did not hear the first one's.
	if g, again := s.store.DeviceGroup(ctx, id, g.ID); again == nil && g.Deployment != nil && g.Deployment.ID == d.ID && slices.Equal(g.Deployment.Images, d.Images) {
		return *g.Deployment, false, nil
	}
	return Deployment{}, false, fault.Wrap(fault.AlreadyExists, err, "deployment %s is made already, and what it deploys does not change; give the new one another id, or none", d.ID)
}

// released finds the images of a tenant's devices that have these ids.
func (s *Service) released(ctx context.Context, tenant string, ids []string) ([]Image, error) {
	if len(ids) == 0 || len(ids) > maxImages {
		return nil, fault.New(fault.Invalid, "a deployment has 1 to %d images", maxImages)
	}
	trusted, err := s.policy(ctx, Device{Tenant: tenant})
	if err != nil {
		return nil, err
	}
	known := map[string]Image{}
	twice := map[string]bool{}
	for _, m := range trusted.Applications {
		other, there := known[m.ID]
		twice[m.ID] = twice[m.ID] || there && other != m
		known[m.ID] = m
	}
	images := make([]Image, len(ids))
	for i, s := range ids {
		id, ok := guid(s)
		if !ok {
			return nil, fault.New(fault.Invalid, "the id of an image is a GUID, not %q", s)
		}
		m, ok := known[id]
		switch {
		case !ok:
			return nil, fault.New(fault.Invalid, "no release of applications that counts holds image %s; publish a release of kind application with it first", id)
		case twice[id]:
			return nil, fault.New(fault.AlreadyExists, "image %s is released with different contents; withdraw the release that is wrong first", id)
		}
		images[i] = m
	}
	slices.SortFunc(images, func(a, b Image) int { return strings.Compare(a.Component, b.Component) })
	for i := 1; i < len(images); i++ {
		if images[i].Component == images[i-1].Component {
			return nil, fault.New(fault.Invalid, "images %s and %s are both of component %s; a device has one image of each", images[i-1].ID, images[i].ID, images[i].Component)
		}
	}
	return images, nil
}

// TargetedImages returns what a device should get of its group's deployment.
func (s *Service) TargetedImages(ctx context.Context, c Caller, tenant, device string) (Target, error) {
	id, err := s.allow(ctx, c, tenant, "TargetedImages")
	if err != nil {
		return Target{}, err
	}
	if device, err = deviceID(device); err != nil {
		return Target{}, err
	}
	d, err := s.store.TenantDevice(ctx, id, device, s.now())
	if err != nil {
		return Target{}, err
	}
	return s.target(ctx, d)
}

// target decides what a device gets: the whole set that is in force in its group, or nothing (sphere §9.1).
func (s *Service) target(ctx context.Context, d Device) (Target, error) {
	if d.Group == "" {
		return Target{Reason: "the device is in no device group"}, nil
	}
	g, err := s.store.DeviceGroup(ctx, d.Tenant, d.Group)
	if err != nil {
		return Target{}, err
	}
	t := Target{Deployment: g.Deployment}
	trusted, err := s.policy(ctx, d)
	if err != nil {
		return Target{}, err
	}
	switch {
	case g.UpdatePolicy != UpdateAll:
		t.Reason = fmt.Sprintf("the update policy of device group %q is %s", g.Name, g.UpdatePolicy)
	case trusted.Development:
		t.Reason = "the device has the capability appDevelopment"
	case t.Deployment == nil:
		t.Reason = fmt.Sprintf("nothing is deployed to device group %q", g.Name)
	default:
		for _, m := range t.Deployment.Images {
			// A set without one of its parts is a set that nobody tried.
			if !slices.Contains(trusted.Applications, m) {
				t.Reason = fmt.Sprintf("image %s of the deployment is not released any more", m.ID)
				return t, nil
			}
		}
		t.Images = t.Deployment.Images
	}
	return t, nil
}

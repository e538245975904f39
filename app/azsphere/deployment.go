package azsphere

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/sdk/sphere"
)

// deploymentCommand is the tree's in the integrated words; the legacy ones are below device-group.
func (t *tool) deploymentCommand() *cobra.Command {
	return group("deployment", "Deploy images to device groups, in the integrated spelling",
		t.deploymentCreate("deployment"), t.deploymentList("deployment"), t.deploymentShow())
}

func (t *tool) groupDeployment() *cobra.Command {
	const path = "device-group deployment"
	return group("deployment", "Deploy images to the devices of a group", t.deploymentCreate(path), t.deploymentList(path))
}

// deploymentView is a deployment for programs.
type deploymentView struct {
	ID            string     `json:"id"`
	DeviceGroup   string     `json:"deviceGroup"`
	DeviceGroupID string     `json:"deviceGroupId"`
	Images        []string   `json:"images"`
	Deployed      *time.Time `json:"deploymentDateUtc"`
	Current       bool       `json:"current"`
}

func viewDeployment(d sphere.Deployment, g sphere.DeviceGroup) deploymentView {
	return deploymentView{d.ID, g.Name, g.ID, d.DeployedImages, d.DeploymentDateUTC, d.ID == g.CurrentDeployment.ID}
}

func (r *run) printDeployment(v deploymentView) error {
	return r.out(v, func(w io.Writer) error {
		current := "no: another one is"
		if v.Current {
			current = "yes"
		}
		lines(w, "deployment", v.ID, "device group", v.DeviceGroup, "deployed", at(v.Deployed), "in force", current)
		for _, id := range v.Images {
			lines(w, "image", id)
		}
		return nil
	})
}

func (t *tool) deploymentCreate(path string) *cobra.Command {
	var images []string
	c := &cobra.Command{
		Use:   "create",
		Short: "Deploy a set of images to a device group",
		Long: `Deploy a set of images to a device group, in place of the set before. Each is named by its
image id, and a release of kind application, of the tenant or the installation, must hold it.

Devices of the group get the whole set, unless the group's application update is not
UpdateAll, or the device has a capability for development.`,
		Example: `  azsphere ` + path + ` create --device-group "Lamp/Field Test" \
    --images 6f2c1a0e-4a3b-4d0c-9e55-0c1f5a8d7b11
  azsphere ` + path + ` create --product Lamp --device-group Production \
    --images 6f2c1a0e-4a3b-4d0c-9e55-0c1f5a8d7b11 0a7e3d52-91c4-4f0b-8a44-3c6be2f0d917`,
		// az and azsphere take a list with spaces between; its first word is the flag's, and the others come here.
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 && len(images) == 0 {
				return fmt.Errorf("unknown argument %q; images are for --images", args[0])
			}
			return nil
		},
	}
	c.Flags().StringSliceVarP(&images, "images", "i", nil, "ids of images, with spaces or commas between")
	return t.oneGroup(c, func(r *run, client *sphere.Client, tenant string, g sphere.DeviceGroup) error {
		d, err := client.CreateDeployment(r.Context(), tenant, g.ID, "", append(slices.Clone(images), r.Flags().Args()...))
		if err != nil {
			return err
		}
		if g.UpdatePolicy != sphere.UpdateAll {
			r.note("the application update of %s is %s: its devices get nothing of it", g.Name, g.UpdatePolicy)
		}
		g.CurrentDeployment = d
		return r.printDeployment(viewDeployment(d, g))
	}, "images")
}

func (t *tool) deploymentList(path string) *cobra.Command {
	return t.oneGroup(&cobra.Command{
		Use:   "list",
		Short: "List what was deployed to a device group, the latest first",
		Example: `  azsphere ` + path + ` list --device-group "Lamp/Field Test"
  azsphere ` + path + ` list --product Lamp --device-group Production --output json`,
	}, func(r *run, client *sphere.Client, tenant string, g sphere.DeviceGroup) error {
		all, err := client.Deployments(r.Context(), tenant, g.ID)
		if err != nil {
			return err
		}
		views := []deploymentView{}
		for _, d := range all {
			views = append(views, viewDeployment(d, g))
		}
		return r.out(views, func(w io.Writer) error {
			fmt.Fprintln(w, "DEPLOYMENT\tDEPLOYED\tIN FORCE\tIMAGES")
			for _, v := range views {
				current := ""
				if v.Current {
					current = "yes"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", v.ID, at(v.Deployed), current, strings.Join(v.Images, ", "))
			}
			return nil
		})
	})
}

func (t *tool) deploymentShow() *cobra.Command {
	var id string
	c := &cobra.Command{
		Use:   "show",
		Short: "Show a deployment of a device group: the one in force, or another",
		Example: `  azsphere deployment show --catalog Contoso --product Lamp --device-group Production
  azsphere deployment show --device-group Lamp/Production \
    --deployment 52d5ba3f-0c79-4a2d-9c5e-6f1e0c4d2b8a`,
	}
	c.Flags().StringVar(&id, "deployment", sphere.CurrentDeployment, "id of the deployment; .default is the one in force")
	return t.oneGroup(c, func(r *run, client *sphere.Client, tenant string, g sphere.DeviceGroup) error {
		d, err := client.Deployment(r.Context(), tenant, g.ID, id)
		if err != nil {
			return err
		}
		return r.printDeployment(viewDeployment(d, g))
	})
}

// imageView is an image for programs.
type imageView struct {
	ComponentID string `json:"componentId"`
	ImageID     string `json:"imageId"`
	SHA256      string `json:"sha256,omitempty"`
	Name        string `json:"name,omitempty"` // a device at hand knows it
}

func viewImages(images []sphere.Image) []imageView {
	views := []imageView{}
	for _, m := range images {
		views = append(views, imageView{ComponentID: m.ComponentID, ImageID: m.ImageID, SHA256: m.SHA256})
	}
	return views
}

func (r *run) printImages(views []imageView) error {
	return r.out(views, func(w io.Writer) error {
		fmt.Fprintln(w, "IMAGE\tCOMPONENT\tNAME")
		for _, v := range views {
			fmt.Fprintf(w, "%s\t%s\t%s\n", v.ImageID, v.ComponentID, v.Name)
		}
		return nil
	})
}

func (t *tool) imagesInstalled() *cobra.Command {
	c := &cobra.Command{
		Use:   "list-installed",
		Short: "List the images on a device",
		Long: `List the images on a device. A device at hand tells what it has; of another, named by its
id, the service tells what it measured when it attested last.`,
		Example: `  azsphere device image list-installed --device unix:/run/agent/servicing.sock
  azsphere device image list-installed --device 4d2f... --output json`,
	}
	return t.make(command{Command: c, tenant: true, device: true, do: func(r *run) error {
		to, err := r.target()
		if err != nil {
			return err
		}
		if to.at != nil {
			return r.imagesAtHand(to)
		}
		client, tenant, err := r.inTenant()
		if err != nil {
			return err
		}
		images, err := client.DeviceImages(r.Context(), tenant.ID, to.ID)
		if err != nil {
			return err
		}
		return r.printImages(viewImages(images))
	}})
}

func (r *run) imagesAtHand(to target) error {
	var has struct {
		Components []struct {
			UID    string `json:"uid"`
			Name   string `json:"name"`
			Images []struct {
				UID string `json:"uid"`
			} `json:"images"`
		} `json:"components"`
	}
	if err := r.service(to.at, http.MethodGet, "/images", nil, &has); err != nil {
		return err
	}
	views := []imageView{}
	for _, c := range has.Components {
		for _, m := range c.Images {
			views = append(views, imageView{ComponentID: c.UID, ImageID: m.UID, Name: c.Name})
		}
	}
	return r.printImages(views)
}

func (t *tool) imagesTargeted() *cobra.Command {
	return t.oneDevice(command{Command: &cobra.Command{
		Use:   "list-targeted",
		Short: "List the images that a device should get from the service",
		Long: `List the images that a device should get from the service: those of the deployment of its
device group, if the group's application update is UpdateAll and the device has no
capability for development.`,
		Example: `  azsphere device image list-targeted --device 4d2f...
  azsphere device image list-targeted --output json`,
	}}, func(r *run, client *sphere.Client, tenant sphere.Tenant, to target) error {
		target, err := client.TargetedImages(r.Context(), tenant.ID, to.ID)
		if err != nil {
			return err
		}
		if target.Reason != "" {
			r.note("none: %s", target.Reason)
		}
		return r.printImages(viewImages(target.Images))
	})
}

// statusView says how far a device is with what it should have.
type statusView struct {
	DeviceID    string   `json:"deviceId"`
	InstalledOS string   `json:"installedOsVersion"`
	TargetedOS  string   `json:"targetedOsVersion"`
	Deployment  string   `json:"deploymentId"`
	Targeted    []string `json:"targetedImages"`
	Missing     []string `json:"missingImages"`
	Reason      string   `json:"reason,omitempty"` // why no images are targeted
	UpToDate    bool     `json:"upToDate"`
}

func (t *tool) deploymentStatus() *cobra.Command {
	return t.oneDevice(command{Command: &cobra.Command{
		Use:   "show-deployment-status",
		Short: "Show whether a device has what the service has for it",
		Long: `Show whether a device has the operating system and the images that the service has for it.
What it has is what it measured when it attested last.`,
		Example: `  azsphere device show-deployment-status --device 4d2f...
  azsphere device show-deployment-status --output json | jq .upToDate`,
	}}, func(r *run, client *sphere.Client, tenant sphere.Tenant, to target) error {
		d, err := client.Device(r.Context(), tenant.ID, to.ID)
		if err != nil {
			return err
		}
		target, err := client.TargetedImages(r.Context(), tenant.ID, to.ID)
		if err != nil {
			return err
		}
		installed, err := client.DeviceImages(r.Context(), tenant.ID, to.ID)
		if err != nil {
			return err
		}
		return r.printStatus(status(d, target, installed))
	})
}

func status(d sphere.Device, target sphere.Target, installed []sphere.Image) statusView {
	v := statusView{
		DeviceID: d.DeviceID, InstalledOS: d.LastInstalledOSVersion, TargetedOS: d.LastAvailableOSVersion, Targeted: []string{}, Missing: []string{}, Reason: target.Reason,
	}
	if target.Deployment != nil {
		v.Deployment = target.Deployment.ID
	}
	for _, m := range target.Images {
		v.Targeted = append(v.Targeted, m.ImageID)
		if !slices.Contains(installed, m) {
			v.Missing = append(v.Missing, m.ImageID)
		}
	}
	v.UpToDate = v.InstalledOS != "" && v.InstalledOS == v.TargetedOS && len(v.Missing) == 0
	return v
}

func (r *run) printStatus(v statusView) error {
	return r.out(v, func(w io.Writer) error {
		os, upToDate := v.InstalledOS, "no"
		if os == "" {
			os = "unknown: the device has not attested yet"
		}
		if v.UpToDate {
			upToDate = "yes"
		}
		images := fmt.Sprintf("%d of %d are installed", len(v.Targeted)-len(v.Missing), len(v.Targeted))
		if v.Reason != "" {
			images = "none: " + v.Reason
		}
		lines(w, "device", v.DeviceID, "os version", os, "os targeted", v.TargetedOS, "deployment", v.Deployment, "images targeted", images)
		for _, id := range v.Missing {
			lines(w, "not installed yet", id)
		}
		lines(w, "up to date", upToDate)
		return nil
	})
}

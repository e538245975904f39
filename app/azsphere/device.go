package azsphere

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/sdk/sphere"
)

func (t *tool) deviceCommand() *cobra.Command {
	return group("device", "Manage devices, in the service and at hand",
		t.deviceClaim(), t.deviceList(""), t.deviceShow(), t.deviceUpdate(), t.deviceAssign(), t.deviceUnassign(), t.deviceCount(""),
		t.deviceEnable(true), t.deviceEnable(false), t.enableDevelopment(), t.enableCloudTest(),
		t.deploymentStatus(), group("image", "See the images of a device", t.imagesInstalled(), t.imagesTargeted()),
		group("capability", "Manage capabilities: what a device lets its owner do", t.capabilityDownload(), t.capabilitySelect("select"), t.capabilitySelect("apply"), t.capabilityShow()),
		group("manufacturing-state", "See and set how far the device at hand is in its making", t.manufacturingShow(), t.manufacturingUpdate()),
		t.listAttached(), t.showAttached(), t.showOSVersion())
}

// deviceView is a device for programs.
type deviceView struct {
	DeviceID               string     `json:"deviceId"`
	Product                string     `json:"product,omitempty"`
	ProductID              string     `json:"productId,omitempty"`
	DeviceGroup            string     `json:"deviceGroup,omitempty"`
	DeviceGroupID          string     `json:"deviceGroupId,omitempty"`
	ChipSKU                string     `json:"chipSku,omitempty"`
	ManufacturingState     string     `json:"manufacturingState"`
	Enabled                bool       `json:"enabled"`
	HardwareRoot           bool       `json:"hardwareRoot"`
	LastInstalledOSVersion string     `json:"lastInstalledOsVersion,omitempty"`
	LastAvailableOSVersion string     `json:"lastAvailableOsVersion,omitempty"`
	LastUpdateCheck        *time.Time `json:"lastUpdateCheckUtc,omitempty"`
	LastOSUpdate           *time.Time `json:"lastOsUpdateUtc,omitempty"`
	LastAttested           *time.Time `json:"lastAttestedUtc,omitempty"`
	Claimed                *time.Time `json:"claimedUtc,omitempty"`
	ClaimedBy              string     `json:"claimedBy,omitempty"`
	Capabilities           []string   `json:"capabilities,omitempty"`
}

// names are what products and groups are called.
type names struct {
	products map[string]string
	groups   map[string]string
}

func (r *run) names(client *sphere.Client, tenant string) (names, error) {
	n := names{map[string]string{}, map[string]string{}}
	products, err := client.Products(r.Context(), tenant)
	if err != nil {
		return n, err
	}
	for _, p := range products {
		n.products[p.ID] = p.Name
	}
	groups, err := client.DeviceGroups(r.Context(), tenant, "")
	for _, g := range groups {
		n.groups[g.ID] = g.Name
	}
	return n, err
}

func (n names) view(d sphere.Device) deviceView {
	v := deviceView{
		DeviceID: d.DeviceID, ProductID: d.ProductID, Product: n.products[d.ProductID], DeviceGroupID: d.DeviceGroupID, DeviceGroup: n.groups[d.DeviceGroupID],
		ChipSKU: d.ChipSKU, ManufacturingState: d.ManufacturingState.String(), Enabled: d.Enabled, HardwareRoot: d.HardwareRoot,
		LastInstalledOSVersion: d.LastInstalledOSVersion, LastAvailableOSVersion: d.LastAvailableOSVersion, LastUpdateCheck: d.LastUpdateCheckUTC,
		LastOSUpdate: d.LastOSUpdateUTC, LastAttested: d.LastAttestedUTC, Claimed: d.ClaimedUTC, ClaimedBy: d.ClaimedBy,
	}
	for _, c := range d.Capabilities {
		for _, k := range c.Capabilities {
			if !slices.Contains(v.Capabilities, k.String()) {
				v.Capabilities = append(v.Capabilities, k.String())
			}
		}
	}
	return v
}

// place is where a device is, as people write it.
func (v deviceView) place() string {
	if v.DeviceGroup == "" {
		return "unassigned"
	}
	return v.Product + "/" + v.DeviceGroup
}

func at(t *time.Time) string {
	if t == nil {
		return ""
	}
	return when(*t)
}

func (r *run) printDevice(client *sphere.Client, d sphere.Device) error {
	n, err := r.names(client, d.TenantID)
	if err != nil {
		return err
	}
	v := n.view(d)
	return r.out(v, func(w io.Writer) error {
		enabled, root := "yes", "no"
		if !v.Enabled {
			enabled = "no: it gets no certificates"
		}
		if v.HardwareRoot {
			root = "yes"
		}
		lines(w, "device", v.DeviceID, "device group", v.place(), "enabled", enabled, "chip", v.ChipSKU, "manufacturing state", v.ManufacturingState,
			"hardware root", root, "os version", v.LastInstalledOSVersion, "os available", v.LastAvailableOSVersion, "last update check", at(v.LastUpdateCheck),
			"last os update", at(v.LastOSUpdate), "last certificate", at(v.LastAttested), "claimed", at(v.Claimed), "claimed by", v.ClaimedBy,
			"capabilities", strings.Join(v.Capabilities, ", "))
		return nil
	})
}

// confirm asks somebody whether to do what cannot be undone.
func (r *run) confirm(yes bool, question string) error {
	if yes {
		return nil
	}
	fmt.Fprintf(r.ErrOrStderr(), "%s [y/N] ", question)
	answer, err := readLine(r.InOrStdin(), 16)
	if !r.terminal() { // where no key that is typed ends the line
		fmt.Fprintln(r.ErrOrStderr())
	}
	if err != nil {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	case "":
		return errors.New("nobody said yes; nothing was done. Programs give --yes")
	}
	return errors.New("nothing was done")
}

func (t *tool) deviceClaim() *cobra.Command {
	var g groupFlags
	var yes bool
	c := &cobra.Command{
		Use:   "claim",
		Short: "Claim a device for the tenant, for ever",
		Long: `Claim a device for the tenant. This is permanent: a device belongs to one tenant for ever,
and nobody can move it to another or release it. To claim it again changes nothing.

A device at hand proves that it holds its key, through its servicing API. A device that is
not is claimed by its id; then the tenant's manufacture records must speak for it.`,
		Example: `  azsphere device claim --device unix:/run/agent/servicing.sock
  azsphere device claim --device unix:/run/agent/servicing.sock --yes \
    --device-group "Lamp/Field Test"
  azsphere device claim --tenant Contoso --device 4d2f... --yes`,
	}
	g.flags(c)
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return t.make(command{Command: c, tenant: true, device: true, do: func(r *run) error {
		client, tenant, err := r.inTenant()
		if err != nil {
			return err
		}
		to, err := r.target()
		if err != nil {
			return err
		}
		group := ""
		if g.group != "" {
			found, err := g.find(r, client, tenant.ID)
			if err != nil {
				return err
			}
			group = found.ID
		} else if g.product != "" {
			return misuse("--product is for --device-group; give both")
		}
		r.note("Claiming is permanent. Device\n  %s\nwill belong to tenant %s (%s) for ever;\nit cannot be moved to another tenant or released.", to.ID, tenant.Name, tenant.ID)
		if err := r.confirm(yes, "Claim it?"); err != nil {
			return err
		}
		claimed, err := r.claim(client, tenant.ID, group, to)
		if err != nil {
			return err
		}
		d, err := client.Device(r.Context(), tenant.ID, to.ID)
		if err != nil {
			return err
		}
		if !claimed {
			r.note("it was this tenant's already")
		}
		return r.printDevice(client, d)
	}})
}

// claim reports whether the device was not the tenant's before.
func (r *run) claim(client *sphere.Client, tenant, group string, to target) (bool, error) {
	ctx := r.Context()
	if to.at == nil {
		got, err := client.ClaimKnown(ctx, tenant, []string{to.ID}, group)
		if err != nil {
			return false, err
		}
		if len(got) != 1 {
			return false, fmt.Errorf("the service answered for %d devices, not one", len(got))
		}
		if e := got[0].Error; e != nil {
			text := e.Title
			if e.Details != "" {
				text = e.Details
			}
			return false, errors.New(text)
		}
		return got[0].Claimed, nil
	}
	challenge, _, err := client.ClaimChallenge(ctx, tenant)
	if err != nil {
		return false, err
	}
	var signed struct {
		PublicKey []byte `json:"publicKey"`
		Signature []byte `json:"signature"`
	}
	if err := r.service(to.at, http.MethodPost, "/device/claim-proof", map[string]string{"challenge": challenge}, &signed); err != nil {
		return false, err
	}
	said, err := r.describe(to)
	if err != nil {
		return false, err
	}
	state, err := sphere.ParseManufacturingState(said.ManufacturingState)
	if err != nil {
		return false, err
	}
	d, claimed, err := client.Claim(ctx, tenant, sphere.Proof{
		Challenge: challenge, PublicKey: signed.PublicKey, Signature: signed.Signature, EndorsementKey: to.EndorsementKey, ManufacturingState: state, DeviceGroupID: group,
	})
	if err == nil && d.DeviceID != to.ID {
		err = fmt.Errorf("the service claimed device %s, but the device at hand says that it is %s", short(d.DeviceID), short(to.ID))
	}
	return claimed, err
}

// deviceList lists devices: of the tenant, or below product or device-group.
func (t *tool) deviceList(below string) *cobra.Command {
	var g groupFlags
	c := &cobra.Command{
		Use:   "list",
		Short: "List devices",
		Example: `  azsphere device list
  azsphere device list --product Lamp --output json
  azsphere device list --device-group "Lamp/Field Test"`,
	}
	cmd := command{Command: c, tenant: true}
	switch below {
	case "product":
		productFlag(c, &g.product)
		c.Example, cmd.required = "  azsphere product device list --product Lamp", []string{"product"}
	case "device-group":
		g.flags(c)
		c.Example, cmd.required = `  azsphere device-group device list --device-group "Lamp/Field Test"`, []string{"device-group"}
	default:
		g.flags(c)
	}
	cmd.do = func(r *run) error {
		client, tenant, err := r.inTenant()
		if err != nil {
			return err
		}
		f, err := g.filter(r, client, tenant.ID)
		if err != nil {
			return err
		}
		n, err := r.names(client, tenant.ID)
		if err != nil {
			return err
		}
		if r.output == "table" {
			return r.out(nil, func(w io.Writer) error {
				fmt.Fprintln(w, "DEVICE\tDEVICE GROUP\tSTATE\tOS VERSION\tLAST CERTIFICATE")
				return client.EachDevice(r.Context(), tenant.ID, f, func(d sphere.Device) error {
					v := n.view(d)
					state := v.ManufacturingState
					if !v.Enabled {
						state = "disabled"
					}
					_, err := fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", v.DeviceID, v.place(), state, v.LastInstalledOSVersion, at(v.LastAttested))
					return err
				})
			})
		}
		views := []deviceView{}
		if err := client.EachDevice(r.Context(), tenant.ID, f, func(d sphere.Device) error {
			views = append(views, n.view(d))
			return nil
		}); err != nil {
			return err
		}
		return r.out(views, nil)
	}
	return t.make(cmd)
}

// deviceCount counts devices, where deviceList lists them.
func (t *tool) deviceCount(below string) *cobra.Command {
	var g groupFlags
	c := &cobra.Command{
		Use:   "show-count",
		Short: "Count devices",
		Example: `  azsphere device show-count
  azsphere device show-count --device-group "Lamp/Production"`,
	}
	cmd := command{Command: c, tenant: true}
	switch below {
	case "product", "product device-group":
		productFlag(c, &g.product)
		c.Example, cmd.required = "  azsphere "+below+" show-count --product Lamp", []string{"product"}
		if below == "product" {
			c.Example = "  azsphere product device show-count --product Lamp"
		}
	case "device-group":
		g.flags(c)
		c.Example, cmd.required = `  azsphere device-group device show-count --device-group "Lamp/Field Test"`, []string{"device-group"}
	default:
		g.flags(c)
	}
	cmd.do = func(r *run) error {
		client, tenant, err := r.inTenant()
		if err != nil {
			return err
		}
		f, err := g.filter(r, client, tenant.ID)
		if err != nil {
			return err
		}
		n, err := client.CountDevices(r.Context(), tenant.ID, f)
		if err != nil {
			return err
		}
		return r.say(map[string]int64{"count": n}, "%d", n)
	}
	return t.make(cmd)
}

// oneDevice is a command about a device of the tenant.
func (t *tool) oneDevice(cmd command, do func(r *run, client *sphere.Client, tenant sphere.Tenant, to target) error) *cobra.Command {
	cmd.tenant, cmd.device = true, true
	cmd.do = func(r *run) error {
		client, tenant, err := r.inTenant()
		if err != nil {
			return err
		}
		to, err := r.target()
		if err != nil {
			return err
		}
		return do(r, client, tenant, to)
	}
	return t.make(cmd)
}

func (t *tool) deviceShow() *cobra.Command {
	return t.oneDevice(command{Command: &cobra.Command{
		Use:   "show",
		Short: "Show a device as the service knows it",
		Example: `  azsphere device show --device 4d2f...
  azsphere device show --device unix:/run/agent/servicing.sock --output json`,
	}}, func(r *run, client *sphere.Client, tenant sphere.Tenant, to target) error {
		d, err := client.Device(r.Context(), tenant.ID, to.ID)
		if err != nil {
			return err
		}
		return r.printDevice(client, d)
	})
}

// move puts a device into a group; "" is none.
func (r *run) move(client *sphere.Client, tenant string, to target, group string) error {
	d, err := client.AssignDevice(r.Context(), tenant, to.ID, group)
	if err != nil {
		return err
	}
	return r.printDevice(client, d)
}

func (t *tool) deviceUpdate() *cobra.Command {
	var g groupFlags
	c := &cobra.Command{
		Use:   "update",
		Short: "Move a device to a device group",
		Long: `Move a device to a device group, and so to that group's product. What it gets from the
service follows its group.`,
		Example: `  azsphere device update --device 4d2f... --device-group "Lamp/Production"
  azsphere device update --device-group "Lamp/Field Test"`,
	}
	g.flags(c)
	return t.oneDevice(command{Command: c, required: []string{"device-group"}}, func(r *run, client *sphere.Client, tenant sphere.Tenant, to target) error {
		found, err := g.find(r, client, tenant.ID)
		if err != nil {
			return err
		}
		return r.move(client, tenant.ID, to, found.ID)
	})
}

func (t *tool) deviceAssign() *cobra.Command {
	var g groupFlags
	c := &cobra.Command{
		Use:   "assign",
		Short: "Move a device to a device group, in the integrated spelling",
		Example: `  azsphere device assign --device 4d2f... --target-product Lamp --target-device-group Lab
  azsphere device assign --catalog Contoso --device 4d2f... \
    --target-device-group "Lamp/Field Test"`,
	}
	c.Flags().StringVar(&g.group, "target-device-group", "", `device group: "Product/Group", its id, or its name beside --target-product`)
	c.Flags().StringVar(&g.product, "target-product", "", "product, by name or id")
	return t.oneDevice(command{Command: c, required: []string{"target-device-group"}}, func(r *run, client *sphere.Client, tenant sphere.Tenant, to target) error {
		found, err := g.find(r, client, tenant.ID)
		if err != nil {
			return err
		}
		return r.move(client, tenant.ID, to, found.ID)
	})
}

func (t *tool) deviceUnassign() *cobra.Command {
	return t.oneDevice(command{Command: &cobra.Command{
		Use:     "unassign",
		Short:   "Take a device out of its device group",
		Long:    "Take a device out of its device group. It stays the tenant's.",
		Example: "  azsphere device unassign --catalog Contoso --device 4d2f...",
	}}, func(r *run, client *sphere.Client, tenant sphere.Tenant, to target) error {
		return r.move(client, tenant.ID, to, "")
	})
}

func (t *tool) deviceEnable(on bool) *cobra.Command {
	c := &cobra.Command{
		Use:     "disable",
		Short:   "Keep a device from getting certificates",
		Long:    "Keep a device from getting certificates, from now on. Those it has end within a day.",
		Example: "  azsphere device disable --device 4d2f...",
	}
	if on {
		c.Use, c.Short, c.Long, c.Example = "enable", "Let a disabled device get certificates again", "", "  azsphere device enable --device 4d2f..."
	}
	return t.oneDevice(command{Command: c}, func(r *run, client *sphere.Client, tenant sphere.Tenant, to target) error {
		d, err := client.EnableDevice(r.Context(), tenant.ID, to.ID, on)
		if err != nil {
			return err
		}
		return r.printDevice(client, d)
	})
}

// local is a command about a device at hand.
func (t *tool) local(c *cobra.Command, required []string, do func(r *run, to target) error) *cobra.Command {
	return t.make(command{Command: c, device: true, required: required, do: func(r *run) error {
		to, err := r.atHand()
		if err != nil {
			return err
		}
		return do(r, to)
	}})
}

func (t *tool) listAttached() *cobra.Command {
	c := &cobra.Command{
		Use:   "list-attached",
		Short: "List the devices at hand",
		Long: `List the devices at hand: those whose servicing APIs are in AZSPHERE_DEVICE, with commas
between.`,
		Example: `  AZSPHERE_DEVICE=unix:/run/agent/servicing.sock azsphere device list-attached
  azsphere device list-attached --output json`,
	}
	return t.make(command{Command: c, do: func(r *run) error {
		known := addresses()
		if len(known) == 0 {
			return fmt.Errorf("no device is known to be at hand; put the addresses of servicing APIs into %s", deviceVariable)
		}
		views := []described{}
		for _, address := range known {
			to, err := r.open(address)
			if err != nil {
				r.note("%v", err)
				continue
			}
			v, err := r.describe(to)
			if err != nil {
				r.note("%v", err)
				continue
			}
			views = append(views, v)
		}
		if len(views) == 0 {
			return errors.New("no device answers")
		}
		return r.out(views, func(w io.Writer) error {
			fmt.Fprintln(w, "DEVICE\tADDRESS\tOS VERSION\tSTATE")
			for _, v := range views {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", v.DeviceID, v.Address, v.OSVersion, v.ManufacturingState)
			}
			return nil
		})
	}})
}

func (t *tool) showAttached() *cobra.Command {
	return t.local(&cobra.Command{
		Use:   "show-attached",
		Short: "Show the device at hand as it describes itself",
		Example: `  azsphere device show-attached --device unix:/run/agent/servicing.sock
  azsphere device show-attached --output json | jq -r .deviceId`,
	}, nil, func(r *run, to target) error {
		v, err := r.describe(to)
		if err != nil {
			return err
		}
		return r.out(v, func(w io.Writer) error {
			root, ready := "no", "not yet"
			if v.HardwareRoot {
				root = "yes"
			}
			if v.Authenticated {
				ready = "yes"
			}
			lines(w, "device", v.DeviceID, "address", v.Address, "os version", v.OSVersion, "manufacturing state", v.ManufacturingState, "security state", v.SecurityState,
				"hardware root", root, "capabilities", strings.Join(v.Capabilities, ", "), "has its certificate", ready, "up for", (time.Duration(v.UptimeSeconds) * time.Second).String())
			return nil
		})
	})
}

func (t *tool) showOSVersion() *cobra.Command {
	return t.local(&cobra.Command{
		Use:   "show-os-version",
		Short: "Show the operating system version of the device at hand",
		Example: `  azsphere device show-os-version
  azsphere device show-os-version --device 127.0.0.1:8044 --output json`,
	}, nil, func(r *run, to target) error {
		var v struct {
			Version string `json:"osversion"`
		}
		if err := r.service(to.at, http.MethodGet, "/osversion", nil, &v); err != nil {
			return err
		}
		return r.say(map[string]string{"osVersion": v.Version}, "%s", v.Version)
	})
}

func (t *tool) manufacturingShow() *cobra.Command {
	return t.local(&cobra.Command{
		Use:     "show",
		Short:   "Show the manufacturing state of the device at hand",
		Example: "  azsphere device manufacturing-state show --device unix:/run/agent/servicing.sock",
	}, nil, func(r *run, to target) error {
		var v state
		if err := r.service(to.at, http.MethodGet, "/device/manufacturing_state", nil, &v); err != nil {
			return err
		}
		return r.say(v, "%s", v.State)
	})
}

type state struct {
	State string `json:"manufacturingState"`
}

func (t *tool) manufacturingUpdate() *cobra.Command {
	var to string
	words := []string{sphere.StateModule1Complete.String(), sphere.StateDeviceComplete.String()}
	c := &cobra.Command{
		Use:   "update",
		Short: "Set the manufacturing state of the device at hand",
		Long: `Set the manufacturing state of the device at hand. States go one way:

  Blank             fresh
  Module1Complete   the module maker is done
  DeviceComplete    the product is done: servicing is locked but for a capability

The service hears of it from the device, when it attests next.`,
		Example: "  azsphere device manufacturing-state update --state DeviceComplete",
	}
	c.Flags().StringVarP(&to, "state", "s", "", "state: "+strings.Join(words, " or "))
	oneOf(c, "state", words...)
	return t.local(c, []string{"state"}, func(r *run, dev target) error {
		word, err := among("state", to, words...)
		if err != nil {
			return err
		}
		if err := r.service(dev.at, http.MethodPut, "/device/manufacturing_state", state{word}, nil); err != nil {
			return err
		}
		return r.say(state{word}, "device %s is %s; there is no way back", short(dev.ID), word)
	})
}

// sibling is a default group of the device's product.
func (r *run) sibling(ctx context.Context, client *sphere.Client, tenant string, to target, g groupFlags, name string) (sphere.DeviceGroup, error) {
	if g.group != "" {
		return g.find(r, client, tenant)
	}
	product := g.product
	if product == "" {
		d, err := client.Device(ctx, tenant, to.ID)
		if err != nil {
			return sphere.DeviceGroup{}, err
		}
		if d.ProductID == "" {
			return sphere.DeviceGroup{}, fmt.Errorf(`the device is in no device group, so no %s group is near; give --device-group "Product/Group"`, name)
		}
		p, err := client.Product(ctx, tenant, d.ProductID)
		if err != nil {
			return sphere.DeviceGroup{}, err
		}
		product = p.Name
	}
	return findGroup(ctx, client, tenant, product, name)
}

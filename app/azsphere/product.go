package azsphere

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/sdk/sphere"
)

func (t *tool) productCommand() *cobra.Command {
	return group("product", "Manage products, which are models of devices",
		t.productCreate(), t.productList(), t.productShow(), t.productUpdate(), t.productDelete(),
		group("device-group", "See a product's device groups", t.groupList(true), t.deviceCount("product device-group")),
		group("device", "See a product's devices", t.deviceList("product"), t.deviceCount("product")))
}

// productFlag names a product.
func productFlag(c *cobra.Command, product *string) {
	c.Flags().StringVarP(product, "product", "p", "", "product, by name or id")
}

func findProduct(ctx context.Context, c *sphere.Client, tenant, name string) (sphere.Product, error) {
	if guidText.MatchString(name) {
		return c.Product(ctx, tenant, name)
	}
	all, err := c.Products(ctx, tenant)
	if err != nil {
		return sphere.Product{}, err
	}
	return byName("product", name, all, func(p sphere.Product) (id, name string) { return p.ID, p.Name })
}

// productView is a product for programs.
type productView struct {
	ID          string      `json:"id"`
	Name        string      `json:"name"`
	Description string      `json:"description"`
	Groups      []groupView `json:"deviceGroups,omitempty"`
}

func viewProduct(p sphere.Product) productView {
	return productView{ID: p.ID, Name: p.Name, Description: p.Description}
}

func (r *run) printProduct(p productView) error {
	return r.out(p, func(w io.Writer) error {
		lines(w, "product", p.Name, "id", p.ID, "description", p.Description)
		for _, g := range p.Groups {
			lines(w, "device group", fmt.Sprintf("%s (%s, %s)", g.Name, g.OSFeed, g.UpdatePolicy))
		}
		return nil
	})
}

func (t *tool) productCreate() *cobra.Command {
	var name, description string
	c := &cobra.Command{
		Use:   "create",
		Short: "Create a product and its five default device groups",
		Example: `  azsphere product create --name "Street Lamp"
  azsphere product create --name "Street Lamp" --description "LED, 40 W" --output json`,
	}
	c.Flags().StringVarP(&name, "name", "n", "", "name: 1 to 50 letters, digits and spaces")
	c.Flags().StringVar(&description, "description", "", "at most 100 characters")
	return t.make(command{Command: c, tenant: true, required: []string{"name"}, do: func(r *run) error {
		client, tenant, err := r.inTenant()
		if err != nil {
			return err
		}
		p, err := client.CreateProduct(r.Context(), tenant.ID, sphere.ProductChange{Name: &name, Description: &description})
		if err != nil {
			return err
		}
		groups, err := client.CreateDefaultDeviceGroups(r.Context(), tenant.ID, p.ID)
		if err != nil {
			return fmt.Errorf("the product is there, but not its device groups: %w; make them with: %s", err, r.hint("device-group create-defaults --product "+p.ID))
		}
		v := viewProduct(p)
		for _, g := range groups {
			v.Groups = append(v.Groups, viewGroup(g, p.Name))
		}
		return r.printProduct(v)
	}})
}

func (t *tool) productList() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List products",
		Example: `  azsphere product list
  azsphere product list --catalog Contoso --resource-group Plant --output json`,
	}
	return t.make(command{Command: c, tenant: true, do: func(r *run) error {
		client, tenant, err := r.inTenant()
		if err != nil {
			return err
		}
		all, err := client.Products(r.Context(), tenant.ID)
		if err != nil {
			return err
		}
		views := []productView{}
		for _, p := range all {
			views = append(views, viewProduct(p))
		}
		return r.out(views, func(w io.Writer) error {
			fmt.Fprintln(w, "PRODUCT\tID\tDESCRIPTION")
			for _, p := range views {
				fmt.Fprintf(w, "%s\t%s\t%s\n", p.Name, p.ID, p.Description)
			}
			return nil
		})
	}})
}

func (t *tool) productShow() *cobra.Command {
	var product string
	c := &cobra.Command{
		Use:   "show",
		Short: "Show a product with its device groups",
		Example: `  azsphere product show --product "Street Lamp"
  azsphere product show --product "Street Lamp" --output json`,
	}
	productFlag(c, &product)
	return t.make(command{Command: c, tenant: true, required: []string{"product"}, do: func(r *run) error {
		client, tenant, err := r.inTenant()
		if err != nil {
			return err
		}
		p, err := findProduct(r.Context(), client, tenant.ID, product)
		if err != nil {
			return err
		}
		groups, err := client.DeviceGroups(r.Context(), tenant.ID, p.ID)
		if err != nil {
			return err
		}
		v := viewProduct(p)
		for _, g := range groups {
			v.Groups = append(v.Groups, viewGroup(g, p.Name))
		}
		return r.printProduct(v)
	}})
}

func (t *tool) productUpdate() *cobra.Command {
	var product, name, description string
	c := &cobra.Command{
		Use:   "update",
		Short: "Change a product's name or description",
		Example: `  azsphere product update --product "Street Lamp" --description "LED, 60 W"
  azsphere product update --product "Street Lamp" --name Lamp`,
	}
	productFlag(c, &product)
	c.Flags().StringVarP(&name, "name", "n", "", "new name: 1 to 50 letters, digits and spaces")
	newName(c, &name)
	c.Flags().StringVar(&description, "description", "", "new description, at most 100 characters")
	return t.make(command{Command: c, tenant: true, required: []string{"product"}, oneOf: []string{"name", "description"}, do: func(r *run) error {
		client, tenant, err := r.inTenant()
		if err != nil {
			return err
		}
		p, err := findProduct(r.Context(), client, tenant.ID, product)
		if err != nil {
			return err
		}
		if p, err = client.UpdateProduct(r.Context(), tenant.ID, p.ID, sphere.ProductChange{Name: given(r, "name", &name), Description: given(r, "description", &description)}); err != nil {
			return err
		}
		return r.printProduct(viewProduct(p))
	}})
}

// newName is another spelling of --name, for updates.
func newName(c *cobra.Command, name *string) {
	c.Flags().StringVar(name, "new-name", "", "the same as --name")
	_ = c.Flags().MarkHidden("new-name") // made in the line above
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		if f := c.Flag("new-name"); f.Changed {
			return c.Flags().Set("name", f.Value.String())
		}
		return nil
	}
}

// given is a flag's value, or nil when it was not given.
func given[T any](r *run, flag string, value *T) *T {
	if !r.Flags().Changed(flag) {
		return nil
	}
	return value
}

func (t *tool) productDelete() *cobra.Command {
	var product string
	c := &cobra.Command{
		Use:     "delete",
		Short:   "Delete a product with its device groups",
		Long:    "Delete a product with its device groups. It must be without devices: move them to other\ngroups first.",
		Example: `  azsphere product delete --product "Street Lamp"`,
	}
	productFlag(c, &product)
	return t.make(command{Command: c, tenant: true, required: []string{"product"}, do: func(r *run) error {
		client, tenant, err := r.inTenant()
		if err != nil {
			return err
		}
		p, err := findProduct(r.Context(), client, tenant.ID, product)
		if err != nil {
			return err
		}
		if err := client.DeleteProduct(r.Context(), tenant.ID, p.ID); err != nil {
			return err
		}
		return r.say(map[string]string{"deleted": p.ID}, "%s is deleted", p.Name)
	}})
}

func (t *tool) deviceGroupCommand() *cobra.Command {
	return group("device-group", "Manage device groups: what devices of one product have in common",
		t.groupCreate(), t.groupDefaults(), t.groupList(false), t.groupShow(), t.groupUpdate(), t.groupDelete(), t.errorReport("device-group"),
		t.groupDeployment(), group("device", "See a group's devices", t.deviceList("device-group"), t.deviceCount("device-group")))
}

// groupFlags name a device group: by "Product/Group", by id, or by its name beside --product.
type groupFlags struct{ group, product string }

func (g *groupFlags) flags(c *cobra.Command) {
	c.Flags().StringVar(&g.group, "device-group", "", `device group: "Product/Group", its id, or its name beside --product`)
	c.Flags().StringVarP(&g.product, "product", "p", "", "product, by name or id")
}

func (g groupFlags) find(r *run, c *sphere.Client, tenant string) (sphere.DeviceGroup, error) {
	return findGroup(r.Context(), c, tenant, g.product, g.group)
}

func findGroup(ctx context.Context, c *sphere.Client, tenant, product, name string) (sphere.DeviceGroup, error) {
	if guidText.MatchString(name) {
		return c.DeviceGroup(ctx, tenant, name)
	}
	if p, n, ok := strings.Cut(name, "/"); ok {
		if product != "" && !strings.EqualFold(product, p) {
			return sphere.DeviceGroup{}, misuse("--product is %q, but --device-group names one of %q", product, p)
		}
		product, name = p, n
	}
	if product == "" {
		return sphere.DeviceGroup{}, misuse(`--device-group is %q (want "Product/Group", or give --product)`, name)
	}
	p, err := findProduct(ctx, c, tenant, product)
	if err != nil {
		return sphere.DeviceGroup{}, err
	}
	all, err := c.DeviceGroups(ctx, tenant, p.ID)
	if err != nil {
		return sphere.DeviceGroup{}, err
	}
	i := slices.IndexFunc(all, func(g sphere.DeviceGroup) bool { return strings.EqualFold(g.Name, name) })
	if i < 0 {
		return sphere.DeviceGroup{}, fmt.Errorf("product %q has no device group %q", p.Name, name)
	}
	return all[i], nil
}

// groupView is a device group for programs.
type groupView struct {
	ID             string `json:"id"`
	Name           string `json:"name"`
	Product        string `json:"product,omitempty"`
	ProductID      string `json:"productId"`
	Description    string `json:"description"`
	OSFeed         string `json:"osFeed"`
	UpdatePolicy   string `json:"applicationUpdate"`
	AllowCrashDump bool   `json:"allowCrashDumpsCollection"`
	Region         string `json:"regionalDataBoundary"`
	Deployment     string `json:"currentDeployment,omitempty"` // id
}

func viewGroup(g sphere.DeviceGroup, product string) groupView {
	return groupView{g.ID, g.Name, product, g.ProductID, g.Description, g.OSFeed.String(), g.UpdatePolicy.String(), g.AllowCrashDumpsCollection, g.RegionalDataBoundary.String(), g.CurrentDeployment.ID}
}

func (r *run) printGroup(g groupView) error {
	return r.out(g, func(w io.Writer) error {
		dumps := "not collected"
		if g.AllowCrashDump {
			dumps = "collected"
		}
		lines(w, "device group", g.Name, "id", g.ID, "product", g.Product, "description", g.Description, "os feed", g.OSFeed,
			"application update", g.UpdatePolicy, "crash dumps", dumps, "data boundary", g.Region, "deployment", g.Deployment)
		return nil
	})
}

func (r *run) printGroups(views []groupView) error {
	return r.out(views, func(w io.Writer) error {
		fmt.Fprintln(w, "DEVICE GROUP\tID\tOS FEED\tAPPLICATION UPDATE\tDESCRIPTION")
		for _, g := range views {
			fmt.Fprintf(w, "%s/%s\t%s\t%s\t%s\t%s\n", g.Product, g.Name, g.ID, g.OSFeed, g.UpdatePolicy, g.Description)
		}
		return nil
	})
}

// groupSettings are the flags that describe a group.
type groupSettings struct{ name, description, update, feed, dumps, region string }

var (
	updateWords = []string{sphere.UpdateAll.String(), sphere.No3rdPartyAppUpdates.String()}
	feedWords   = []string{sphere.Retail.String(), sphere.RetailEval.String()}
	regionWords = []string{sphere.RegionNone.String(), sphere.RegionEU.String()}
	dumpWords   = []string{"Enabled", "Disabled", "true", "false"}
)

func (g *groupSettings) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVarP(&g.name, "name", "n", "", "name: 1 to 50 letters, digits and spaces")
	f.StringVar(&g.description, "description", "", "at most 100 characters")
	f.StringVarP(&g.update, "application-update", "a", "", "applications from the service: "+strings.Join(updateWords, " or "))
	f.StringVarP(&g.feed, "os-feed", "f", "", "operating system: "+strings.Join(feedWords, " or "))
	f.StringVar(&g.dumps, "allow-crash-dumps-collection", "", "crash dumps, which hold memory of applications: Enabled or Disabled")
	f.StringVar(&g.region, "regional-data-boundary", "", "where crash dumps may be kept: "+strings.Join(regionWords, " or "))
	oneOf(c, "application-update", updateWords...)
	oneOf(c, "os-feed", feedWords...)
	oneOf(c, "allow-crash-dumps-collection", dumpWords[:2]...)
	oneOf(c, "regional-data-boundary", regionWords...)
}

func (g *groupSettings) change(r *run) (sphere.DeviceGroupChange, error) {
	change := sphere.DeviceGroupChange{Name: given(r, "name", &g.name), Description: given(r, "description", &g.description)}
	var errs []error
	pick := func(flag, value string, words []string, set func(string) error) {
		if !r.Flags().Changed(flag) {
			return
		}
		word, err := among(flag, value, words...)
		if err == nil {
			err = set(word)
		}
		errs = append(errs, err)
	}
	pick("application-update", g.update, updateWords, func(w string) error {
		p, err := sphere.ParseUpdatePolicy(w)
		change.UpdatePolicy = &p
		return err
	})
	pick("os-feed", g.feed, feedWords, func(w string) error {
		p, err := sphere.ParseOSFeed(w)
		change.OSFeed = &p
		return err
	})
	pick("regional-data-boundary", g.region, regionWords, func(w string) error {
		p, err := sphere.ParseRegion(w)
		change.RegionalDataBoundary = &p
		return err
	})
	pick("allow-crash-dumps-collection", g.dumps, dumpWords, func(w string) error {
		on := w == "Enabled" || w == "true"
		change.AllowCrashDumpsCollection = &on
		return nil
	})
	for _, err := range errs {
		if err != nil {
			return change, err
		}
	}
	return change, nil
}

func (t *tool) groupCreate() *cobra.Command {
	var g groupSettings
	var product string
	c := &cobra.Command{
		Use:   "create",
		Short: "Create a device group of a product",
		Example: `  azsphere device-group create --product Lamp --name "Pilot Site"
  azsphere device-group create --product Lamp --name Lab --os-feed RetailEval \
    --application-update No3rdPartyAppUpdates`,
	}
	productFlag(c, &product)
	g.flags(c)
	return t.make(command{Command: c, tenant: true, required: []string{"product", "name"}, do: func(r *run) error {
		change, err := g.change(r)
		if err != nil {
			return err
		}
		client, tenant, err := r.inTenant()
		if err != nil {
			return err
		}
		p, err := findProduct(r.Context(), client, tenant.ID, product)
		if err != nil {
			return err
		}
		made, err := client.CreateDeviceGroup(r.Context(), tenant.ID, p.ID, change)
		if err != nil {
			return err
		}
		return r.printGroup(viewGroup(made, p.Name))
	}})
}

func (t *tool) groupDefaults() *cobra.Command {
	var product string
	c := &cobra.Command{
		Use:   "create-defaults",
		Short: "Create those of the five default device groups that a product does not have",
		Long: `Create those of the five default device groups that a product does not have: Development,
Field Test, Production, Field Test OS Evaluation and Production OS Evaluation.`,
		Example: "  azsphere device-group create-defaults --product Lamp",
	}
	productFlag(c, &product)
	return t.make(command{Command: c, tenant: true, required: []string{"product"}, do: func(r *run) error {
		client, tenant, err := r.inTenant()
		if err != nil {
			return err
		}
		p, err := findProduct(r.Context(), client, tenant.ID, product)
		if err != nil {
			return err
		}
		all, err := client.CreateDefaultDeviceGroups(r.Context(), tenant.ID, p.ID)
		if err != nil {
			return err
		}
		views := []groupView{}
		for _, g := range all {
			views = append(views, viewGroup(g, p.Name))
		}
		return r.printGroups(views)
	}})
}

// groupList lists groups: all, or, below product, those of one product.
func (t *tool) groupList(below bool) *cobra.Command {
	var product string
	c := &cobra.Command{
		Use:   "list",
		Short: "List device groups",
		Example: `  azsphere device-group list
  azsphere device-group list --product Lamp --output json`,
	}
	cmd := command{Command: c, tenant: true}
	if below {
		c.Example = "  azsphere product device-group list --product Lamp"
		cmd.required = []string{"product"}
	}
	productFlag(c, &product)
	cmd.do = func(r *run) error {
		client, tenant, err := r.inTenant()
		if err != nil {
			return err
		}
		names := map[string]string{}
		var id string
		if product != "" {
			p, err := findProduct(r.Context(), client, tenant.ID, product)
			if err != nil {
				return err
			}
			id, names[p.ID] = p.ID, p.Name
		} else {
			products, err := client.Products(r.Context(), tenant.ID)
			if err != nil {
				return err
			}
			for _, p := range products {
				names[p.ID] = p.Name
			}
		}
		all, err := client.DeviceGroups(r.Context(), tenant.ID, id)
		if err != nil {
			return err
		}
		views := []groupView{}
		for _, g := range all {
			views = append(views, viewGroup(g, names[g.ProductID]))
		}
		return r.printGroups(views)
	}
	return t.make(cmd)
}

// oneGroup is a command about one group.
func (t *tool) oneGroup(c *cobra.Command, do func(r *run, client *sphere.Client, tenant string, g sphere.DeviceGroup) error, more ...string) *cobra.Command {
	var g groupFlags
	g.flags(c)
	return t.make(command{Command: c, tenant: true, required: []string{"device-group"}, oneOf: more, do: func(r *run) error {
		client, tenant, err := r.inTenant()
		if err != nil {
			return err
		}
		found, err := g.find(r, client, tenant.ID)
		if err != nil {
			return err
		}
		return do(r, client, tenant.ID, found)
	}})
}

// showGroup prints one with the name of its product.
func (r *run) showGroup(client *sphere.Client, g sphere.DeviceGroup) error {
	p, err := client.Product(r.Context(), g.TenantID, g.ProductID)
	if err != nil {
		return err
	}
	return r.printGroup(viewGroup(g, p.Name))
}

func (t *tool) groupShow() *cobra.Command {
	return t.oneGroup(&cobra.Command{
		Use:   "show",
		Short: "Show a device group",
		Example: `  azsphere device-group show --device-group "Lamp/Field Test"
  azsphere device-group show --product Lamp --device-group "Field Test" --output json`,
	}, func(r *run, client *sphere.Client, _ string, g sphere.DeviceGroup) error {
		return r.showGroup(client, g)
	})
}

func (t *tool) groupUpdate() *cobra.Command {
	var s groupSettings
	c := &cobra.Command{
		Use:   "update",
		Short: "Change a device group",
		Long:  "Change what is given of a device group; the rest stays.",
		Example: `  azsphere device-group update --device-group "Lamp/Field Test" \
    --application-update No3rdPartyAppUpdates
  azsphere device-group update --device-group Lamp/Lab --name "Old Lab" --os-feed Retail`,
	}
	s.flags(c)
	newName(c, &s.name)
	return t.oneGroup(c, func(r *run, client *sphere.Client, tenant string, g sphere.DeviceGroup) error {
		change, err := s.change(r)
		if err != nil {
			return err
		}
		if g, err = client.UpdateDeviceGroup(r.Context(), tenant, g.ID, change); err != nil {
			return err
		}
		return r.showGroup(client, g)
	}, "name", "description", "application-update", "os-feed", "allow-crash-dumps-collection", "regional-data-boundary")
}

func (t *tool) groupDelete() *cobra.Command {
	return t.oneGroup(&cobra.Command{
		Use:     "delete",
		Short:   "Delete a device group",
		Long:    "Delete a device group. It must be without devices: move them to another group first.",
		Example: `  azsphere device-group delete --device-group "Lamp/Pilot Site"`,
	}, func(r *run, client *sphere.Client, tenant string, g sphere.DeviceGroup) error {
		if err := client.DeleteDeviceGroup(r.Context(), tenant, g.ID); err != nil {
			return err
		}
		return r.say(map[string]string{"deleted": g.ID}, "%s is deleted", g.Name)
	})
}

// filter selects the devices of a group or, without one, of a product or all.
func (g groupFlags) filter(r *run, client *sphere.Client, tenant string) (sphere.DeviceFilter, error) {
	var f sphere.DeviceFilter
	switch {
	case g.group != "":
		found, err := g.find(r, client, tenant)
		f.Group = found.ID
		return f, err
	case g.product != "":
		p, err := findProduct(r.Context(), client, tenant, g.product)
		f.Product = p.ID
		return f, err
	}
	return f, nil
}

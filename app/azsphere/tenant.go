package azsphere

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/internal/atomicfile"
	"github.com/vauban-iot/vauban/sdk/sphere"
)

var guidText = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// inTenant is the client and the tenant that a command works in.
func (r *run) inTenant() (*sphere.Client, sphere.Tenant, error) {
	c, err := r.client()
	if err != nil {
		return nil, sphere.Tenant{}, err
	}
	name := r.tenant
	if name == "" {
		k := r.acc.Servers[r.server.url]
		if k.Tenant == "" {
			return nil, sphere.Tenant{}, misuse("no tenant is selected; give --tenant, or run: %s", r.hint("tenant select --tenant NAME"))
		}
		return c, sphere.Tenant{ID: k.Tenant, Name: k.TenantName}, nil
	}
	t, err := findTenant(r.Context(), c, name)
	return c, t, err
}

// findTenant finds one by id or by name. Several tenants may have one name.
func findTenant(ctx context.Context, c *sphere.Client, name string) (sphere.Tenant, error) {
	if guidText.MatchString(name) {
		return c.Tenant(ctx, name)
	}
	all, err := c.Tenants(ctx)
	if err != nil {
		return sphere.Tenant{}, err
	}
	return byName("tenant", name, all, func(t sphere.Tenant) (id, name string) { return t.ID, t.Name })
}

// byName finds the one thing that has an id or a name.
func byName[T any](kind, name string, all []T, names func(T) (id, name string)) (found T, err error) {
	var ids []string
	for _, v := range all {
		id, its := names(v)
		if strings.EqualFold(id, name) {
			return v, nil
		}
		if strings.EqualFold(its, name) {
			found = v
			ids = append(ids, id)
		}
	}
	switch len(ids) {
	case 0:
		return found, fmt.Errorf("there is no %s %q, or you have no role there", kind, name)
	case 1:
		return found, nil
	}
	return found, fmt.Errorf("%d %ss are called %q; give the id of the one you mean: %s", len(ids), kind, name, some(ids))
}

// maxShown is how many of something a sentence names.
const maxShown = 20

// some joins words; of many it says how many there are.
func some(words []string) string {
	if len(words) > maxShown {
		return strings.Join(words[:maxShown], ", ") + fmt.Sprintf(" and %d more", len(words)-maxShown)
	}
	return strings.Join(words, ", ")
}

// administrators are who rules a tenant.
func (r *run) administrators(client *sphere.Client, tenant string) ([]string, error) {
	users, err := client.Users(r.Context(), tenant)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, u := range users {
		for _, t := range u.Roles {
			if slices.Contains(t.RoleNames, sphere.Administrator) {
				all = append(all, u.UserID)
			}
		}
	}
	if len(all) == 0 {
		return nil, errors.New("the service names nobody who administers the tenant")
	}
	return all, nil
}

// tenantView is a tenant for programs.
type tenantView struct {
	ID       string        `json:"id"`
	Name     string        `json:"name"`
	Roles    []sphere.Role `json:"roles,omitempty"`
	Selected bool          `json:"selected"`
	// Administrators are told when it is selected: whoever gives somebody a role in a tenant asks nobody.
	Administrators []string `json:"administrators,omitempty"`
}

func (r *run) viewTenant(t sphere.Tenant, roles []sphere.Role) tenantView {
	selected := ""
	if k := r.acc.Servers[r.server.url]; k != nil {
		selected = k.Tenant
	}
	return tenantView{ID: t.ID, Name: t.Name, Roles: roles, Selected: t.ID == selected}
}

func (r *run) printTenant(t tenantView) error {
	return r.out(t, func(w io.Writer) error {
		lines(w, "tenant", t.Name, "id", t.ID, "roles", join(t.Roles))
		return nil
	})
}

func (t *tool) tenantCommand() *cobra.Command {
	return group("tenant", "Manage tenants, which hold devices, products and a certificate authority",
		t.tenantCreate(false), t.tenantList(false), t.tenantSelect(), t.tenantShowSelected(), t.tenantUpdate(false), t.errorReport("tenant"))
}

func (t *tool) catalogCommand() *cobra.Command {
	return group("catalog", "Manage catalogs, which is the integrated word for tenants",
		t.tenantCreate(true), t.tenantList(true), t.catalogShow(), t.tenantUpdate(true), t.errorReport("catalog"))
}

func (t *tool) tenantCreate(catalog bool) *cobra.Command {
	var name string
	var force bool
	c := &cobra.Command{
		Use:   "create",
		Short: "Create a tenant",
		Long: `Create a tenant with a certificate authority of its own. You become its first Administrator.
It is not selected by itself, so that no device is claimed into it by accident.

Tenants cannot be deleted: devices belong to theirs for ever.`,
		Example: `  azsphere tenant create --name Contoso
  azsphere tenant create --name Contoso --output json | jq -r .id`,
	}
	f := c.Flags()
	f.StringVarP(&name, "name", "n", "", "name: 1 to 50 letters, digits, _ and -")
	f.BoolVar(&force, "force", false, "create it even though you have a tenant of this name")
	f.BoolVar(&force, "force-additional", false, "the same as --force")
	_ = f.MarkHidden("force-additional") // made in the line above
	if catalog {
		c.Short, c.Example = "Create a catalog", `  azsphere catalog create --name Contoso --resource-group Plant
  azsphere catalog create --catalog Contoso --output json`
		f.StringVarP(&name, "catalog", "c", "", "the same as --name")
		f.String("location", "", "accepted for scripts of az sphere; makes no difference")
		resourceGroup(c)
	}
	return t.make(command{Command: c, server: true, required: []string{"name"}, do: func(r *run) error {
		client, err := r.client()
		if err != nil {
			return err
		}
		if !force {
			me, err := client.Me(r.Context())
			if err != nil {
				return err
			}
			if slices.ContainsFunc(me.Roles, func(t sphere.TenantRoles) bool { return strings.EqualFold(t.TenantName, name) }) {
				return fmt.Errorf("you have a tenant %q already; give --force to create another one of this name", name)
			}
		}
		made, err := client.CreateTenant(r.Context(), name)
		if err != nil {
			return err
		}
		r.note("work in it with: %s", r.hint("tenant select --tenant "+made.ID))
		return r.printTenant(r.viewTenant(made, []sphere.Role{sphere.Administrator}))
	}})
}

func (t *tool) tenantList(catalog bool) *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the tenants that you have a role in",
		Long: `List the tenants that you have a role in; for an administrator of the installation, all of
them. The selected one is marked.`,
		Example: `  azsphere tenant list
  azsphere tenant list --output json`,
	}
	if catalog {
		c.Short, c.Example = "List the catalogs that you have a role in", "  azsphere catalog list --resource-group Plant"
		resourceGroup(c)
	}
	return t.make(command{Command: c, server: true, do: func(r *run) error {
		client, err := r.client()
		if err != nil {
			return err
		}
		all, err := client.Tenants(r.Context())
		if err != nil {
			return err
		}
		me, err := client.Me(r.Context())
		if err != nil {
			return err
		}
		roles := map[string][]sphere.Role{}
		for _, t := range me.Roles {
			roles[t.TenantID] = t.RoleNames
		}
		views := []tenantView{}
		for _, t := range all {
			views = append(views, r.viewTenant(t, roles[t.ID]))
		}
		if len(views) == 0 {
			r.note("no tenant yet; create one with: %s", r.hint("tenant create --name NAME"))
			if r.output == "table" {
				return nil
			}
		}
		return r.out(views, func(w io.Writer) error {
			fmt.Fprintln(w, "TENANT\tID\tROLES\tSELECTED")
			for _, t := range views {
				mark := ""
				if t.Selected {
					mark = "yes"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", t.Name, t.ID, join(t.Roles), mark)
			}
			return nil
		})
	}})
}

func (t *tool) tenantSelect() *cobra.Command {
	c := &cobra.Command{
		Use:   "select",
		Short: "Select the tenant that commands work in",
		Long: `Select the tenant that the commands that follow work in when they name none. The choice is
yours on this machine alone, and stands until you sign in as somebody else.

Several tenants may have one name, and anybody may give you a role in theirs: before you
claim devices, see from its id and its Administrators that it is the one you mean.`,
		Example: `  azsphere tenant select --tenant Contoso
  azsphere tenant select --tenant 768c2cd6-1bf0-4521-9f53-084a331d81cb`,
	}
	return t.make(command{Command: c, tenant: true, required: []string{"tenant"}, do: func(r *run) error {
		client, found, err := r.inTenant()
		if err != nil {
			return err
		}
		admins, err := r.administrators(client, found.ID)
		if err != nil {
			return err
		}
		if err := changeAccount(func(a *account) error {
			k := a.session(r.server.url)
			k.Tenant, k.TenantName = found.ID, found.Name
			r.acc = a
			return nil
		}); err != nil {
			return err
		}
		v := r.viewTenant(found, nil)
		v.Administrators = admins
		return r.say(v, "%s (%s) is selected\nits Administrators: %s", found.Name, found.ID, some(admins))
	}})
}

func (t *tool) tenantShowSelected() *cobra.Command {
	c := &cobra.Command{
		Use:   "show-selected",
		Short: "Show the selected tenant",
		Example: `  azsphere tenant show-selected
  azsphere tenant show-selected --output json | jq -r .id`,
	}
	return t.make(command{Command: c, server: true, do: func(r *run) error {
		if _, err := r.find(); err != nil {
			return err
		}
		k := r.acc.Servers[r.server.url]
		if k == nil || k.Tenant == "" {
			return fmt.Errorf("no tenant is selected; run: %s", r.hint("tenant select --tenant NAME"))
		}
		return r.printTenant(r.viewTenant(sphere.Tenant{ID: k.Tenant, Name: k.TenantName}, nil))
	}})
}

func (t *tool) catalogShow() *cobra.Command {
	c := &cobra.Command{
		Use:   "show",
		Short: "Show a catalog",
		Example: `  azsphere catalog show --catalog Contoso
  azsphere catalog show --catalog Contoso --resource-group Plant --output json`,
	}
	return t.make(command{Command: c, tenant: true, do: func(r *run) error {
		client, found, err := r.inTenant()
		if err != nil {
			return err
		}
		me, err := client.Me(r.Context())
		if err != nil {
			return err
		}
		var roles []sphere.Role
		for _, t := range me.Roles {
			if t.TenantID == found.ID {
				roles = t.RoleNames
			}
		}
		return r.printTenant(r.viewTenant(found, roles))
	}})
}

func (t *tool) tenantUpdate(catalog bool) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:   "update",
		Short: "Rename a tenant",
		Long:  "Rename a tenant. Its id, its devices and its certificate authority stay what they are.",
		Example: `  azsphere tenant update --name Contoso-Works
  azsphere tenant update --tenant Contoso --name Contoso-Works`,
	}
	if catalog {
		c.Short, c.Example = "Rename a catalog", "  azsphere catalog update --catalog Contoso --name Contoso-Works"
	}
	c.Flags().StringVarP(&name, "name", "n", "", "new name: 1 to 50 letters, digits, _ and -")
	return t.make(command{Command: c, tenant: true, required: []string{"name"}, do: func(r *run) error {
		client, found, err := r.inTenant()
		if err != nil {
			return err
		}
		got, err := client.RenameTenant(r.Context(), found.ID, name)
		if err != nil {
			return err
		}
		if err := changeAccount(func(a *account) error {
			if k := a.session(r.server.url); k.Tenant == got.ID {
				k.TenantName = got.Name
			}
			return nil
		}); err != nil {
			return err
		}
		return r.printTenant(r.viewTenant(got, nil))
	}})
}

// errorReport downloads what devices told of failures: of a tenant, a catalog or a device-group.
func (t *tool) errorReport(word string) *cobra.Command {
	var to string
	var g groupFlags
	c := &cobra.Command{
		Use:   "download-error-report",
		Short: "Download what devices told of failures",
		Long: `Download what devices told of failures, as a CSV file: crashes and exits of applications,
updates, kernel and network events. It holds what ended in the last 14 days, at most 1000
events, the latest first. Events that are alike are one row with a count.`,
		Example: `  azsphere tenant download-error-report --destination errors.csv
  azsphere tenant download-error-report --destination - | head`,
	}
	switch word {
	case "catalog":
		c.Long += "\nThe catalog's file has the column Event Category, too."
		c.Example = "  azsphere catalog download-error-report --catalog Contoso --destination errors.csv"
	case "device-group":
		g.flags(c)
		c.Example = `  azsphere device-group download-error-report --device-group Lamp/Lab --destination e.csv`
	}
	destination(c, &to)
	made := command{Command: c, tenant: true, required: []string{"destination"}, do: func(r *run) error {
		client, tenant, err := r.inTenant()
		if err != nil {
			return err
		}
		id := ""
		if word == "device-group" {
			found, err := g.find(r, client, tenant.ID)
			if err != nil {
				return err
			}
			id = found.ID
		}
		report, err := client.ErrorReport(r.Context(), tenant.ID, id, word == "catalog")
		if err != nil {
			return err
		}
		return r.save(to, report, 0o600)
	}}
	if word == "device-group" {
		made.required = append(made.required, "device-group")
	}
	return t.make(made)
}

// destination is where a command writes its file.
func destination(c *cobra.Command, to *string) {
	c.Flags().StringVar(to, "destination", "", `file to write; "-" is standard output`)
	c.Flags().StringVar(to, "output-file", "", "the same as --destination, in the integrated spelling")
}

// save writes a file that was downloaded.
func (r *run) save(to string, data []byte, mode os.FileMode) error {
	if to == "-" {
		_, err := r.OutOrStdout().Write(data)
		return err
	}
	if err := atomicfile.Write(to, data, mode); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "write ") + "; choose another place with --destination")
	}
	return r.say(struct {
		File  string `json:"file"`
		Bytes int    `json:"bytes"`
	}{to, len(data)}, "%s is written (%d bytes)", to, len(data))
}

func (t *tool) roleCommand() *cobra.Command {
	return group("role", "Say who may do what in a tenant", t.roleChange(true), t.roleChange(false), t.roleList(), t.roleShow(), t.roleTypes())
}

var roleNames = []string{string(sphere.Administrator), string(sphere.Contributor), string(sphere.Reader)}

func (t *tool) roleChange(add bool) *cobra.Command {
	var user, role string
	c := &cobra.Command{
		Use:   "add",
		Short: "Give a user a role",
		Long: `Give a user a role in the tenant, beside those it has. The user need not have an account yet:
the role waits for whoever signs in with the mail address.

  Administrator   everything, including roles
  Contributor     claims devices, adds and changes, but deletes nothing
  Reader          reads`,
		Example: `  azsphere role add --user bob@plant.example --role Contributor
  azsphere role add --user bob@plant.example --role Reader --tenant Contoso`,
	}
	if !add {
		c.Use, c.Short, c.Long = "delete", "Take a role from a user", "Take a role from a user. The last Administrator of a tenant keeps the role."
		c.Example = "  azsphere role delete --user bob@plant.example --role Contributor"
	}
	f := c.Flags()
	f.StringVarP(&user, "user", "u", "", "mail address of the user")
	f.StringVarP(&role, "role", "r", "", "role: "+strings.Join(roleNames, ", "))
	oneOf(c, "role", roleNames...)
	return t.make(command{Command: c, tenant: true, required: []string{"user", "role"}, do: func(r *run) error {
		role, err := among("role", role, roleNames...)
		if err != nil {
			return err
		}
		client, tenant, err := r.inTenant()
		if err != nil {
			return err
		}
		var has []sphere.Role
		if add {
			has, err = client.AddRole(r.Context(), tenant.ID, user, sphere.Role(role))
		} else if err = client.RemoveRole(r.Context(), tenant.ID, user, sphere.Role(role)); err == nil {
			if has, err = client.Roles(r.Context(), tenant.ID, user); sphere.IsStatus(err, 404) {
				err = nil // it was the user's only one
			}
		}
		if err != nil {
			return err
		}
		return r.printRoles(user, has)
	}})
}

func (r *run) printRoles(user string, has []sphere.Role) error {
	if has == nil {
		has = []sphere.Role{}
	}
	text := join(has)
	if text == "" {
		text = "no role"
	}
	return r.say(roleView{user, has}, "%s: %s", user, text)
}

// roleView is a user's roles for programs.
type roleView struct {
	User  string        `json:"user"`
	Roles []sphere.Role `json:"roles"`
}

func (t *tool) roleList() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List who has roles in a tenant",
		Example: `  azsphere role list
  azsphere role list --tenant Contoso --output json`,
	}
	return t.make(command{Command: c, tenant: true, do: func(r *run) error {
		client, tenant, err := r.inTenant()
		if err != nil {
			return err
		}
		users, err := client.Users(r.Context(), tenant.ID)
		if err != nil {
			return err
		}
		views := []roleView{}
		for _, u := range users {
			v := roleView{u.UserID, []sphere.Role{}}
			for _, t := range u.Roles {
				v.Roles = append(v.Roles, t.RoleNames...)
			}
			views = append(views, v)
		}
		return r.out(views, func(w io.Writer) error {
			fmt.Fprintln(w, "USER\tROLES")
			for _, v := range views {
				fmt.Fprintf(w, "%s\t%s\n", v.User, join(v.Roles))
			}
			return nil
		})
	}})
}

func (t *tool) roleShow() *cobra.Command {
	var user string
	c := &cobra.Command{
		Use:   "show",
		Short: "Show a user's roles",
		Example: `  azsphere role show --user bob@plant.example
  azsphere role show --user bob@plant.example --output json`,
	}
	c.Flags().StringVarP(&user, "user", "u", "", "mail address of the user")
	return t.make(command{Command: c, tenant: true, required: []string{"user"}, do: func(r *run) error {
		client, tenant, err := r.inTenant()
		if err != nil {
			return err
		}
		has, err := client.Roles(r.Context(), tenant.ID, user)
		if err != nil {
			return err
		}
		return r.printRoles(user, has)
	}})
}

func (t *tool) roleTypes() *cobra.Command {
	c := &cobra.Command{
		Use:     "show-types",
		Short:   "List the roles there are",
		Example: "  azsphere role show-types",
	}
	return t.make(command{Command: c, tenant: true, do: func(r *run) error {
		client, err := r.client()
		if err != nil {
			return err
		}
		names, err := client.RoleNames(r.Context())
		if err != nil {
			return err
		}
		return r.out(names, func(w io.Writer) error {
			for _, n := range names {
				fmt.Fprintln(w, n)
			}
			return nil
		})
	}})
}

package azsphere

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"
)

func (t *tool) supportData() *cobra.Command {
	var to string
	c := &cobra.Command{
		Use:   "get-support-data",
		Short: "Collect what helps to find out what is wrong",
		Long: `Collect what helps to find out what is wrong, as a .zip file: versions, the server and its
answers, the tenant, its certificate authorities, and what the devices at hand say of
themselves. It holds no token, no password and no key.`,
		Example: `  azsphere get-support-data --destination support.zip
  azsphere get-support-data --tenant Contoso --destination support.zip`,
	}
	destination(c, &to)
	return t.make(command{Command: c, tenant: true, required: []string{"destination"}, do: func(r *run) error {
		var out bytes.Buffer
		z := zip.NewWriter(&out)
		add := func(name string, get func() (any, error)) error {
			v, err := get()
			if err != nil { // what does not work is what it is about
				v = map[string]string{"error": r.explain(err).Error()}
			}
			w, err := z.Create(name + ".json")
			if err != nil {
				return err
			}
			enc := json.NewEncoder(w)
			enc.SetIndent("", "  ")
			return enc.Encode(v)
		}
		for _, part := range []struct {
			name string
			get  func() (any, error)
		}{
			{"version", func() (any, error) {
				return map[string]string{"version": t.version, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH, "time": when(t.now())}, nil
			}},
			{"server", func() (any, error) {
				s, err := r.find()
				if err != nil {
					return nil, err
				}
				return map[string]any{"url": s.url, "ca": s.ca, "signedIn": r.acc.Servers[s.url].signedIn()}, nil
			}},
			{"user", func() (any, error) {
				client, err := r.client()
				if err != nil {
					return nil, err
				}
				return client.Me(r.Context())
			}},
			{"tenant", func() (any, error) {
				_, tenant, err := r.inTenant()
				return tenant, err
			}},
			{"certificates", func() (any, error) {
				client, tenant, err := r.inTenant()
				if err != nil {
					return nil, err
				}
				return client.Certificates(r.Context(), tenant.ID)
			}},
			{"devices", func() (any, error) {
				all := []any{}
				for _, address := range addresses() {
					dev, err := r.open(address)
					var v any
					if err == nil {
						v, err = r.describe(dev)
					}
					if err != nil {
						v = map[string]string{"address": address, "error": err.Error()}
					}
					all = append(all, v)
				}
				return all, nil
			}},
		} {
			if err := add(part.name, part.get); err != nil {
				return err
			}
		}
		if err := z.Close(); err != nil {
			return err
		}
		return r.save(to, out.Bytes(), 0o600)
	}})
}

func (t *tool) settingCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the settings and where they are kept",
		Example: `  azsphere setting list
  azsphere setting list --output json`,
	}
	list := t.make(command{Command: c, do: func(r *run) error {
		a, err := loadAccount()
		if err != nil {
			return err
		}
		path, err := accountFile()
		if err != nil {
			return err
		}
		v := struct {
			File    string `json:"file"`
			Server  string `json:"server,omitempty"`
			Tenant  string `json:"tenant,omitempty"`
			NoColor bool   `json:"no_color"`
		}{File: path, Server: a.Current, NoColor: true}
		if k := a.Servers[a.Current]; k != nil {
			v.Tenant = k.Tenant
		}
		return r.out(v, func(w io.Writer) error {
			lines(w, "file", v.File, "server", v.Server, "tenant", v.Tenant, "no_color", "true")
			return nil
		})
	}})
	get := t.make(command{Command: &cobra.Command{Use: "get", Short: "Show whether messages are without colour", Example: "  azsphere setting no-color get"}, do: func(r *run) error {
		return r.say(map[string]bool{"no_color": true}, "no_color  true")
	}})
	var on, off bool
	set := &cobra.Command{
		Use: "set", Short: "Accept that messages are without colour",
		Long:    "Messages of this tool are without colour, so --enable changes nothing and --disable is refused.",
		Example: "  azsphere setting no-color set --enable",
	}
	set.Flags().BoolVar(&on, "enable", false, "messages without colour")
	set.Flags().BoolVar(&off, "disable", false, "messages with colour")
	set.MarkFlagsMutuallyExclusive("enable", "disable")
	put := t.make(command{Command: set, oneOf: []string{"enable", "disable"}, do: func(r *run) error {
		if off {
			return fmt.Errorf("messages of this tool have no colour")
		}
		return r.say(map[string]bool{"no_color": on}, "no_color  %v", on)
	}})
	return group("setting", "See the settings of this tool", list, group("no-color", "See whether messages are without colour", get, put))
}

func (t *tool) showVersion(use string) *cobra.Command {
	c := &cobra.Command{
		Use:     use,
		Short:   "Show the version of this tool",
		Example: "  azsphere " + use + "\n  azsphere " + use + " --output json",
	}
	return t.make(command{Command: c, do: func(r *run) error {
		return r.say(map[string]string{"version": t.version}, "%s", t.version)
	}})
}

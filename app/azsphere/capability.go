package azsphere

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/sdk/sphere"
	"github.com/vauban-iot/vauban/wire/capability"
)

var capabilityWords = []string{sphere.AppDevelopment.String(), sphere.FieldServicing.String()}

func (t *tool) capabilityDownload() *cobra.Command {
	var kinds []string
	var to string
	var life time.Duration
	c := &cobra.Command{
		Use:   "download",
		Short: "Download a capability file for a device",
		Long: `Download a capability file: a short signed file that lets its holder do more with one device.

  appDevelopment   applications of a developer; updates of applications stop
  fieldServicing   servicing of a device that is DeviceComplete

Whoever has the file and the device at hand may use it, until it expires.`,
		Example: `  azsphere device capability download --device 4d2f... --type fieldServicing \
    --destination lamp.cap
  azsphere device capability download --type appDevelopment --expires-in 8h \
    --output-file lamp.cap`,
	}
	c.Flags().StringSliceVar(&kinds, "type", nil, "capability: "+strings.Join(capabilityWords, ", ")+"; may be given several times")
	c.Flags().DurationVar(&life, "expires-in", 0, "how long it is good for; the service's default when absent")
	oneOf(c, "type", capabilityWords...)
	destination(c, &to)
	return t.oneDevice(command{Command: c, required: []string{"destination"}, oneOf: []string{"type"}}, func(r *run, client *sphere.Client, tenant sphere.Tenant, dev target) error {
		file, err := r.grant(client, tenant.ID, dev.ID, kinds, life)
		if err != nil {
			return err
		}
		return r.save(to, file, 0o600)
	})
}

func (r *run) grant(client *sphere.Client, tenant, device string, kinds []string, life time.Duration) ([]byte, error) {
	var ids []sphere.CapabilityKind
	for _, k := range kinds {
		word, err := among("type", k, capabilityWords...)
		if err != nil {
			return nil, err
		}
		id, err := sphere.ParseCapabilityKind(word)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	if life < 0 {
		return nil, misuse("--expires-in is %s (want more than 0)", life)
	}
	var until time.Time
	if life > 0 {
		until = r.t.now().Add(life)
	}
	return client.DownloadCapability(r.Context(), tenant, device, ids, until)
}

// selected keeps a capability file for a device, or with nil forgets it.
func selected(device string, file []byte) error {
	return changeAccount(func(a *account) error {
		if file == nil {
			delete(a.Capabilities, device)
			return nil
		}
		if a.Capabilities == nil {
			a.Capabilities = map[string][]byte{}
		}
		a.Capabilities[device] = file
		return nil
	})
}

// capabilitySelect begins and ends a servicing session: "select" in the legacy tree, "apply" in the integrated one.
func (t *tool) capabilitySelect(verb string) *cobra.Command {
	var path string
	var none bool
	c := &cobra.Command{
		Use:   verb,
		Short: "Use a capability file for the device at hand",
		Long: `Have a capability file go with the servicing requests that follow to its device, which judges
it. Nothing is stored on the device. --none ends it.`,
		Example: fmt.Sprintf(`  azsphere device capability %[1]s --capability-file lamp.cap
  azsphere device capability %[1]s --none`, verb),
	}
	c.Flags().StringVar(&path, "capability-file", "", "file, as download wrote it")
	c.Flags().BoolVar(&none, "none", false, "use none any more")
	c.MarkFlagsMutuallyExclusive("capability-file", "none")
	return t.make(command{Command: c, device: true, oneOf: []string{"capability-file", "none"}, do: func(r *run) error {
		if none {
			to, err := r.target()
			if err != nil {
				return err
			}
			if err := selected(to.ID, nil); err != nil {
				return err
			}
			return r.say(capabilityView{to.ID, []string{}}, "no capability is used for device %s any more", short(to.ID))
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := capability.Parse(b)
		if err != nil {
			return fmt.Errorf("%s is no capability file: %w", path, err)
		}
		to, err := r.atHand()
		if err != nil {
			return err
		}
		if id := hex.EncodeToString(f.DeviceID[:]); id != to.ID {
			return fmt.Errorf("%s is for device %s, not for %s, which is at hand", path, short(id), short(to.ID))
		}
		to.at.capability = b
		if bad, err := r.notTaken(to, f); err != nil {
			return err
		} else if bad {
			return errors.New("the device does not take this capability: it expired, or the device does not trust the service that signed it")
		}
		if err := selected(to.ID, b); err != nil {
			return err
		}
		return r.say(capabilityView{to.ID, words(f.Capabilities)}, "%s is used for device %s until: %s", strings.Join(words(f.Capabilities), ", "), short(to.ID), r.hint("device capability "+verb+" --none"))
	}})
}

// capabilityView is what is in force for a device, for programs.
type capabilityView struct {
	DeviceID     string   `json:"deviceId"`
	Capabilities []string `json:"capabilities"`
}

func words(ids []capability.ID) []string {
	all := []string{}
	for _, id := range ids {
		all = append(all, id.String())
	}
	return all
}

// notTaken asks the device whether the capability that goes with requests counts. The path is readable whatever the device thinks of it.
func (r *run) notTaken(to target, f *capability.File) (bool, error) {
	var now struct {
		IDs []capability.ID `json:"device_capabilities"`
	}
	if err := r.service(to.at, http.MethodGet, "/device/capabilities", nil, &now); err != nil {
		return false, err
	}
	have := map[capability.ID]bool{}
	for _, id := range now.IDs {
		have[id] = true
	}
	for _, id := range f.Capabilities {
		if !have[id] {
			return true, nil
		}
	}
	return false, nil
}

func (t *tool) capabilityShow() *cobra.Command {
	return t.local(&cobra.Command{
		Use:     "show-attached",
		Short:   "Show the capabilities that are in force on the device at hand",
		Long:    "Show the capabilities that are in force on the device at hand: stored there, or selected here.",
		Example: "  azsphere device capability show-attached --device unix:/run/agent/servicing.sock",
	}, nil, func(r *run, to target) error {
		var now struct {
			IDs []capability.ID `json:"device_capabilities"`
		}
		if err := r.service(to.at, http.MethodGet, "/device/capabilities", nil, &now); err != nil {
			return err
		}
		v := capabilityView{to.ID, words(now.IDs)}
		return r.out(v, func(w io.Writer) error {
			if len(v.Capabilities) == 0 {
				fmt.Fprintln(w, "none")
			}
			for _, word := range v.Capabilities {
				fmt.Fprintln(w, word)
			}
			return nil
		})
	})
}

func (t *tool) enableDevelopment() *cobra.Command {
	var g groupFlags
	var cores bool
	c := &cobra.Command{
		Use:   "enable-development",
		Short: "Set a device up for development",
		Long: `Set a device up for development: move it to a group that gets no applications from the
service (Development of its product when none is given), get the capability appDevelopment
for it and, when it is at hand, use that for the servicing requests that follow.`,
		Example: `  azsphere device enable-development --device unix:/run/agent/servicing.sock
  azsphere device enable-development --device 4d2f... --device-group Lamp/Development`,
	}
	g.flags(c)
	c.Flags().BoolVarP(&cores, "enable-rt-core-debugging", "r", false, "accepted; there are no real-time cores to debug")
	return t.oneDevice(command{Command: c}, func(r *run, client *sphere.Client, tenant sphere.Tenant, to target) error {
		group, err := r.sibling(r.Context(), client, tenant.ID, to, g, "Development")
		if err != nil {
			return err
		}
		if group.UpdatePolicy != sphere.No3rdPartyAppUpdates {
			return fmt.Errorf("device group %q gets applications from the service, which would replace yours; choose another one with --device-group", group.Name)
		}
		file, err := r.grant(client, tenant.ID, to.ID, []string{sphere.AppDevelopment.String()}, 0)
		if err != nil {
			return err
		}
		if to.at != nil {
			if err := selected(to.ID, file); err != nil {
				return err
			}
		} else {
			r.note("the device is not at hand; get its capability when it is, with: %s", r.hint("device capability download --type appDevelopment --destination FILE"))
		}
		return r.move(client, tenant.ID, to, group.ID)
	})
}

func (t *tool) enableCloudTest() *cobra.Command {
	var g groupFlags
	c := &cobra.Command{
		Use:   "enable-cloud-test",
		Short: "Set a device up to get its applications from the service",
		Long: `Set a device up to get its applications from the service: move it to a group that does (Field
Test of its product when none is given), and use no capability for it any more.`,
		Example: `  azsphere device enable-cloud-test --device unix:/run/agent/servicing.sock
  azsphere device enable-cloud-test --device 4d2f... --device-group Lamp/Production`,
	}
	g.flags(c)
	return t.oneDevice(command{Command: c}, func(r *run, client *sphere.Client, tenant sphere.Tenant, to target) error {
		group, err := r.sibling(r.Context(), client, tenant.ID, to, g, "Field Test")
		if err != nil {
			return err
		}
		if group.UpdatePolicy != sphere.UpdateAll {
			return fmt.Errorf("device group %q gets no applications from the service; choose another one with --device-group", group.Name)
		}
		if err := selected(to.ID, nil); err != nil {
			return err
		}
		return r.move(client, tenant.ID, to, group.ID)
	})
}

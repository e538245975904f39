package azsphere

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/vauban-iot/vauban/internal/conform"
)

// The tree of sphere §12 with the parameters that it lists, in both spellings, for what there is.
func TestTree(t *testing.T) {
	conform.Covers(t, "SPH-28")
	const inTenant = "tenant catalog resource-group output "
	for path, flags := range map[string]string{
		// §12.1, legacy
		"register-user": "new-user output", "login": "output", "logout": "output", "show-user": "output", "show-version": "output", "get-support-data": "destination output",
		"setting list": "output", "setting no-color get": "output", "setting no-color set": "enable disable output",
		"tenant create": "name force output", "tenant select": "tenant", "tenant list": "output", "tenant show-selected": "output", "tenant update": "name tenant",
		"tenant download-error-report": "destination",
		"role add":                     "role user " + inTenant, "role delete": "role user " + inTenant, "role list": inTenant, "role show": "user " + inTenant, "role show-types": inTenant,
		"product create": "name description " + inTenant, "product list": inTenant, "product show": "product " + inTenant, "product update": "product name description " + inTenant, "product delete": "product " + inTenant,
		"product device-group list": "product " + inTenant, "product device-group show-count": "product " + inTenant, "product device list": "product " + inTenant, "product device show-count": "product " + inTenant,
		"device-group create": "name product application-update os-feed allow-crash-dumps-collection regional-data-boundary description " + inTenant,
		"device-group list":   "product " + inTenant, "device-group show": "device-group product " + inTenant, "device-group delete": "device-group product " + inTenant,
		"device-group update":          "device-group name application-update os-feed allow-crash-dumps-collection regional-data-boundary description " + inTenant,
		"device-group create-defaults": "product " + inTenant, "device-group download-error-report": "device-group destination " + inTenant,
		"device-group device list": "device-group " + inTenant, "device-group device show-count": "device-group " + inTenant,
		"ca-certificate list": inTenant, "ca-certificate download": "destination output-file thumbprint index " + inTenant, "ca-certificate download-chain": "destination output-file thumbprint index " + inTenant,
		"ca-certificate download-proof": "destination output-file thumbprint index verification-code " + inTenant,
		"ca-certificate begin-rotation": inTenant, "ca-certificate activate": "thumbprint index " + inTenant, "ca-certificate revoke": "thumbprint index yes " + inTenant,
		"device claim": "device yes device-group " + inTenant, "device list": inTenant, "device show": "device " + inTenant, "device update": "device device-group " + inTenant, "device show-count": inTenant,
		"device-group deployment create": "device-group product images " + inTenant, "device-group deployment list": "device-group product " + inTenant,
		"deployment create": "device-group product images " + inTenant, "deployment list": "device-group product " + inTenant, "deployment show": "device-group product deployment " + inTenant,
		"device image list-installed": "device " + inTenant, "device image list-targeted": "device " + inTenant, "device show-deployment-status": "device " + inTenant,
		"device enable": "device " + inTenant, "device disable": "device " + inTenant,
		"device enable-development": "device device-group enable-rt-core-debugging " + inTenant, "device enable-cloud-test": "device device-group " + inTenant,
		"device capability download": "device type destination output-file " + inTenant, "device capability apply": "device capability-file none output", "device capability select": "device capability-file none output",
		"device capability show-attached": "device output", "device manufacturing-state show": "device output", "device manufacturing-state update": "device state output",
		"device list-attached": "output", "device show-attached": "device output", "device show-os-version": "device output",
		// §12.2, integrated
		"catalog create": "name catalog resource-group output", "catalog list": "resource-group output", "catalog show": "catalog resource-group output", "catalog update": "catalog resource-group output",
		"catalog download-error-report": "catalog resource-group destination output",
		"device assign":                 "device target-product target-device-group " + inTenant, "device unassign": "device " + inTenant, "show-sdk-version": "output",
	} {
		c := find(t, path)
		for _, name := range strings.Fields(flags) {
			if f := c.Flags().Lookup(name); f == nil || f.Hidden {
				t.Errorf("%s has no --%s", path, name)
			}
		}
	}
	// What comes with later issues is not promised.
	for _, path := range []string{"image", "image-package", "device sideload", "device wifi", "device network", "device app", "device recover"} {
		words := strings.Fields(path)
		parent := New(Standalone, "")
		if len(words) == 2 {
			parent = find(t, words[0])
		}
		if slices.ContainsFunc(parent.Commands(), func(c *cobra.Command) bool { return c.Name() == words[len(words)-1] }) {
			t.Errorf("the tree has %s already", path)
		}
	}
}

func find(t testing.TB, path string) *cobra.Command {
	t.Helper()
	c, rest, err := New(Standalone, "v1").Find(strings.Fields(path))
	if err != nil || len(rest) > 0 {
		t.Fatalf("the tree has no %s: %v", path, err)
	}
	return c
}

// Every command teaches: an example in its help, which names only flags that exist and the command as it is typed.
func TestHelp(t *testing.T) {
	for _, name := range []string{Standalone, Below} {
		for _, c := range all(New(name, "v1")) {
			if c.Short == "" {
				t.Errorf("%s has no short help", c.CommandPath())
			}
			if c.HasSubCommands() {
				continue
			}
			path := strings.TrimPrefix(c.CommandPath(), c.Root().Name()+" ")
			if !strings.Contains(c.Example, name+" "+path) {
				t.Errorf("%s: no example names it: %s", path, c.Example)
			}
			for _, word := range strings.Fields(c.Example) {
				flag, ok := strings.CutPrefix(word, "--")
				if flag, _, _ = strings.Cut(flag, "="); ok && c.Flags().Lookup(flag) == nil {
					t.Errorf("an example of %s uses --%s, which does not exist", path, flag)
				}
			}
			for _, line := range strings.Split(c.Long+"\n"+c.Example, "\n") {
				if len(line) > 100 {
					t.Errorf("%s: a help line has %d columns: %s", path, len(line), line)
				}
			}
			c.Flags().VisitAll(func(f *pflag.Flag) {
				if f.Usage == "" && !f.Hidden {
					t.Errorf("%s: --%s says nothing", path, f.Name)
				}
			})
		}
	}
}

// What a program prints is JSON or nothing, wherever it is asked for; what is required is asked for before anything is called.
func TestMisuse(t *testing.T) {
	w := newWorld(t)
	for _, c := range all(New(Standalone, "v1")) {
		if c.HasSubCommands() {
			continue
		}
		path := strings.Fields(strings.TrimPrefix(c.CommandPath(), "azsphere "))
		w.refuses(exitMisuse, `unknown output "xml" (want "table" or "json")`, append(path, "--output", "xml")...)
		w.refuses(exitMisuse, "unknown", append(path, "stray")...)
		w.refuses(exitMisuse, "unknown flag: --nonsense", append(path, "--nonsense")...)
	}
	for _, test := range []struct{ want, args string }{
		{"--name is required", "tenant create"},
		{"--tenant is required", "tenant select"},
		{"--destination is required", "tenant download-error-report"},
		{"--user is required", "role add --role Reader"},
		{"--role is required", "role add --user x"},
		{`--role is "Owner" (want Administrator, Contributor, Reader)`, "role add --user x --role Owner"},
		{"--product is required", "product show"},
		{"give --name, --description", "product update --product x"},
		{"--device-group is required", "device update"},
		{"--verification-code is required", "ca-certificate download-proof --destination x"},
		{"give --index, --thumbprint, --name", "ca-certificate revoke"},
		{"give --type", "device capability download --destination x"},
		{"give --capability-file, --none", "device capability select"},
		{"--state is required", "device manufacturing-state update"},
		{"which device? give its id or its address with --device, or its address in AZSPHERE_DEVICE", "device show-attached"},
		{"is not an address of this machine", "device show-attached --device 192.0.2.1:80"},
		{"want a device id of 128 hex digits, unix:PATH or 127.0.0.1:PORT", "device show-attached --device lamp"},
		{"give --server or --data, not both", "login --server https://x --data y"},
		{`--server is "http://x" (want https://HOST[:PORT])`, "login --server http://x"},
		{`--server is "https://a:b@x" (want`, "login --server https://a:b@x"},
		{"--password-stdin wants --username", "login --password-stdin"},
		{"standard input holds no password", "login --username x --password-stdin"},
		{"if any flags in the group", "login --use-browser --use-device-code"},
	} {
		w.refuses(exitMisuse, test.want, strings.Fields(test.args)...)
	}
	if path := w.seen.Load(); path != nil {
		t.Errorf("misuse reached the server: %s", *path)
	}
}

func TestCode(t *testing.T) {
	var errs bytes.Buffer
	if got := Code(nil, &errs); got != exitOK || errs.Len() > 0 {
		t.Errorf("no error: %d, %q", got, errs.String())
	}
	if got := Code(errors.New("it failed"), &errs); got != exitFailed || errs.String() != "azsphere: it failed\n" {
		t.Errorf("an error: %d, %q", got, errs.String())
	}
	errs.Reset()
	if got := Code(misuse("not %s", "so"), &errs); got != exitMisuse || errs.String() != "azsphere: not so\nazsphere: run the command with --help for examples\n" {
		t.Errorf("misuse: %d, %q", got, errs.String())
	}
}

func TestReadLine(t *testing.T) {
	for _, test := range []struct{ name, in, want, left string }{
		{"a line", "secret\nmore", "secret", "more"},
		{"a line as Windows ends it", "secret\r\n", "secret", ""},
		{"without an end", "secret", "secret", ""},
		{"with spaces, which are its own", " a b \n", " a b ", ""},
		{"nothing", "", "", ""},
		{"too long", strings.Repeat("x", 12), strings.Repeat("x", 10), "xx"},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := strings.NewReader(test.in)
			got, err := readLine(in, 10)
			left, _ := io.ReadAll(in)
			if err != nil || got != test.want || string(left) != test.left {
				t.Errorf("%q, %v, and %q is left; want %q, and %q", got, err, left, test.want, test.left)
			}
		})
	}
}

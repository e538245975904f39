package azsphere

import (
	"archive/zip"
	"bytes"
	"crypto/x509"
	"encoding/csv"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/sphere"
	"github.com/vauban-iot/vauban/sphere/agent"
	"github.com/vauban-iot/vauban/sphere/report"
)

func TestTenant(t *testing.T) {
	w := newWorld(t)
	w.person(ada)
	if out, errs, err := w.run("tenant", "list"); err != nil || out != "" || !strings.Contains(errs, "no tenant yet; create one with: azsphere tenant create --name NAME") {
		t.Errorf("an empty list: %q, %q, %v", out, errs, err)
	}
	w.refuses(exitMisuse, "no tenant is selected; give --tenant, or run: azsphere tenant select --tenant NAME", "device", "list")

	var first, second tenantView
	w.json(&first, "tenant", "create", "--name", "Contoso")
	if first.Name != "Contoso" || first.Selected || len(first.Roles) != 1 {
		t.Errorf("a new tenant: %+v", first)
	}
	w.refuses(exitFailed, `you have a tenant "contoso" already; give --force`, "tenant", "create", "--name", "contoso")
	w.json(&second, "tenant", "create", "--name", "Contoso", "--force")
	w.refuses(exitFailed, "1 to 50", "tenant", "create", "--name", "a b")
	w.refuses(exitFailed, `2 tenants are called "contoso"; give the id of the one you mean: `, "tenant", "select", "--tenant", "contoso")
	w.refuses(exitFailed, `there is no tenant "Fabrikam", or you have no role there`, "tenant", "select", "--tenant", "Fabrikam")
	w.refuses(exitFailed, "does not exist", "tenant", "select", "--tenant", "768c2cd6-1bf0-4521-9f53-084a331d81cb")

	for _, command := range [][]string{{"device", "list"}, {"device", "claim", "--yes"}, {"catalog", "show"}, {"role", "list"}, {"product", "create", "--name", "x"}} {
		for _, id := range []string{first.ID, second.ID} { // the same everywhere, whatever it would do
			w.refuses(exitFailed, id, append(command, "--tenant", "Contoso")...)
		}
	}
	w.says(`^its Administrators: `+ada+`$`, "tenant", "select", "-t", first.ID)
	w.says(`^Contoso \(`+first.ID+`\) is selected$`, "tenant", "select", "-t", strings.ToUpper(first.ID))
	w.says("^id +"+first.ID+"$", "tenant", "show-selected")
	w.says(`^Contoso +`+first.ID+` +Administrator +yes$`, "tenant", "list")
	w.says(`^Contoso +`+second.ID+` +Administrator *$`, "tenant", "list")
	w.says("^tenant +Works$", "tenant", "update", "--name", "Works")
	w.says("^tenant +Works$", "tenant", "show-selected")
	w.says("^tenant +Other$", "tenant", "update", "--tenant", second.ID, "--name", "Other")
	w.says("^tenant +Works$", "tenant", "show-selected")

	t.Run("in the integrated words", func(t *testing.T) {
		var made tenantView
		w.json(&made, "catalog", "create", "--catalog", "Fabrikam", "--resource-group", "Plant", "--location", "global")
		w.json(&made, "catalog", "show", "--catalog", "fabrikam", "-g", "Plant")
		if made.Name != "Fabrikam" || len(made.Roles) != 1 {
			t.Errorf("%+v", made)
		}
		w.says("^tenant +Fab2$", "catalog", "update", "-c", "Fabrikam", "--name", "Fab2")
		w.says("^Fab2 ", "catalog", "list", "--resource-group", "Plant", "--subscription", "x")
	})
	t.Run("one that somebody else made", func(t *testing.T) {
		w.do("role", "add", "--tenant", second.ID, "--user", bob, "--role", "Contributor")
		w.person(bob)
		var selected tenantView
		w.json(&selected, "tenant", "select", "--tenant", "Other")
		if selected.ID != second.ID || !slices.Equal(selected.Administrators, []string{ada}) {
			t.Errorf("%+v", selected)
		}
		w.login(ada)
		w.do("role", "delete", "--tenant", second.ID, "--user", bob, "--role", "Contributor")
		w.do("role", "list", "--tenant", second.ID)
	})
	t.Run("others see nothing of it", func(t *testing.T) {
		w.login(bob)
		w.refuses(exitFailed, "does not exist", "tenant", "select", "--tenant", first.ID)
		w.refuses(exitFailed, "does not exist", "device", "list", "--tenant", first.ID)
	})
}

func TestRole(t *testing.T) {
	w := newWorld(t)
	w.person(ada)
	tenant := w.tenant("Contoso")
	w.says("^"+bob+": Contributor$", "role", "add", "--user", bob, "--role", "contributor")
	w.says("^"+bob+": Contributor, Reader$", "role", "add", "-u", bob, "-r", "Reader")
	w.says("^"+bob+" +Contributor, Reader$", "role", "list")
	w.says("^"+bob+": Contributor, Reader$", "role", "show", "--user", bob)
	w.says("^"+bob+": Contributor$", "role", "delete", "--user", bob, "--role", "Reader")
	w.refuses(exitFailed, "does not have the role Reader", "role", "delete", "--user", bob, "--role", "Reader")
	w.refuses(exitFailed, "is the last Administrator", "role", "delete", "--user", ada, "--role", "Administrator")
	var types []string
	w.json(&types, "role", "show-types")
	slices.Sort(types)
	if !slices.Equal(types, []string{"Administrator", "Contributor", "Reader"}) {
		t.Errorf("types: %v", types)
	}

	w.person(bob)
	w.do("tenant", "select", "--tenant", tenant)
	w.refuses(exitFailed, "this needs the role Administrator in tenant "+tenant+"; its Administrators give roles with: azsphere role add", "role", "add", "--user", bob, "--role", "Administrator")
	w.do("product", "create", "--name", "Lamp")
	w.refuses(exitFailed, "this needs the role Administrator", "product", "delete", "--product", "Lamp")
	w.login(ada)
	var left roleView
	w.json(&left, "role", "delete", "--tenant", tenant, "--user", bob, "--role", "Contributor")
	if left.User != bob || left.Roles == nil || len(left.Roles) != 0 {
		t.Errorf("no role left: %+v", left)
	}
}

func TestProduct(t *testing.T) {
	w := newWorld(t)
	w.person(ada)
	w.tenant("Contoso")
	var p productView
	w.json(&p, "product", "create", "--name", "Street Lamp", "--description", "LED")
	if p.Name != "Street Lamp" || p.Description != "LED" || len(p.Groups) != 5 {
		t.Fatalf("a new product: %+v", p)
	}
	for _, g := range p.Groups {
		feed, policy := "Retail", "UpdateAll"
		if strings.HasSuffix(g.Name, "OS Evaluation") {
			feed = "RetailEval"
		}
		if g.Name == "Development" {
			policy = "No3rdPartyAppUpdates"
		}
		if g.OSFeed != feed || g.UpdatePolicy != policy || g.AllowCrashDump || g.Product != "Street Lamp" {
			t.Errorf("a default group: %+v", g)
		}
	}
	w.refuses(exitFailed, `there is a product "street lamp" already`, "product", "create", "--name", "street lamp")
	w.refuses(exitFailed, `there is no product "Fan"`, "product", "show", "--product", "Fan")
	w.says(`^Street Lamp +`+p.ID+` +LED$`, "product", "list")
	w.says(`^device group +Development \(Retail, No3rdPartyAppUpdates\)$`, "product", "show", "--product", strings.ToUpper(p.ID))
	w.says(`^description +40 W$`, "product", "update", "--product", "street lamp", "--description", "40 W")
	w.says(`^product +Lamp$`, "product", "update", "--product", "Street Lamp", "--new-name", "Lamp")
	w.says(`^description +40 W$`, "product", "show", "-p", "Lamp")

	w.says(`^Lamp/Field Test +\S+ +Retail +UpdateAll`, "product", "device-group", "list", "--product", "Lamp")
	w.says(`^0$`, "product", "device-group", "show-count", "--product", "Lamp")
	w.says(`^0$`, "product", "device", "show-count", "--product", "Lamp")
	w.says(`^DEVICE`, "product", "device", "list", "--product", "Lamp")

	t.Run("device groups", func(t *testing.T) {
		var g groupView
		w.json(&g, "device-group", "create", "--product", "Lamp", "--name", "Pilot Site", "--description", "Lyon", "-a", "no3rdpartyappupdates", "-f", "retaileval",
			"--allow-crash-dumps-collection", "enabled", "--regional-data-boundary", "eu")
		want := groupView{g.ID, "Pilot Site", "Lamp", p.ID, "Lyon", "RetailEval", "No3rdPartyAppUpdates", true, "EU", ""}
		if g != want {
			t.Errorf("a new group %+v, want %+v", g, want)
		}
		w.says(`^id +`+g.ID+`$`, "device-group", "show", "--device-group", "lamp/pilot site")
		w.says(`^id +`+g.ID+`$`, "device-group", "show", "--device-group", "Pilot Site", "--product", "Lamp")
		w.says(`^product +Lamp$`, "device-group", "show", "--device-group", g.ID)
		w.json(&g, "device-group", "update", "--device-group", "Lamp/Pilot Site", "--allow-crash-dumps-collection", "false")
		if want.AllowCrashDump = false; g != want {
			t.Errorf("an update of one thing: %+v, want %+v", g, want)
		}
		w.says(`^device group +Pilot$`, "device-group", "update", "--device-group", "Lamp/Pilot Site", "--name", "Pilot")
		w.says(`^description +Lyon$`, "device-group", "show", "--device-group", "Lamp/Pilot")
		w.says(`^Lamp/Pilot +`+g.ID, "device-group", "list")
		w.says(`^0$`, "device-group", "device", "show-count", "--device-group", "Lamp/Pilot")
		w.says(`^DEVICE`, "device-group", "device", "list", "--device-group", "Lamp/Pilot")
		w.says(`^Pilot is deleted$`, "device-group", "delete", "--device-group", "Lamp/Pilot")
		w.refuses(exitFailed, `product "Lamp" has no device group "Pilot"`, "device-group", "show", "--device-group", "Lamp/Pilot")
		w.refuses(exitMisuse, `--device-group is "Pilot" (want "Product/Group", or give --product)`, "device-group", "show", "--device-group", "Pilot")
		w.refuses(exitMisuse, `--product is "Fan", but --device-group names one of "Lamp"`, "device-group", "show", "--device-group", "Lamp/Pilot", "--product", "Fan")
		w.refuses(exitMisuse, `--application-update is "NoUpdates" (want UpdateAll, No3rdPartyAppUpdates)`, "device-group", "create", "--product", "Lamp", "--name", "x", "--application-update", "NoUpdates")
		w.refuses(exitMisuse, "give --name, --description", "device-group", "update", "--device-group", "Lamp/Production")
		w.do("device-group", "delete", "--device-group", "Lamp/Development")
		w.says(`^Lamp/Development `, "device-group", "create-defaults", "--product", "Lamp")
	})
	w.says("^Lamp is deleted$", "product", "delete", "--product", "Lamp")
	w.says("^PRODUCT +ID +DESCRIPTION\n$", "product", "list")
}

func TestDevice_Claim(t *testing.T) {
	conform.Covers(t, "SPH-28")
	w := newWorld(t)
	w.person(ada)
	tenant := w.tenant("Contoso")
	w.do("product", "create", "--name", "Lamp")
	b := w.board()

	t.Run("warns that it is for ever, and asks", func(t *testing.T) {
		for name, answer := range map[string]string{"no answer": "", "no": "n\n", "something else": "perhaps\n"} {
			w.stdin = answer
			_, errs, err := w.run("device", "claim", "--device", b.address)
			if err == nil || !strings.Contains(err.Error(), "nothing was done") {
				t.Errorf("%s: %v", name, err)
			}
			for _, want := range []string{"Claiming is permanent", b.id, "will belong to tenant Contoso (" + tenant + ") for ever", "cannot be moved to another tenant or released", "Claim it? [y/N]"} {
				if !strings.Contains(errs, want) {
					t.Errorf("%s: the warning does not say %q:\n%s", name, want, errs)
				}
			}
		}
		w.says("^0$", "device", "show-count")
	})
	t.Run("a device at hand", func(t *testing.T) {
		w.stdin = "y\n"
		w.says("^device +"+b.id+"$", "device", "claim", "--device", b.address, "--device-group", "Lamp/Field Test")
		w.stdin = ""
		var d deviceView
		w.json(&d, "device", "show", "--device", b.address)
		if d.DeviceID != b.id || d.Product != "Lamp" || d.DeviceGroup != "Field Test" || !d.Enabled || d.ManufacturingState != "Blank" || d.ClaimedBy != ada {
			t.Errorf("%+v", d)
		}
		w.says("^"+b.id+" +Lamp/Field Test +Blank", "device", "list")
		w.says("^1$", "device", "show-count")
	})
	t.Run("again changes nothing", func(t *testing.T) {
		_, errs, err := w.run("device", "claim", "--device", b.address, "--yes")
		if err != nil || !strings.Contains(errs, "it was this tenant's already") {
			t.Errorf("%v, %s", err, errs)
		}
	})
	t.Run("one of another tenant", func(t *testing.T) {
		w.do("tenant", "create", "--name", "Fabrikam")
		w.refuses(exitFailed, "belongs to another tenant", "device", "claim", "--device", b.address, "--tenant", "Fabrikam", "--yes")
		w.refuses(exitFailed, "does not exist", "device", "show", "--device", b.address, "--tenant", "Fabrikam")
	})
	t.Run("by its id", func(t *testing.T) {
		known, stranger := w.board(), w.board()
		id, err := known.Identity()
		ok(t, err)
		admin := sphere.Caller{Subject: "operator", Admin: true}
		errs, err := w.service.UploadManufactureRecords(t.Context(), admin, tenant, []sphere.ManufactureRecord{{PublicKey: id.PublicKey}})
		ok(t, err)
		ok(t, errs[0])
		w.says("^device group +Lamp/Production$", "device", "claim", "--catalog", "Contoso", "--resource-group", "g", "--device", strings.ToUpper(known.id), "--product", "Lamp", "--device-group", "Production", "-y")
		w.refuses(exitFailed, "no manufacture record lets this tenant claim device", "device", "claim", "--device", stranger.id, "--yes")
		w.refuses(exitMisuse, "--product is for --device-group", "device", "claim", "--device", stranger.id, "--product", "Lamp")
	})
	t.Run("nobody is at the address", func(t *testing.T) {
		w.refuses(exitFailed, "no device answers at unix:/nowhere: dial unix /nowhere", "device", "claim", "--device", "unix:/nowhere", "--yes")
	})
}

func TestDevice(t *testing.T) {
	w := newWorld(t)
	w.person(ada)
	w.tenant("Contoso")
	w.do("product", "create", "--name", "Lamp")
	b := w.board()
	w.do("device", "claim", "--device", b.address, "--yes")
	setenv(t, deviceVariable, b.address)
	w.says("^device group +unassigned$", "device", "show")
	w.refuses(exitFailed, `the device is in no device group, so no Development group is near; give --device-group "Product/Group"`, "device", "enable-development")
	w.says("^device group +Lamp/Production$", "device", "update", "--device-group", "Lamp/Production", "--device", b.id)
	w.says("^device group +Lamp/Field Test$", "device", "assign", "--target-product", "Lamp", "--target-device-group", "Field Test")
	w.says("^1$", "device", "show-count", "--device-group", "Lamp/Field Test")
	w.says("^0$", "device-group", "device", "show-count", "--device-group", "Lamp/Production")
	w.says("^"+b.id, "product", "device", "list", "--product", "Lamp")
	var views []deviceView
	w.json(&views, "device", "list", "--product", "Lamp")
	if len(views) != 1 || views[0].DeviceGroup != "Field Test" {
		t.Errorf("%+v", views)
	}
	w.refuses(exitFailed, "there are devices in product \"Lamp\"; move them first", "product", "delete", "--product", "Lamp")

	t.Run("development and cloud test", func(t *testing.T) {
		w.refuses(exitFailed, `device group "Production" gets applications from the service`, "device", "enable-development", "--device-group", "Lamp/Production")
		w.says("^device group +Lamp/Development$", "device", "enable-development", "--enable-rt-core-debugging")
		w.says("^capabilities +appDevelopment$", "device", "show")
		w.says("^appDevelopment$", "device", "capability", "show-attached")
		w.refuses(exitFailed, `device group "Development" gets no applications`, "device", "enable-cloud-test", "--device-group", "Lamp/Development")
		w.says("^device group +Lamp/Field Test$", "device", "enable-cloud-test")
		w.says("^none$", "device", "capability", "show-attached")
		_, errs, err := w.run("device", "enable-development", "--device", b.id)
		if err != nil || !strings.Contains(errs, "the device is not at hand; get its capability when it is") {
			t.Errorf("%v, %s", err, errs)
		}
	})
	t.Run("disabled and enabled", func(t *testing.T) {
		w.says("^enabled +no: it gets no certificates$", "device", "disable")
		w.says("^"+b.id+" +Lamp/Development +disabled", "device", "list")
		w.says("^enabled +yes$", "device", "enable", "--device", b.id)
	})
	w.says("^device group +unassigned$", "device", "unassign", "--catalog", "Contoso", "--device", b.id)
	w.refuses(exitFailed, "does not exist", "device", "show", "--device", strings.Repeat("0", 128))
}

func TestDevice_AtHand(t *testing.T) {
	w := newWorld(t)
	w.person(ada)
	w.tenant("Contoso")
	w.do("product", "create", "--name", "Lamp")
	b, other := w.board(), w.board()
	w.refuses(exitFailed, "no device is known to be at hand; put the addresses of servicing APIs into AZSPHERE_DEVICE", "device", "list-attached")
	setenv(t, deviceVariable, b.address+", "+other.address)

	var all []described
	w.json(&all, "device", "list-attached")
	if len(all) != 2 || all[0].DeviceID != b.id || all[1].DeviceID != other.id {
		t.Errorf("%+v", all)
	}
	w.says("^"+other.id+" +"+other.address+" +26.11 +Blank$", "device", "list-attached")
	w.refuses(exitMisuse, "AZSPHERE_DEVICE names 2 devices; say which one with --device", "device", "show-attached")
	w.says("^os version +26.11$", "device", "show-attached", "--device", b.address)
	w.says("^address +"+other.address+"$", "device", "show-attached", "--device", other.id)
	w.says("^26.11$", "device", "show-os-version", "--device", strings.TrimPrefix(b.address, "unix:"))
	ln, err := agent.ListenServicing("127.0.0.1:0")
	ok(t, err)
	b.serve(t, ln)
	w.says("^device +"+b.id+"$", "device", "show-attached", "--device", ln.Addr().String())
	setenv(t, deviceVariable, b.address)
	w.refuses(exitFailed, "is not at hand; give the address of its servicing API with --device", "device", "show-attached", "--device", other.id)

	for _, d := range []board{b, other} {
		w.do("device", "claim", "--device", d.address, "--device-group", "Lamp/Production", "--yes")
	}
	w.says("^Blank$", "device", "manufacturing-state", "show")
	w.says("is Module1Complete; there is no way back$", "device", "manufacturing-state", "update", "--state", "module1complete")
	w.do("device", "manufacturing-state", "update", "-s", "DeviceComplete")
	w.says("^DeviceComplete$", "device", "manufacturing-state", "show")
	w.refuses(exitMisuse, `--state is "Blank" (want Module1Complete, DeviceComplete)`, "device", "manufacturing-state", "update", "--state", "Blank")

	t.Run("a complete device wants a capability", func(t *testing.T) {
		file, wrong := filepath.Join(t.TempDir(), "lamp.cap"), filepath.Join(t.TempDir(), "wrong.cap")
		w.refuses(exitFailed, "the device is DeviceComplete, which locks this; get a capability with: azsphere device capability download --type fieldServicing", "device", "manufacturing-state", "update", "--state", "Module1Complete")
		w.do("device", "capability", "download", "--type", "fieldservicing", "--destination", file, "--expires-in", "1h")
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the file: %v, %v", info, err)
		}
		w.says("^fieldServicing is used for device "+b.id[:16]+"... until: azsphere device capability apply --none$", "device", "capability", "apply", "--capability-file", file)
		w.says("^fieldServicing$", "device", "capability", "show-attached")
		w.refuses(exitFailed, "manufacturing states go one way", "device", "manufacturing-state", "update", "--state", "Module1Complete")
		w.do("device", "capability", "select", "--none")
		w.refuses(exitFailed, "the device is DeviceComplete", "device", "manufacturing-state", "update", "--state", "Module1Complete")

		w.do("device", "capability", "download", "--device", other.id, "--type", "appDevelopment,fieldServicing", "--output-file", wrong)
		w.refuses(exitFailed, "is for device "+other.id[:16]+"..., not for "+b.id[:16]+"..., which is at hand", "device", "capability", "select", "--capability-file", wrong)
		ok(t, os.WriteFile(wrong, []byte("no capability"), 0o600))
		w.refuses(exitFailed, "is no capability file", "device", "capability", "select", "--capability-file", wrong)
		w.refuses(exitMisuse, `--type is "rfTest" (want appDevelopment, fieldServicing)`, "device", "capability", "download", "--type", "rfTest", "--destination", wrong)
	})
}

func TestCACertificate(t *testing.T) {
	w := newWorld(t)
	w.person(ada)
	w.tenant("Contoso")
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	read := func(name string) []byte {
		b, err := os.ReadFile(file(name))
		ok(t, err)
		return b
	}
	var cas []caView
	w.json(&cas, "ca-certificate", "list")
	if len(cas) != 1 || cas[0].Index != 1 || cas[0].Status != "Active" {
		t.Fatalf("%+v", cas)
	}
	w.says("^1 +"+cas[0].Thumbprint+" +Active", "ca-certificate", "list")

	w.says("is written \\([0-9]+ bytes\\)$", "ca-certificate", "download", "--destination", file("ca.cer"))
	ca, err := x509.ParseCertificate(read("ca.cer"))
	ok(t, err)
	if !ca.IsCA {
		t.Error("the CA is none")
	}
	w.do("ca-certificate", "download-proof", "--verification-code", "ABC123", "--destination", file("proof.cer"))
	proof, err := x509.ParseCertificate(read("proof.cer"))
	ok(t, err)
	if err := proof.CheckSignatureFrom(ca); err != nil || proof.Subject.CommonName != "ABC123" {
		t.Errorf("the proof for %q: %v", proof.Subject.CommonName, err)
	}
	w.do("ca-certificate", "download-chain", "--output-file", file("chain.p7b"))
	if chain := read("chain.p7b"); !bytes.Contains(chain, ca.Raw) {
		t.Error("the chain lacks the CA")
	}
	w.refuses(exitFailed, "choose another place with --destination", "ca-certificate", "download", "--destination", file("no/where"))
	w.refuses(exitFailed, "there is no CA with index 2; the tenant has 1", "ca-certificate", "download", "--index", "2", "--destination", "-")
	w.refuses(exitFailed, "no successor waits; make one with: azsphere ca-certificate begin-rotation", "ca-certificate", "activate")

	t.Run("rotation with overlap", func(t *testing.T) {
		var next caView
		w.json(&next, "ca-certificate", "begin-rotation")
		if next.Status != "Inactive" || !next.ActiveFrom.After(time.Now()) {
			t.Errorf("a successor: %+v", next)
		}
		w.refuses(exitFailed, "already", "ca-certificate", "begin-rotation")
		w.says("^2 +"+next.Thumbprint+" +Inactive", "ca-certificate", "list")
		for i, flags := range [][]string{{"--index", "2"}, {"--thumbprint", strings.ToLower(next.Thumbprint)}, {"--name", next.SerialNumber}} {
			if der := w.do(append([]string{"ca-certificate", "download", "--destination", "-"}, flags...)...); !strings.Contains(der, "Contoso") || der == string(ca.Raw) {
				t.Errorf("%d: not the successor", i)
			}
		}
		w.says("^status +Active$", "ca-certificate", "activate")
		w.says("^1 +"+cas[0].Thumbprint+" +Inactive", "ca-certificate", "list")
		w.stdin = "no\n"
		w.refuses(exitFailed, "nothing was done", "ca-certificate", "revoke", "--index", "1")
		w.stdin = ""
		w.says("^status +Revoked$", "ca-certificate", "revoke", "--index", "1", "--yes")
		w.refuses(exitMisuse, "if any flags in the group", "ca-certificate", "download", "--index", "1", "--thumbprint", "x", "--destination", "-")
	})
}

func TestErrorReport(t *testing.T) {
	w := newWorld(t)
	w.person(ada)
	w.tenant("Contoso")
	w.do("product", "create", "--name", "Lamp")
	b := w.board()
	w.do("device", "claim", "--device", b.address, "--device-group", "Lamp/Production", "--yes")
	ok(t, w.service.DeviceSide().Report(t.Context(), b.id, []report.Event{{Type: report.AppCrash, Class: "SIGSEGV", Category: "App", Description: "exit code 11", Start: time.Now().Add(-time.Hour)}}))
	rows := func(args ...string) [][]string {
		t.Helper()
		all, err := csv.NewReader(strings.NewReader(w.do(append(args, "--destination", "-")...))).ReadAll()
		ok(t, err)
		return all
	}
	if got := rows("tenant", "download-error-report"); len(got) != 2 || len(got[0]) != 7 || got[1][0] != b.id || got[1][1] != "AppCrash" {
		t.Errorf("of the tenant: %q", got)
	}
	if got := rows("catalog", "download-error-report", "--catalog", "Contoso"); len(got) != 2 || len(got[0]) != 8 || got[0][7] != "Event Category" {
		t.Errorf("of the catalog: %q", got)
	}
	if got := rows("device-group", "download-error-report", "--device-group", "Lamp/Production"); len(got) != 2 {
		t.Errorf("of its group: %q", got)
	}
	if got := rows("device-group", "download-error-report", "--device-group", "Lamp/Development"); len(got) != 1 {
		t.Errorf("of another group: %q", got)
	}
	file := filepath.Join(t.TempDir(), "errors.csv")
	var saved struct {
		File  string
		Bytes int64
	}
	w.json(&saved, "tenant", "download-error-report", "--destination", file)
	if info, err := os.Stat(file); err != nil || saved.File != file || info.Size() != saved.Bytes {
		t.Errorf("%+v, %v", saved, err)
	}
}

func TestSupportData(t *testing.T) {
	w := newWorld(t)
	parts := func() map[string]string {
		t.Helper()
		data := []byte(w.do("get-support-data", "--destination", "-"))
		z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
		ok(t, err)
		all := map[string]string{}
		for _, f := range z.File {
			r, err := f.Open()
			ok(t, err)
			var v json.RawMessage
			ok(t, json.NewDecoder(r).Decode(&v))
			all[f.Name] = string(v)
		}
		return all
	}
	if got := parts(); !strings.Contains(got["user.json"], "run: azsphere login") || !strings.Contains(got["version.json"], "v1.2.3") {
		t.Errorf("before anybody signed in: %v", got)
	}
	w.person(ada)
	w.tenant("Contoso")
	b := w.board()
	setenv(t, deviceVariable, b.address+",unix:/nowhere")
	got := parts()
	for name, want := range map[string]string{"server.json": w.url, "user.json": ada, "tenant.json": "Contoso", "certificates.json": "Thumbprint", "devices.json": b.id} {
		if !strings.Contains(got[name], want) {
			t.Errorf("%s does not hold %q: %s", name, want, got[name])
		}
	}
	if !strings.Contains(got["devices.json"], "no device answers at unix:/nowhere") {
		t.Errorf("a device that does not answer: %s", got["devices.json"])
	}
}

func TestSetting(t *testing.T) {
	w := newWorld(t)
	w.says("^no_color +true$", "setting", "list")
	w.person(ada)
	tenant := w.tenant("Contoso")
	w.says("^tenant +"+tenant+"$", "setting", "list")
	w.says("^file +"+w.account()+"$", "setting", "list")
	w.says("^no_color +true$", "setting", "no-color", "get")
	w.do("setting", "no-color", "set", "--enable")
	w.refuses(exitFailed, "messages of this tool have no colour", "setting", "no-color", "set", "--disable")
	w.says("^v1.2.3$", "show-version")
	w.says(`"version": "v1.2.3"`, "show-sdk-version", "-o", "json")
}

func TestDeployment(t *testing.T) {
	conform.Covers(t, "SPH-28")
	w := newWorld(t)
	w.person(ada)
	tenant := w.tenant("Contoso")
	w.do("product", "create", "--name", "Lamp")
	caller := sphere.Caller{Subject: ada}
	image := func(n string) sphere.Image {
		return sphere.Image{Component: "00000000-0000-4000-8000-00000000000" + n, ID: "00000000-0000-4000-9000-00000000000" + n, SHA256: strings.Repeat("ab", 32)}
	}
	one, two := image("1"), image("2")
	_, err := w.service.PublishRelease(t.Context(), caller, tenant, sphere.Release{Kind: sphere.ReleaseApplication, Version: "1", Images: []sphere.Image{one, two}})
	ok(t, err)
	b := w.board()
	w.do("device", "claim", "--device", b.address, "--yes")
	setenv(t, deviceVariable, b.address)

	w.says("^DEPLOYMENT +DEPLOYED +IN FORCE +IMAGES\n$", "device-group", "deployment", "list", "--device-group", "Lamp/Production")
	w.refuses(exitFailed, `nothing is deployed to device group "Production"`, "deployment", "show", "--product", "Lamp", "--device-group", "Production")
	w.refuses(exitFailed, "publish a release of kind application with it first", "device-group", "deployment", "create", "--device-group", "Lamp/Production", "--images", tenant)
	w.refuses(exitMisuse, "give --images", "device-group", "deployment", "create", "--device-group", "Lamp/Production")
	w.refuses(exitMisuse, `unknown argument "x"`, "deployment", "create", "--device-group", "Lamp/Production", "x")
	var first, second deploymentView
	w.json(&first, "device-group", "deployment", "create", "--device-group", "Lamp/Production", "--images", one.ID)
	if !first.Current || first.DeviceGroup != "Production" || !slices.Equal(first.Images, []string{one.ID}) || first.Deployed == nil {
		t.Errorf("%+v", first)
	}
	for _, images := range [][]string{{"--images", one.ID, two.ID}, {"-i", two.ID + "," + one.ID}} { // with spaces, and with commas
		w.json(&second, append([]string{"deployment", "create", "--catalog", "Contoso", "-g", "Plant", "--product", "Lamp", "--device-group", "Production"}, images...)...)
		if !slices.Equal(second.Images, []string{one.ID, two.ID}) {
			t.Errorf("%+v", second)
		}
	}
	w.says("^"+second.ID+" +\\S+ \\S+Z +yes +"+one.ID+", "+two.ID+"\n(.+\n)"+first.ID+" +\\S+ \\S+Z +"+one.ID+"\n", "device-group", "deployment", "list", "--device-group", "Lamp/Production")
	var all []deploymentView
	w.json(&all, "deployment", "list", "--product", "Lamp", "--device-group", "Production")
	if len(all) != 3 || !all[0].Current || all[1].Current || all[2].ID != first.ID {
		t.Errorf("%+v", all)
	}
	w.says("^in force +yes$", "deployment", "show", "--device-group", "Lamp/Production")
	w.says("^in force +no: another one is$", "deployment", "show", "--device-group", "Lamp/Production", "--deployment", first.ID)
	w.says("^deployment +"+second.ID+"$", "device-group", "show", "--device-group", "Lamp/Production")
	if _, errs, err := w.run("deployment", "create", "--device-group", "Lamp/Development", "--images", two.ID); err != nil || !strings.Contains(errs, "is No3rdPartyAppUpdates: its devices get nothing of it") {
		t.Errorf("%v, %s", err, errs)
	}

	t.Run("what a device should have", func(t *testing.T) {
		_, errs, err := w.run("device", "image", "list-targeted")
		if err != nil || !strings.Contains(errs, "none: the device is in no device group") {
			t.Errorf("%v, %s", err, errs)
		}
		w.says("^images targeted +none: the device is in no device group$", "device", "show-deployment-status")
		w.do("device", "update", "--device-group", "Lamp/Production")
		w.says("^"+two.ID+" +"+two.Component, "device", "image", "list-targeted", "--device", b.id)
		w.says("^os version +unknown: the device has not attested yet$", "device", "show-deployment-status")
		var s statusView
		w.json(&s, "device", "show-deployment-status")
		if s.UpToDate || s.Deployment != second.ID || len(s.Targeted) != 2 || len(s.Missing) != 2 {
			t.Errorf("%+v", s)
		}
		attested := func(images ...sphere.Image) {
			t.Helper()
			_, err := w.service.DeviceSide().RecordAttested(t.Context(), b.id, sphere.Attested{OSVersion: "26.1", Installed: images})
			ok(t, err)
		}
		_, err = w.service.PublishRelease(t.Context(), caller, tenant, sphere.Release{Kind: sphere.ReleaseOS, Feed: sphere.Retail, Version: "26.1", Images: []sphere.Image{image("9")}})
		ok(t, err)
		attested(image("9"), one)
		w.says("^not installed yet +"+two.ID+"\nup to date +no$", "device", "show-deployment-status")
		attested(image("9"), one, two)
		w.says("^images targeted +2 of 2 are installed\nup to date +yes$", "device", "show-deployment-status")
	})
	t.Run("what a device has", func(t *testing.T) {
		w.says("^ +os$", "device", "image", "list-installed") // at hand; the board's image has no ids
		w.says("^"+one.ID+" +"+one.Component, "device", "image", "list-installed", "--device", b.id)
		var images []imageView
		w.json(&images, "device", "image", "list-installed", "--device", b.id)
		if len(images) != 3 || images[0].SHA256 == "" {
			t.Errorf("%+v", images)
		}
	})
	t.Run("a Reader deploys nothing", func(t *testing.T) {
		w.do("role", "add", "--user", bob, "--role", "Reader")
		w.person(bob)
		w.do("tenant", "select", "--tenant", tenant)
		w.refuses(exitFailed, "this needs the role Contributor", "device-group", "deployment", "create", "--device-group", "Lamp/Production", "--images", one.ID)
		w.says("^"+second.ID, "device-group", "deployment", "list", "--device-group", "Lamp/Production")
	})
}

package cli

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/central/api"
	"github.com/vauban-iot/vauban/sdk/provisioning"
)

func dpsCommand() *cobra.Command {
	c := group("dps", "Manage device provisioning", enrollmentCommand(false), enrollmentCommand(true), registrationCommand(), dpsCertificateCommand(), hubLinkCommand(), dpsShow())
	c.Long = `Manage the provisioning service: which devices it admits (enrollment, group), what they
prove themselves with (certificate), where they go (hub), and what became of them
(registration).`
	return c
}

// dps is a client of the provisioning service's REST API.
func (r *remote) dps() (*provisioning.Client, error) {
	return provisioning.New(provisioning.Config{ConnectionString: r.conn.DPS.ConnectionString, TLS: r.tls, Address: r.address()})
}

// dpsRun is a command that calls the provisioning service.
func dpsRun(c *cobra.Command, run func(c *cobra.Command, p *provisioning.Client, args []string, out output) error) *cobra.Command {
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		p, err := r.dps()
		if err != nil {
			return err
		}
		return run(c, p, args, out)
	})
}

func dpsShow() *cobra.Command {
	c := &cobra.Command{
		Use:   "show",
		Short: "Show the id scope and the host that devices are configured with",
		Example: `  vauban dps show
  vauban dps show --output json | jq -r .idScope`,
		Args: cobra.NoArgs,
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		view := struct {
			Hostname string `json:"hostname"`
			IDScope  string `json:"idScope"`
		}{r.conn.DPS.Hostname, ""}
		if _, err := call(c, r, http.MethodGet, "/api/provisioning", nil, nil, &view); err != nil {
			return err
		}
		view.Hostname = r.conn.DPS.Hostname
		if out == "json" {
			return printJSON(c.OutOrStdout(), view)
		}
		_, err := fmt.Fprintf(c.OutOrStdout(), "host      %s\nid scope  %s\n", view.Hostname, view.IDScope)
		return err
	})
}

// kind is what differs between individual enrollments and groups.
type kind struct {
	group            bool
	word, list, name string // enrollment, enrollments, registrationId
	path             func(string) string
}

var (
	individuals = kind{false, "enrollment", "enrollments", "registrationId", provisioning.EnrollmentPath}
	groups      = kind{true, "group", "enrollmentGroups", "enrollmentGroupId", provisioning.GroupPath}
)

func enrollmentCommand(isGroup bool) *cobra.Command {
	k, short := individuals, "Manage enrollments of single devices"
	if isGroup {
		k, short = groups, "Manage enrollment groups"
	}
	return group(k.word, short, enrollmentCreate(k), enrollmentList(k), enrollmentShow(k), enrollmentSwitch(k, true), enrollmentSwitch(k, false), enrollmentDelete(k), enrollmentImport(k))
}

// fields are the flags by which an enrollment is described, and the columns of CSV files. Certificates are texts here.
type fields struct {
	DeviceID                   string
	Type                       string
	PrimaryKey, SecondaryKey   string
	Endorsement, Storage       string
	Certificate, SecondaryCert string
	CA, SecondaryCA            string
	Disabled, Edge             bool
	Allocation, Webhook        string
	Hubs                       []string
	Tags, Desired              string
	Reprovision                string
	CredentialPolicy           string
}

// document is the enrollment in the JSON of the service API.
func (f fields) document(k kind, name string) (map[string]any, error) {
	doc := map[string]any{k.name: name}
	kindOf := f.Type
	if kindOf == "" {
		switch {
		case f.Endorsement != "":
			kindOf = "tpm"
		case f.Certificate != "" || f.CA != "":
			kindOf = "x509"
		default:
			kindOf = "symmetricKey"
		}
	}
	attestation := map[string]any{"type": kindOf}
	switch strings.ToLower(kindOf) {
	case "symmetrickey":
		if f.PrimaryKey != "" || f.SecondaryKey != "" {
			attestation["symmetricKey"] = map[string]string{"primaryKey": f.PrimaryKey, "secondaryKey": f.SecondaryKey}
		}
	case "tpm":
		tpm := map[string]string{"endorsementKey": f.Endorsement}
		if f.Storage != "" {
			tpm["storageRootKey"] = f.Storage
		}
		attestation["tpm"] = tpm
	case "x509":
		member := "clientCertificates"
		if k.group {
			member = "signingCertificates"
		}
		slots := map[string]any{}
		if f.CA != "" || f.SecondaryCA != "" {
			member, slots["primary"] = "caReferences", f.CA
			if f.SecondaryCA != "" {
				slots["secondary"] = f.SecondaryCA
			}
		} else {
			slots["primary"] = map[string]string{"certificate": f.Certificate}
			if f.SecondaryCert != "" {
				slots["secondary"] = map[string]string{"certificate": f.SecondaryCert}
			}
		}
		attestation["x509"] = map[string]any{member: slots}
	}
	doc["attestation"] = attestation
	if f.DeviceID != "" {
		doc["deviceId"] = f.DeviceID
	}
	if f.Disabled {
		doc["provisioningStatus"] = "disabled"
	}
	if f.Edge {
		doc["capabilities"] = map[string]bool{"iotEdge": true}
	}
	if f.Allocation != "" {
		doc["allocationPolicy"] = f.Allocation
	}
	if f.Webhook != "" {
		doc["allocationPolicy"] = "custom"
		doc["customAllocationDefinition"] = map[string]string{"webhookUrl": f.Webhook, "apiVersion": "2021-10-01"}
	}
	if len(f.Hubs) > 0 {
		doc["iotHubs"] = f.Hubs
	}
	if f.CredentialPolicy != "" {
		doc["credentialPolicyName"] = f.CredentialPolicy
	}
	twin := map[string]any{}
	for _, part := range []struct{ what, text string }{{"tags", f.Tags}, {"desired", f.Desired}} {
		if part.text == "" {
			continue
		}
		if !json.Valid([]byte(part.text)) {
			return nil, misuse("%s is not JSON", part.what)
		}
		if part.what == "tags" {
			twin["tags"] = json.RawMessage(part.text)
		} else {
			twin["properties"] = map[string]any{"desired": json.RawMessage(part.text)}
		}
	}
	if len(twin) > 0 {
		doc["initialTwin"] = twin
	}
	switch f.Reprovision {
	case "":
	case "migrate", "reset", "never":
		doc["reprovisionPolicy"] = map[string]bool{"updateHubAssignment": f.Reprovision != "never", "migrateDeviceData": f.Reprovision == "migrate"}
	default:
		return nil, misuse(`unknown reprovisioning %q (want "migrate", "reset" or "never")`, f.Reprovision)
	}
	return doc, nil
}

func enrollmentCreate(k kind) *cobra.Command {
	var f fields
	var replace bool
	c := &cobra.Command{
		Use:   "create ID",
		Short: "Admit a device",
		Long: `Admit one device: by symmetric keys, which are made when none are given, by its own
certificate, or by the endorsement key of its TPM.`,
		Example: `  vauban dps enrollment create lamp-1 --device-id lamp-lobby --tags '{"site":"lyon"}'
  vauban dps enrollment create press-7 --certificate press-7.pem
  vauban dps enrollment create meter-3 --endorsement-key AToAAQALAAMAsgAg... --reprovision reset`,
		Args: cobra.ExactArgs(1),
	}
	if k.group {
		c.Short = "Admit every device of a kind"
		c.Long = `Admit every device whose key is derived from the group's keys, which are made when none are
given, or whose certificate chains to the group's CA. The CA is a file, or one that was
uploaded with "vauban dps certificate add".`
		c.Example = `  vauban dps group create line-1
  vauban dps group create plant --certificate plant-ca.pem --tags '{"site":"lyon"}'
  vauban dps group create plant --ca plant-2026 --secondary-ca plant-2028
  vauban dps group create spread --webhook https://erp.example/where --hub a.example`
	}
	flags := c.Flags()
	flags.StringVar(&f.PrimaryKey, "primary-key", "", "base64 key of 16 to 64 bytes; generated when absent")
	flags.StringVar(&f.SecondaryKey, "secondary-key", "", "second key, likewise")
	flags.StringVar(&f.Certificate, "certificate", "", "PEM file: the device's certificate, or the group's CA")
	flags.StringVar(&f.SecondaryCert, "secondary-certificate", "", "second certificate, for a roll")
	if k.group {
		flags.StringVar(&f.CA, "ca", "", "name of an uploaded and verified CA")
		flags.StringVar(&f.SecondaryCA, "secondary-ca", "", "name of a second CA, for a roll")
		c.MarkFlagsMutuallyExclusive("ca", "certificate", "primary-key")
	} else {
		flags.StringVar(&f.DeviceID, "device-id", "", "device id in the hub; the registration id when absent")
		flags.StringVar(&f.Endorsement, "endorsement-key", "", "TPM's endorsement key: base64 of its TPM2B_PUBLIC")
		flags.StringVar(&f.Storage, "storage-root-key", "", "TPM's storage root key, likewise; may be absent")
		c.MarkFlagsMutuallyExclusive("endorsement-key", "certificate", "primary-key")
	}
	flags.BoolVar(&f.Disabled, "disabled", false, "admit nobody yet")
	flags.BoolVar(&f.Edge, "edge", false, "devices are IoT Edge gateways")
	flags.StringVar(&f.Allocation, "allocation", "", `which of the hubs: "hashed" (the default), "geoLatency", "static"`)
	flags.StringVar(&f.Webhook, "webhook", "", "ask this address for the hub (allocation custom)")
	flags.StringArrayVar(&f.Hubs, "hub", nil, "a hub that devices may go to; may be given several times; all when absent")
	flags.StringVar(&f.Tags, "tags", "", "JSON object of tags that devices begin with")
	flags.StringVar(&f.Desired, "desired", "", "JSON object of desired properties that devices begin with")
	flags.StringVar(&f.Reprovision, "reprovision", "", `when a device comes again and its hub changes: "migrate" its twin (the default), "reset" it, or "never" change the hub`)
	flags.StringVar(&f.CredentialPolicy, "credential-policy", "", `sign certificates for devices that ask; the name is "default"`)
	flags.BoolVar(&replace, "replace", false, "replace it when it exists; keys and certificates that are not given stay")
	return dpsRun(c, func(c *cobra.Command, p *provisioning.Client, args []string, out output) error {
		for _, file := range []*string{&f.Certificate, &f.SecondaryCert} {
			if *file == "" {
				continue
			}
			text, err := readArgument(c, *file)
			if err != nil {
				return err
			}
			*file = string(text)
		}
		doc, err := f.document(k, args[0])
		if err != nil {
			return err
		}
		if replace {
			if _, err := p.Do(c.Context(), http.MethodPut, k.path(args[0]), "", doc); err != nil {
				return err
			}
		} else if err := bulkCreate(c, p, k, doc); err != nil {
			return err
		}
		return printEnrollment(c, p, k, args[0], out, true)
	})
}

// bulkCreate creates one and refuses one that exists, which a PUT would replace.
func bulkCreate(c *cobra.Command, p *provisioning.Client, k kind, doc map[string]any) error {
	answer, err := p.Do(c.Context(), http.MethodPost, "/"+k.list, "", map[string]any{"mode": "create", k.list: []any{doc}})
	if err != nil {
		return err
	}
	var result struct {
		Errors []struct {
			Code   int    `json:"errorCode"`
			Status string `json:"errorStatus"`
		} `json:"errors"`
	}
	if err := json.Unmarshal(answer, &result); err != nil {
		return err
	}
	if len(result.Errors) > 0 {
		e := result.Errors[0]
		if e.Code/1000 == http.StatusConflict {
			return fmt.Errorf("%s; give --replace to replace it", e.Status)
		}
		return &provisioning.Error{Status: e.Code / 1000, Code: e.Code, Message: e.Status}
	}
	return nil
}

// enrollment is what the table shows of one.
type enrollment struct {
	RegistrationID string `json:"registrationId"`
	GroupID        string `json:"enrollmentGroupId"`
	DeviceID       string `json:"deviceId"`
	Attestation    struct {
		Type string `json:"type"`
	} `json:"attestation"`
	Status     string   `json:"provisioningStatus"`
	Allocation string   `json:"allocationPolicy"`
	Hubs       []string `json:"iotHubs"`
	HubName    string   `json:"iotHubHostName"`
	Updated    string   `json:"lastUpdatedDateTimeUtc"`
	ETag       string   `json:"etag"`
	State      *struct {
		Status string `json:"status"`
		Hub    string `json:"assignedHub"`
	} `json:"registrationState"`
}

func (e enrollment) hubs() string {
	hubs := e.Hubs
	if e.HubName != "" {
		hubs = append([]string{e.HubName}, hubs...)
	}
	if len(hubs) == 0 {
		return "all"
	}
	return strings.Join(hubs, " ")
}

func (e enrollment) state() string {
	switch {
	case e.State == nil:
		return "-"
	case e.State.Hub != "":
		return e.State.Status + " to " + e.State.Hub
	}
	return e.State.Status
}

// printEnrollment shows one, with its keys when secrets is set.
func printEnrollment(c *cobra.Command, p *provisioning.Client, k kind, id string, out output, secrets bool) error {
	doc, err := p.Do(c.Context(), http.MethodGet, k.path(id), "", nil)
	if err != nil {
		return err
	}
	var e enrollment
	if err := json.Unmarshal(doc, &e); err != nil {
		return err
	}
	var mechanism struct {
		SymmetricKey *struct {
			Primary   string `json:"primaryKey"`
			Secondary string `json:"secondaryKey"`
		} `json:"symmetricKey"`
	}
	if secrets && e.Attestation.Type == "symmetricKey" {
		text, err := p.Do(c.Context(), http.MethodPost, k.path(id)+"/attestationmechanism", "", nil)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(text, &mechanism); err != nil {
			return err
		}
		if out == "json" {
			var all map[string]json.RawMessage
			if err := json.Unmarshal(doc, &all); err != nil {
				return err
			}
			all["attestation"] = text
			return printJSON(c.OutOrStdout(), all)
		}
	}
	if out == "json" {
		return printJSON(c.OutOrStdout(), json.RawMessage(doc))
	}
	w := table(c.OutOrStdout())
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, value)
		}
	}
	line(k.word, e.RegistrationID+e.GroupID)
	line("device", e.DeviceID)
	line("attestation", e.Attestation.Type)
	line("status", e.Status)
	line("allocation", e.Allocation)
	line("hubs", e.hubs())
	if !k.group {
		line("registration", e.state())
	}
	line("updated", when(e.Updated))
	if m := mechanism.SymmetricKey; m != nil {
		line("primary key", m.Primary)
		line("secondary key", m.Secondary)
	}
	return w.Flush()
}

func enrollmentShow(k kind) *cobra.Command {
	var secrets bool
	c := &cobra.Command{
		Use:   "show ID",
		Short: "Show one " + k.word,
		Long:  "Show one " + k.word + ". Its keys are printed only with --secrets.",
		Example: fmt.Sprintf(`  vauban dps %[1]s show lamp-1
  vauban dps %[1]s show lamp-1 --secrets --output json`, k.word),
		Args: cobra.ExactArgs(1),
	}
	c.Flags().BoolVar(&secrets, "secrets", false, "print keys, too")
	return dpsRun(c, func(c *cobra.Command, p *provisioning.Client, args []string, out output) error {
		return printEnrollment(c, p, k, args[0], out, secrets)
	})
}

func enrollmentList(k kind) *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List " + k.word + "s",
		Example: fmt.Sprintf(`  vauban dps %[1]s list
  vauban dps %[1]s list --output json | jq length`, k.word),
		Args: cobra.NoArgs,
	}
	return dpsRun(c, func(c *cobra.Command, p *provisioning.Client, _ []string, out output) error {
		if out == "json" {
			return printList(c, func(each func(json.RawMessage) error) error { return p.Query(c.Context(), "/"+k.list, each) })
		}
		w := table(c.OutOrStdout())
		head := strings.ToUpper(k.word) + "\tATTESTATION\tSTATUS\tALLOCATION\tHUBS"
		if !k.group {
			head += "\tDEVICE\tREGISTRATION"
		}
		fmt.Fprintln(w, head)
		err := p.Query(c.Context(), "/"+k.list, func(item json.RawMessage) error {
			var e enrollment
			if err := json.Unmarshal(item, &e); err != nil {
				return err
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s", e.RegistrationID+e.GroupID, e.Attestation.Type, e.Status, e.Allocation, e.hubs())
			if !k.group {
				device := e.DeviceID
				if device == "" {
					device = e.RegistrationID
				}
				fmt.Fprintf(w, "\t%s\t%s", device, e.state())
			}
			fmt.Fprintln(w)
			return nil
		})
		if err != nil {
			return err
		}
		return w.Flush()
	})
}

// printList prints a long JSON array as its parts come.
func printList(c *cobra.Command, read func(each func(json.RawMessage) error) error) error {
	w := c.OutOrStdout()
	sep := "[\n  "
	err := read(func(item json.RawMessage) error {
		_, err := fmt.Fprintf(w, "%s%s", sep, item)
		sep = ",\n  "
		return err
	})
	if err != nil {
		return err
	}
	if sep[0] == '[' {
		_, err = fmt.Fprintln(w, "[]")
	} else {
		_, err = fmt.Fprintln(w, "\n]")
	}
	return err
}

func enrollmentSwitch(k kind, on bool) *cobra.Command {
	verb, status, short, long := "disable", "disabled", "Admit nobody any more", `Keep devices from registering. Devices that have their place in a hub keep it; disable them
there with "vauban device".`
	if on {
		verb, status, short, long = "enable", "enabled", "Admit devices again", "Let devices register again."
	}
	c := &cobra.Command{
		Use: verb + " ID", Short: short, Long: long, Example: fmt.Sprintf("  vauban dps %s %s lamp-1", k.word, verb), Args: cobra.ExactArgs(1),
	}
	return dpsRun(c, func(c *cobra.Command, p *provisioning.Client, args []string, out output) error {
		text, err := p.Do(c.Context(), http.MethodGet, k.path(args[0]), "", nil)
		if err != nil {
			return err
		}
		var doc map[string]json.RawMessage
		if err := json.Unmarshal(text, &doc); err != nil {
			return err
		}
		var etag string
		if err := json.Unmarshal(doc["etag"], &etag); err != nil {
			return err
		}
		doc["provisioningStatus"] = json.RawMessage(`"` + status + `"`)
		if _, err := p.Do(c.Context(), http.MethodPut, k.path(args[0]), etag, doc); err != nil {
			return err
		}
		return done(c, out, args[0], status)
	})
}

// done says what became of something.
func done(c *cobra.Command, out output, id, what string) error {
	if out == "json" {
		return printJSON(c.OutOrStdout(), map[string]string{what: id})
	}
	_, err := fmt.Fprintf(c.OutOrStdout(), "%s is %s\n", id, what)
	return err
}

func enrollmentDelete(k kind) *cobra.Command {
	c := &cobra.Command{
		Use:   "delete ID...",
		Short: "Delete " + k.word + "s",
		Long: "Delete " + k.word + `s. Devices that have their place in a hub keep it, and so do the records
of their registrations.`,
		Example: fmt.Sprintf("  vauban dps %s delete lamp-1 lamp-2", k.word),
		Args:    cobra.MinimumNArgs(1),
	}
	return dpsRun(c, func(c *cobra.Command, p *provisioning.Client, args []string, out output) error {
		for _, id := range args {
			if _, err := p.Do(c.Context(), http.MethodDelete, k.path(id), "", nil); err != nil {
				return fmt.Errorf("%s: %w", id, err)
			}
			if err := done(c, out, id, "deleted"); err != nil {
				return err
			}
		}
		return nil
	})
}

func registrationCommand() *cobra.Command {
	show := &cobra.Command{
		Use: "show ID", Short: "Show what became of a device's registration (always JSON)", Example: `  vauban dps registration show lamp-1`, Args: cobra.ExactArgs(1),
	}
	list := &cobra.Command{
		Use: "list GROUP", Short: "List the devices that a group admitted",
		Example: `  vauban dps registration list line-1
  vauban dps registration list line-1 --output json`,
		Args: cobra.ExactArgs(1),
	}
	forget := &cobra.Command{
		Use: "delete ID", Short: "Forget a registration",
		Long:    "Forget that a device registered. Its next registration counts as its first; what it has\nin its hub stays.",
		Example: `  vauban dps registration delete lamp-1`, Args: cobra.ExactArgs(1),
	}
	return group("registration", "Look at what became of devices that registered",
		dpsRun(show, func(c *cobra.Command, p *provisioning.Client, args []string, _ output) error {
			doc, err := p.Do(c.Context(), http.MethodGet, provisioning.RegistrationPath(args[0]), "", nil)
			if err != nil {
				return err
			}
			return printJSON(c.OutOrStdout(), json.RawMessage(doc))
		}),
		dpsRun(list, func(c *cobra.Command, p *provisioning.Client, args []string, out output) error {
			path := provisioning.RegistrationPath(args[0])
			if out == "json" {
				return printList(c, func(each func(json.RawMessage) error) error { return p.Query(c.Context(), path, each) })
			}
			w := table(c.OutOrStdout())
			fmt.Fprintln(w, "REGISTRATION\tSTATUS\tDEVICE\tHUB\tUPDATED\tERROR")
			err := p.Query(c.Context(), path, func(item json.RawMessage) error {
				var r struct {
					ID      string `json:"registrationId"`
					Status  string `json:"status"`
					Device  string `json:"deviceId"`
					Hub     string `json:"assignedHub"`
					Updated string `json:"lastUpdatedDateTimeUtc"`
					Error   string `json:"errorMessage"`
				}
				if err := json.Unmarshal(item, &r); err != nil {
					return err
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.ID, r.Status, r.Device, r.Hub, when(r.Updated), r.Error)
				return nil
			})
			if err != nil {
				return err
			}
			return w.Flush()
		}),
		dpsRun(forget, func(c *cobra.Command, p *provisioning.Client, args []string, out output) error {
			if _, err := p.Do(c.Context(), http.MethodDelete, provisioning.RegistrationPath(args[0]), "", nil); err != nil {
				return err
			}
			return done(c, out, args[0], "forgotten")
		}),
	)
}

const dpsCertificates = "/api/provisioning/certificates/"

func dpsCertificateCommand() *cobra.Command {
	var verified bool
	add := &cobra.Command{
		Use:   "add NAME FILE",
		Short: "Upload a CA that groups may refer to",
		Long: `Upload a CA under a name that groups refer to. It proves no device before somebody has shown
that he holds its key: ask for a code, have the CA sign a certificate whose common
name is the code, and hand that in. With --verified you vouch for the CA yourself.
FILE is PEM or DER; - reads standard input.`,
		Example: `  vauban dps certificate add plant-2026 plant-ca.pem
  vauban dps certificate code plant-2026
  vauban dps certificate verify plant-2026 proof.pem
  vauban dps certificate add lab lab-ca.pem --verified`,
		Args: cobra.ExactArgs(2),
	}
	add.Flags().BoolVar(&verified, "verified", false, "vouch for it; no proof is asked for")
	code := &cobra.Command{
		Use: "code NAME", Short: "Make a verification code", Args: cobra.ExactArgs(1),
		Long: `Make a code that proves possession of a CA's key: a certificate signed with that key whose
common name is the code. It is good for a day; one that was made before is not any more.`,
		Example: `  vauban dps certificate code plant-2026
  code=$(vauban dps certificate code plant-2026)
  openssl req -new -newkey rsa:2048 -nodes -keyout proof.key -subj "/CN=$code" |
    openssl x509 -req -CA plant-ca.pem -CAkey plant-ca.key -days 1 -out proof.pem`,
	}
	verify := &cobra.Command{
		Use: "verify NAME FILE", Short: "Prove possession of a CA's key", Args: cobra.ExactArgs(2),
		Long:    "Hand in the certificate that the CA signed for its verification code. FILE is PEM or DER;\n- reads standard input.",
		Example: `  vauban dps certificate verify plant-2026 proof.pem`,
	}
	list := &cobra.Command{Use: "list", Short: "List uploaded CAs", Example: `  vauban dps certificate list`, Args: cobra.NoArgs}
	del := &cobra.Command{Use: "delete NAME", Short: "Delete a CA that no group refers to", Example: `  vauban dps certificate delete plant-2024`, Args: cobra.ExactArgs(1)}
	show := func(c *cobra.Command, out output, ca api.CAView, text string) error {
		if out == "json" {
			return printJSON(c.OutOrStdout(), ca)
		}
		_, err := fmt.Fprintln(c.OutOrStdout(), text)
		return err
	}
	send := func(c *cobra.Command, r *remote, method, path, file string, query url.Values) (ca api.CAView, err error) {
		body, err := readArgument(c, file)
		if err != nil {
			return ca, err
		}
		if cert, err := x509.ParseCertificate(body); err == nil { // .cer files are DER
			body = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
		}
		_, err = call(c, r, method, path, query, bytes.NewReader(body), &ca)
		return ca, err
	}
	return group("certificate", "Manage the CAs that enrollment groups refer to",
		apiCommand(add, func(c *cobra.Command, r *remote, args []string, out output) error {
			query := url.Values{}
			if verified {
				query.Set("verified", "true")
			}
			ca, err := send(c, r, http.MethodPut, dpsCertificates+url.PathEscape(args[0]), args[1], query)
			if err != nil {
				return err
			}
			if ca.Verified {
				return show(c, out, ca, args[0]+" is uploaded and verified")
			}
			return show(c, out, ca, args[0]+" is uploaded; prove possession of its key with: vauban dps certificate code "+args[0])
		}),
		apiCommand(code, func(c *cobra.Command, r *remote, args []string, out output) error {
			var ca api.CAView
			if _, err := call(c, r, http.MethodPost, dpsCertificates+url.PathEscape(args[0])+"/verification-code", nil, nil, &ca); err != nil {
				return err
			}
			return show(c, out, ca, ca.Code)
		}),
		apiCommand(verify, func(c *cobra.Command, r *remote, args []string, out output) error {
			ca, err := send(c, r, http.MethodPost, dpsCertificates+url.PathEscape(args[0])+"/verification", args[1], nil)
			if err != nil {
				return err
			}
			return show(c, out, ca, args[0]+" is verified")
		}),
		apiCommand(list, func(c *cobra.Command, r *remote, _ []string, out output) error {
			var all struct{ Certificates []api.CAView }
			if _, err := call(c, r, http.MethodGet, strings.TrimSuffix(dpsCertificates, "/"), nil, nil, &all); err != nil {
				return err
			}
			if out == "json" {
				return printJSON(c.OutOrStdout(), all.Certificates)
			}
			w := table(c.OutOrStdout())
			fmt.Fprintln(w, "NAME\tVERIFIED\tSUBJECT\tVALID UNTIL\tSHA-256")
			for _, ca := range all.Certificates {
				fmt.Fprintf(w, "%s\t%v\t%s\t%s\t%.16s…\n", ca.Name, ca.Verified, ca.Subject, ca.NotAfter.Local().Format("2006-01-02"), ca.Thumbprint)
			}
			return w.Flush()
		}),
		apiCommand(del, func(c *cobra.Command, r *remote, args []string, out output) error {
			if _, err := call(c, r, http.MethodDelete, dpsCertificates+url.PathEscape(args[0]), nil, nil, nil); err != nil {
				return err
			}
			return done(c, out, args[0], "deleted")
		}),
	)
}

const dpsHubs = "/api/provisioning/hubs/"

func hubLinkCommand() *cobra.Command {
	var body struct {
		ConnectionString string   `json:"connectionString,omitempty"`
		Address          string   `json:"address,omitempty"`
		Authority        string   `json:"authority,omitempty"`
		Weight           int      `json:"weight,omitempty"`
		Excluded         bool     `json:"excluded"`
		Networks         []string `json:"networks,omitempty"`
	}
	link := &cobra.Command{
		Use:   "link HOST-OR-CONNECTION-STRING",
		Short: "Assign devices to a hub, too",
		Long: `Link a hub: devices are assigned to it as the allocation of their enrollment says. The
connection string is that of a policy which may write identities and twins (RegistryWrite
and ServiceConnect), of a Vauban or of any hub that speaks the same REST API; - reads it
from standard input. A HOST that is linked already is changed, and keeps its connection
string; that of this installation needs none.`,
		Example: `  vauban dps hub link - --ca-file b-root.pem < connection-string.txt
  vauban dps hub link b.example --weight 3 --network 10.7.0.0/16
  vauban dps hub link localhost --excluded`,
		Args: cobra.ExactArgs(1),
	}
	flags := link.Flags()
	flags.StringVar(&body.Address, "address", "", "host:port of its HTTPS endpoint; port 443 of its host when absent")
	flags.StringVar(&body.Authority, "ca-file", "", "PEM file of the CA of its server certificate; the system's CAs when absent")
	flags.IntVar(&body.Weight, "weight", 1, "share of devices under hashed allocation, 1 to 1000")
	flags.BoolVar(&body.Excluded, "excluded", false, "it takes only devices whose enrollment names it")
	flags.StringArrayVar(&body.Networks, "network", nil, "devices there are near it, for geoLatency: 10.7.0.0/16; may be given several times")
	list := &cobra.Command{
		Use: "list", Short: "List the hubs that devices are assigned to",
		Example: `  vauban dps hub list
  vauban dps hub list --output json`,
		Args: cobra.NoArgs,
	}
	unlink := &cobra.Command{
		Use: "unlink HOST", Short: "Assign no more devices to a hub", Args: cobra.ExactArgs(1),
		Long:    "Forget a hub. Devices that have their place there keep it until they register again.",
		Example: `  vauban dps hub unlink b.example`,
	}
	return group("hub", "Link hubs that devices are assigned to",
		apiCommand(link, func(c *cobra.Command, r *remote, args []string, out output) error {
			host := args[0]
			if host == "-" {
				text, err := readArgument(c, "-")
				if err != nil {
					return err
				}
				host = strings.TrimSpace(string(text))
			}
			if strings.Contains(host, "=") {
				body.ConnectionString = host
				host = hostOf(host)
			}
			if body.Authority != "" {
				text, err := readArgument(c, body.Authority)
				if err != nil {
					return err
				}
				body.Authority = string(text)
			}
			data, err := json.Marshal(body)
			if err != nil {
				return err
			}
			var h api.HubView
			if _, err := call(c, r, http.MethodPut, dpsHubs+url.PathEscape(host), nil, strings.NewReader(string(data)), &h); err != nil {
				return err
			}
			if out == "json" {
				return printJSON(c.OutOrStdout(), h)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s is linked\n", h.Host)
			return err
		}),
		apiCommand(list, func(c *cobra.Command, r *remote, _ []string, out output) error {
			var all struct{ Hubs []api.HubView }
			if _, err := call(c, r, http.MethodGet, strings.TrimSuffix(dpsHubs, "/"), nil, nil, &all); err != nil {
				return err
			}
			if out == "json" {
				return printJSON(c.OutOrStdout(), all.Hubs)
			}
			w := table(c.OutOrStdout())
			fmt.Fprintln(w, "HUB\tREACHED BY\tWEIGHT\tTAKES\tNETWORKS")
			for _, h := range all.Hubs {
				by, takes := h.Policy, "all"
				if h.Own {
					by = "this installation"
				} else if h.Address != "" {
					by += " at " + h.Address
				}
				if h.Excluded {
					takes = "when named"
				}
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", h.Host, by, h.Weight, takes, strings.Join(h.Networks, " "))
			}
			return w.Flush()
		}),
		apiCommand(unlink, func(c *cobra.Command, r *remote, args []string, out output) error {
			if _, err := call(c, r, http.MethodDelete, dpsHubs+url.PathEscape(args[0]), nil, nil, nil); err != nil {
				return err
			}
			return done(c, out, args[0], "unlinked")
		}),
	)
}

// hostOf is the host that a connection string names; the service refuses one that names none.
func hostOf(text string) string {
	for part := range strings.SplitSeq(text, ";") {
		if name, value, ok := strings.Cut(part, "="); ok && strings.EqualFold(strings.TrimSpace(name), "HostName") {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

package azsphere

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/sdk/sphere"
)

func (t *tool) caCommand() *cobra.Command {
	return group("ca-certificate", "Manage the certificate authorities that device certificates are below",
		t.caList(), t.caDownload(), t.caChain(), t.caProof(), t.caRotate(), t.caActivate(), t.caRevoke())
}

// caFlags name a CA.
type caFlags struct {
	index                    int
	thumbprint, serialNumber string
}

func (f *caFlags) flags(c *cobra.Command, otherwise string) {
	c.Flags().IntVar(&f.index, "index", 0, "CA, by its index in the list"+otherwise)
	c.Flags().StringVar(&f.thumbprint, "thumbprint", "", "CA, by its SHA-1 thumbprint")
	c.Flags().StringVar(&f.serialNumber, "name", "", "CA, by its serial number, in the integrated spelling")
	c.MarkFlagsMutuallyExclusive("index", "thumbprint", "name")
}

// name is what the API calls the CA that the flags name; ".default" is the one that issues.
func (f caFlags) name(ctx context.Context, client *sphere.Client, tenant string) (string, error) {
	switch {
	case f.thumbprint != "":
		return strings.ToUpper(strings.ReplaceAll(f.thumbprint, ":", "")), nil
	case f.serialNumber != "":
		return f.serialNumber, nil
	case f.index == 0:
		return ".default", nil
	}
	all, err := client.Certificates(ctx, tenant)
	if err != nil {
		return "", err
	}
	if f.index < 1 || f.index > len(all) {
		return "", fmt.Errorf("there is no CA with index %d; the tenant has %d", f.index, len(all))
	}
	return all[f.index-1].Thumbprint, nil
}

// caView is a CA for programs.
type caView struct {
	Index        int        `json:"index,omitempty"`
	Thumbprint   string     `json:"thumbprint"`
	SerialNumber string     `json:"serialNumber"`
	Subject      string     `json:"subject"`
	Status       string     `json:"status"`
	NotBefore    time.Time  `json:"notBeforeUtc"`
	Expiry       time.Time  `json:"expiryUtc"`
	ActiveFrom   time.Time  `json:"activeFromUtc"`
	Revoked      *time.Time `json:"revokedUtc,omitempty"`
}

func viewCA(index int, c sphere.Certificate) caView {
	return caView{index, c.Thumbprint, c.SerialNumber, c.Subject, c.Status.String(), c.NotBeforeUTC, c.NotAfterUTC, c.ActiveFrom, c.RevokedUTC}
}

func (r *run) printCA(c sphere.Certificate) error {
	v := viewCA(0, c)
	return r.out(v, func(w io.Writer) error {
		lines(w, "ca", v.Subject, "thumbprint", v.Thumbprint, "serial number", v.SerialNumber, "status", v.Status, "issues from", when(v.ActiveFrom),
			"good from", when(v.NotBefore), "good until", when(v.Expiry), "revoked", at(v.Revoked))
		return nil
	})
}

func (t *tool) caList() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the tenant's certificate authorities",
		Long: `List the tenant's certificate authorities, the oldest first. Active is the one that issues
device certificates now. Inactive is a successor that waits, or a predecessor whose
certificates are still good: relying parties trust both.`,
		Example: `  azsphere ca-certificate list
  azsphere ca-certificate list --output json | jq -r '.[].thumbprint'`,
	}
	return t.make(command{Command: c, tenant: true, do: func(r *run) error {
		client, tenant, err := r.inTenant()
		if err != nil {
			return err
		}
		all, err := client.Certificates(r.Context(), tenant.ID)
		if err != nil {
			return err
		}
		views := []caView{}
		for i, c := range all {
			views = append(views, viewCA(i+1, c))
		}
		return r.out(views, func(w io.Writer) error {
			fmt.Fprintln(w, "INDEX\tTHUMBPRINT\tSTATUS\tISSUES FROM\tGOOD UNTIL\tSERIAL NUMBER")
			for _, v := range views {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", strconv.Itoa(v.Index), v.Thumbprint, v.Status, when(v.ActiveFrom), when(v.Expiry), v.SerialNumber)
			}
			return nil
		})
	}})
}

// caFile is a command that downloads something of a CA.
func (t *tool) caFile(c *cobra.Command, required []string, get func(ctx context.Context, client *sphere.Client, tenant, name string) ([]byte, error)) *cobra.Command {
	var f caFlags
	var to string
	f.flags(c, "; the one that issues when absent")
	destination(c, &to)
	return t.make(command{Command: c, tenant: true, required: append([]string{"destination"}, required...), do: func(r *run) error {
		client, tenant, err := r.inTenant()
		if err != nil {
			return err
		}
		name, err := f.name(r.Context(), client, tenant.ID)
		if err != nil {
			return err
		}
		file, err := get(r.Context(), client, tenant.ID, name)
		if err != nil {
			return err
		}
		return r.save(to, file, 0o644)
	}})
}

func (t *tool) caDownload() *cobra.Command {
	return t.caFile(&cobra.Command{
		Use:   "download",
		Short: "Download a certificate authority's certificate",
		Long: `Download a certificate authority's certificate as a .cer file (X.509, DER). Hubs, provisioning
services and gateways that trust it know the tenant's devices.`,
		Example: `  azsphere ca-certificate download --destination ca.cer
  azsphere ca-certificate download --index 2 --destination next.cer
  azsphere ca-certificate download --catalog Contoso --output-file ca.cer`,
	}, nil, func(ctx context.Context, client *sphere.Client, tenant, name string) ([]byte, error) {
		return client.CertificateContent(ctx, tenant, name)
	})
}

func (t *tool) caChain() *cobra.Command {
	return t.caFile(&cobra.Command{
		Use:   "download-chain",
		Short: "Download a certificate authority's chain",
		Long:  "Download a certificate authority's chain up to its root, as a .p7b file (PKCS #7).",
		Example: `  azsphere ca-certificate download-chain --destination chain.p7b
  openssl pkcs7 -inform DER -print_certs -in chain.p7b`,
	}, nil, func(ctx context.Context, client *sphere.Client, tenant, name string) ([]byte, error) {
		return client.CertificateChain(ctx, tenant, name)
	})
}

func (t *tool) caProof() *cobra.Command {
	var code string
	c := &cobra.Command{
		Use:   "download-proof",
		Short: "Download a proof that the tenant holds a certificate authority's key",
		Long: `Download a proof that the tenant holds a certificate authority's key: a certificate for the
verification code that a hub, a provisioning service or a gateway made up, as a .cer file.`,
		Example: `  azsphere ca-certificate download-proof --verification-code 1A2B3C... --destination proof.cer
  azsphere ca-certificate download-proof --index 2 --destination next.cer \
    --verification-code 1A2B3C...`,
	}
	c.Flags().StringVar(&code, "verification-code", "", "code to prove it for")
	return t.caFile(c, []string{"verification-code"}, func(ctx context.Context, client *sphere.Client, tenant, name string) ([]byte, error) {
		return client.CertificateProof(ctx, tenant, name, code)
	})
}

func (t *tool) caRotate() *cobra.Command {
	c := &cobra.Command{
		Use:   "begin-rotation",
		Short: "Make the successor of the certificate authority that issues",
		Long: `Make the successor of the certificate authority that issues. The service does it by itself 90
days before the end; this does it now. The successor waits for 45 days, or until "activate",
so that relying parties come to trust it first:

  1. begin-rotation, 2. download it and have hubs and provisioning trust it, 3. activate.

The predecessor's device certificates stay good until they end.`,
		Example: `  azsphere ca-certificate begin-rotation
  azsphere ca-certificate begin-rotation --output json | jq -r .thumbprint`,
	}
	return t.make(command{Command: c, tenant: true, do: func(r *run) error {
		client, tenant, err := r.inTenant()
		if err != nil {
			return err
		}
		made, err := client.RotateCertificate(r.Context(), tenant.ID)
		if err != nil {
			return err
		}
		r.note("have relying parties trust it before it issues; download it with: %s", r.hint("ca-certificate download --thumbprint "+made.Thumbprint+" --destination FILE"))
		return r.printCA(made)
	}})
}

func (t *tool) caActivate() *cobra.Command {
	var f caFlags
	c := &cobra.Command{
		Use:   "activate",
		Short: "Have a successor issue device certificates from now on",
		Long: `Have a successor issue device certificates from now on. Devices whose certificates come from
it are refused by whoever does not trust it yet.`,
		Example: `  azsphere ca-certificate activate
  azsphere ca-certificate activate --index 2`,
	}
	f.flags(c, "; the successor that waits when absent")
	return t.make(command{Command: c, tenant: true, do: func(r *run) error {
		client, tenant, err := r.inTenant()
		if err != nil {
			return err
		}
		name, err := f.name(r.Context(), client, tenant.ID)
		if err != nil {
			return err
		}
		if name == ".default" {
			if name, err = r.successor(client, tenant.ID); err != nil {
				return err
			}
		}
		got, err := client.ActivateCertificate(r.Context(), tenant.ID, name)
		if err != nil {
			return err
		}
		return r.printCA(got)
	}})
}

// successor is the CA that waits to issue.
func (r *run) successor(client *sphere.Client, tenant string) (string, error) {
	all, err := client.Certificates(r.Context(), tenant)
	if err != nil {
		return "", err
	}
	for _, c := range all {
		if c.Status == sphere.CertificateInactive && c.ActiveFrom.After(r.t.now()) {
			return c.Thumbprint, nil
		}
	}
	return "", fmt.Errorf("no successor waits; make one with: %s", r.hint("ca-certificate begin-rotation"))
}

func (t *tool) caRevoke() *cobra.Command {
	var f caFlags
	var yes bool
	c := &cobra.Command{
		Use:   "revoke",
		Short: "End a certificate authority for good",
		Long: `End a certificate authority for good, because its key may be known. Its device certificates
count no more here; hubs and gateways elsewhere have to be told to forget it. When it is
the one that issues, the service makes another at once.`,
		Example: `  azsphere ca-certificate revoke --index 1
  azsphere ca-certificate revoke --thumbprint 5A1F... --yes`,
	}
	f.flags(c, "")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return t.make(command{Command: c, tenant: true, oneOf: []string{"index", "thumbprint", "name"}, do: func(r *run) error {
		client, tenant, err := r.inTenant()
		if err != nil {
			return err
		}
		name, err := f.name(r.Context(), client, tenant.ID)
		if err != nil {
			return err
		}
		cert, err := client.Certificate(r.Context(), tenant.ID, name)
		if err != nil {
			return err
		}
		r.note("Revoking is permanent. CA\n  %s (%s)\nwill be trusted no more.", cert.Thumbprint, cert.Status)
		if err := r.confirm(yes, "Revoke it?"); err != nil {
			return err
		}
		if cert, err = client.RevokeCertificate(r.Context(), tenant.ID, cert.Thumbprint); err != nil {
			return err
		}
		return r.printCA(cert)
	}})
}

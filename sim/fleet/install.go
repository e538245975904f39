package fleet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/sdk/provisioning"
)

// Installation is a Vauban as a fleet reaches it.
type Installation struct {
	Hostname string // by which devices and programs call it
	MQTT     string // host:port
	HTTPS    string // host:port
	IDScope  string
	DPS      string // connection string of the provisioning service's policy
	API      string // URL of the operator's API; empty: alerts are not read
	Token    string // of the operator
	Roots    *x509.CertPool
}

func (i *Installation) tls() *tls.Config {
	return &tls.Config{RootCAs: i.Roots, MinVersion: tls.VersionTLS12}
}

// groupID is the enrollment group of an entry.
func (f *File) groupID(b *Boards) string { return "sim-" + f.Name + "-" + b.Name }

// enroll makes an enrollment group for each entry, or gives an existing one another key, and returns the keys.
func (i *Installation) enroll(ctx context.Context, f *File) (map[*Boards]secret.Secret, error) {
	c, err := provisioning.New(provisioning.Config{ConnectionString: i.DPS, TLS: i.tls(), Address: i.HTTPS})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	keys := map[*Boards]secret.Secret{}
	for n := range f.Boards {
		b := &f.Boards[n]
		key := secret.Random(64)
		tags := map[string]any{"fleet": f.Name, "firmware": b.Firmware}
		for name, v := range map[string]string{"SecurityGroup": b.Group, "site": b.Site} {
			if v != "" {
				tags[name] = v
			}
		}
		id := f.groupID(b)
		body := map[string]any{
			"enrollmentGroupId": id,
			"attestation":       map[string]any{"type": "symmetricKey", "symmetricKey": map[string]string{"primaryKey": key.Base64(), "secondaryKey": key.Base64()}},
			"initialTwin":       map[string]any{"tags": tags},
		}
		_, err := c.Do(ctx, http.MethodPut, provisioning.GroupPath(id), "", body)
		if e, ok := errors.AsType[*provisioning.Error](err); ok && (e.Status == http.StatusConflict || e.Status == http.StatusPreconditionFailed) {
			_, err = c.Do(ctx, http.MethodPut, provisioning.GroupPath(id), "*", body) // of an earlier run
		}
		if err != nil {
			return nil, fmt.Errorf("the enrollment group %s: %w", id, err)
		}
		keys[b] = key
	}
	return keys, nil
}

// raised is an alert as the operator's API tells of it.
type raised struct {
	Sequence uint64    `json:"sequence"`
	Type     string    `json:"alertType"`
	Severity string    `json:"severity"`
	Title    string    `json:"title"`
	Device   string    `json:"deviceId"`
	LastSeen time.Time `json:"lastSeen"`
}

// alertPage is how many alerts are asked for at a time.
const alertPage = 1000

// alerts are those raised after one, the oldest first; at most so many.
func (i *Installation) alerts(ctx context.Context, client *http.Client, after uint64, most int) ([]raised, error) {
	var all []raised
	for before := uint64(0); ; {
		query := url.Values{"limit": {strconv.Itoa(alertPage)}}
		if before > 0 {
			query.Set("before", strconv.FormatUint(before, 10))
		}
		page, err := i.alertPage(ctx, client, query)
		if err != nil {
			return nil, err
		}
		for _, a := range page {
			if a.Sequence <= after || len(all) == most {
				slices.Reverse(all)
				return all, nil
			}
			all = append(all, a)
			before = a.Sequence
		}
		if len(page) < alertPage {
			slices.Reverse(all)
			return all, nil
		}
	}
}

func (i *Installation) alertPage(ctx context.Context, client *http.Client, query url.Values) ([]raised, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(i.API, "/")+"/api/alerts?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+i.Token)
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("alerts cannot be read: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("alerts cannot be read: the installation answered %s", res.Status)
	}
	var doc struct {
		Alerts []raised `json:"alerts"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, 64<<20)).Decode(&doc); err != nil {
		return nil, fmt.Errorf("alerts cannot be read: %w", err)
	}
	return doc.Alerts, nil
}

package hub

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/fleet/configuration"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/transfer"
	"github.com/vauban-iot/vauban/iot"
)

// CreateTransfer adds an import or export of identities. Failures are fault.Invalid and [transfer.ErrBusy].
func (h *Hub) CreateTransfer(ctx context.Context, r transfer.Request) (transfer.Job, error) {
	return h.transfers.Create(ctx, r)
}

// Transfer returns an import or export; fault.NotFound.
func (h *Hub) Transfer(ctx context.Context, id string) (transfer.Job, error) {
	return h.transfers.Job(ctx, id)
}

// Transfers lists imports and exports, the newest first.
func (h *Hub) Transfers(ctx context.Context) ([]transfer.Job, error) { return h.transfers.Jobs(ctx) }

// CancelTransfer ends an import or export; fault.NotFound, and PreconditionFailed when it is over.
func (h *Hub) CancelTransfer(ctx context.Context, id string) (transfer.Job, error) {
	return h.transfers.Cancel(ctx, id)
}

// RunTransfers carries out imports and exports until ctx ends. It must run on one server at a time.
func (h *Hub) RunTransfers(ctx context.Context) error { return h.transfers.Run(ctx) }

// Records reads identities with their twins, keys included; see [registry.BatchStore].
func (h *Hub) Records(ctx context.Context, after iot.ID, limit int) ([]registry.Record, error) {
	return h.cfg.Registry.Records(ctx, after, limit)
}

// carrier carries automatic configurations for package transfer.
type carrier struct{ h *Hub }

var _ transfer.Configurations = carrier{}

// Export implements transfer.Configurations.
func (c carrier) Export(ctx context.Context) ([][]byte, error) {
	all, err := c.h.configurations.Configurations(ctx, 0)
	docs := make([][]byte, len(all))
	for i, conf := range all {
		docs[i] = conf.Document()
	}
	return docs, err
}

// Import implements transfer.Configurations: a line is a document with an importMode, which is createOrUpdate when it is absent.
func (c carrier) Import(ctx context.Context, line []byte) error {
	var doc struct {
		ID   string  `json:"id"`
		Mode string  `json:"importMode"`
		ETag *string `json:"eTag"`
	}
	if err := json.Unmarshal(line, &doc); err != nil {
		return fault.Wrap(fault.Malformed, err, "it is no configuration")
	}
	var match *iot.Match
	mode, conditional := strings.CutSuffix(strings.ToLower(doc.Mode), "ifmatchetag")
	if conditional {
		if doc.ETag == nil {
			return fault.New(fault.Invalid, "importMode %s needs etag", doc.Mode)
		}
		match = iot.ParseMatch(*doc.ETag)
	}
	if mode == "delete" {
		return c.h.configurations.Delete(ctx, doc.ID, match)
	}
	ch, err := configuration.Parse(doc.ID, line)
	if err != nil {
		return err
	}
	switch mode {
	case "create":
		_, err = c.h.configurations.Create(ctx, ch)
	case "update":
		_, err = c.h.configurations.Update(ctx, match, ch)
	case "", "createorupdate":
		if _, err = c.h.configurations.Create(ctx, ch); fault.Is(err, fault.AlreadyExists) {
			_, err = c.h.configurations.Update(ctx, match, ch)
		}
	default:
		err = fault.New(fault.Invalid, "importMode %q is unknown", doc.Mode)
	}
	return err
}

package service

import (
	"bytes"
	"context"
	"net/http"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/hub/transfer"
)

// transfers is what the routes of import and export jobs need of the hub.
type transfers interface {
	CreateTransfer(ctx context.Context, r transfer.Request) (transfer.Job, error)
	Transfer(ctx context.Context, id string) (transfer.Job, error)
	Transfers(ctx context.Context) ([]transfer.Job, error)
	CancelTransfer(ctx context.Context, id string) (transfer.Job, error)
}

var transferRoutes = []route{
	{method: "POST", path: []string{"jobs", "create"}, rights: access.RegistryWrite, limit: maxIdentity, serve: (*Head).createTransfer},
	{method: "GET", path: []string{"jobs"}, rights: access.RegistryRead, serve: (*Head).listTransfers},
	{method: "GET", path: []string{"jobs", "*"}, rights: access.RegistryRead, serve: (*Head).getTransfer},
	{method: "DELETE", path: []string{"jobs", "*"}, rights: access.RegistryWrite, serve: (*Head).cancelTransfer},
}

func (h *Head) createTransfer(q *request) error {
	r, err := transfer.Parse(q.body)
	if err != nil {
		return err
	}
	j, err := h.core.CreateTransfer(q.Context(), r)
	return writeTransfer(q, j, err)
}

func (h *Head) getTransfer(q *request) error {
	j, err := h.core.Transfer(q.Context(), q.segments[1])
	return writeTransfer(q, j, err)
}

func writeTransfer(q *request, j transfer.Job, err error) error {
	if err != nil {
		return in(jobCodes, err)
	}
	rest.JSON(q.w, http.StatusOK, "", j.Document())
	return nil
}

func (h *Head) listTransfers(q *request) error {
	jobs, err := h.core.Transfers(q.Context())
	if err != nil {
		return err
	}
	docs := make([][]byte, len(jobs))
	for i, j := range jobs {
		docs[i] = j.Document()
	}
	rest.JSON(q.w, http.StatusOK, "", append(append([]byte("["), bytes.Join(docs, []byte(","))...), ']'))
	return nil
}

func (h *Head) cancelTransfer(q *request) error {
	if _, err := h.core.CancelTransfer(q.Context(), q.segments[1]); err != nil {
		return in(jobCodes, err)
	}
	q.w.WriteHeader(http.StatusNoContent)
	return nil
}

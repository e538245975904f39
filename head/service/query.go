package service

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
)

// maxQuery bounds the body of a query; its text is bounded by query.MaxText.
const maxQuery = 64 << 10

// query answers a page of a query (hub-service §4.1).
func (h *Head) query(q *request) error {
	var body struct {
		Query *string `json:"query"`
	}
	if err := json.Unmarshal(q.body, &body); err != nil {
		return fault.Wrap(fault.Malformed, err, "the body is not a query")
	}
	if body.Query == nil {
		return fault.New(fault.Invalid, "the body has no query")
	}
	size := 0
	if s := q.Header.Get("x-ms-max-item-count"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return fault.New(fault.Invalid, "x-ms-max-item-count must be a number from 1")
		}
		size = n
	}
	page, err := h.core.Query(q.Context(), *body.Query, size, q.Header.Get("x-ms-continuation"))
	if err != nil {
		return err
	}
	writePage(q, page.Items, page.ItemType, page.Next)
	return nil
}

// writePage answers with a page of documents. Its headers are spelled as clients compare them.
func writePage(q *request, items [][]byte, itemType, next string) {
	header := q.w.Header()
	header["x-ms-item-type"] = []string{itemType}
	if next != "" { // never empty: clients ask again while it is there
		header["x-ms-continuation"] = []string{next}
	}
	out := []byte{'['}
	for i, item := range items {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, item...)
	}
	rest.JSON(q.w, http.StatusOK, "", append(out, ']'))
}

package service

import (
	"bytes"
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/hub/notice"
	"github.com/vauban-iot/vauban/iot"
)

// notices is the part of Core behind feedback, notices of files and purges (hub-service §6.6).
type notices interface {
	ReadNotices(ctx context.Context, q notice.Queue) (notice.Batch, error)
	SettleNotices(ctx context.Context, q notice.Queue, lockToken string, how iot.Settlement) error
	Purge(ctx context.Context, id iot.ID) (int, error)
}

// noticeRoutes: what is settled was read, and nobody's device or document changes.
var noticeRoutes = []route{
	{method: "GET", path: []string{"messages", "serviceBound", "feedback"}, rights: access.ServiceConnect, serve: (*Head).readNotices},
	{method: "DELETE", path: []string{"messages", "serviceBound", "feedback", "*"}, rights: access.ServiceConnect, serve: (*Head).settleNotices, reads: true},
	{method: "POST", path: []string{"messages", "serviceBound", "feedback", "*", "abandon"}, rights: access.ServiceConnect, serve: (*Head).abandonNotices, reads: true},
	{method: "GET", path: []string{"messages", "serviceBound", "filenotifications"}, rights: access.ServiceConnect, serve: (*Head).readNotices},
	{method: "DELETE", path: []string{"messages", "serviceBound", "filenotifications", "*"}, rights: access.ServiceConnect, serve: (*Head).settleNotices, reads: true},
	{method: "POST", path: []string{"messages", "serviceBound", "filenotifications", "*", "abandon"}, rights: access.ServiceConnect, serve: (*Head).abandonNotices, reads: true},
	{method: "DELETE", path: []string{"devices", "*", "commands"}, rights: access.ServiceConnect, serve: (*Head).purge},
}

// queueOf is the queue a path is about: messages/serviceBound/{queue}.
func queueOf(q *request) notice.Queue {
	if strings.EqualFold(q.segments[2], "filenotifications") {
		return notice.Files
	}
	return notice.Feedback
}

// readNotices answers with what waits: a batch of feedback records as an array, or one notice of a
// file as an object; 204 when nothing does.
func (h *Head) readNotices(q *request) error {
	queue := queueOf(q)
	b, err := h.core.ReadNotices(q.Context(), queue)
	if err != nil {
		return err
	}
	if len(b.Notices) == 0 {
		q.w.WriteHeader(http.StatusNoContent)
		return nil
	}
	contentType := "application/vnd.microsoft.iothub.feedback.json"
	var body []byte
	if queue == notice.Files {
		contentType = "application/vnd.microsoft.iothub.filenotification.json"
		body = b.Notices[0].Document
	} else {
		docs := make([][]byte, len(b.Notices))
		for i, n := range b.Notices {
			docs[i] = n.Document
		}
		body = append(append([]byte{'['}, bytes.Join(docs, []byte{','})...), ']')
	}
	enqueued := iot.FormatTime(b.Notices[0].Enqueued)
	header := q.w.Header()
	header["iothub-enqueuedtime"] = []string{enqueued}
	header["iothub-deliverycount"] = []string{strconv.Itoa(min(b.DeliveryCount, 255))}
	header["ContentType"] = []string{contentType}
	header["ContentEncoding"] = []string{"utf-8"}
	rest.JSON(q.w, http.StatusOK, b.LockToken, body)
	return nil
}

// settleNotices completes or, with ?reject, rejects; neither comes back.
func (h *Head) settleNotices(q *request) error {
	how := iot.Completed
	if q.URL.Query().Has("reject") {
		how = iot.Rejected
	}
	return h.endNotices(q, how)
}

func (h *Head) abandonNotices(q *request) error { return h.endNotices(q, iot.Abandoned) }

func (h *Head) endNotices(q *request, how iot.Settlement) error {
	if err := h.core.SettleNotices(q.Context(), queueOf(q), strings.Trim(q.segments[3], `"`), how); err != nil {
		return err
	}
	q.w.WriteHeader(http.StatusNoContent)
	return nil
}

// purge empties the queue of a device (hub-service §2.1).
func (h *Head) purge(q *request) error {
	id := iot.ID{Device: q.segments[1]}
	n, err := h.core.Purge(q.Context(), id)
	if err != nil {
		return err
	}
	return writeJSON(q.w, http.StatusOK, struct {
		Device string  `json:"deviceId"`
		Module *string `json:"moduleId"`
		Purged int     `json:"totalMessagesPurged"`
	}{id.Device, nil, n})
}

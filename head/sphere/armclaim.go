package sphere

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/arm"
)

// operation is the end of one. Claims are done when their 202 is answered, so an operation's name holds how it ended, sealed, and any server answers for it
// after any crash.
type operation struct {
	Began   time.Time `json:"b"`
	Ended   time.Time `json:"e"`
	Code    string    `json:"c,omitempty"` // empty: it succeeded
	Message string    `json:"m,omitempty"`
}

const operationToken = "operation"

// maxNamed is how many refused devices an operation names.
const maxNamed = 5

func (h *Head) armClaim(q *request) error {
	b, err := decode[struct {
		DeviceIdentifiers []string `json:"deviceIdentifiers"`
	}](q)
	if err != nil {
		return err
	}
	began := h.now()
	t, err := h.target(q, q.args["product"], q.args["deviceGroup"])
	if err != nil {
		return err
	}
	os, err := h.claimByIDs(q, q.tenant.ID, b.DeviceIdentifiers, t.group.ID)
	if err != nil {
		return err
	}
	op := operation{Began: began.UTC(), Ended: h.now().UTC()}
	failed := 0
	var whys []string
	for _, o := range os {
		if o.Err == nil {
			continue
		}
		if failed++; failed <= maxNamed {
			whys = append(whys, arm.Public(o.Err))
		}
		op.Code = arm.AnswerOf(o.Err).Code
	}
	if failed > 0 {
		op.Message = fmt.Sprintf("%d of %d devices were not claimed: %s", failed, len(os), strings.Join(whys, "; "))
	}
	payload, err := json.Marshal(op)
	if err != nil {
		return err
	}
	name := h.seal(operationToken, q.tenant.ID, payload)
	header := q.w.Header()
	header.Set("Azure-AsyncOperation", q.operationAddress("operationStatuses", name))
	header.Set("Location", q.operationAddress("operationResults", name))
	header.Set("Retry-After", "1")
	q.w.WriteHeader(http.StatusAccepted)
	return nil
}

func (q *request) operationAddress(kind, name string) string {
	u := url.URL{Path: q.id(q.tenant, kind, name)}
	return q.address(u.EscapedPath()) + "?api-version=" + armVersion
}

// finished opens an operation of the tenant, for whoever reads the tenant.
func (h *Head) finished(q *request) (op operation, err error) {
	if err := h.readable(q); err != nil {
		return op, err
	}
	b, err := h.open(operationToken, q.tenant.ID, q.args["operation"])
	if err == nil {
		err = json.Unmarshal(b, &op)
	}
	if err != nil {
		return op, fault.Wrap(fault.NotFound, err, "there is no such operation")
	}
	return op, nil
}

// operationView is what Azure-AsyncOperation leads to.
type operationView struct {
	ID     string     `json:"id"`
	Name   string     `json:"name"`
	Status string     `json:"status"`
	Start  time.Time  `json:"startTime"`
	End    time.Time  `json:"endTime"`
	Error  *arm.Error `json:"error,omitempty"`
}

func (h *Head) armOperation(q *request) error {
	op, err := h.finished(q)
	if err != nil {
		return err
	}
	name := q.args["operation"]
	v := operationView{q.id(q.tenant, "operationStatuses", name), name, "Succeeded", op.Began, op.Ended, nil}
	if op.Code != "" {
		v.Status, v.Error = "Failed", &arm.Error{Code: op.Code, Message: op.Message}
	}
	return q.reply(http.StatusOK, "", v)
}

// armResult is where Location leads: to no content, or to the error.
func (h *Head) armResult(q *request) error {
	op, err := h.finished(q)
	if err != nil {
		return err
	}
	if op.Code == "" {
		return q.done()
	}
	for _, kind := range fault.Kinds() {
		if arm.Of(kind).Code == op.Code && kind != fault.Unauthorized {
			return fault.New(kind, "%s", op.Message)
		}
	}
	return errors.New(op.Message)
}

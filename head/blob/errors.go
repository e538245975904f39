package blob

import (
	"encoding/xml"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/storage/blob"
)

// code is an HTTP status with Azure storage's word for it.
type code struct {
	status int
	name   string
}

// codeOf is this head's table from kinds to the error codes of Azure storage.
func codeOf(k fault.Kind) code {
	switch k {
	case fault.Invalid, fault.Malformed, fault.InvalidScope:
		return code{400, "InvalidInput"}
	case fault.Unauthorized:
		return code{403, "AuthenticationFailed"}
	case fault.Forbidden:
		return code{403, "AuthorizationPermissionMismatch"}
	case fault.Disabled:
		return code{403, "AccountIsDisabled"}
	case fault.NotFound:
		return code{404, "BlobNotFound"}
	case fault.AlreadyExists:
		return code{409, "BlobAlreadyExists"}
	case fault.PreconditionFailed, fault.LockLost:
		return code{412, "ConditionNotMet"}
	case fault.TooLarge:
		return code{413, "RequestBodyTooLarge"}
	case fault.Throttled, fault.QueueFull, fault.QuotaExceeded, fault.Unavailable:
		return code{503, "ServerBusy"} // storage clients try these again
	case fault.Timeout:
		return code{500, "OperationTimedOut"}
	default: // kinds that no store of blobs returns are defects
		return code{500, "InternalError"}
	}
}

// special are the failures that have a code apart from their kind's.
var special = []struct {
	err error
	code
}{
	{errNoAuth, code{401, "NoAuthenticationInformation"}},
	{errVerb, code{405, "UnsupportedHttpVerb"}},
	{errLength, code{411, "MissingContentLengthHeader"}},
	{errQuery, code{400, "InvalidQueryParameterValue"}},
	{errBlockID, code{400, "InvalidQueryParameterValue"}},
	{errHeader, code{400, "InvalidHeaderValue"}},
	{errXML, code{400, "InvalidXmlDocument"}},
	{errRange, code{416, "InvalidRange"}},
	{errStands, code{409, "ContainerAlreadyExists"}},
	{blob.ErrChecksum, code{400, "Md5Mismatch"}},
	{blob.ErrBlockList, code{400, "InvalidBlockList"}},
}

// maxDrain bounds what is read of a body only to be thrown away: a client that still sends sees the
// refusal only if what it sends is taken.
const maxDrain = 1 << 20

func (h *Head) refuse(q *request, err error) {
	c, text := codeOf(fault.KindOf(err)), fault.Public(err)
	for _, s := range special {
		if errors.Is(err, s.err) {
			c = s.code
		}
	}
	level := slog.LevelInfo
	if c.status >= 500 {
		level = slog.LevelError
	}
	header := q.w.Header()
	tracking := header["x-ms-request-id"][0]
	// Not the query: it holds the token.
	h.cfg.Logger.Log(q.Context(), level, "blob request refused", "head", "blob", "method", q.Method, "blob", q.name, "comp", short(q.query.Get("comp")),
		"status", c.status, "code", c.name, "tracking", tracking, "remote", q.RemoteAddr, "err", err)
	if q.Header.Get("Expect") == "" { // a client that asked first does not send
		u := upstream{q.Body, http.NewResponseController(q.w)}
		_, _ = io.CopyN(io.Discard, u, maxDrain)
		u.done()
	}
	body, _ := xml.Marshal(struct { // two strings: cannot fail
		XMLName xml.Name `xml:"Error"`
		Code    string
		Message string
	}{Code: c.name, Message: text + "\nRequestId:" + tracking + "\nTime:" + time.Now().UTC().Format("2006-01-02T15:04:05.0000000Z")})
	for name := range header { // of an answer that was begun
		if name == "ETag" || name == "Last-Modified" || name == "Content-MD5" || name == "Content-Length" || name == "Content-Encoding" {
			delete(header, name)
		}
	}
	header["x-ms-error-code"] = []string{c.name}
	header["Content-Type"] = []string{"application/xml"}
	q.w.WriteHeader(c.status)
	if q.Method != http.MethodHead {
		_, _ = io.WriteString(q.w, xml.Header)
		_, _ = q.w.Write(body) // a peer that left is no error of ours
	}
}

func short(s string) string { return s[:min(len(s), 32)] }

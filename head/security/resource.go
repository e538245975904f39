package security

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
)

// resource is one of ARM.
type resource struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	Location   string            `json:"location,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Properties any               `json:"properties"`
}

// list is a page of resources.
type list struct {
	Value    any    `json:"value"`
	NextLink string `json:"nextLink,omitempty"`
}

func (q *request) reply(status int, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	rest.JSON(q.w, status, "", text)
	return nil
}

// gone answers a DELETE: 200, or 204 when there was nothing.
func (q *request) gone(existed bool) error {
	if existed {
		q.w.WriteHeader(http.StatusOK)
	} else {
		q.w.WriteHeader(http.StatusNoContent)
	}
	return nil
}

// id is that of a resource at the place that the path names.
func (q *request) id(path string, children ...string) string {
	w := strings.Split(path, "/")
	for i := range w {
		if w[i][0] == '{' {
			w[i] = q.args[w[i][1:len(w[i])-1]]
		}
	}
	return "/" + strings.Join(append(w, children...), "/")
}

// option returns a query option, whose names compare without case: ARM's own links spell $skipToken in several ways.
func (q *request) option(name string) string {
	if v := q.query.Get(name); v != "" {
		return v
	}
	for k, v := range q.query {
		if strings.EqualFold(k, name) && len(v) > 0 {
			return v[0]
		}
	}
	return ""
}

// Bounds of pages.
const (
	pageSize = 100
	maxPage  = 1000
)

// count reads an option that is a number from 1 to maxPage.
func (q *request) count(name string) (n int, given bool, err error) {
	s := q.option(name)
	if s == "" {
		return 0, false, nil
	}
	if n, err = strconv.Atoi(s); err != nil || n < 1 || n > maxPage {
		return 0, false, fault.New(fault.Invalid, "%s is a number from 1 to %d", name, maxPage)
	}
	return n, true, nil
}

const skipToken = "$skipToken"

// next is the link to what follows: the request with another place. Its host is the one that the client came to.
func (q *request) next(token string) string {
	v := url.Values{}
	for k, values := range q.query {
		if !strings.EqualFold(k, skipToken) {
			v[k] = values
		}
	}
	v.Set(skipToken, token)
	return "https://" + q.Host + q.URL.EscapedPath() + "?" + v.Encode()
}

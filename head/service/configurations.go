package service

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/hub/fleet/configuration"
	"github.com/vauban-iot/vauban/iot"
)

// configurations is what the configuration routes need of the hub.
type configurations interface {
	Configuration(ctx context.Context, id string) (configuration.Configuration, error)
	Configurations(ctx context.Context, top int) ([]configuration.Configuration, error)
	CreateConfiguration(ctx context.Context, c configuration.Change) (configuration.Configuration, error)
	UpdateConfiguration(ctx context.Context, match *iot.Match, c configuration.Change) (configuration.Configuration, error)
	DeleteConfiguration(ctx context.Context, id string, match *iot.Match) error
	ApplyContent(ctx context.Context, device string, content json.RawMessage) error
}

// maxConfiguration bounds the body of a configuration: content for many modules.
const maxConfiguration = 1 << 20

var configurationRoutes = []route{
	{method: "GET", path: []string{"configurations"}, rights: access.RegistryRead, serve: (*Head).listConfigurations},
	{method: "POST", path: []string{"configurations", "testQueries"}, rights: access.RegistryRead, limit: maxQuery, serve: (*Head).testQueries, reads: true},
	{method: "GET", path: []string{"configurations", "*"}, rights: access.RegistryRead, serve: (*Head).getConfiguration},
	{method: "PUT", path: []string{"configurations", "*"}, rights: access.RegistryWrite, limit: maxConfiguration, serve: (*Head).putConfiguration},
	{method: "DELETE", path: []string{"configurations", "*"}, rights: access.RegistryWrite, serve: (*Head).removeConfiguration},
	{method: "POST", path: []string{"devices", "*", "applyConfigurationContent"}, rights: access.RegistryWrite, limit: maxConfiguration, serve: (*Head).applyContent},
}

// configurationCodes are the codes that mean something else where configurations are asked for.
var configurationCodes = map[fault.Kind]code{
	fault.NotFound:      {404, 404301, "ConfigurationNotFound"},
	fault.AlreadyExists: {409, 409401, "ConfigurationAlreadyExists"},
	fault.QueueFull:     {403, 403302, "ConfigurationCountLimitExceeded"},
}

func configurationError(err error) error {
	switch {
	case errors.Is(err, configuration.ErrImmutable):
		return coded{code{400, 400403, "CannotModifyImmutableConfigurationContent"}, err}
	case errors.Is(err, configuration.ErrCondition):
		return coded{code{400, 400401, "InvalidConfigurationTargetCondition"}, err}
	}
	return in(configurationCodes, err)
}

func (h *Head) listConfigurations(q *request) error {
	top := 0
	if s := q.URL.Query().Get("top"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return fault.New(fault.Invalid, "top must be a number from 1")
		}
		top = n
	}
	all, err := h.core.Configurations(q.Context(), top)
	if err != nil {
		return err
	}
	out := []byte{'['}
	for i, c := range all {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, c.Document()...)
	}
	rest.JSON(q.w, http.StatusOK, "", append(out, ']'))
	return nil
}

func (h *Head) getConfiguration(q *request) error {
	c, err := h.core.Configuration(q.Context(), q.segments[1])
	return writeConfiguration(q, c, err)
}

func writeConfiguration(q *request, c configuration.Configuration, err error) error {
	if err != nil {
		return configurationError(err)
	}
	rest.JSON(q.w, http.StatusOK, string(c.ETag()), c.Document())
	return nil
}

func (h *Head) putConfiguration(q *request) error {
	ch, err := configuration.Parse(q.segments[1], q.body)
	if err != nil {
		return err
	}
	var c configuration.Configuration
	if m := q.match(); m != nil {
		c, err = h.core.UpdateConfiguration(q.Context(), m, ch)
	} else {
		c, err = h.core.CreateConfiguration(q.Context(), ch)
	}
	return writeConfiguration(q, c, err)
}

func (h *Head) removeConfiguration(q *request) error {
	if err := h.core.DeleteConfiguration(q.Context(), q.segments[1], q.match()); err != nil {
		return configurationError(err)
	}
	q.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (h *Head) testQueries(q *request) error {
	var body struct {
		Condition string            `json:"targetCondition"`
		Queries   map[string]string `json:"customMetricQueries"`
	}
	if err := json.Unmarshal(q.body, &body); err != nil {
		return fault.Wrap(fault.Malformed, err, "the body holds no queries")
	}
	condition, queries := configuration.TestQueries(body.Condition, body.Queries)
	answer := struct {
		Condition *string           `json:"targetConditionError"`
		Queries   map[string]string `json:"customMetricQueryErrors"`
	}{nil, queries}
	if condition != "" {
		answer.Condition = &condition
	}
	return writeJSON(q.w, http.StatusOK, answer)
}

func (h *Head) applyContent(q *request) error {
	if !json.Valid(q.body) {
		return fault.New(fault.Malformed, "the body is not JSON")
	}
	if err := h.core.ApplyContent(q.Context(), q.segments[1], q.body); err != nil {
		return err
	}
	q.w.WriteHeader(http.StatusNoContent)
	return nil
}

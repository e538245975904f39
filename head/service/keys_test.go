package service_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
)

func TestRegenerateKeys(t *testing.T) {
	conform.Covers(t, "HS-034")
	t.Parallel()
	s := serve(t)
	for _, id := range []string{"d1", "d2"} {
		s.owner(t, 200, "PUT", "/devices/"+id, `{"deviceId":"`+id+`"}`)
	}
	s.owner(t, 200, "PUT", "/devices/ca", `{"deviceId":"ca","authentication":{"type":"certificateAuthority"}}`)
	s.owner(t, 201, "PUT", "/devices/d1/modules/m1", `{"deviceId":"d1","moduleId":"m1"}`)
	keys := func(id iot.ID) (string, string) {
		t.Helper()
		d, err := s.Hub.Device(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return d.Authentication.PrimaryKey.Base64(), d.Authentication.SecondaryKey.Base64()
	}
	type answered struct {
		PolicyKey   string
		RotatedKeys []struct{ ID, ModuleID, PrimaryKey, SecondaryKey string }
		Errors      []struct{ ID, ModuleID, ErrorCode, ErrorStatus string }
	}
	ask := func(status int, which, devices string) answered {
		t.Helper()
		var a answered
		resp := s.owner(t, status, "POST", "/devices/keys/regenerate?api-version=2021-04-12", fmt.Sprintf(`{"policyKey":%q,"devices":%s}`, which, devices))
		if err := json.Unmarshal(resp.body, &a); err != nil || a.PolicyKey != which || a.RotatedKeys == nil || a.Errors == nil {
			t.Fatalf("answer %s: %v", resp.body, err)
		}
		return a
	}
	for _, id := range []iot.ID{{Device: "d1"}, {Device: "d1", Module: "m1"}} {
		for which, rotates := range map[string][2]bool{"primaryKey": {true, false}, "secondaryKey": {false, true}, "both": {true, true}} {
			p, q := keys(id)
			a := ask(200, which, fmt.Sprintf(`[{"id":%q,"moduleId":%q}]`, id.Device, id.Module))
			np, nq := keys(id)
			if (p != np) != rotates[0] || (q != nq) != rotates[1] {
				t.Errorf("%s of %v: primary changed %v, secondary %v", which, id, p != np, q != nq)
			}
			if len(a.RotatedKeys) != 1 || a.RotatedKeys[0].PrimaryKey != np || a.RotatedKeys[0].SecondaryKey != nq || a.RotatedKeys[0].ModuleID != id.Module {
				t.Errorf("%s of %v answers %+v", which, id, a.RotatedKeys)
			}
		}
	}
	a := ask(207, "both", `[{"id":"none"},{"id":"d2"},{"id":"d2","moduleId":"none"},{"id":"ca"}]`)
	if len(a.RotatedKeys) != 1 || a.RotatedKeys[0].ID != "d2" || len(a.Errors) != 3 || a.Errors[0].ErrorCode != "DeviceNotFound" ||
		a.Errors[1].ErrorCode != "ModuleNotFound" || a.Errors[2].ErrorCode != "ArgumentInvalid" || a.Errors[0].ErrorStatus == "" {
		t.Errorf("partly: %+v", a)
	}
	if a := ask(400, "both", `[{"id":"none"}]`); len(a.RotatedKeys) != 0 || len(a.Errors) != 1 {
		t.Errorf("none: %+v", a)
	}
	for _, body := range []string{`{"policyKey":"x","devices":[{"id":"d1"}]}`, `{"devices":[{"id":"d1"}]}`, `{"policyKey":"both","devices":[]}`,
		`{"policyKey":"both","devices":[` + strings.Repeat(`{"id":"d1"},`, 100) + `{"id":"d1"}]}`} {
		formA(t, s.send(t, "POST", "/devices/keys/regenerate", body, "Authorization", s.as("registryReadWrite")), 400, "ArgumentInvalid")
	}
	formA(t, s.send(t, "POST", "/devices/keys/regenerate", `{`, "Authorization", s.as("registryReadWrite")), 400, "IotHubFormatError")
	formA(t, s.send(t, "POST", "/devices/keys/regenerate", `{}`, "Authorization", s.as("registryRead")), 401, "IotHubUnauthorizedAccess")
}

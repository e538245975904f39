package traffic

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strconv"
	"time"

	"github.com/vauban-iot/vauban/wire/secmsg"
)

// MTI is the message type indicator of the forms of a message: that of boards, and none for JSON 1.0 (defender §1.1).
const MTI = "2.3-1-0-0"

// id is like that of boards: a counter, and no more (defender §1.2).
func (w *Window) id(n int) string {
	h := fnv.New128a()
	fmt.Fprintf(h, "%s/%d/%d", w.Device.ID, w.Start.Unix(), n)
	return hex.EncodeToString(h.Sum(nil))
}

// clock is the time of a window by the clock of its device.
func (w *Window) clock() time.Time {
	t := w.Start.Add(seconds * time.Second).Add(w.Device.Skew)
	if t.Unix() < 1 {
		return time.Unix(1, 0).UTC()
	}
	return t
}

// AppendFlatBuffers appends a message of some windows of one device, as a board's security module writes it, with the mti [MTI].
func AppendFlatBuffers(dst []byte, ws ...*Window) []byte {
	r := secmsg.Report{Agent: "defender-iot-micro-agent", AgentVersion: "3.5.4"}
	for _, w := range ws {
		if w.OS != "" {
			r.Events = append(r.Events, secmsg.Event{ID: w.id(1), Name: "SystemInformation", Time: w.clock(), Interval: time.Minute, Payload: []secmsg.Item{secmsg.SystemInformation{OS: w.OS}}})
		}
		if len(w.Flows) > 0 {
			r.Events = append(r.Events, secmsg.Event{ID: w.id(0), Name: "NetworkActivity", Time: w.clock(), Interval: seconds * time.Second, Flows: w.Flows})
		}
	}
	return secmsg.AppendFlatBuffers(dst, r)
}

// AppendJSON appends the same windows as an agent of JSON 1.0 writes them: a payload object for each direction, without byte counts, and
// the logins, of which boards know nothing.
func AppendJSON(dst []byte, ws ...*Window) []byte {
	events := []map[string]any{}
	add := func(w *Window, n int, name string, payload []map[string]any) {
		if len(payload) == 0 {
			return
		}
		at := w.clock().UTC().Format("2006-01-02T15:04:05")
		id := w.id(n)
		events = append(events, map[string]any{
			"EventType": "Security", "Category": "Triggered", "Name": name, "PayloadSchemaVersion": "1.0", "IsEmpty": false,
			"Id":             id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:],
			"TimestampLocal": at, "TimestampUTC": at, "Payload": payload,
		})
	}
	for _, w := range ws {
		var payload []map[string]any
		for i := range w.Flows {
			f := &w.Flows[i]
			for _, d := range []struct {
				name  string
				bytes uint64
			}{{secmsg.In, f.BytesIn}, {secmsg.Out, f.BytesOut}} {
				if d.bytes == 0 {
					continue
				}
				p := map[string]any{"RemoteAddress": f.Remote.Addr().String(), "LocalAddress": f.Local.Addr().String(), "Direction": d.name, "Protocol": f.Protocol}
				if f.Protocol != "ICMP" {
					p["RemotePort"], p["LocalPort"] = strconv.Itoa(int(f.Remote.Port())), strconv.Itoa(int(f.Local.Port()))
				}
				payload = append(payload, p)
			}
		}
		add(w, 0, "ConnectionCreate", payload)
		payload = nil
		for _, l := range w.Logins {
			result := "Success"
			if l.Failed {
				result = "Fail"
			}
			payload = append(payload, map[string]any{"ProcessId": 700, "Operation": "login", "Executable": "/usr/sbin/sshd", "Result": result, "UserName": l.User, "RemoteAddress": l.Remote.String()})
		}
		add(w, 2, "Login", payload)
	}
	data, err := json.Marshal(map[string]any{"AgentVersion": "0.0.5", "AgentId": "11111111-2222-3333-4444-555555555555", "MessageSchemaVersion": "1.0", "Events": events})
	if err != nil {
		panic(err) // texts always marshal
	}
	return append(dst, data...)
}

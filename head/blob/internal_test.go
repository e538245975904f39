package blob

import (
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/fault"
)

func TestCodeOf_EveryKind(t *testing.T) {
	t.Parallel()
	defects := map[fault.Kind]bool{fault.Internal: true, fault.NotOnline: true, fault.ConnectionClosed: true, fault.BadDeviceResponse: true}
	for _, k := range fault.Kinds() {
		c := codeOf(k)
		if c.name == "" || c.status < 400 {
			t.Errorf("%v: %+v", k, c)
		}
		if (c.name == "InternalError") != defects[k] {
			t.Errorf("%v is answered with %s", k, c.name)
		}
	}
}

func FuzzParseBlockList(f *testing.F) {
	f.Add(`<?xml version="1.0"?><BlockList><Latest>AAAA</Latest></BlockList>`)
	f.Add(`<BlockList><Latest><![CDATA[AAAA]]></Latest><!-- --><Committed>QUE=</Committed></BlockList>`)
	f.Fuzz(func(t *testing.T, s string) {
		ids, err := parseBlockList(strings.NewReader(s), 10)
		if err != nil && ids != nil || len(ids) > 10 {
			t.Errorf("%d ids, %v", len(ids), err)
		}
		for _, id := range ids {
			if id == "" || len(id) > 64 || !strings.Contains(s, "<") {
				t.Errorf("id %q", id)
			}
		}
	})
}

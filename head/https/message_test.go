package https

import (
	"testing"

	"github.com/vauban-iot/vauban/wire/bag"
)

// FuzzParseBatch: what is read can be sent on: text is UTF-8, stamps are the hub's, counts are bounded.
func FuzzParseBatch(f *testing.F) {
	f.Add([]byte(`[{"body":"AP8=","properties":{"iothub-app-x":"v","iothub-messageid":"1"}},{"body":"t","base64Encoded":false}]`))
	f.Add([]byte(`[{"body":"","properties":{"iothub-app-iothub-message-source":"x","iothub-app-n":1}}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > maxMessage {
			return // heads refuse it before it is parsed
		}
		ms, err := parseBatch(data)
		if err != nil {
			if ms != nil {
				t.Error("a refused batch has messages")
			}
			return
		}
		if len(ms) == 0 || len(ms) > maxBatch {
			t.Errorf("%d messages", len(ms))
		}
		for i := range ms {
			m := &ms[i]
			if len(m.Body) > len(data) || len(m.System)+len(m.Properties) > bag.MaxProperties {
				t.Errorf("a message of %d bytes and %d properties from %d bytes", len(m.Body), len(m.System)+len(m.Properties), len(data))
			}
			for _, p := range m.Properties {
				if stamped(p.Name) || p.Name == "" {
					t.Errorf("property %q was taken", p.Name)
				}
			}
		}
	})
}

package topic

// systemNames holds the MQTT bag keys of hub-device §3.3 beside the one name the rest of the
// product uses. cdid and cmid travel with module inputs; a device may not set them.
var systemNames = [...]struct{ key, canonical string }{
	{"$.mid", "message-id"},
	{"$.cid", "correlation-id"},
	{"$.uid", "user-id"},
	{"$.to", "to"},
	{"$.exp", "absolute-expiry-time"},
	{"$.ct", "content-type"},
	{"$.ce", "content-encoding"},
	{"$.ctime", "iothub-creation-time-utc"},
	{"$.schema", "iothub-message-schema"},
	{"$.sub", "dt-subject"},
	{"$.ifid", "iothub-interface-id"},
	{"$.on", "iothub-outputname"},
	{"$.cdid", "iothub-connection-device-id"},
	{"$.cmid", "iothub-connection-module-id"},
	{"$.diagid", "Diagnostic-Id"},
	{"$.diagctx", "Correlation-Context"},
}

var canonicalByKey, keyByCanonical = indexSystemNames()

func indexSystemNames() (byKey, byCanonical map[string]string) {
	byKey = make(map[string]string, len(systemNames))
	byCanonical = make(map[string]string, len(systemNames))
	for _, n := range systemNames {
		byKey[n.key], byCanonical[n.canonical] = n.canonical, n.key
	}
	return byKey, byCanonical
}

// SystemName returns the canonical name of a decoded bag key such as "$.mid". Another key
// that starts with "$." is an application property.
func SystemName(bagKey string) (canonical string, ok bool) {
	canonical, ok = canonicalByKey[bagKey]
	return canonical, ok
}

// BagKey returns the bag key, not yet escaped, of a canonical name.
func BagKey(canonical string) (string, bool) {
	key, ok := keyByCanonical[canonical]
	return key, ok
}

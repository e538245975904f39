package access

// Refused names kinds of tokens a hub takes from nobody (hub-device §6.3). The zero value refuses none.
type Refused struct {
	Policies  bool `json:"disableLocalAuth"` // signed by a shared access policy, by services and devices
	DeviceSAS bool `json:"disableDeviceSAS"` // signed by a device's own key
	ModuleSAS bool `json:"disableModuleSAS"` // signed by a module's own key
}

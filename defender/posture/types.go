package posture

import (
	"slices"
	"strings"

	"github.com/vauban-iot/vauban/defender/alert"
)

// The types of defender §2.4, spelled as Azure does.
const (
	SharedCredentials          = "IoT_SharedCredentials"
	PrivilegedDockerOptions    = "IoT_PrivilegedDockerOptions"
	ACRAuthentication          = "IoT_ACRAuthentication"
	VulnerableTLSCipherSuite   = "IoT_VulnerableTLSCipherSuite"
	IPFilterDenyAll            = "IoT_IPFilter_DenyAll"
	IPFilterPermissiveRule     = "IoT_IPFilter_PermissiveRule"
	RecommendedIPRules         = "IoT_RecommendedIpRulesByBaseLine"
	InconsistentModuleSettings = "IoT_InconsistentModuleSettings"
	EdgeHubMemOptimize         = "IoT_EdgeHubMemOptimize"
	EdgeLoggingOptions         = "IoT_EdgeLoggingOptions"
	OpenPorts                  = "IoT_OpenPorts"
	PermissiveFirewallPolicy   = "IoT_PermissiveFirewallPolicy"
	PermissiveInputRules       = "IoT_PermissiveInputFirewallRules"
	PermissiveOutputRules      = "IoT_PermissiveOutputFirewallRules"
	Baseline                   = "IoT_Baseline"
	AgentSendsUnutilized       = "IoT_AgentSendsUnutilizedMessages"
	InstallAgent               = "IoT_InstallAgent"
	// CISBenchmarks is a family: each check that failed is a type of its own, IoT_CISBenchmarks_ and the check's id.
	CISBenchmarks = "IoT_CISBenchmarks"
)

// Types of ours: those that Azure documents without an id, and those it does not have.
const (
	TwinNotOptimal      = "IoT_SecurityTwinNotOptimal"
	TwinConflict        = "IoT_SecurityTwinConflict"
	DiagnosticsLogs     = "IoT_EnableDiagnosticsLogs"
	ExpiringCertificate = "IoT_ExpiringCertificate"
	OldCertificate      = "IoT_OldCertificate"
	ExpiringAuthority   = "IoT_ExpiringCertificateAuthority"
	SymmetricKey        = "IoT_SymmetricKeyAuthentication"
	OldFirmware         = "IoT_OldFirmware"
	VulnerableSoftware  = "IoT_VulnerableSoftware"
)

// Data is where the facts of a type come from.
type Data string

// The sources of facts.
const (
	FromHub   Data = "hub"
	FromEdge  Data = "edge"  // deployments: the twins of $edgeAgent and $edgeHub
	FromAgent Data = "agent" // security messages
)

// Type is a kind of recommendation.
type Type struct {
	Name        string         `json:"recommendationType"`
	ID          string         `json:"typeId"` // a GUID, the same in every installation
	Title       string         `json:"title"`
	Description string         `json:"description"`
	Severity    alert.Severity `json:"severity"`
	Remediation []string       `json:"remediationSteps"`
	DetectedBy  string         `json:"detectedBy"` // who finds it, for people
	Data        Data           `json:"data"`
	Needs       string         `json:"needs"`            // what must be there for it to be evaluated at all
	Family      bool           `json:"family,omitempty"` // the types begin with its name and an underscore
	Own         bool           `json:"own,omitempty"`    // the id is Vauban's, not Azure's
}

const (
	detectedByHub   = "Vauban: what the hub knows"
	detectedByEdge  = "Vauban: the deployment of the edge device"
	detectedByAgent = "Vauban: the security agent of the device"

	needsNothing   = "nothing: the hub knows it"
	needsConnect   = "devices that connect over MQTT or send over HTTPS"
	needsEdge      = "edge devices with a deployment"
	needsSnapshots = "an agent that sends "
)

func hub(name, title, description string, s alert.Severity, needs string, steps ...string) Type {
	return Type{Name: name, Title: title, Description: description, Severity: s, Remediation: steps, DetectedBy: detectedByHub, Data: FromHub, Needs: needs}
}

func edge(name, title, description string, s alert.Severity, steps ...string) Type {
	return Type{Name: name, Title: title, Description: description, Severity: s, Remediation: steps, DetectedBy: detectedByEdge, Data: FromEdge, Needs: needsEdge}
}

func agent(name, title, description string, s alert.Severity, event string, steps ...string) Type {
	return Type{Name: name, Title: title, Description: description, Severity: s, Remediation: steps, DetectedBy: detectedByAgent, Data: FromAgent, Needs: needsSnapshots + event}
}

func own(t Type) Type {
	t.Own = true
	return t
}

func family(t Type) Type {
	t.Family = true
	return t
}

var types = func() []Type {
	all := []Type{
		hub(SharedCredentials, "Identical authentication credentials are used by several devices",
			"Several identities of the hub share a key or the thumbprint of a certificate. Whoever has the credential of one device can pass for all of them.",
			alert.High, needsNothing, "Give every device a key or a certificate of its own, and rotate the shared one.", "Let devices provision themselves, so that no credential is copied with an image."),
		hub(VulnerableTLSCipherSuite, "TLS cipher suite upgrade needed",
			"The device's last connection used a version or a cipher suite of TLS that is considered weak.",
			alert.Medium, needsConnect, "Update the TLS library of the device to one with TLS 1.2, AES-GCM or ChaCha20, and forward secrecy.", "Give that suite the first place in the device's configuration."),
		hub(IPFilterDenyAll, "The default IP filter policy should be to deny",
			"Addresses that no rule of the hub's IP filter is about may reach the hub.",
			alert.Medium, needsNothing, "Allow the networks of your devices and services, and deny the rest: vauban network.", "IoT_RecommendedIpRulesByBaseLine proposes rules."),
		hub(IPFilterPermissiveRule, "A rule of the IP filter includes a large address range",
			"A rule of the hub's IP filter admits so many addresses that strangers are likely among them.",
			alert.Medium, needsNothing, "Narrow the rule to the networks from which your devices and services come."),
		hub(RecommendedIPRules, "Add IP filter rules based on where devices come from",
			"The hub admits everybody, though its devices come from a few networks only. The additional data proposes rules made of those networks.",
			alert.Medium, needsConnect, "Look at the proposed rules, add the networks of your services, and set them: vauban network."),
		hub(InconsistentModuleSettings, "Module settings differ from those of the security group",
			"The desired properties of a module are not those that most devices of the security group have for it.",
			alert.Medium, "three devices of a security group that have the module", "Compare the module's desired properties with those of its group, and make them equal.", "Set them for all at once with an automatic configuration."),
		hub(InstallAgent, "Install a security agent",
			"The device has no security module and sent no security message: of what happens on it nothing is known.",
			alert.Low, needsNothing, "Install an agent on the device, or the security module of its real-time operating system."),
		own(hub(DiagnosticsLogs, "Enable diagnostics logs of the hub",
			"Nobody keeps when devices connect and leave. After an attack there would be nothing to look at.",
			alert.Low, needsNothing, "Route the source DeviceConnectionStateEvents to an endpoint: vauban route.", "Or subscribe to the events DeviceConnected and DeviceDisconnected: vauban subscription.")),
		own(hub(ExpiringCertificate, "The device's certificate expires soon",
			"The certificate with which the device connected last expires within 30 days, or expired. The device cannot connect then.",
			alert.Medium, needsConnect, "Renew the certificate, and register its thumbprint where devices are registered by thumbprint.")),
		own(hub(OldCertificate, "The device's certificate is old",
			"The key of the certificate with which the device connected last is in use for over two years.",
			alert.Low, needsConnect, "Give the device a new key and a certificate of a year at most.", "Devices that the hub issues certificates for renew them by themselves.")),
		own(hub(ExpiringAuthority, "A certificate authority expires soon",
			"A CA whose certificates prove devices expires within 90 days, or expired. All its devices stop connecting then.",
			alert.High, needsNothing, "Upload the new CA beside the old one, renew the certificates of its devices, then delete the old one: vauban pki.")),
		own(hub(SymmetricKey, "The device authenticates by a key instead of a certificate",
			"The hub knows the secret of a device with a symmetric key, and so does everybody who has read it there or on its way. A certificate's key never leaves the device.",
			alert.Low, needsNothing, "Provision the device with a certificate or a TPM.")),
		own(hub(OldFirmware, "The device's firmware is old",
			"Devices of the same model run a newer firmware than this device reports.",
			alert.Medium, "three devices of a model that report their firmware version in their twins", "Update the device: vauban does so by a deployment or a configuration.")),

		edge(PrivilegedDockerOptions, "A module of the edge device runs with privileges it should not have",
			"A module of the deployment runs privileged, with added capabilities, in the network or process space of the host, or with the socket of the container engine.",
			alert.High, "Take the privileges out of the module's createOptions, and give it the one device or capability it needs."),
		edge(ACRAuthentication, "The registry is used with the password of its administrator",
			"The deployment pulls images from an Azure container registry with the registry's admin account, which may also replace them.",
			alert.Medium, "Use a service principal with the right to pull, and disable the admin account of the registry."),
		edge(EdgeHubMemOptimize, "Turn off protocol heads of the edge hub that nobody uses",
			"The edge hub of the device serves all protocols. Each costs memory and can be attacked.",
			alert.Low, "Set amqpSettings__enabled, mqttSettings__enabled or httpSettings__enabled to false in the environment of edgeHub, for what no module and no leaf device uses."),
		edge(EdgeLoggingOptions, "Logging is turned off for a module of the edge device",
			"A module of the deployment keeps no log. After an attack there would be nothing to look at.",
			alert.Low, "Give the module a LogConfig with a driver that keeps logs, with a bound on their size."),

		agent(OpenPorts, "Open ports on the device",
			"Programs on the device listen on ports that others in its network can reach.",
			alert.Medium, "ListeningPorts", "Stop the program behind each port that nobody needs, or let it listen on the loopback address only.", "Let the device's firewall admit those who need the others."),
		agent(PermissiveFirewallPolicy, "The firewall's policy admits everything",
			"A chain of the device's firewall lets through what none of its rules is about.",
			alert.Medium, "FirewallConfiguration", "Set the policy of the chains INPUT and OUTPUT to deny, and allow what the device needs by rules."),
		agent(PermissiveInputRules, "A rule of the firewall admits too much into the device",
			"A rule of the device's firewall admits a wide range of addresses or ports into the device.",
			alert.Medium, "FirewallConfiguration", "Narrow the rule to the addresses and ports that need it."),
		agent(PermissiveOutputRules, "A rule of the firewall lets too much out of the device",
			"A rule of the device's firewall lets a wide range of addresses or ports be reached from the device.",
			alert.Medium, "FirewallConfiguration", "Narrow the rule to the addresses and ports that need it."),
		agent(Baseline, "The system is not set up as the baseline says",
			"Checks of the security baseline failed on the device.",
			alert.Medium, "OSBaseline", "Set up the system as each check in the additional data says."),
		family(agent(CISBenchmarks, "A check of the CIS benchmark failed",
			"A check of the CIS benchmark failed on the device.",
			alert.Medium, "Baseline", "Set up the system as the check in the additional data says.")),
		agent(AgentSendsUnutilized, "The agent sends many small messages",
			"A tenth or more of the agent's messages of the last 24 hours had less than 4 KB. Each counts as a whole message.",
			alert.Low, "MessageStatistics", "Let the agent send less often: raise highPriorityMessageFrequency and lowPriorityMessageFrequency in the twin of its module."),
		own(agent(VulnerableSoftware, "Software with known vulnerabilities is installed on the device",
			"Vulnerabilities are known of the versions of software that the device has, and no VEX document says that they do not concern it. It is of high severity when one of them is known to be exploited.",
			alert.Medium, "SBoM, or a bill of materials that the operator uploaded, and an imported database of vulnerabilities",
			"Update the packages in the additional data to the versions they are fixed in, those that are exploited first.", "See all of them: vauban vuln list --device.",
			"If a vulnerability cannot be exploited in the product, say so in a VEX document: vauban vuln vex put.")),
		own(agent(TwinNotOptimal, "The twin configuration of the security module is not optimal",
			"The agent says that values of its twin configuration should be others.",
			alert.Low, "ConfigurationError", "Change the values that the additional data names.")),
		own(agent(TwinConflict, "The twin configuration of the security module conflicts",
			"The agent says that values of its twin configuration contradict each other, or cannot be used.",
			alert.Low, "ConfigurationError, or reports latest_state in its twin", "Change the values that the additional data names.")),
	}
	for i := range all {
		all[i].ID = uuid("recommendation type", all[i].Name)
	}
	slices.SortFunc(all, func(a, b Type) int { return strings.Compare(a.Name, b.Name) })
	return all
}()

var byName = func() map[string]Type {
	m := make(map[string]Type, len(types))
	for _, t := range types {
		m[t.Name] = t
	}
	return m
}()

// Types lists all types and families there are, by name.
func Types() []Type { return slices.Clone(types) }

// Family is the family of a type, or the type itself when it has none.
func Family(name string) string {
	if strings.HasPrefix(name, CISBenchmarks+"_") {
		return CISBenchmarks
	}
	return name
}

// Known reports whether there is a type of that name, or could be one of a family.
func Known(name string) bool {
	_, ok := byName[Family(name)]
	return ok && len(name) <= maxName && !strings.HasSuffix(name, "_")
}

// maxName bounds the names of types of a family.
const maxName = 128

// Lookup returns what is known of a type; of one that is not known, its name.
func Lookup(name string) Type {
	t, ok := byName[Family(name)]
	switch {
	case !ok:
		return Type{Name: name, ID: uuid("recommendation type", name), Title: name, Severity: alert.Low}
	case t.Name != name: // one of a family
		check := strings.TrimPrefix(name, t.Name+"_")
		t.Name, t.Family, t.ID = name, false, uuid("recommendation type", name)
		t.Title = "The check " + check + " of the CIS benchmark failed"
	}
	return t
}

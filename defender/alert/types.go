package alert

import (
	"maps"
	"slices"
)

// Type is a kind of alert: what it is called, how grave it is, where it stands in MITRE ATT&CK, what to do.
type Type struct {
	Name        string   `json:"alertType"`
	Title       string   `json:"title"`
	Severity    Severity `json:"severity"`
	Tactics     []string `json:"tactics"`    // of ATT&CK for ICS
	Techniques  []string `json:"techniques"` // of ATT&CK for ICS (T0...) and for Enterprise (T1...)
	Remediation []string `json:"remediationSteps"`
}

// Types of alerts that the hub itself raises, as Azure spells them (defender §2.2).
const (
	CertificateAdded        = "IoT_CertificateSuccessfullyAddedToHub"
	CertificateDeleted      = "IoT_CertificateSuccessfullyDeletedFromHub"
	CertificateNotAdded     = "Hub_CertificateFailedToBeAddedToHub"
	CertificateNotDeleted   = "IoT.Hub_CertificateFailedToBeDeletedFromHub"
	CertificateMismatch     = "IoT_Cert_Print_Mismatch"
	CertificateExpired      = "IoT_Cert_Expired"
	DiagnosticSettingSet    = "IoT_DiagnosticSettingAddedOrEditedOnHub"
	DiagnosticSettingUnset  = "IoT_DiagnosticSettingDeletedFromHub"
	ExpiredToken            = "IoT_Expired_SAS_Token"
	InvalidToken            = "IoT_Invalid_SAS_Token"
	TiConnection            = "IoT_TiConnection"
	SuccessfulLocalLogin    = "IoT_SucessfulLocalLogin" // Azure's spelling
	FailedLocalLogin        = "IoT_FailedLocalLogin"
	EgressData              = "IoT_EgressData"
	PortForwarding          = "IoT_PortForwarding"
	customPrefix            = "IoT_CA_"
	unknownRemediation      = "Find out what on the device caused it; when nobody did, disable the identity and install the software anew."
	tacticInitialAccess     = "Initial Access"
	tacticExecution         = "Execution"
	tacticPersistence       = "Persistence"
	tacticEscalation        = "Privilege Escalation"
	tacticEvasion           = "Evasion"
	tacticDiscovery         = "Discovery"
	tacticLateralMovement   = "Lateral Movement"
	tacticCommandAndControl = "Command and Control"
	tacticInhibitResponse   = "Inhibit Response Function"
	tacticImpairControl     = "Impair Process Control"
	tacticImpact            = "Impact"
)

// Types of alerts about what devices do on the network, for which Azure has no name; see package behaviour.
const (
	NetworkScan         = "IoT_NetworkScan"
	DenialOfService     = "IoT_DenialOfService"
	Beaconing           = "IoT_Beaconing"
	DNSTunnel           = "IoT_DnsTunneling"
	PayloadDownload     = "IoT_PayloadDownload"
	NewProtocol         = "IoT_NewProtocol"
	BruteForce          = "IoT_BruteForce"
	BruteForceSucceeded = "IoT_BruteForceSucceeded"
	CredentialStuffing  = "IoT_CredentialStuffing"
	TwoPlaces           = "IoT_IdentityInTwoPlaces"
)

// Types of alerts of Azure's older list, which gives them no names (defender §2.1), and of ours.
const (
	TwinNotParsed         = "IoT_AgentFailedToParseTwin"
	UserAddedToGroups     = "IoT_LocalUserAddedToGroups"
	UserDeletedFromGroups = "IoT_LocalUserDeletedFromGroups"
	UserDeleted           = "IoT_LocalUserDeleted"
	DeviceSilent          = "IoT_DeviceSilent"
	FilesOverridden       = "IoT_CommonFilesOverridden"
)

// Custom is the type of the alert of a custom rule (defender §2.3).
func Custom(ruleType string) string { return customPrefix + ruleType }

func one(s string) []string      { return []string{s} }
func many(ss ...string) []string { return ss }

// Steps that several types share.
const (
	stepsWho      = "Ask who works on the device. When nobody does, somebody else has access: cut it off, and change its credentials and those of its users."
	stepsSoftware = "Compare the software of the device with what you shipped, and install it anew when it differs."
	stepsBlock    = "Find out which program on the device talks to it, and block the address."
	stepsRotate   = "When the device is yours and works, renew its token or key; when it is not, rotate the keys of the identity."
	stepsOperator = "Find the change in the audit log. When none of your operators made it, undo it, and rotate the operator's token and the keys of policies."
	stepsInfected = "Cut the device from the network: it is very likely infected, and infects others."
	stepsExpected = "When new software of yours does it, do nothing: the group learns it once several of its devices do the same."
	stepsRule     = "Compare what the device does with what it is meant to do. When it is meant to, widen the rule of its security group; when it is not, find out who makes it do so."
)

// types are those of defender §2.1 and §2.2, with ids spelled exactly as Azure does, errors included.
var types = []Type{
	{"IoT_BinaryCommandLine", "Binary Command Line", High, one(tacticExecution), many("T0807", "T1059.004"), many(stepsWho, stepsSoftware)},
	{"IoT_DisableFirewall", "Disable firewall", High, one(tacticInhibitResponse), many("T0881", "T1562.004"), many(stepsWho, "Turn the firewall on again.")},
	{PortForwarding, "Port forwarding detection", High, one(tacticCommandAndControl), many("T0884", "T1090", "T1572"), many(stepsWho, stepsBlock)},
	{"IoT_DisableAuditdLogging", "Possible attempt to disable Auditd logging detected", High, one(tacticEvasion), many("T0872", "T1562.012"), many(stepsWho, "Turn the audit on again.")},
	{"IoT_ReverseShell", "Reverse shells", High, many(tacticExecution, tacticCommandAndControl), many("T0807", "T1059.004"), many(stepsWho, stepsBlock, stepsSoftware)},
	{SuccessfulLocalLogin, "Successful local login", High, many(tacticPersistence, tacticLateralMovement), many("T0859", "T1078"), many(stepsWho)},
	{"IoT_WebShell", "Web shell", High, many(tacticExecution, tacticPersistence), many("T0807", "T1505.003"), many(stepsWho, stepsSoftware)},
	{"IoT_Ransomware", "Behavior similar to ransomware detected", High, many(tacticInhibitResponse, tacticImpact), many("T0809", "T1486"), many("Cut the device from the network at once.", stepsSoftware)},
	{"IoT_CryptoMiner", "Crypto coin miner image", High, one(tacticImpact), many("T0826", "T1496"), many(stepsWho, stepsSoftware)},
	{"IoT_USBConnection", "New USB Connection", High, one(tacticInitialAccess), many("T0847", "T1200"), many(stepsWho)},
	{"IoT_UsbDisconnection", "USB Disconnection", High, one(tacticInitialAccess), many("T0847", "T1200"), many(stepsWho)},
	{"IoT_EthernetConnection", "New Ethernet Connection", High, one(tacticInitialAccess), many("T0864", "T1200"), many(stepsWho)},
	{"IoT_EthernetDisconnection", "Ethernet Disconnection", High, one(tacticInitialAccess), many("T0864", "T1200"), many(stepsWho)},
	{"IoT_FileCreated", "New File Created", High, one(tacticPersistence), many("T0889", "T1565.001"), many(stepsWho, stepsSoftware)},
	{"IoT_FileModified", "File Modified", High, one(tacticPersistence), many("T0889", "T1565.001"), many(stepsWho, stepsSoftware)},
	{"IoT_FileDeleted", "File Deleted", High, one(tacticEvasion), many("T0872", "T1070.004"), many(stepsWho, stepsSoftware)},
	{"IoT_CommonBots", "Behavior similar to common Linux bots detected", Medium, many(tacticExecution, tacticCommandAndControl), many("T0807", "T1059.004"), many(stepsSoftware, stepsBlock)},
	{"IoT_FairwareMalware", "Behavior similar to Fairware ransomware detected", Medium, one(tacticInhibitResponse), many("T0809", "T1485"), many("Cut the device from the network at once.", stepsSoftware)},
	{"IoT_CryptoMinerContainer", "Crypto coin miner container image detected", Medium, one(tacticImpact), many("T0826", "T1496", "T1610"), many(stepsWho, "Remove the container.")},
	{"IoT_SuspiciousNohup", "Detected suspicious use of the nohup command", Medium, one(tacticExecution), many("T0807", "T1059.004"), many(stepsWho)},
	{"IoT_SuspiciousUseradd", "Detected suspicious use of the useradd command", Medium, one(tacticPersistence), many("T0859", "T1136.001"), many(stepsWho, "Remove the user.")},
	{"IoT_ExposedDocker", "Exposed Docker daemon by TCP socket", Medium, many(tacticExecution, tacticEscalation), many("T0807", "T1610"), many("Let the daemon listen on its local socket only.")},
	{FailedLocalLogin, "Failed local login", Medium, one(tacticLateralMovement), many("T0859", "T1110"), many(stepsWho)},
	{"IoT_PossibleMalware", "Detected file download from a malicious source", Medium, one(tacticLateralMovement), many("T0867", "T1105"), many(stepsBlock, stepsSoftware)},
	{"IoT_AccessingHtaccessFile", "htaccess file access detected", Medium, one(tacticPersistence), many("T0889", "T1505.003"), many(stepsWho)},
	{"IoT_KnownAttackTools", "Known attack tool", Medium, many(tacticDiscovery, tacticExecution), many("T0846", "T1588.002"), many(stepsWho, stepsSoftware)},
	{"IoT_LinuxReconnaissance", "Local host reconnaissance detected", Medium, one(tacticDiscovery), many("T0888", "T1082"), many(stepsWho)},
	{"IoT_ScriptInterpreterMismatch", "Mismatch between script interpreter and file extension", Medium, one(tacticEvasion), many("T0849", "T1036"), many(stepsSoftware)},
	{"IoT_LinuxBackdoor", "Possible backdoor detected", Medium, many(tacticPersistence, tacticLateralMovement), many("T0867", "T1105"), many(stepsWho, stepsSoftware)},
	{EgressData, "Possible loss of data detected", Medium, one(tacticImpact), many("T0882", "T1048"), many(stepsBlock)},
	{"IoT_PrivilegedContainer", "Privileged container detected", Medium, one(tacticEscalation), many("T0890", "T1611"), many("Give the container the rights it needs and no more.")},
	{"IoT_RemovelOfSystemLogs", "Removal of system logs files detected", Medium, one(tacticEvasion), many("T0872", "T1070.002"), many(stepsWho)},
	{"IoT_ExecuteFileWithTrailingSpace", "Space after filename", Medium, one(tacticEvasion), many("T0849", "T1036.006"), many(stepsSoftware)},
	{"IoT_CredentialAccessTools", "Tools commonly used for malicious credentials access detected", Medium, one(tacticLateralMovement), many("T0859", "T1003.008"), many(stepsWho, "Change the passwords of the device's users.")},
	{"IoT_SuspiciousCompilation", "Suspicious compilation detected", Medium, one(tacticExecution), many("T0853", "T1027.004"), many(stepsWho, stepsSoftware)},
	{"IoT_DownloadFileThenRun", "Suspicious file download followed by file run activity", Medium, many(tacticLateralMovement, tacticExecution), many("T0867", "T1105"), many(stepsSoftware, stepsBlock)},
	// Medium in Azure's list. Ours is High: the operator chose the listed addresses.
	{TiConnection, "Suspicious IP address communication", High, one(tacticCommandAndControl), many("T0885", "T1071"), many(stepsBlock, "When the device was taken over, disable its identity, install its software anew and change its credentials.")},
	{"IoT_MaliciousNameQueriesDetection", "Malicious Domain Name Request", Medium, one(tacticCommandAndControl), many("T0885", "T1071.004"), many(stepsBlock)},
	{"IoT_BashHistoryCleared", "Bash history cleared", Low, one(tacticEvasion), many("T0872", "T1070.003"), many(stepsWho)},

	{FilesOverridden, "Potential overriding of common files", Medium, many(tacticPersistence, tacticEvasion), many("T0849", "T1036.005", "T1574"), many(stepsSoftware, stepsWho)},
	{TwinNotParsed, "The agent failed to parse the module twin configuration", Medium, one(tacticEvasion), many("T0872", "T1562.001"), many("Mend the named property in the desired section of the agent's module twin.", stepsWho)},
	{DeviceSilent, "Device silent", Low, one(tacticInhibitResponse), many("T0803", "T1562.001"), many("Look after the device and its network. The alert is resolved when it speaks again.", "When the device is no longer in use, disable its identity or delete it.")},
	{UserAddedToGroups, "Local user added to one or more groups", Low, one(tacticPersistence), many("T0859", "T1098"), many(stepsWho)},
	{UserDeletedFromGroups, "Local user deleted from one or more groups", Low, one(tacticInhibitResponse), many("T0803", "T1531"), many(stepsWho)},
	{UserDeleted, "Local user deletion detected", Low, one(tacticInhibitResponse), many("T0803", "T1531"), many(stepsWho)},

	{CertificateAdded, "Certificate successfully added to the hub", Medium, one(tacticPersistence), many("T0859", "T1098"), one(stepsOperator)},
	{CertificateDeleted, "Certificate successfully deleted from the hub", Medium, one(tacticInhibitResponse), many("T0803", "T1531"), one(stepsOperator)},
	{CertificateNotAdded, "Certificate failed to be added to the hub", Medium, one(tacticPersistence), many("T0859", "T1098"), one(stepsOperator)},
	{CertificateNotDeleted, "Certificate failed to be deleted from the hub", Medium, one(tacticInhibitResponse), many("T0803", "T1531"), one(stepsOperator)},
	{CertificateMismatch, "The device's certificate is not the registered one", Medium, many(tacticPersistence, tacticLateralMovement), many("T0859", "T1078"), many("When you renewed the device's certificate, register the new thumbprint.", "When you did not, somebody tries to be this device: find out from where.")},
	{CertificateExpired, "The device's certificate expired", Medium, one(tacticInhibitResponse), many("T0803", "T1531"), one("Renew the certificate of the device.")},
	{DiagnosticSettingSet, "A diagnostic setting was added or edited", Low, one(tacticEvasion), many("T0872", "T1562.008"), one(stepsOperator)},
	{DiagnosticSettingUnset, "A diagnostic setting was deleted", Low, one(tacticEvasion), many("T0872", "T1562.008"), one(stepsOperator)},
	{ExpiredToken, "Expired SAS token", Low, one(tacticLateralMovement), many("T0859", "T1078"), many("Look at the clock of the device, and at what renews its token.", stepsRotate)},
	{NetworkScan, "The device scans the network", High, one(tacticDiscovery), many("T0846", "T1046"), many(stepsInfected, stepsSoftware)},
	{DenialOfService, "The device takes part in an attack", High, one(tacticImpact), many("T0814", "T1498"), many(stepsInfected, stepsSoftware)},
	{Beaconing, "The device reports to somebody unknown", High, one(tacticCommandAndControl), many("T0885", "T1071", "T1573"), many(stepsBlock, stepsExpected, stepsSoftware)},
	{DNSTunnel, "Data in questions for names", High, one(tacticCommandAndControl), many("T0885", "T1071.004", "T1048"), many(stepsBlock, "Let devices ask your own name servers only.")},
	{PayloadDownload, "A file from somebody unknown", Medium, one(tacticLateralMovement), many("T0867", "T1105"), many(stepsExpected, stepsBlock, stepsSoftware)},
	{NewProtocol, "A protocol that is new to the device and its group", Low, one(tacticCommandAndControl), many("T0869", "T1571"), many(stepsExpected, stepsBlock)},
	{BruteForce, "Passwords of the device are guessed", Medium, one(tacticLateralMovement), many("T0859", "T1110"), many("Let the device be reached only from where it is maintained.", stepsWho)},
	{BruteForceSucceeded, "Somebody signed in after guessing passwords", High, many(tacticInitialAccess, tacticLateralMovement), many("T0859", "T1110", "T1078"), many("Cut the device from the network, and change the passwords of its users.", stepsSoftware)},
	{CredentialStuffing, "Credentials of devices are tried out", High, many(tacticInitialAccess, tacticLateralMovement), many("T0859", "T1110.004"), many("Block the address with `vauban network`, unless your devices are behind it.", stepsRotate)},
	{TwoPlaces, "One identity is in two places", High, many(tacticInitialAccess, tacticLateralMovement), many("T0859", "T1078"), many("Find out which of the two places is the device's.", "Rotate the keys of the identity, or revoke its certificate: somebody else has them.")},
	{InvalidToken, "Invalid SAS token signature", Low, one(tacticLateralMovement), many("T0859", "T1110"), many(stepsRotate)},
}

// customs are the tactics of the custom rules, by the type of rule.
var customs = map[string]struct{ tactics, techniques []string }{
	"ConnectionToIpNotAllowed":                 {one(tacticCommandAndControl), many("T0885", "T1071")},
	"ConnectionFromIpNotAllowed":               {many(tacticInitialAccess, tacticLateralMovement), many("T0886", "T1021")},
	"LocalUserNotAllowed":                      {many(tacticPersistence, tacticLateralMovement), many("T0859", "T1078")},
	"ProcessNotAllowed":                        {one(tacticExecution), many("T0807", "T1059")},
	"ConnectionToIpDenied":                     {one(tacticCommandAndControl), many("T0885", "T1071")},
	"ConnectionFromIpDenied":                   {many(tacticInitialAccess, tacticLateralMovement), many("T0886", "T1021")},
	"LocalUserDenied":                          {many(tacticPersistence, tacticLateralMovement), many("T0859", "T1078")},
	"ProcessDenied":                            {one(tacticExecution), many("T0807", "T1059")},
	"DistinctRemoteAddressesNotInAllowedRange": {one(tacticDiscovery), many("T0846", "T1046")},
	"BytesOutNotInAllowedRange":                {one(tacticImpact), many("T0882", "T1048")},
	"ActiveConnectionsNotInAllowedRange":       {one(tacticDiscovery), many("T0846", "T1046")},
	"FailedLocalLoginsNotInAllowedRange":       {one(tacticLateralMovement), many("T0859", "T1110")},
	"AmqpC2DMessagesNotInAllowedRange":         {one(tacticImpairControl), many("T0855")},
	"MqttC2DMessagesNotInAllowedRange":         {one(tacticImpairControl), many("T0855")},
	"HttpC2DMessagesNotInAllowedRange":         {one(tacticImpairControl), many("T0855")},
	"AmqpC2DRejectedMessagesNotInAllowedRange": {one(tacticInhibitResponse), many("T0803")},
	"MqttC2DRejectedMessagesNotInAllowedRange": {one(tacticInhibitResponse), many("T0803")},
	"HttpC2DRejectedMessagesNotInAllowedRange": {one(tacticInhibitResponse), many("T0803")},
	"AmqpD2CMessagesNotInAllowedRange":         {one(tacticInhibitResponse), many("T0814", "T1499")},
	"MqttD2CMessagesNotInAllowedRange":         {one(tacticInhibitResponse), many("T0814", "T1499")},
	"HttpD2CMessagesNotInAllowedRange":         {one(tacticInhibitResponse), many("T0814", "T1499")},
	"DirectMethodInvokesNotInAllowedRange":     {one(tacticImpairControl), many("T0855")},
	"FileUploadsNotInAllowedRange":             {one(tacticImpact), many("T0882", "T1567")},
	"QueuePurgesNotInAllowedRange":             {one(tacticInhibitResponse), many("T0803")},
	"TwinUpdatesNotInAllowedRange":             {one(tacticImpairControl), many("T0836")},
	"UnauthorizedOperationsNotInAllowedRange":  {one(tacticLateralMovement), many("T0859", "T1110")},
}

var byName = func() map[string]Type {
	m := make(map[string]Type, len(types)+len(baselineTypes)+len(customs))
	for _, t := range slices.Concat(types, baselineTypes) {
		m[t.Name] = t
	}
	for rule, c := range customs {
		m[Custom(rule)] = Type{Custom(rule), "Custom rule: " + rule, Low, c.tactics, c.techniques, one(stepsRule)}
	}
	return m
}()

// Lookup returns what is known of a type; of one that is not known, its name and a general advice.
func Lookup(name string) Type {
	if t, ok := byName[name]; ok {
		return t
	}
	return Type{Name: name, Title: name, Severity: Low, Remediation: one(unknownRemediation)}
}

// Types lists all types there are: those of defender §2.1 and §2.2, and those of custom rules, by name.
func Types() []Type {
	all := make([]Type, 0, len(byName))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		all = append(all, byName[name])
	}
	return all
}

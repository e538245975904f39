package baseline

// A command is what a check can ask. needs names the attributes without which it makes no sense; an empty expression would
// match everything.
type command struct {
	needs string
	run   func(*machine, *Check) verdict
}

// commands holds those of the Linux, SSH and Docker files of defender §3.4, and below them those that our own baseline needs
// beside. All only read. It is filled here, as functions that run other checks refer to it.
var commands map[string]command

func init() {
	commands = map[string]command{
		// Lines of files: lines.go.
		"CheckMatchingLines":            {"path regex", ifNot(matchingLines)},
		"CheckMatchingLinesIfExists":    {"path regex", ifExists(matchingLines)},
		"CheckMatchingLinesAll":         {"path regex", ifNot(matchingAll)},
		"CheckMatchingLinesAllIfExists": {"path regex", ifExists(matchingAll)},
		"CheckMatchingLinesInDir":       {"path regex", (*machine).matchingInDir},
		"CheckMatchingLinesInFiles":     {"path regex", (*machine).matchingInFiles},
		"CheckMatchingLinesSection":     {"path regex expect key", (*machine).matchingSection},
		"CheckNoMatchingLines":          {"path regex", ifNot(noMatchingLines)},
		"CheckNoMatchingLinesIfExists":  {"path regex", ifExists(noMatchingLines)},
		"CheckPwQuality":                {"path", (*machine).pwQuality},

		// Files: files.go.
		"CheckFileStats":         {"path", (*machine).fileStats},
		"CheckFileStatsIfExists": {"path", (*machine).fileStatsIfExists},
		"CheckDirStats":          {"path", (*machine).dirStats},
		"CheckUnitFileStats":     {"path", (*machine).unitFileStats},
		"CheckFileExists":        {"path", (*machine).fileExists},
		"CheckFileNotExists":     {"path", (*machine).fileNotExists},
		"CheckFileExistsRegex":   {"path regex", (*machine).fileExistsRegex},

		// Services and packages: services.go, packages.go.
		"CheckServiceDisabled":           {"service", (*machine).serviceDisabled},
		"CheckServiceEnabled":            {"service", (*machine).serviceEnabled},
		"CheckServiceStatus":             {"service", (*machine).serviceStatus},
		"CheckPackageNotInstalled":       {"packagename", packages(false, false)},
		"CheckPackageNotInstalledRegexp": {"packagename", packages(true, false)},
		"CheckPackageInstalled":          {"packagename", packages(false, true)},
		"CheckPackageInstalledRegexp":    {"packagename", packages(true, true)},

		// Kernel and network: kernel.go.
		"CheckSysctlOutput":         {"regex", (*machine).sysctlOutput},
		"CheckIptablesStatus":       {"regex", (*machine).iptablesStatus},
		"VerifyKernelSource":        {"regex", (*machine).kernelSource},
		"CheckNoPromiscInterfaces":  {"", (*machine).noPromisc},
		"CheckNoWirelessInterfaces": {"", (*machine).noWireless},

		// Accounts: accounts.go.
		"CheckUserDirs":                 {"expect", (*machine).userDirs},
		"CheckHomeDirectoryPermissions": {"", (*machine).homePermissions},
		"CheckNoDuplicateAccounts":      {"path variable", (*machine).noDuplicates},
		"CheckGroupValidity":            {"", (*machine).groupValidity},
		"CheckShadowDate":               {"path key expect value", (*machine).shadowDate},
		"CheckSystemAccounts":           {"", (*machine).systemAccounts},
		"CheckRootUID":                  {"", (*machine).rootUID},
		"CheckNotMatchEnvVariable":      {"variable regex", (*machine).notMatchEnv},

		// SSH server: ssh.go.
		"CheckMatchingConfigValue":   {"regex exec-command", (*machine).matchingConfig},
		"CheckNoMatchingConfigValue": {"regex exec-command", (*machine).noMatchingConfig},

		// Docker: docker.go.
		"CheckAlwaysPass":                            {"justification", (*machine).alwaysPass},
		"CheckDockerVersionAtLeast":                  {"version", (*machine).dockerVersionAtLeast},
		"CheckDockerInfo":                            {"", (*machine).dockerInfo},
		"CheckNoMatchingLinesDockerInfo":             {"regex", (*machine).noMatchingDockerInfo},
		"CheckNoMatchingLinesDockerContainerInspect": {"regex", (*machine).noMatchingContainers},
		"CheckNoMatchingLinesDockerNetworkInspect":   {"regex", (*machine).noMatchingNetworks},
		"CheckNoMatchingLinesNetstat":                {"regex", (*machine).noMatchingNetstat},
		"CheckNoMatchingLinesPSCommand":              {"regex", (*machine).noMatchingProcesses},
		"CheckMatchingLinesInAuditDRules":            {"regex", (*machine).matchingAuditRules},
		"CheckDockerdFlagSet":                        {"key", (*machine).dockerdFlagSet},
		"CheckDockerdFlagNotSet":                     {"key value", (*machine).dockerdFlagNotSet},
		"CheckDockerTLSFlagsSet":                     {"", (*machine).dockerTLSFlags},
		"CheckDockerTLSFileStats":                    {"key", (*machine).dockerTLSFileStats},
		"CheckDockerNotUsingDefaultBridge":           {"", (*machine).dockerDefaultBridge},
		"CheckDockerSockMount":                       {"", (*machine).dockerSockMount},
		"CheckDockerSecOps":                          {"regex", (*machine).dockerSecOps},
		"CheckMACEnabledDocker":                      {"", (*machine).dockerMAC},
		"CheckDockerCommandOutputNotMatch":           {"key regex", (*machine).dockerOutputNotMatch},

		// Ours: mounts.go, kernel.go, walk.go, trigger.go.
		"CheckMountOption":      {"path value", (*machine).mountOption},
		"CheckSeparateMount":    {"path", (*machine).separateMount},
		"CheckModuleDisabled":   {"key", (*machine).moduleDisabled},
		"CheckNoWorldWritable":  {"", (*machine).noWorldWritable},
		"CheckStickyBit":        {"", (*machine).stickyBit},
		"CheckNoUnowned":        {"", (*machine).noUnowned},
		"CheckNoNXProblem":      {"", (*machine).noExecute},
		"CheckNoExposedService": {"value", (*machine).noExposedService},
		"CheckNoSelfTest":       {"path", (*machine).noSelfTest},
	}
}

func attribute(c *Check, name string) string {
	switch name {
	case "path":
		return c.Path
	case "regex":
		return c.Regex
	case "expect":
		return c.Expect
	case "key":
		return c.Key
	case "value":
		return c.Value
	case "variable":
		return c.Variable
	case "service":
		return c.Service
	case "packagename":
		return c.Package
	case "exec-command":
		return c.Exec
	case "version":
		return c.Version
	case "justification":
		return c.Justification
	}
	return ""
}

type fileCheck = func(m *machine, c *Check, lines []string) verdict

// ifNot reads a file that must be there.
func ifNot(f fileCheck) func(*machine, *Check) verdict {
	return func(m *machine, c *Check) verdict {
		lines, err := m.lines(c.Path)
		if err != nil {
			return unread(err)
		}
		return f(m, c, lines)
	}
}

// ifExists says nothing about a file that is not there.
func ifExists(f fileCheck) func(*machine, *Check) verdict {
	return func(m *machine, c *Check) verdict {
		lines, err := m.lines(c.Path)
		if gone(err) {
			return missf("%s is not there", c.Path)
		}
		if err != nil {
			return unread(err)
		}
		return f(m, c, lines)
	}
}

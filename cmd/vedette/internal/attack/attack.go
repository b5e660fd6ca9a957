// Package attack names ATT&CK techniques. It knows those that the built-in rules
// and scores use; of any other, the id is the name.
package attack

import "strings"

// names of techniques, as MITRE writes them.
var names = map[string]string{
	"T1003.008": "OS Credential Dumping: /etc/passwd and /etc/shadow",
	"T1014":     "Rootkit",
	"T1021.004": "Remote Services: SSH",
	"T1027.002": "Obfuscated Files or Information: Software Packing",
	"T1036.005": "Masquerading: Match Legitimate Resource Name or Location",
	"T1040":     "Network Sniffing",
	"T1053.003": "Scheduled Task/Job: Cron",
	"T1055":     "Process Injection",
	"T1055.008": "Process Injection: Ptrace System Calls",
	"T1055.009": "Process Injection: Proc Memory",
	"T1059":     "Command and Scripting Interpreter",
	"T1059.004": "Command and Scripting Interpreter: Unix Shell",
	"T1059.006": "Command and Scripting Interpreter: Python",
	"T1068":     "Exploitation for Privilege Escalation",
	"T1070.002": "Indicator Removal: Clear Linux or Mac System Logs",
	"T1070.003": "Indicator Removal: Clear Command History",
	"T1070.004": "Indicator Removal: File Deletion",
	"T1071":     "Application Layer Protocol",
	"T1071.004": "Application Layer Protocol: DNS",
	"T1095":     "Non-Application Layer Protocol",
	"T1098":     "Account Manipulation",
	"T1098.004": "Account Manipulation: SSH Authorized Keys",
	"T1106":     "Native API",
	"T1136.001": "Create Account: Local Account",
	"T1190":     "Exploit Public-Facing Application",
	"T1204.002": "User Execution: Malicious File",
	"T1205":     "Traffic Signaling",
	"T1496":     "Resource Hijacking",
	"T1505.003": "Server Software Component: Web Shell",
	"T1518.001": "Software Discovery: Security Software Discovery",
	"T1543.002": "Create or Modify System Process: Systemd Service",
	"T1546.004": "Event Triggered Execution: Unix Shell Configuration Modification",
	"T1547.006": "Boot or Logon Autostart Execution: Kernel Modules and Extensions",
	"T1548":     "Abuse Elevation Control Mechanism",
	"T1548.001": "Abuse Elevation Control Mechanism: Setuid and Setgid",
	"T1548.003": "Abuse Elevation Control Mechanism: Sudo and Sudo Caching",
	"T1552.001": "Unsecured Credentials: Credentials In Files",
	"T1552.004": "Unsecured Credentials: Private Keys",
	"T1554":     "Compromise Host Software Binary",
	"T1556.003": "Modify Authentication Process: Pluggable Authentication Modules",
	"T1562":     "Impair Defenses",
	"T1562.001": "Impair Defenses: Disable or Modify Tools",
	"T1562.003": "Impair Defenses: Impair Command History Logging",
	"T1564":     "Hide Artifacts",
	"T1564.013": "Hide Artifacts: Bind Mounts",
	"T1574.006": "Hijack Execution Flow: Dynamic Linker Hijacking",
	"T1611":     "Escape to Host",
	"T1620":     "Reflective Code Loading",
}

// Label is "T1059.004 Command and Scripting Interpreter: Unix Shell", or the id alone.
func Label(id string) string {
	if name := names[strings.ToUpper(id)]; name != "" {
		return id + " " + name
	}
	return id
}

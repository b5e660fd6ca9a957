// Package attack names ATT&CK techniques. It knows those that the built-in rules
// and scores use; of any other, the id is the name.
package attack

import "strings"

// names of techniques, as MITRE writes them.
var names = map[string]string{
	"T1003":     "OS Credential Dumping",
	"T1003.008": "OS Credential Dumping: /etc/passwd and /etc/shadow",
	"T1014":     "Rootkit",
	"T1021":     "Remote Services",
	"T1021.004": "Remote Services: SSH",
	"T1027":     "Obfuscated Files or Information",
	"T1036":     "Masquerading",
	"T1036.005": "Masquerading: Match Legitimate Resource Name or Location",
	"T1041":     "Exfiltration Over C2 Channel",
	"T1048":     "Exfiltration Over Alternative Protocol",
	"T1053.003": "Scheduled Task/Job: Cron",
	"T1059":     "Command and Scripting Interpreter",
	"T1059.004": "Command and Scripting Interpreter: Unix Shell",
	"T1059.006": "Command and Scripting Interpreter: Python",
	"T1068":     "Exploitation for Privilege Escalation",
	"T1070":     "Indicator Removal",
	"T1070.003": "Indicator Removal: Clear Command History",
	"T1070.004": "Indicator Removal: File Deletion",
	"T1071":     "Application Layer Protocol",
	"T1071.001": "Application Layer Protocol: Web Protocols",
	"T1071.004": "Application Layer Protocol: DNS",
	"T1078":     "Valid Accounts",
	"T1095":     "Non-Application Layer Protocol",
	"T1098.004": "Account Manipulation: SSH Authorized Keys",
	"T1105":     "Ingress Tool Transfer",
	"T1106":     "Native API",
	"T1140":     "Deobfuscate/Decode Files or Information",
	"T1190":     "Exploit Public-Facing Application",
	"T1204":     "User Execution",
	"T1222.002": "File and Directory Permissions Modification: Linux and Mac",
	"T1496":     "Resource Hijacking",
	"T1505.003": "Server Software Component: Web Shell",
	"T1543.002": "Create or Modify System Process: Systemd Service",
	"T1548":     "Abuse Elevation Control Mechanism",
	"T1548.001": "Abuse Elevation Control Mechanism: Setuid and Setgid",
	"T1562":     "Impair Defenses",
	"T1562.001": "Impair Defenses: Disable or Modify Tools",
	"T1564.001": "Hide Artifacts: Hidden Files and Directories",
	"T1571":     "Non-Standard Port",
	"T1572":     "Protocol Tunneling",
	"T1573":     "Encrypted Channel",
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

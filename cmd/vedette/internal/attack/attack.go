// Package attack names ATT&CK techniques. It knows those that the built-in rules
// and scores use; of any other, the id is the name.
package attack

import "strings"

// names of techniques, as MITRE writes them.
var names = map[string]string{
	"T1003.008": "OS Credential Dumping: /etc/passwd and /etc/shadow",
	"T1021.004": "Remote Services: SSH",
	"T1059":     "Command and Scripting Interpreter",
	"T1059.004": "Command and Scripting Interpreter: Unix Shell",
	"T1059.006": "Command and Scripting Interpreter: Python",
	"T1070.004": "Indicator Removal: File Deletion",
	"T1071":     "Application Layer Protocol",
	"T1071.004": "Application Layer Protocol: DNS",
	"T1095":     "Non-Application Layer Protocol",
	"T1106":     "Native API",
	"T1190":     "Exploit Public-Facing Application",
	"T1204.002": "User Execution: Malicious File",
	"T1496":     "Resource Hijacking",
	"T1505.003": "Server Software Component: Web Shell",
	"T1552.001": "Unsecured Credentials: Credentials In Files",
	"T1552.004": "Unsecured Credentials: Private Keys",
	"T1564":     "Hide Artifacts",
	"T1574.006": "Hijack Execution Flow: Dynamic Linker Hijacking",
	"T1620":     "Reflective Code Loading",
}

// Label is "T1059.004 Command and Scripting Interpreter: Unix Shell", or the id alone.
func Label(id string) string {
	if name := names[strings.ToUpper(id)]; name != "" {
		return id + " " + name
	}
	return id
}

package attack

import (
	"slices"
	"strings"
)

// Tactics in the order of the matrix.
var Tactics = []string{
	"Initial Access", "Execution", "Persistence", "Privilege Escalation", "Defense Evasion", "Credential Access",
	"Discovery", "Lateral Movement", "Collection", "Command and Control", "Exfiltration", "Impact",
}

// tactics are the one that a technique mostly serves where it is seen on Linux; a
// sub-technique is its technique's unless it stands here itself.
var tactics = map[string]string{
	"T1003": "Credential Access", "T1005": "Collection", "T1007": "Discovery", "T1014": "Defense Evasion", "T1016": "Discovery",
	"T1018": "Discovery", "T1021": "Lateral Movement", "T1027": "Defense Evasion", "T1033": "Discovery", "T1036": "Defense Evasion",
	"T1037": "Persistence", "T1040": "Credential Access", "T1041": "Exfiltration", "T1046": "Discovery", "T1048": "Exfiltration",
	"T1049": "Discovery", "T1053": "Persistence", "T1055": "Privilege Escalation", "T1056": "Collection", "T1057": "Discovery",
	"T1059": "Execution", "T1068": "Privilege Escalation", "T1069": "Discovery", "T1070": "Defense Evasion", "T1071": "Command and Control",
	"T1078": "Initial Access", "T1082": "Discovery", "T1083": "Discovery", "T1087": "Discovery", "T1090": "Command and Control",
	"T1095": "Command and Control", "T1098": "Persistence", "T1105": "Command and Control", "T1106": "Execution", "T1110": "Credential Access",
	"T1113": "Collection", "T1115": "Collection", "T1119": "Collection", "T1124": "Discovery", "T1132": "Command and Control",
	"T1133": "Initial Access", "T1136": "Persistence", "T1140": "Defense Evasion", "T1176": "Persistence", "T1190": "Initial Access",
	"T1195": "Initial Access", "T1201": "Discovery", "T1203": "Execution", "T1204": "Execution", "T1205": "Command and Control",
	"T1210": "Lateral Movement", "T1219": "Command and Control", "T1222": "Defense Evasion", "T1480": "Defense Evasion", "T1485": "Impact",
	"T1486": "Impact", "T1489": "Impact", "T1490": "Impact", "T1496": "Impact", "T1497": "Defense Evasion", "T1498": "Impact",
	"T1499": "Impact", "T1505": "Persistence", "T1518": "Discovery", "T1529": "Impact", "T1531": "Impact", "T1543": "Persistence",
	"T1546": "Persistence", "T1547": "Persistence", "T1548": "Privilege Escalation", "T1550": "Lateral Movement", "T1552": "Credential Access",
	"T1553": "Defense Evasion", "T1554": "Persistence", "T1555": "Credential Access", "T1556": "Credential Access", "T1557": "Credential Access",
	"T1558": "Credential Access", "T1560": "Collection", "T1561": "Impact", "T1562": "Defense Evasion", "T1563": "Lateral Movement",
	"T1564": "Defense Evasion", "T1565": "Impact", "T1567": "Exfiltration", "T1568": "Command and Control", "T1569": "Execution",
	"T1570": "Lateral Movement", "T1571": "Command and Control", "T1572": "Command and Control", "T1573": "Command and Control",
	"T1574": "Persistence", "T1609": "Execution", "T1610": "Execution", "T1611": "Privilege Escalation", "T1613": "Discovery",
	"T1620": "Defense Evasion", "T1622": "Defense Evasion", "T1652": "Discovery",
}

// Tactic is the tactic of a technique; "" when it is not known.
func Tactic(id string) string {
	id = strings.ToUpper(id)
	if t := tactics[id]; t != "" {
		return t
	}
	base, _, _ := strings.Cut(id, ".")
	return tactics[base]
}

// ByTactic orders techniques by the matrix; those of no known tactic are last, under "".
func ByTactic(ids []string) (order []string, of map[string][]string) {
	of = map[string][]string{}
	for _, id := range ids {
		t := Tactic(id)
		of[t] = append(of[t], id)
	}
	for _, t := range append(slices.Clone(Tactics), "") {
		if len(of[t]) > 0 {
			order = append(order, t)
		}
	}
	return order, of
}

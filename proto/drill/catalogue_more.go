package drill

var credentials = []Drill{
	{ID: "shadow-read", Title: "Password hashes read", Techniques: "T1003.008", Needs: "cat", Does: "cat reads /etc/shadow; what it says goes nowhere", Expect: "the command line"},
	{ID: "memory-read", Title: "Memory of another program dumped", Techniques: "T1003.007", Does: "attaches to a sleeping program that it did not start itself, reads its memory by /proc/PID/mem, detaches", Expect: "the attach"},
	{ID: "secret-files", Title: "Cloud credentials read", Techniques: "T1552.001", Private: "/root", Paths: "/root/.aws", Needs: "cat", Does: "cat reads made-up cloud credentials of root", Expect: "the command line"},
	{ID: "private-keys", Title: "Private keys packed", Techniques: "T1552.004", Private: "/root", Paths: "/root/.ssh", Needs: "tar", Does: "tar packs a made-up private key of root", Expect: "the command line"},
	{ID: "history-searched", Title: "Passwords looked for in the history", Techniques: "T1552.003", Private: "/root", Paths: "/root/.bash_history", Needs: "grep", Does: "grep looks for passwords in a made-up history", Expect: "the command line"},
	{ID: "browser-store", Title: "Browser's passwords copied", Techniques: "T1555.003", Private: "/root", Paths: "/root/.mozilla", Needs: "cp", Does: "cp copies made-up stored passwords of a browser", Expect: "the command line"},
	{ID: "password-store", Title: "Password manager's file copied", Techniques: "T1555.005", Private: "/root", Paths: "/root/vault.kdbx", Needs: "cp", Does: "cp copies a made-up password file", Expect: "the command line"},
	{ID: "ticket-cache", Title: "Kerberos tickets copied", Techniques: "T1558.005", Host: "a file krb5cc_… in /tmp", Needs: "cp", Does: "cp copies a made-up ticket cache in /tmp", Expect: "the command line"},
	{ID: "sniffer", Title: "Traffic of others read", Techniques: "T1040", Network: true, Does: "opens a packet socket in a private network and reads nothing", Expect: "the packet socket"},
	{ID: "arp-spoof", Title: "Forged answer about an address", Techniques: "T1557.002", Network: true, Does: "sends one ARP answer over loopback of a private network", Expect: "the packet socket"},
}

var discovery = []Drill{
	{ID: "discover-host", Title: "Round of questions about the host", Techniques: "T1082 T1033 T1057 T1007 T1124 T1680", Needs: "uname id ps df date whoami hostname", Does: "asks uname, whoami, id, hostname, ps, date, df and the list of units within a second", Expect: "the run of questions"},
	{ID: "discover-accounts", Title: "Round of questions about accounts", Techniques: "T1087.001 T1069.001 T1201", Needs: "cat getent id groups", Does: "reads the accounts, the groups and the rules for passwords", Expect: "the run of questions"},
	{ID: "discover-network", Title: "Round of questions about the network", Techniques: "T1016 T1049 T1018", Needs: "ip ss", Does: "asks for addresses, routes, neighbours, connections and the names of hosts", Expect: "the run of questions"},
	{ID: "port-scan", Title: "Port scan", Techniques: "T1046", Network: true, Does: "tries 200 ports of one address in a private network", Expect: "the run of refused connections"},
	{ID: "security-software", Title: "Security software looked for", Techniques: "T1518.001", Needs: "pgrep", Does: "looks for processes of security programs by their names", Expect: "the command line"},
	{ID: "logs-listed", Title: "Logs read for who logged in", Techniques: "T1654", Needs: "grep last", Does: "asks last, and looks for failed log-ins in the logs; what it finds goes nowhere", Expect: "the command line"},
	{ID: "machine-check", Title: "Check for a virtual machine", Techniques: "T1497.001", Needs: "cat", Does: "reads what the firmware says that the machine is", Expect: "the command line"},
	{ID: "drivers-listed", Title: "Drivers listed", Techniques: "T1652", Needs: "cat", Does: "reads the list of loaded modules", Expect: "the command line"},
	{ID: "files-searched", Title: "Files with special rights looked for", Techniques: "T1083", Needs: "find", Does: "find looks for setuid programs in /usr/bin", Expect: "the command line"},
}

var network = []Drill{
	{ID: "ssh-onward", Title: "Onward log-in", Techniques: "T1021.004", Network: true, Needs: "ssh", Does: "ssh tries to log in at an address of a private network, where nobody answers as sshd would", Expect: "the connection to port 22"},
	{ID: "tool-sent", Title: "Tool sent to another host", Techniques: "T1570", Network: true, Needs: "scp", Does: "scp tries to send a copy of true to an address of a private network", Expect: "the connection to port 22"},
	{ID: "archive", Title: "Data packed where nobody looks", Techniques: "T1560.001", Host: "a hidden folder in /dev/shm", Needs: "tar", Does: "tar packs made-up documents into a hidden folder in /dev/shm", Expect: "the command line"},
	{ID: "staging", Title: "Data gathered in one place", Techniques: "T1074.001 T1119", Host: "a hidden folder in /var/tmp", Needs: "find cp", Does: "find copies made-up documents into a hidden folder in /var/tmp", Expect: "the command line"},
	{ID: "web-beacon", Title: "Implant that asks by HTTP", Techniques: "T1071.001", Network: true, Host: "a program in /dev/shm", Does: "a program in /dev/shm asks a web server in a private network four times", Expect: "a connection from an odd place"},
	{ID: "dns-tunnel", Title: "Data in names that are looked up", Techniques: "T1071.004", Network: true, Does: "looks up 60 names of 60 characters below one domain at a name server in a private network", Expect: "the run of long names"},
	{ID: "made-up-domains", Title: "Names made by an algorithm", Techniques: "T1568.002", Network: true, Does: "looks up 40 made-up domains, none of which is there", Expect: "the run of names that are not there"},
	{ID: "raw-protocol", Title: "Talk without TCP or UDP", Techniques: "T1095", Network: true, Does: "sends one ICMP message over a raw socket in a private network", Expect: "the raw socket"},
	{ID: "odd-port", Title: "Implant at an odd port", Techniques: "T1571", Network: true, Host: "a program in /var/tmp", Does: "a program in /var/tmp connects to port 31337 in a private network", Expect: "a connection from an odd place"},
	{ID: "tool-fetched", Title: "Tool fetched and run", Techniques: "T1105", Network: true, Host: "a folder in /tmp", Needs: "curl", Does: "curl fetches a script that says true from a private network to /tmp, which is made executable and run", Expect: "the fetch or the run"},
	{ID: "proxy", Title: "Connection handed on", Techniques: "T1090.001", Network: true, Host: "a program in /var/tmp", Does: "a program in /var/tmp accepts a connection and hands it on to another address of a private network", Expect: "a connection from an odd place"},
	{ID: "sent-plain", Title: "Data sent away in the clear", Techniques: "T1048.003", Network: true, Needs: "bash tar", Does: "tar packs made-up documents into a connection that bash opened", Expect: "the command line or the connection"},
	{ID: "sent-by-implant", Title: "Data sent away by the implant", Techniques: "T1041", Network: true, Host: "a program in /dev/shm", Does: "a program in /dev/shm sends a megabyte to an address of a private network", Expect: "a connection from an odd place"},
	{ID: "sent-by-web", Title: "Data put onto a web server", Techniques: "T1048", Network: true, Needs: "curl", Does: "curl uploads made-up documents to an address of a private network", Expect: "the command line or the connection"},
}

var impact = []Drill{
	{ID: "mining", Title: "Miner", Techniques: "T1496.001", Does: "sleeps for a moment with a miner's argument vector, which names a pool that does not exist", Expect: "the command line"},
	{ID: "encryption", Title: "Files encrypted", Techniques: "T1486", Does: "encrypts 200 made-up documents in its scratch folder, renames them and leaves a note", Expect: "the run of rewritten and renamed files"},
	{ID: "destruction", Title: "Files destroyed", Techniques: "T1485", Needs: "shred", Does: "shred overwrites and removes made-up documents in its scratch folder", Expect: "the command line"},
	{ID: "service-stop", Title: "Service stopped", Techniques: "T1489", Needs: "systemctl", Does: "asks systemctl to stop a unit that does not exist", Expect: "the command line"},
	{ID: "backups-removed", Title: "Backups removed", Techniques: "T1490", Private: "/var/backups", Paths: "/var/backups", Needs: "rm", Does: "rm removes all of /var/backups in a private overlay", Expect: "the command line"},
	{ID: "defacement", Title: "Message for whoever logs in", Techniques: "T1491.001", Private: "/etc", Paths: "/etc/motd /etc/issue /etc/update-motd.d", Does: "writes a message to /etc/motd and a script that says it to /etc/update-motd.d", Expect: "the change of what log-ins show"},
	{ID: "account-locked", Title: "Account made unusable", Techniques: "T1531", Private: "/etc", Paths: "/etc/shadow", Needs: "sed", Does: "sed makes every password of a private overlay's shadow file unmatchable", Expect: "the change of the accounts"},
	{ID: "data-changed", Title: "Stored data changed", Techniques: "T1565.001", Private: "/etc", Paths: "/etc/hosts", Does: "adds a comment to /etc/hosts", Expect: "the changed file"},
}

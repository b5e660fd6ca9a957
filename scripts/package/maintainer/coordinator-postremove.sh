#!/bin/sh
# Only deb can purge; rpm leaves the state for a later installation. The state
# holds the cluster's CA, so nothing less than a purge removes it.
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi
if [ "$1" = purge ]; then
	rm -rf /var/lib/vedette-coordinator
	rmdir /etc/vedette 2>/dev/null || true
	if getent passwd vedette-coordinator >/dev/null; then
		userdel vedette-coordinator || true
	fi
fi

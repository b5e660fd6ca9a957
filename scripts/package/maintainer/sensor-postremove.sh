#!/bin/sh
# Only deb can purge; rpm leaves the state for a later installation.
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi
if [ "$1" = purge ]; then
	rm -rf /var/lib/vedette-sensor
	rmdir /etc/vedette 2>/dev/null || true
fi

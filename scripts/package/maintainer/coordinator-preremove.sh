#!/bin/sh
# deb says "remove" or "upgrade", rpm 0 or 1. An upgrade leaves the service running
# until the new one replaces it.
set -e
case "$1" in
remove | 0) ;;
*) exit 0 ;;
esac

if command -v systemctl >/dev/null 2>&1; then
	if [ -d /run/systemd/system ]; then
		systemctl --quiet stop vedette-coordinator.service || true
	fi
	# Removed and installed again (not purged), it is enabled again, if it was.
	if systemctl --quiet is-enabled vedette-coordinator.service; then
		[ "$1" = 0 ] || : >/var/lib/vedette-coordinator/.enabled
		systemctl --quiet disable vedette-coordinator.service || true
	fi
fi

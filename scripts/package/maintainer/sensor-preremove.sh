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
		systemctl --quiet stop vedette-sensor.service || true
	fi
	# Removed and installed again (not purged), it is enabled again, if it was.
	if systemctl --quiet is-enabled vedette-sensor.service; then
		[ "$1" = 0 ] || : >/var/lib/vedette-sensor/.enabled
		systemctl --quiet disable vedette-sensor.service || true
	fi
fi

# Stopping the sensor does not end an isolation; removing it does, because nobody
# could release the host any more. A host that cannot be given back its network
# keeps its sensor.
if ! vedette-sensor unisolate --yes --reason "the package is removed"; then
	echo "vedette-sensor: not removed, because this host would stay isolated with nobody to release it" >&2
	exit 1
fi

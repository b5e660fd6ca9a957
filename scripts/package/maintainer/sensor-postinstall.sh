#!/bin/sh
# deb calls it with "configure" and the old version, rpm with the count of
# installed packages. It must work where no systemd runs: an image being built.
set -e
first=""
case "$1" in
configure) [ -n "$2" ] || first=yes ;;
1) first=yes ;;
2) ;;
*) exit 0 ;;
esac

install -d -m 0700 /var/lib/vedette-sensor

if [ -e /var/lib/vedette-sensor/.enabled ]; then
	rm -f /var/lib/vedette-sensor/.enabled
	first=yes
fi

if command -v systemctl >/dev/null 2>&1; then
	[ -d /run/systemd/system ] && systemctl daemon-reload || true
	if [ -n "$first" ]; then
		systemctl --quiet enable vedette-sensor.service || true
	elif [ -d /run/systemd/system ]; then
		systemctl try-restart vedette-sensor.service || true
	fi
fi

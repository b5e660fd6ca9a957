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

if ! getent passwd vedette-coordinator >/dev/null; then
	useradd --system --user-group --no-create-home --home-dir /var/lib/vedette-coordinator \
		--shell /usr/sbin/nologin --comment "Vedette coordinator" vedette-coordinator
fi
install -d -m 0700 -o vedette-coordinator -g vedette-coordinator /var/lib/vedette-coordinator

if [ -e /var/lib/vedette-coordinator/.enabled ]; then
	rm -f /var/lib/vedette-coordinator/.enabled
	first=yes
fi

if command -v systemctl >/dev/null 2>&1; then
	[ -d /run/systemd/system ] && systemctl daemon-reload || true
	if [ -n "$first" ]; then
		systemctl --quiet enable vedette-coordinator.service || true
	elif [ -d /run/systemd/system ]; then
		systemctl try-restart vedette-coordinator.service || true
	fi
fi

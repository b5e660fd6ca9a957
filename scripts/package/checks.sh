# Sourced by life.sh and booted.sh inside the namespaces that test.sh made: $2 is
# the work folder, $3 the lower root.
work=$2
lower=$3
root=$work/root
failures=0
checks=0
started=()

say() { printf '%s\n' "$*"; }

# check TEXT COMMAND…: one line each; the output only when it fails.
check() {
	local text=$1
	shift
	checks=$((checks + 1))
	if "$@" >"$work/output" 2>&1; then
		say "  ✓ $text"
	else
		failures=$((failures + 1))
		say "  ✗ $text"
		say "      $*"
		tail -12 "$work/output" | sed 's/^/      /'
		return 1
	fi
}

lacks() { ! grep -F -- "$1" "$2"; }
contains() { grep -qF -- "$1" "$2"; }

# within SECONDS COMMAND…: until it holds.
within() {
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep 0.2
	done
}

stop() { # stop PID: an orderly end within 10 s
	kill -TERM "$1" 2>/dev/null
	within 10 gone "$1" || { kill -KILL "$1"; return 1; }
	wait "$1" 2>/dev/null
	return 0
}
gone() { ! kill -0 "$1" 2>/dev/null; }

finish() {
	local pid
	for pid in "${started[@]}"; do
		gone "$pid" || stop "$pid"
	done
	if [ "$failures" != 0 ]; then
		for log in "$work"/*.log; do
			[ -s "$log" ] || continue
			say "--- $(basename "$log")"
			grep -v "^notify: WATCHDOG" "$log" | tail -60
		done
	fi
}
trap finish EXIT

# mount_root makes the throw-away root; /proc, /sys and /dev are its user's matter.
mount_root() {
	mkdir -p "$work/layer" "$root"
	# An upper layer inside its own lower one is refused: it gets a mount of its own.
	mount -t tmpfs -o mode=755,size=1g package-test "$work/layer" &&
		mkdir "$work/layer/upper" "$work/layer/work" &&
		mount -t overlay -o "lowerdir=$lower,upperdir=$work/layer/upper,workdir=$work/layer/work" package-test "$root" &&
		mount -t tmpfs -o mode=755 package-test "$root/run" &&
		mount -t tmpfs -o mode=1777 package-test "$root/tmp"
}

unmount_root() {
	umount -R "$root" && umount "$work/layer"
}

# closing prints what held, for the parent to add up.
closing() {
	echo "$((checks - failures)) $checks" >"$work/result-$1"
	[ "$failures" = 0 ]
}

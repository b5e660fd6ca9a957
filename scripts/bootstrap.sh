#!/usr/bin/env bash
# bootstrap.sh up|demo|bench|evasion|isolation|sim|torture|eval|drill|quiet|vmtest: makes this machine able to build and run Vedette,
# builds it, and becomes bin/vedette-MODE. Every step that is already done costs
# a few milliseconds, so it runs each time.
set -u
mode=${1:?"usage: bootstrap.sh up|demo|bench|evasion|isolation|sim|torture|eval|drill|quiet|vmtest"}
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
. scripts/env.sh

min_go=1.26
log=$(mktemp)
trap 'rm -f "$log"' EXIT
started=$SECONDS

fail() {
	echo "$mode: $*" >&2
	exit 1
}

# step TEXT COMMAND…: runs it with its output kept back, shows the time that
# passes, and shows the output whole when it fails.
step() {
	local text=$1 begin=$SECONDS status=0 pid
	shift
	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	if [ -t 2 ]; then
		while kill -0 "$pid" 2>/dev/null; do
			printf '\r  … %-52s %3d s' "$text" $((SECONDS - begin)) >&2
			sleep 0.2
		done
		printf '\r\033[K' >&2
	fi
	wait "$pid" || status=$?
	if [ "$status" != 0 ]; then
		printf '  ✗ %-52s %3d s\n' "$text" $((SECONDS - begin)) >&2
		cat "$log" >&2
		exit "$status"
	fi
	printf '  ✓ %-52s %3d s\n' "$text" $((SECONDS - begin)) >&2
}

# version_at_least HAVE WANT
version_at_least() {
	[ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -1)" = "$2" ]
}

install_packages() { # install_packages APT_NAMES DNF_NAMES
	if command -v apt-get >/dev/null; then
		export DEBIAN_FRONTEND=noninteractive
		# shellcheck disable=SC2086  # a list of names
		apt-get install -qq -y --no-install-recommends $1 ||
			{ apt-get update -qq && apt-get install -qq -y --no-install-recommends $1; }
	elif command -v dnf >/dev/null; then
		# shellcheck disable=SC2086
		dnf install -q -y $2
	else
		echo "neither apt-get nor dnf is here; install these yourself and run again: $1"
		return 1
	fi
}

# What is installed to be run by ourselves, in a place of its own, is not to run by
# itself as well, now or at the next boot: nobody asked for an open port 22 or for a
# machine that is audited.
install_unstarted() { # install_unstarted APT_NAMES DNF_NAMES UNIT…
	local policy=/usr/sbin/policy-rc.d made="" status
	if [ -d /usr/sbin ] && [ ! -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && made=yes
	fi
	install_packages "$1" "$2"
	status=$?
	[ -n "$made" ] && rm -f "$policy"
	if command -v systemctl >/dev/null; then
		systemctl --quiet disable "${@:3}" 2>/dev/null
	fi
	return "$status"
}

install_sshd() {
	install_unstarted "openssh-server openssh-client" "openssh-server openssh-clients" ssh.service ssh.socket sshd.service
}

# Without them the bench says of two figures that it skips them.
install_others() {
	install_unstarted "auditd bpftrace" "audit bpftrace" auditd.service || echo "going on without auditd and bpftrace"
}

# A compiler without the C library's headers is as good as none.
c_compiler_works() { # c_compiler_works FLAG…
	local out status
	out=$(mktemp)
	printf '#include <stdlib.h>\n#include <pthread.h>\nint main(void){return 0;}\n' |
		"${CC:-$(command -v gcc || command -v cc || echo gcc)}" "$@" -x c -o "$out" - 2>/dev/null
	status=$?
	rm -f "$out"
	return "$status"
}

# vmtest says itself what is missing, so that a machine without it is told once.
install_emulator() {
	install_packages qemu-system-x86 qemu-system-x86-core || true
}

# Without busybox the leases are skipped, and said to be.
install_isolation() {
	install_packages "nftables iproute2 busybox" "nftables iproute-tc" || true
}

# Faults of networks and disks: without them torture says what it could not do.
install_torture() {
	install_packages "nftables iproute2 e2fsprogs mount" "nftables iproute-tc e2fsprogs util-linux" || true
}

check_machine() {
	local kernel
	[ "$(uname -s)" = Linux ] || fail "Vedette watches Linux; this is $(uname -s)."
	[ "$(id -u)" = 0 ] || fail "needs root, to attach eBPF programs and to make network namespaces. Run: sudo make $mode"
	kernel=$(uname -r)
	version_at_least "${kernel%%[!0-9.]*}" 5.12 ||
		fail "needs Linux 5.12 or newer; this is $kernel."
	[ -r /sys/kernel/btf/vmlinux ] ||
		fail "this kernel carries no BTF (/sys/kernel/btf/vmlinux is missing). Boot a kernel built with CONFIG_DEBUG_INFO_BTF=y: the stock kernels of Debian 12, Ubuntu 22.04, RHEL 9 and newer have it."
}

check_go() {
	local version
	if ! command -v go >/dev/null; then
		fail "Go is missing. Install Go $min_go or newer and run again:
    https://go.dev/dl/  →  tar -C /usr/local -xzf go$min_go.*.linux-*.tar.gz
  /usr/local/go/bin is looked into even when it is not on PATH."
	fi
	version=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null)
	version=${version#go}
	version_at_least "$version" "$min_go" && return 0
	# From 1.21 on, an older Go fetches the version that go.mod names.
	if version_at_least "$version" 1.21 && [ "$(go env GOTOOLCHAIN)" != local ]; then
		echo "  · Go $version is here; it fetches the $min_go toolchain by itself" >&2
		return 0
	fi
	fail "Go $version is too old: $min_go or newer is needed. Get it from https://go.dev/dl/ (unpack to /usr/local/go)."
}

echo "vedette: setting up and building (the first run takes a few minutes)" >&2
# vmtest brings its own kernel, sim and eval need nothing of this one: they run as anybody.
[ "$mode" = vmtest ] || [ "$mode" = sim ] || [ "$mode" = eval ] || check_machine
check_go
if [ "$mode" = vmtest ]; then
	if ! command -v qemu-system-x86_64 >/dev/null && [ "$(id -u)" = 0 ]; then
		step "installing qemu" install_emulator
	fi
	step "fetching Go modules" go mod download
	step "building vedette-vmtest" make bin/vedette-vmtest
	rm -f "$log"
	trap - EXIT
	exec bin/vedette-vmtest "$@"
fi
if [ "$mode" = isolation ]; then
	if ! { command -v nft && command -v tc && command -v busybox; } >/dev/null; then
		step "installing nft, tc and busybox (to attack, to lease)" install_isolation
	fi
	step "fetching Go modules" go mod download
	step "building vedette-isolation" make bin/vedette-isolation bin/vedette-vmtest
	vedette_give_back
	rm -f "$log"
	trap - EXIT
	exec bin/vedette-isolation "$@"
fi
c_compiler_works || step "installing a C compiler (for SQLite)" \
	install_packages "gcc libc6-dev" "gcc glibc-devel"
c_compiler_works || fail "still no working C compiler; install gcc and the C library's headers (libc6-dev or glibc-devel)."
if [ "$mode" = eval ]; then
	step "fetching Go modules" go mod download
	step "building vedette-eval" make bin/vedette-eval
	vedette_give_back
	rm -f "$log"
	trap - EXIT
	exec bin/vedette-eval "$@"
fi
# What is run in a root of its own finds no libraries there.
[ "$mode" != evasion ] || c_compiler_works -static || step "installing the static C library (for the evasions)" \
	install_packages "libc6-dev" "glibc-static"
if [ "$mode" = demo ] && ! [ -x /usr/sbin/sshd ]; then
	step "installing sshd, not enabled (the attack hops over it)" install_sshd
fi
if [ "$mode" = bench ] && command -v apt-get >/dev/null && ! { command -v auditd && command -v bpftrace; } >/dev/null; then
	step "installing auditd and bpftrace, not enabled (to compare)" install_others
fi
if [ "$mode" = torture ] && ! { command -v nft && command -v tc && command -v mkfs.ext4; } >/dev/null; then
	step "installing nft, tc and mkfs.ext4 (to cut, to slow, to lose)" install_torture
fi
step "fetching Go modules" go mod download
step "building the sensor and the CLI" make bin/vedette-sensor bin/vedette
step "building the coordinator (SQLite takes the time)" make bin/vedette-coordinator
step "building vedette-$mode" make "bin/vedette-$mode"
if [ "$mode" = torture ]; then
	step "building a coordinator that can be told where to die" make bin/failpoint/vedette-coordinator
	step "building one whose clock can be moved (Go's library again, once)" make bin/skewed/vedette-coordinator
fi
vedette_give_back
echo "  ready after $((SECONDS - started)) s" >&2
rm -f "$log"
trap - EXIT
if [ "$mode" = up ] || [ "$mode" = demo ]; then
	umask 077
	mkdir -p .vedette
fi
case $mode in
up) exec bin/vedette-up --state .vedette --bin bin "$@" ;;
*) exec "bin/vedette-$mode" --bin bin "$@" ;;
esac

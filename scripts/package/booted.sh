# The packages under a real systemd: the first process of a container that has
# this namespace's network and a cgroup of its own. What only systemd can show is
# shown here: that the units' hardening lets the programs work, that readiness and
# watchdog are believed, and that an isolation outlives an upgrade, a crash and a
# boot. Every claim about the network is made by packets, counted by the peer.
. scripts/package/checks.sh

skip() {
	say "booted: SKIP: needs $1"
	exit 0
}
[ -x "$lower/lib/systemd/systemd" ] && [ "$lower" != / ] || skip "a bare Debian with systemd (debootstrap)"
cgroups=$(awk '{ for (i = 7; i < NF; i++) if ($i == "-" && $(i + 1) == "cgroup2") { print $5; exit } }' /proc/self/mountinfo)
[ -w "${cgroups:-/nonexistent}/cgroup.procs" ] || skip "a writable cgroup v2 mount"
cgroup=$cgroups/vedette-package-test-$$
mkdir "$cgroup" || skip "a cgroup of its own"

peer=10.91.0.1
peer6=fd91::1
machine_pid=""

clean() {
	power_off hard
	finish
	find "$cgroup" -depth -type d -exec rmdir {} \; 2>/dev/null
}
trap clean EXIT

# boot starts systemd and waits until it has started everything.
boot() {
	(
		echo "$BASHPID" >"$cgroup/cgroup.procs"
		exec unshare --fork --kill-child --pid --mount --ipc --cgroup --propagation private -- \
			scripts/package/machine.sh "$root" "$work/bpf"
	) >>"$work/console.log" 2>&1 </dev/null &
	unshare_pid=$!
	within 10 booting && within 60 settled
}
booting() {
	machine_pid=$(cat "/proc/$unshare_pid/task/$unshare_pid/children") && machine_pid=${machine_pid%% *} &&
		[ "$(cat "/proc/$machine_pid/comm")" = systemd ]
} 2>/dev/null
settled() { case $(machine systemctl is-system-running 2>/dev/null) in running | degraded) ;; *) return 1 ;; esac; }

power_off() {
	[ -n "$machine_pid" ] || return 0
	journal -b -u 'vedette-*' >>"$work/journal.log" 2>&1
	[ "${1:-}" = hard ] || { machine systemctl poweroff 2>/dev/null; within 30 gone "$unshare_pid"; }
	gone "$unshare_pid" || echo 1 >"$cgroup/cgroup.kill"
	within 10 gone "$unshare_pid"
	wait "$unshare_pid" 2>/dev/null
	machine_pid=""
}

# replaced UNIT PID: it runs as another process than that one. The process first: between
# a death and the next start the unit may still be called active.
replaced() {
	local now
	now=$(property "$1" MainPID)
	[ "${now:-0}" != 0 ] && [ "$now" != "$2" ] && active "$1"
}

# machine COMMAND…: run in the container.
machine() {
	nsenter --target "$machine_pid" --mount --pid --ipc --cgroup --root --wd -- \
		/usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@" </dev/null
}
refuses() { ! machine "$@"; }
at_peer() { nsenter --target "$peer_pid" --net -- "$@"; }
vedette() { at_peer bin/vedette --context-file "$work/peer/admin.context.yaml" "$@"; }
property() { machine systemctl show --value -p "$2" "$1"; }
active() { [ "$(property "$1" ActiveState)" = active ]; }
journal() { machine journalctl --no-pager -q -o cat "$@"; }

# arrived counts the datagrams to a closed port that reached the peer.
arrived() {
	at_peer awk '/^Udp: [0-9]/ { n += $3 } /^Udp6NoPorts/ { n += $2 } END { print n }' /proc/net/snmp /proc/net/snmp6
}
send() { for to in "$peer" "$peer6"; do echo x >"/dev/udp/$to/9"; done; } 2>/dev/null
passes() { # both IP versions get through
	local before
	before=$(arrived)
	send
	within 2 eval "[ \$(arrived) -ge $((before + 2)) ]"
}
quiet_since() { [ "$(arrived)" = "$1" ] || { echo "$(($(arrived) - $1)) packets passed"; return 1; }; }
cut() { local before; before=$(arrived) && send && sleep 0.3 && quiet_since "$before"; }

no_service() { ! machine systemctl list-units --all --no-legend 'vedette*' | grep -F vedette; }
no_circle() { ! journal -b | grep -i 'ordering cycle'; }
no_complaint() { ! journal -b -u "$1" | grep -iE 'not permitted|denied|level=ERROR'; }
host_is() { vedette host list -o json | tr -d ' \n' | grep -q "\"state\":\"$1\""; }
isolate() { vedette isolate --all --reason "package test" --yes --wait; }
last_operation() { vedette isolation list -o json | tr -d '\n' | grep -qE "$1"; }

say "booted"
ip link set lo up
unshare --net sleep infinity &
peer_pid=$!
started+=("$peer_pid")
within 5 eval '[ "$(readlink /proc/self/ns/net)" != "$(readlink /proc/$peer_pid/ns/net)" ]'
ip link add eth0 type veth peer name eth0 netns "$peer_pid" || skip "veth devices"
ip address add 10.91.0.2/24 dev eth0 && ip address add fd91::2/64 dev eth0 nodad && ip link set eth0 up
at_peer ip link set lo up
at_peer ip address add $peer/24 dev eth0 && at_peer ip address add $peer6/64 dev eth0 nodad && at_peer ip link set eth0 up
at_peer bin/vedette-coordinator init --data "$work/peer" --id c1 --listen $peer:7443 --operator-listen $peer:7444 2>"$work/peer.log"
# Not by at_peer: what is to be stopped is the program, not a shell around it.
nsenter --target "$peer_pid" --net -- bin/vedette-coordinator --data "$work/peer" >>"$work/peer.log" 2>&1 </dev/null &
started+=($!)

mount_root || { say "package-test: cannot make a throw-away root"; exit 1; }
# The devices stay when this machine boots, unlike a real one's, and with them what hangs on
# them; so the names of that have to.
mkdir "$work/bpf" && mount -t bpf -o mode=700 bpf "$work/bpf" || rmdir "$work/bpf"
# A cloud image in short: the network comes before sysinit.target.
cat >"$root/etc/systemd/system/network-up.service" <<UNIT
[Unit]
DefaultDependencies=no
After=network-pre.target
Before=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/bash -c 'echo x >/dev/udp/$peer/9; echo x >/dev/udp/$peer6/9; true'
UNIT
cat >"$root/etc/systemd/system/cloud-config.service" <<UNIT
[Unit]
DefaultDependencies=no
Requires=network-up.service
After=network-up.service
Before=sysinit.target
[Service]
Type=oneshot
ExecStart=/bin/true
[Install]
WantedBy=sysinit.target
UNIT
chroot "$root" systemctl --quiet enable cloud-config.service
check "systemd boots" boot || exit 1
check "the coordinator at the peer answers" within 20 vedette status
mkdir "$root/root/debs" && cp dist/*.deb "$work"/next/*.deb "$root/root/debs/"
check "dpkg installs all three" machine sh -c "dpkg -i \$(ls /root/debs/*.deb | grep -v _99)" || exit 1
check "what has no identity is not started" eval '! active vedette-sensor && ! active vedette-coordinator'

vedette token create -o name >"$work/token"
check "vedette-sensor enroll --coordinator … --token …" machine vedette-sensor enroll --coordinator $peer:7443 --token "$(cat "$work/token")"
sed -i 's/^# labels:.*/summary_interval: 1s/' "$root/etc/vedette/sensor.yaml"
check "systemctl enable --now vedette-sensor: ready" machine systemctl enable --now vedette-sensor
say "    ready after $((($(property vedette-sensor ActiveEnterTimestampMonotonic) - $(property vedette-sensor InactiveExitTimestampMonotonic)) / 1000)) ms, $(($(property vedette-sensor CPUUsageNSec) / 1000000)) ms of CPU"
check "the host is online" within 20 host_is online
check "the watchdog is fed" within 10 eval '[ "$(property vedette-sensor WatchdogTimestampMonotonic)" -gt "$(property vedette-sensor ActiveEnterTimestampMonotonic)" ]'
check "the unit lets it do all it does" no_complaint vedette-sensor

check "vedette-coordinator init, as root" machine vedette-coordinator init --data /var/lib/vedette-coordinator --id c1 --listen 127.0.0.1:7443 --operator-listen 127.0.0.1:7444
check "systemctl enable --now vedette-coordinator: ready" machine systemctl enable --now vedette-coordinator
check "the unit lets it do all it does" no_complaint vedette-coordinator
check "it serves" within 20 machine vedette --context-file /var/lib/vedette-coordinator/admin.context.yaml status
owns_its_state() { ! machine find /var/lib/vedette-coordinator ! -user vedette-coordinator | grep .; }
check "it owns its state" owns_its_state
check "it feeds the watchdog" within 20 eval '[ "$(property vedette-coordinator WatchdogTimestampMonotonic)" -gt "$(property vedette-coordinator ActiveEnterTimestampMonotonic)" ]'

mkdir -p "$root/run/systemd/system/vedette-coordinator.service.d"
printf '[Service]\nWatchdogSec=2\n' >"$root/run/systemd/system/vedette-coordinator.service.d/short.conf"
machine systemctl daemon-reload && machine systemctl restart vedette-coordinator
main_pid=$(property vedette-coordinator MainPID)
check "it feeds a shorter watchdog as well" eval 'sleep 3; [ "$(property vedette-coordinator MainPID)" = "$main_pid" ]'
machine systemctl kill -s STOP vedette-coordinator
check "one that hangs is replaced" within 20 replaced vedette-coordinator "$main_pid"

say "isolated, with the unit's capabilities"
check "before: packets pass (IPv4 and IPv6)" passes
check "vedette isolate --wait: applied and proved" isolate
check "packets do not pass" cut
# From here to the release not one packet may pass, at no moment.
quiet=$(arrived)
(while :; do send; sleep 0.01; done) &
sender_pid=$!
started+=("$sender_pid")
main_pid=$(property vedette-sensor MainPID)
check "the packages are upgraded" machine sh -c "dpkg --force-confold -i /root/debs/*_99.0.0_*.deb"
check "what outlives the sensor has its names" machine sh -c "! mountpoint -q /sys/fs/bpf || ls /sys/fs/bpf/vedette/*_prog_* >/dev/null"
check "the sensor is another process" within 20 replaced vedette-sensor "$main_pid"
check "the host is online" within 20 host_is online
check "no packet passed during the upgrade" quiet_since "$quiet"
main_pid=$(property vedette-sensor MainPID)
machine systemctl kill -s KILL vedette-sensor
check "killed, it is started again" within 20 replaced vedette-sensor "$main_pid"
check "unisolate is refused while it runs" refuses vedette-sensor unisolate --reason x --yes
check "no packet passed" quiet_since "$quiet"
check "the machine is shut down" power_off
if command -v nft >/dev/null; then
	kill "$sender_pid"
	wait "$sender_pid" 2>/dev/null
	# A booting kernel has no table.
	check "shutting down left the isolation" nft delete table netdev vedette_isolation
	quiet=$(arrived)
fi
check "and boots" boot
check "no unit waits in a circle" no_circle
check "the sensor was ready before the network" eval '[ "$(property vedette-sensor ActiveEnterTimestampMonotonic)" -le "$(property network-up InactiveExitTimestampMonotonic)" ]'
check "no packet passed before, during and after the boot" quiet_since "$quiet"
gone "$sender_pid" || kill "$sender_pid"
check "the host is online" within 20 host_is online
check "packets do not pass" cut
check "vedette release --wait" vedette release --all --reason "package test" --yes --wait
check "packets pass" passes
check "no name is left of what outlived a sensor" machine sh -c "! ls /sys/fs/bpf/vedette 2>/dev/null"

say "without the sensor"
check "isolated" isolate
machine systemctl kill -s KILL vedette-sensor && machine systemctl stop vedette-sensor
check "unisolate wants to be sure" refuses vedette-sensor unisolate --reason x
check "packets do not pass" cut
check "unisolate" machine vedette-sensor unisolate --reason "the sensor cannot start" --yes
check "packets pass" passes
machine systemctl start vedette-sensor
check "the cluster is told by whom" within 20 last_operation '"state": *"released"[^}]*' 
check "the audit names the reason" within 10 eval 'vedette audit list -o json | grep -q "root on the host.*the sensor cannot start"'
check "isolated" isolate
check "dpkg purges the sensor" machine dpkg -P vedette-sensor
check "packets pass" passes
nothing_left() { ! find "$root/var/lib" "$root/etc" "$root/run" "$root/usr" -xdev -name '*vedette-sensor*' ! -path '*/dpkg/*' | grep .; }
check "nothing of it is left" nothing_left
check "dpkg purges the rest" machine dpkg -P vedette-coordinator vedette
check "no service is known" no_service
check "the machine is shut down" power_off
closing booted

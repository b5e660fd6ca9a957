# The packages' life under a stand-in for systemd, which tells what the services
# say to it: install, enrol, run with the capabilities of the units and no others,
# upgrade, remove, purge; deb and rpm.
. scripts/package/checks.sh

inside() { chroot "$root" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@" </dev/null; }

# Not what a package owns: what dpkg, useradd and ldconfig keep for themselves, and
# what the CLI remembers for its user.
files() {
	(cd "$root" && find . -xdev \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./tmp \
		-o -path ./var/lib/dpkg -o -path ./var/lib/rpm -o -path ./var/log -o -path ./var/cache -o -path ./root/.cache \) -prune \
		-o ! -path './etc/*-' ! -path ./etc/.pwd.lock -print | sort)
}

same_files() { diff "$work/files-before" <(files); }

# start NAME COMMAND…: a service in the root, under a stand-in for systemd.
start() {
	local name=$1
	shift
	chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
		/run/notifyprobe "/run/notify-$name" "$@" >"$work/$name.log" 2>&1 </dev/null &
	started+=($!)
	eval "${name}_pid=$!"
}

# verify_unit NAME: systemd's own reading of the installed unit. Its program is in
# the root and systemd is not, so the program is looked for here and stood in for.
verify_unit() {
	local unit=$1.service program said
	mkdir -p "$work/units"
	program=$(sed -n 's/^ExecStart=\([^ ]*\).*/\1/p' "$root/usr/lib/systemd/system/$unit")
	test -x "$root$program" || { echo "ExecStart: no $program"; return 1; }
	sed 's/^ExecStart=.*/ExecStart=\/bin\/true/' "$root/usr/lib/systemd/system/$unit" >"$work/units/$unit"
	said=$(SYSTEMD_UNIT_PATH="$work/units:" systemd-analyze verify --man=no "$unit" 2>&1 | grep -F "$unit")
	printf '%s\n' "$said"
	[ -z "$said" ]
}

# exposure NAME WORST: systemd's score of the hardening, 0 (none exposed) to 10.
exposure() {
	local score
	score=$(systemd-analyze security --offline=yes "$root/usr/lib/systemd/system/$1.service" |
		sed -n 's/.*Overall exposure level.*: \([0-9.]*\) .*/\1/p')
	echo "$score" >"$work/exposure-$1"
	[ -n "$score" ] && awk -v score="$score" -v worst="$2" 'BEGIN { exit score > worst }'
}

# explained PAGE COMMAND…: every flag that the command knows is in the manual page.
explained() {
	local page=$1 flag missing=""
	shift
	zcat "$root/usr/share/man/$page.gz" | sed 's/\\-/-/g' >"$work/page"
	for flag in $(inside "$@" --help | grep -oE '^ +(-[a-zA-Z], )?--[a-z-]+' | grep -oE -- '--[a-z-]+' | grep -vx -- --help); do
		grep -qF -- "$flag" "$work/page" || missing="$missing $flag"
	done
	[ -z "$missing" ] || { echo "not in $page:$missing"; return 1; }
}

# keys_explained PAGE PROGRAM: every key of the config as well.
keys_explained() {
	local key missing=""
	zcat "$root/usr/share/man/$1.gz" >"$work/page"
	for key in $(inside "$2" --print-config | sed -n 's/^ *#* *\([a-z_]*\):.*/\1/p' | sort -u); do
		grep -qF -- "$key" "$work/page" || missing="$missing $key"
	done
	[ -z "$missing" ] || { echo "not in $1:$missing"; return 1; }
}

# unit_condition NAME: the file that the unit waits for has been made.
unit_condition() {
	local unit=$root/usr/lib/systemd/system/$1.service
	test -e "$root$(sed -n 's/^ConditionPathExists=//p' "$unit")"
}

# As much of the machine as a package expects to be there.
furnish_root() {
	mount_root &&
		mount --rbind /proc "$root/proc" && mount --rbind /sys "$root/sys" && mount --rbind /dev "$root/dev" &&
		cp "$work/notifyprobe" "$root/run/notifyprobe"
}

ip link set lo up 2>/dev/null || ifconfig lo up
deb_sensor=$(echo dist/vedette-sensor_*.deb)
deb_coordinator=$(echo dist/vedette-coordinator_*.deb)
deb_cli=$(echo dist/vedette_*.deb)

say "binaries"
for program in vedette vedette-sensor; do
	check "$program is static" bash -c "ldd bin/$program 2>&1 | grep -qE 'not a dynamic executable|statically linked'"
done

say "install (over $lower)"
furnish_root || { say "package-test: cannot make a throw-away root"; exit 1; }
files >"$work/files-before"
mkdir "$root/tmp/debs" && cp dist/*.deb "$work"/next/*.deb "$root/tmp/debs/"
check "dpkg installs all three" inside dpkg -i "/tmp/debs/$(basename "$deb_sensor")" "/tmp/debs/$(basename "$deb_coordinator")" "/tmp/debs/$(basename "$deb_cli")" || exit 1
for program in vedette-sensor vedette-coordinator; do
	check "$program --help" inside "$program" --help
	check "$program --version says a version" bash -c "chroot '$root' $program --version | grep -qE '[0-9]+\.[0-9]+\.[0-9]+'"
	check "$program --print-config reads the default config" inside "$program" --print-config
	check "$program.8 explains every flag" explained "man8/$program.8" "$program"
	check "$program.8 explains every config key" keys_explained "man8/$program.8" "$program"
done
for command in enroll release unisolate; do
	check "vedette-sensor.8 explains $command" explained man8/vedette-sensor.8 vedette-sensor "$command"
done
for command in init join; do
	check "vedette-coordinator.8 explains $command" explained man8/vedette-coordinator.8 vedette-coordinator "$command"
done
check "vedette version" inside vedette version
check "vedette.1 is there" test -s "$root/usr/share/man/man1/vedette.1.gz"
for file in bash-completion/completions/vedette zsh/vendor-completions/_vedette fish/vendor_completions.d/vedette.fish; do
	check "completion: $file" test -s "$root/usr/share/$file"
done
check "every command has its page" bash -c "[ \$(ls '$root'/usr/share/man/man1/vedette*.1.gz | wc -l) -ge 20 ]"
tidy() { # what lintian would say first
	local package odd
	for package in vedette-sensor vedette-coordinator vedette; do
		inside test -s "/usr/share/doc/$package/copyright" || return 1
		inside dpkg --verify "$package" || return 1
	done
	odd=$(inside dpkg -L vedette-sensor vedette-coordinator vedette | sort -u | while read -r file; do
		find "$root$file" -maxdepth 0 \( ! -user root -o ! -group root -o -perm /6022 \) ! -type l -print
	done)
	[ -z "$odd" ] || { echo "not root's, set-id or writable by others: $odd"; return 1; }
}
check "files are root's and as packed" tidy
check "sensor's config is its own" test "$(stat -c %a "$root/etc/vedette/sensor.yaml")" = 600
check "sensor's state is its own" test "$(stat -c %a "$root/var/lib/vedette-sensor")" = 700
check "the coordinator has its user" inside getent passwd vedette-coordinator
if command -v systemd-analyze >/dev/null; then
	for unit in vedette-sensor vedette-coordinator; do
		check "systemd-analyze verify $unit" verify_unit "$unit"
	done
	check "the sensor's exposure is at most 4.0" exposure vedette-sensor 4.0
	check "the coordinator's exposure is at most 2.0" exposure vedette-coordinator 2.0
	say "    sensor $(cat "$work/exposure-vedette-sensor"), coordinator $(cat "$work/exposure-vedette-coordinator"), of 10"
fi

say "refusals"
check "a sensor without identity says enrol" bash -c "! chroot '$root' vedette-sensor >'$work/refused' 2>&1 && grep -q enroll '$work/refused'"
check "a wrong token is refused with a reason" bash -c "! chroot '$root' vedette-sensor enroll --coordinator 127.0.0.1:7443 --token nonsense >'$work/refused' 2>&1 && grep -qi token '$work/refused'"

say "enrol and run"
context=/var/lib/vedette-coordinator/admin.context.yaml
vedette() { inside vedette --context-file "$context" "$@"; }
check "init makes the cluster" inside vedette-coordinator init --data /var/lib/vedette-coordinator \
	--id c1 --listen 127.0.0.1:7443 --operator-listen 127.0.0.1:7444
# What the unit does at a start.
chown -R --reference="$root/var/lib/vedette-coordinator" "$root/var/lib/vedette-coordinator"
check "the unit finds what it waits for" unit_condition vedette-coordinator
echo "# changed by the operator" >>"$root/etc/vedette/coordinator.yaml"
start coordinator setpriv --reuid vedette-coordinator --regid vedette-coordinator --clear-groups \
	--bounding-set=-all --inh-caps=-all --no-new-privs vedette-coordinator --config /etc/vedette/coordinator.yaml
check "the coordinator answers" within 20 vedette status
check "it tells systemd that it is ready" within 5 contains "notify: READY=1" "$work/coordinator.log"
check "it feeds the watchdog" within 5 contains "notify: WATCHDOG=1" "$work/coordinator.log"

check "a token is made" bash -c "$(declare -f inside); root='$root' inside vedette --context-file '$context' token create -o name >'$root/run/token'"
check "the host enrols with it" inside vedette-sensor enroll --coordinator 127.0.0.1:7443 --token-file /run/token
check "the token serves once" bash -c "! chroot '$root' vedette-sensor enroll --force --coordinator 127.0.0.1:7443 --state-dir /run/other --token-file /run/token"
check "the unit finds what it waits for" unit_condition vedette-sensor
{ echo "# changed by the operator"; echo "scope: netns:self"; echo "summary_interval: 1s"; } >>"$root/etc/vedette/sensor.yaml"
bounding=$(sed -n 's/^CapabilityBoundingSet=//p' scripts/package/units/vedette-sensor.service |
	tr 'A-Z ' 'a-z,' | sed 's/cap_/+/g')
run_sensor() {
	start sensor setpriv --bounding-set="-all,$bounding" --inh-caps=-all --no-new-privs \
		vedette-sensor --config /etc/vedette/sensor.yaml
}
online() { vedette host list -o json >"$work/hosts.json" && grep -q '"state": *"online"' "$work/hosts.json"; }
hosts() { grep -o '"id": *"h-[a-z2-7]*"' "$work/hosts.json" | sort -u; }
run_sensor
check "the sensor runs with the unit's capabilities and comes online" within 30 online
check "it tells systemd that it is ready" within 5 contains "notify: READY=1" "$work/sensor.log"
check "it feeds the watchdog" within 5 contains "notify: WATCHDOG=1" "$work/sensor.log"
before=$(hosts)
last_seen() { grep -o '"last_seen": *"[^"]*"' "$work/hosts.json"; }
# Silence takes its time to be noticed; a later report cannot be an old one.
reports() { vedette host list -o json >"$work/hosts.json" && [ "$(last_seen)" != "$seen" ]; }

say "upgrade"
check "dpkg upgrades" inside sh -c "dpkg --force-confold -i /tmp/debs/*_99.0.0_*.deb"
for config in sensor coordinator; do
	check "$config.yaml keeps what the operator changed" grep -q "changed by the operator" "$root/etc/vedette/$config.yaml"
done
check "the sensor ends in order" stop "$sensor_pid"
online
seen=$(last_seen)
# Now as it is shipped: the whole host. It only looks; nothing is isolated here.
sed -i '/^scope:/d' "$root/etc/vedette/sensor.yaml"
run_sensor
check "the sensor reports again, of the whole host" within 30 reports
check "the unit's capabilities are enough" lacks "not permitted" "$work/sensor.log"
check "as the same host" test "$(hosts)" = "$before"

say "remove and purge"
check "the sensor ends in order" stop "$sensor_pid"
check "the coordinator ends in order" stop "$coordinator_pid"
check "dpkg removes" inside dpkg -r vedette-sensor vedette-coordinator vedette
check "the programs are gone" bash -c "! ls '$root'/usr/bin/vedette*"
check "the configs stay" test -s "$root/etc/vedette/sensor.yaml"
check "the state stays" test -s "$root/var/lib/vedette-coordinator/cluster.json"
check "dpkg purges" inside dpkg -P vedette-sensor vedette-coordinator vedette
check "nothing is left behind" same_files
check "the user is gone" bash -c "! chroot '$root' getent passwd vedette-coordinator"

if command -v rpm >/dev/null; then
	say "rpm"
	unmount_root && furnish_root || { say "package-test: cannot make a second root"; exit 1; }
	mkdir "$root/tmp/rpms" && cp dist/*.rpm "$root/tmp/rpms/"
	rpms() { rpm --root "$root" --dbpath /var/lib/rpm "$@"; }
	check "rpm installs all three" rpms -i --nodeps "$root"/tmp/rpms/*.rpm
	check "the coordinator has its user" inside getent passwd vedette-coordinator
	check "configs are marked as such" test "$(rpms -qc vedette-sensor vedette-coordinator | tr '\n' ' ')" = "/etc/vedette/sensor.yaml /etc/vedette/coordinator.yaml "
	check "vedette-sensor --version" inside vedette-sensor --version
	check "rpm removes" rpms -e vedette-sensor vedette-coordinator vedette
	check "the programs are gone" bash -c "! ls '$root'/usr/bin/vedette*"
fi

closing life

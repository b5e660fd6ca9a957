#!/usr/bin/env bash
# Installs the packages in dist/ in a throw-away root and takes them through their
# life, twice: under a stand-in for systemd (life.sh), and under a real systemd as
# the first process of a container (booted.sh). The root is an overlay over a bare
# Debian (debootstrap, kept for the next run) or, where that cannot be had, over
# this machine; both are only read. Everything runs in namespaces of its own.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
. scripts/env.sh
export LC_ALL=C.UTF-8
: "${TOOLS:?"run it with make package-test"}"

if [ "$(id -u)" != 0 ]; then
	echo "package-test: needs root for a throw-away root and namespaces: sudo make package-test" >&2
	exit 1
fi

case ${1:-} in
life | booted)
	. "scripts/package/$1.sh"
	exit
	;;
esac

# bare_debian prints the folder of a minimal system, made at the first run.
bare_debian() {
	local codename mirror folder
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	folder=${TMPDIR:-/tmp}/vedette-package-test-$codename-systemd
	if [ -d "$folder" ] && [ "$(stat -c %u "$folder")" = 0 ]; then
		echo "$folder"
		return
	fi
	command -v debootstrap >/dev/null && command -v apt-get >/dev/null || return 1
	# The mirror that this machine's apt is set to.
	mirror=$(apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
		awk -v codename="$codename" '$1 == codename && $2 == "main" { print $3; exit }')
	[ -n "$mirror" ] || return 1
	eval "$(apt-config shell http_proxy Acquire::http::Proxy)"
	[ -z "${http_proxy:-}" ] || export http_proxy
	rm -rf "$folder.part"
	if debootstrap --variant=minbase --include=systemd-sysv,dbus "$codename" "$folder.part" "$mirror" >&2; then
		mv "$folder.part" "$folder"
		echo "$folder"
	else
		rm -rf "$folder.part"
		return 1
	fi
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if ! lower=$(bare_debian 2>"$work/debootstrap.log"); then
	echo "package-test: no bare Debian to be had (debootstrap), so the root lies over this machine"
	lower=/
fi

# The next version, whose default configs differ as well.
mkdir "$work/next"
sed 's/^log_level: info/log_level: warn/' scripts/package/conf/coordinator.yaml >"$work/next/coordinator.yaml"
{ cat scripts/package/conf/sensor.yaml; echo "# changed by the new version"; } >"$work/next/sensor.yaml"
mkdir -p "$work/next/stage"
gzip -9nc scripts/package/man/vedette-sensor.8 >"$work/next/vedette-sensor.8.gz"
gzip -9nc scripts/package/man/vedette-coordinator.8 >"$work/next/vedette-coordinator.8.gz"
ARCH=$(go env GOARCH)
GLIBC=2.17
export ARCH GLIBC VERSION=99.0.0
for package in sensor coordinator; do
	sed -e "s|scripts/package/conf/|$work/next/|; s|dist/stage/man/|$work/next/|" "scripts/package/$package.yaml" >"$work/next/nfpm-$package.yaml"
	"$TOOLS/nfpm" package --config "$work/next/nfpm-$package.yaml" --packager deb --target "$work/next/" >/dev/null || exit 1
done
CGO_ENABLED=0 go build -buildvcs=false -o "$work/notifyprobe" ./scripts/package/notifyprobe || exit 1

status=0
for part in life booted; do
	unshare --net --mount --uts -- "${BASH_SOURCE[0]}" "$part" "$work" "$lower" || status=1
done
awk '{ held += $1; checks += $2 } END { printf "package-test: %d of %d hold\n", held, checks }' "$work"/result-*
exit "$status"

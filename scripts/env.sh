# Sourced by the Makefile's go wrapper and by every script here. It answers two
# questions that sudo leaves open: where Go is (sudo resets PATH), and where
# root's build cache goes (sudo may keep the caller's HOME; a cache written
# there by root would later break the caller's own builds).

vedette_find_go() {
	command -v go >/dev/null 2>&1 && return 0
	local home="" dir
	[ -n "${SUDO_USER:-}" ] && home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
	for dir in /usr/local/go/bin "${home:-$HOME}"/sdk/go*/bin "${home:-$HOME}/go/bin" \
		/usr/lib/go-*/bin /usr/lib/golang/bin /snap/bin /opt/go/bin; do
		if [ -x "$dir/go" ]; then
			PATH=$PATH:$dir
			export PATH
			return 0
		fi
	done
	return 1
}

vedette_own_caches() {
	[ "$(id -u)" = 0 ] || return 0
	local name dir
	if [ ! -d "${HOME:-}" ] || [ "$(stat -c %u "$HOME")" != 0 ]; then
		HOME=$(getent passwd 0 | cut -d: -f6)
		export HOME
	fi
	for name in GOPATH GOCACHE GOMODCACHE GOBIN GOENV XDG_CACHE_HOME XDG_CONFIG_HOME; do
		dir=${!name:-}
		if [ -n "$dir" ] && [ -e "$dir" ] && [ "$(stat -c %u "$dir")" != 0 ]; then
			unset "$name"
		fi
	done
}

# What root builds inside somebody's checkout stays theirs to rebuild and remove.
# The state in .vedette/ is not touched: it holds keys.
vedette_give_back() {
	[ "$(id -u)" = 0 ] || return 0
	local dir
	for dir in bin dist out; do
		[ -e "$dir" ] && chown -R --reference=Makefile "$dir"
	done
	return 0
}

vedette_find_go || true
vedette_own_caches

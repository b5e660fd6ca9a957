#!/usr/bin/env bash
# Prints the version of this tree as semantic version without "v": the tag itself
# on a tagged commit, else a pre-release of what comes after it. The count of
# commits makes later builds sort as newer, so that packages upgrade.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

described=$(git describe --tags --long --match 'v[0-9]*' --abbrev=9 2>/dev/null)
if [ -n "$described" ]; then
	hash=${described##*-}
	rest=${described%-*}
	count=${rest##*-}
	tag=${rest%-*}
	version=${tag#v}
	if [ "$count" != 0 ]; then
		IFS=. read -r major minor patch <<<"${version%%-*}"
		version="$major.$minor.$((patch + 1))-dev.$count+$hash"
	fi
elif count=$(git rev-list --count HEAD 2>/dev/null); then
	version="0.1.0-dev.$count+g$(git rev-parse --short=9 HEAD)"
else
	version="0.1.0-dev.0"
fi
if [ -n "$(git status --porcelain --untracked-files=no 2>/dev/null | head -1)" ]; then
	case $version in
	*+*) version="$version.dirty" ;;
	*) version="$version+dirty" ;;
	esac
fi
echo "$version"

#!/usr/bin/env bash
# Writes deb and rpm of the three packages into dist/, from what is in bin/.
# Wants TOOLS (where nfpm is) and VERSION.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. scripts/env.sh

rm -rf dist
mkdir -p dist/stage/man dist/stage/man1 dist/stage/completion
bin/vedette docs man dist/stage/man1
for shell in bash zsh fish; do
	bin/vedette completion "$shell" >"dist/stage/completion/vedette.$shell"
done
cp scripts/package/man/*.8 dist/stage/man/
# -n: no name and time inside, so that the same tree gives the same package.
gzip -9n dist/stage/man/* dist/stage/man1/*

# The newest symbol that the coordinator wants of the C library.
GLIBC=$(objdump -T bin/vedette-coordinator | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -1)
GLIBC=${GLIBC#GLIBC_}
ARCH=$(go env GOARCH)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 1767225600)
export VERSION ARCH GLIBC SOURCE_DATE_EPOCH
for package in sensor coordinator cli; do
	for format in deb rpm; do
		"$TOOLS/nfpm" package --config "scripts/package/$package.yaml" --packager "$format" --target dist/ >/dev/null
	done
done
rm -rf dist/stage
vedette_give_back
ls -l dist

#!/usr/bin/env bash
# Generates into a copy of the tree and compares, so that a check never changes
# what a developer has open.
set -eu
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
tar -c --exclude=./.git --exclude=./.vedette --exclude=./bin --exclude=./dist --exclude=./out . | tar -x -C "$copy"
"$here/generate.sh" "$copy"
status=0
for dir in proto bpf; do
	[ -d "$dir" ] || continue
	diff -rq "$dir" "$copy/$dir" || status=1
done
if [ "$status" != 0 ]; then
	echo "check-generated: these files are not what their sources generate; run: make generate" >&2
fi
exit "$status"

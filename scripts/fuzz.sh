#!/usr/bin/env bash
# Runs each fuzz target of the tree for FUZZTIME, one after the other: go test
# takes one target at a time.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/env.sh

failed=0
while IFS=: read -r file _ name; do
	package=./$(dirname "$file")
	echo "== $package $name"
	go test -run '^$' -fuzz "^$name\$" -fuzztime "$FUZZTIME" "$package" || failed=1
done < <(grep -rnoE --include='*_test.go' 'func Fuzz[A-Za-z0-9_]+\(f ' . |
	sed -E 's|^\./||; s/func (Fuzz[A-Za-z0-9_]+)\(f /\1/')
exit "$failed"

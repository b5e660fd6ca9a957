#!/bin/bash
# skewed-clock.sh DIR: writes DIR/overlay.json, with which `go build -overlay` makes a program
# whose wall clock is moved by what a file says, everywhere in it: certificates, leases,
# commands, timers' dates. Its monotonic clock stays, as it does when a machine's clock steps.
# For torture alone; what is released is built without.
set -eu
dir=$(realpath -m "$1")
go=$(dirname "$0")/go
source=$("$go" env GOROOT)/src/time
mkdir -p "$dir"
sed 's/^\tsec, nsec, mono := runtimeNow()$/&\n\tsec += skew.Load()/' "$source/time.go" >"$dir/time.go.new"
if ! grep -q 'skew.Load' "$dir/time.go.new"; then
	echo "skewed-clock: time.Now of this Go is not the one that is known; look at $source/time.go" >&2
	exit 1
fi
cat >"$dir/skew.go.new" <<'GO'
package time

import "sync/atomic"

var skew atomic.Int64

// Skew moves the wall clock by so many seconds.
func Skew(seconds int64) { skew.Store(seconds) }
GO
printf '{"Replace":{"%s":"%s","%s":"%s"}}\n' "$source/time.go" "$dir/time.go" "$source/skew.go" "$dir/skew.go" >"$dir/overlay.json.new"
# What is as it was keeps its time, so that nothing is built again.
for name in time.go skew.go overlay.json; do
	if cmp -s "$dir/$name.new" "$dir/$name"; then rm "$dir/$name.new"; else mv "$dir/$name.new" "$dir/$name"; fi
done

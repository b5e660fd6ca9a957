#!/usr/bin/env bash
# upgrade-fixture.sh NAME: keeps what a node of this release leaves on disk, as
# coordinator/internal/clustertest/testdata/upgrade/NAME.tar.gz. Run it once for each release
# that is tagged, and commit the file: every later one must start on it (TestUpgradeFrom).
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec scripts/go test ./coordinator/internal/clustertest -run '^TestUpgradeFrom$' -make-fixture "$1"

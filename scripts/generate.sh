#!/usr/bin/env bash
# generate.sh DIR: writes the generated files of the tree in DIR. The tools are
# those of scripts/tools; the BPF objects need clang 19, and no other, because
# another compiler writes other bytes.
set -eu
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/env.sh"
cd "$1"

PATH=$TOOLS:$PATH buf generate
if [ -f bpf/doc.go ]; then
	if ! command -v clang-19 >/dev/null; then
		echo "generate: clang-19 is missing; on Debian and Ubuntu: apt-get install clang-19 llvm-19" >&2
		exit 1
	fi
	go generate ./bpf
fi

#!/usr/bin/env bash
# Removes what make made. State that root made is refused plainly, not half removed.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

for dir in .vedette bin dist out; do
	[ -e "$dir" ] || continue
	if [ "$(id -u)" != 0 ] && [ -n "$(find "$dir" ! -user "$(id -u)" -print -quit 2>/dev/null)" ]; then
		echo "clean: $dir/ holds files of another user (sudo make up makes them); run: sudo make clean" >&2
		exit 1
	fi
	for exe in /proc/[0-9]*/exe; do
		case $(readlink "$exe" 2>/dev/null) in
		"$PWD/$dir/"*)
			echo "clean: $(readlink "$exe") is still running (process ${exe//[!0-9]/}); end it first" >&2
			exit 1
			;;
		esac
	done
done
rm -rf .vedette bin dist out

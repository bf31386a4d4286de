#!/usr/bin/env bash
# Runs every fuzz target of the module in turn: tools/fuzz.sh FUZZTIME.
# Go fuzzes one target of one package at a time, so they are found by name. What
# a target finds is left in testdata/fuzz beside it, and ends the run.
set -euo pipefail
cd "$(dirname "$0")/.."

fuzztime=${1:?usage: tools/fuzz.sh FUZZTIME}
targets=0
while IFS=: read -r file name; do
	echo "== $(dirname "$file") $name, $fuzztime"
	go test -run='^$' -fuzz="^$name\$" -fuzztime="$fuzztime" -fuzzminimizetime=10x "$(dirname "$file")"
	targets=$((targets + 1))
done < <(grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed 's/func //' | grep -v '^\./tools/' | sort)

echo "$targets targets, nothing found"
[ "$targets" -gt 0 ]

#!/usr/bin/env bash
# Counts the instructions that the hot path takes, with callgrind: a figure that a busy machine does not change.
#
#   scripts/instructions.sh           counts, and compares with benches/instructions.txt (3 % more is a failure)
#   scripts/instructions.sh --write   counts, and writes that file
#
# It takes the release build: target/release/natwerk, or what NATWERK names.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

FILE=benches/instructions.txt
PROGRAM=${NATWERK:-target/release/natwerk}
ROUNDS=natwerk::cli::bench::rounds
[ -x "$PROGRAM" ] || { echo "no $PROGRAM: cargo build --release comes first" >&2; exit 1; }
install_missing valgrind jq
scratch=$(mktemp -d /tmp/natwerk-instructions.XXXXXX)
trap 'rm -rf "$scratch"' EXIT

# each NAME FUNCTION COUNT ARGUMENT...: a line of the file: what the engine takes within FUNCTION of the bench, which has
# functions of their own for what is measured and what only warms up. COUNT says, to jq, how many packets or sessions there were.
each() {
    local name=$1 function=$2 count=$3 instructions packets
    shift 3
    valgrind --tool=callgrind --collect-atstart=no --toggle-collect="$ROUNDS::$function" --callgrind-out-file="$scratch/profile" \
        --log-file="$scratch/log" "$PROGRAM" bench --repeatable --json "$@" >"$scratch/report.json"
    instructions=$(callgrind_annotate --auto=no --inclusive=yes --threshold=100 "$scratch/profile" 2>/dev/null |
        awk -v engine="$ROUNDS::engine" 'index($0, engine) { gsub(",", "", $1); if ($1 > most) most = $1 } END { print most + 0 }')
    packets=$(jq "$count" "$scratch/report.json")
    [ "$instructions" -gt 0 ] || { echo "callgrind counted nothing for $name:" >&2; cat "$scratch/log" >&2; exit 1; }
    echo "$name $((instructions / packets))"
}

{
    each established-udp Worker::established .packets --sessions 1000
    each established-tcp Worker::established .packets --sessions 1000 --protocol tcp
    each new-session Worker::opened .sessions --sessions 16384 --acl-rules 100
    each new-connection Worker::opened .sessions --sessions 16384 --acl-rules 100 --protocol tcp
} | tee "$scratch/counts"

if [ "${1:-}" = --write ]; then
    {
        echo "# Instructions of the engine: of each packet of an established session, and of each new session over UDP and TCP (with 100 rules)."
        echo "# Counted by scripts/instructions.sh, which scripts/test.sh has check them within 3 %."
        cat "$scratch/counts"
    } >"$FILE"
    exit 0
fi
failed=0
while read -r name count; do
    before=$(sed -n "s/^$name //p" "$FILE")
    if [ $((count * 100)) -gt $((${before:-0} * 103)) ]; then
        echo "$name takes $count instructions, $before before: $FILE" >&2
        failed=1
    elif [ $((count * 103)) -lt $((before * 100)) ]; then
        echo "$name takes $count instructions, fewer than the $before of before: scripts/instructions.sh --write"
    fi
done <"$scratch/counts"
exit "$failed"

#!/usr/bin/env bash
# natwerk beside Linux nftables on this machine: the same lab, the same generator, one interleaved run.
#
#   sudo scripts/bench.sh [--pairs N] [--seconds S] [--beside nftables|bare] [--spin] [--json FILE] [--svg FILE] [--png FILE]
#                         [--hgrm FOLDER] [--no-build] [CASE…]
#
# Prints a table: packets a second that arrived (median, least and most over the pairs), router CPU per packet, the
# ratio of each pair, and whether the routers set the pace. docs/benchmarking.md says what is measured, and how to do it on real NICs.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root || exit 1
install_missing "${BUILD_PACKAGES[@]}" "${LAB_PACKAGES[@]}" nftables conntrack
build=yes arguments=()
for argument in "$@"; do
    if [ "$argument" = --no-build ]; then build=no; else arguments+=("$argument"); fi
done
[ "$build" = no ] || cargo build --locked --release
export NATWERK=${NATWERK:-$PWD/target/release/natwerk}
[ -x "$NATWERK" ] || { echo "there is no program at $NATWERK: run without --no-build" >&2; exit 1; }
export PYTHONDONTWRITEBYTECODE=1
exec python3 scripts/bench.py "${arguments[@]}"

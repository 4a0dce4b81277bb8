#!/usr/bin/env bash
# Plays natprobe's scenarios against natwerk, in namespaces of their own.
#
#   sudo scripts/natprobe.sh              all but the real-time ones
#   sudo scripts/natprobe.sh --slow       the real-time ones too (five minutes more)
#   sudo scripts/natprobe.sh MAP FRG-02   only these
#
# The runner is looked for at $NATPROBE, else ../shared/natprobe beside this checkout.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
runner=${NATPROBE:-$PWD/../shared/natprobe}/natprobe.py
if [ ! -r "$runner" ]; then
    echo "skipped: natprobe is not at $runner (set NATPROBE to its folder)"
    exit 77
fi
need_root || exit 77
export NATWERK=${NATWERK:-$PWD/target/release/natwerk}
[ -x "$NATWERK" ] || { echo "there is no program at $NATWERK: run 'cargo build --release' first" >&2; exit 1; }
# Two cores, two topologies: the scenarios mostly wait.
exec /usr/bin/python3 "$runner" --driver-file tests/natprobe/natwerk.py --driver natwerk -j "${NATPROBE_JOBS:-2}" \
    --speed "${NATPROBE_SPEED:-2}" "$@"

#!/usr/bin/env bash
# Installs what is missing and runs every test: style, unit and property tests, short fuzzing, and, as
# root, real AF_XDP sockets in namespaces, natprobe's scenarios and the demo's checks.
#
#   sudo scripts/test.sh            everything
#   scripts/test.sh unit fuzz       only these stages
#
# Stages: style unit integration fuzz build instructions natprobe shortcuts hooks demo. A stage that cannot run here says "skipped: why"
# and is counted; in CI (CI=true) a skip is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

ALL_STAGES=(style unit integration fuzz build instructions natprobe shortcuts hooks demo)
LOGS=$(mktemp -d /tmp/natwerk-test.XXXXXX)
passed=0 failed=0 skipped=0

stage_style() {
    cargo fmt --all --check
    cargo clippy --locked --all-targets --quiet -- -D warnings
    cargo clippy --locked --quiet --no-default-features -- -D warnings
    # What runs only beside generators that are not here is read at least.
    PYTHONPYCACHEPREFIX=$(mktemp -d) python3 -m py_compile scripts/*.py scripts/benchmark/*.py scripts/trex/*.py
    local script
    for script in scripts/*.sh scripts/pktgen/*.sh; do bash -n "$script"; done
    if command -v luac >/dev/null; then luac -p scripts/pktgen/*.lua; fi
}

stage_unit() {
    cargo test --locked --quiet --lib --bins
}

# Tests of the whole: in memory, and as root with real sockets and the kernel in namespaces.
stage_integration() {
    cargo test --locked --quiet --no-fail-fast --test '*' -- --nocapture
}

stage_fuzz() {
    if ! cargo fuzz --version >/dev/null 2>&1; then
        cargo install --quiet --locked cargo-fuzz
    fi
    # How many runs make some 10 s on a quiet machine. A number of runs goes as far on every machine, a time does not: FUZZ_SECONDS is
    # for those who look for more.
    local -A runs=([capsule]=600 [cloudstack]=40000 [frame]=5000000 [icmp_error]=2000000 [pipeline]=2000 [rule_file]=30000
        [session_region]=1200 [zstack]=4000)
    # The same seed, the same inputs in the same order, and the same addresses: targets without hash tables do the same in every
    # run, the others nearly so, as their tables are seeded at random.
    local -a still=()
    if setarch -R true 2>/dev/null; then still=(setarch -R); fi
    local target found limit inputs
    for target in $(cd fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz list); do
        limit=${FUZZ_SECONDS:+-max_total_time=$FUZZ_SECONDS}
        limit=${limit:--runs=${runs[$target]:-10000}}
        echo "fuzzing $target, $limit"
        # New inputs stay out of the kept corpus.
        found=$(mktemp -d)
        inputs=$(LC_ALL=C; printf ',%s' "$PWD/fuzz/corpus/$target"/*)
        RUSTC_BOOTSTRAP=1 "${still[@]}" cargo fuzz run --sanitizer none "$target" "$found" -- \
            -seed="${FUZZ_SEED:-1}" -seed_inputs="${inputs#,}" -shuffle=0 -reload=0 "$limit" -verbosity=0
        rm -rf "$found"
    done
}

stage_build() {
    cargo build --locked --release --quiet
}

# What a packet and a session cost, in instructions: a slower hot path shows here on a busy machine too.
stage_instructions() {
    bash scripts/instructions.sh
}

stage_natprobe() {
    need_root || return 77
    bash scripts/natprobe.sh
}

# The same scenarios where packets take shortcuts in the XDP programs.
stage_shortcuts() {
    need_root || return 77
    NATWERK_SHORTCUTS=xdp bash scripts/natprobe.sh
}

# And where the kernel's traffic control takes packets, with and without shortcuts.
stage_hooks() {
    need_root || return 77
    NATWERK_SHORTCUTS=tc bash scripts/natprobe.sh
}

stage_demo() {
    need_root || return 77
    bash scripts/demo.sh --no-build
}

run_stage() {
    local name=$1 log=$LOGS/$1.log start=$SECONDS status=0
    printf '%-12s ' "$name"
    # A stage runs in a shell of its own, so that -e holds inside it.
    bash -c 'set -euo pipefail; . scripts/lib.sh; '"$(declare -f "stage_$name")"'; '"stage_$name" >"$log" 2>&1 || status=$?
    local took="$((SECONDS - start)) s"
    case $status in
        0) passed=$((passed + 1)); echo "passed ($took)" ;;
        77) skipped=$((skipped + 1)); echo "skipped: $(grep -m1 '^skipped:' "$log" | cut -d: -f2- || true)" ;;
        *) failed=$((failed + 1)); echo "FAILED ($took), $log:"; tail -n 60 "$log" | sed 's/^/    /' ;;
    esac
    grep -hE '^(test result:|TOTAL |[0-9]+ checks)' "$log" | sed 's/^/             /' || true
    local inner
    inner=$(grep -cE '^(skipped:|SKIP )' "$log" || true)
    if [ "$status" = 0 ] && [ "$inner" -gt 0 ]; then
        skipped=$((skipped + inner))
        grep -hE '^(skipped:|SKIP )' "$log" | sort | uniq -c | sed 's/^/             /'
    fi
}

stages=("$@")
[ ${#stages[@]} -gt 0 ] || stages=("${ALL_STAGES[@]}")
install_missing
# A test that misses a client says so.
install_clients || true
for name in "${stages[@]}"; do
    declare -F "stage_$name" >/dev/null || { echo "no stage '$name'; there are: ${ALL_STAGES[*]}" >&2; exit 2; }
    run_stage "$name"
done
echo "logs: $LOGS"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] || exit 1
if [ "${CI:-}" = true ] && [ "$skipped" -gt 0 ]; then
    echo "CI must skip nothing" >&2
    exit 1
fi

#!/bin/sh
# Fuzzes every target: run.sh [SECONDS per target, default 15]
#     run.sh SECONDS merge   adds what was found to the corpus afterwards, as few inputs as cover it
# New inputs go to <target directory>/fuzzers/fuzz-new/<target>, crashes to artifacts/<target>; a
# crash fails. Needs a stable toolchain and a C++ compiler.
set -eu
cd "$(dirname "$0")"
seconds=${1:-15}
target=${CARGO_TARGET_DIR:-target}/fuzzers
# Coverage needs compiler flags that a stable toolchain only takes with RUSTC_BOOTSTRAP=1.
RUSTC_BOOTSTRAP=1 RUSTC_WRAPPER="$PWD/instrument.sh" cargo build --quiet --release --features fuzzers \
    --target x86_64-unknown-linux-gnu --target-dir "$target"

# Fuzzes one target and says in a line what came of it.
fuzz() {
    new=$target/fuzz-new/$1 log=$target/fuzz-new/$1.log
    mkdir -p "$new" "artifacts/$1"
    if "$target/x86_64-unknown-linux-gnu/release/$1" "$new" "corpus/$1" -max_total_time="$seconds" \
        -max_len=4096 -timeout=10 -rss_limit_mb=1024 -artifact_prefix="artifacts/$1/" \
        -print_final_stats=1 >"$log" 2>&1; then
        runs=$(sed -n 's/.*number_of_executed_units: //p' "$log")
        cover=$(sed -n 's/.*DONE *cov: \([0-9]*\).*/\1/p' "$log")
        echo "fuzz $1: $runs inputs, $cover places covered, no fault"
    else
        grep -E 'ERROR|panicked|SUMMARY' "$log" || tail -n 20 "$log"
        echo "fuzz $1: a fault; its input is in tests/fuzz/artifacts/$1" >&2
        failed=1
    fi
}

failed=0
for name in message content vnet join control file filter position dns; do
    fuzz "$name"
    if [ "${2:-}" = merge ] && [ $failed = 0 ]; then
        merged=$target/fuzz-new/merged
        rm -rf "$merged" && mkdir "$merged"
        "$target/x86_64-unknown-linux-gnu/release/$name" -merge=1 -use_counters=0 "$merged" \
            "corpus/$name" "$new" >>"$log" 2>&1
        cp "$merged"/* "corpus/$name/"
    fi
done
exit $failed

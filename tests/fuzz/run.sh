#!/bin/sh
# Fuzzes every target for a bounded time: run.sh [SECONDS per target, default 20]
# New inputs worth keeping go to <target directory>/fuzzers/fuzz-new/<target>; crashes to artifacts/<target>.
# Coverage needs compiler flags that a stable toolchain only takes with RUSTC_BOOTSTRAP=1.
set -eu
cd "$(dirname "$0")"
seconds=${1:-20}
target=${CARGO_TARGET_DIR:-target}/fuzzers
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
cargo build --release --features fuzzers --target x86_64-unknown-linux-gnu --target-dir "$target"
for name in message content vnet join control file; do
    new=$target/fuzz-new/$name
    mkdir -p "$new" "artifacts/$name"
    "$target/x86_64-unknown-linux-gnu/release/$name" "$new" "corpus/$name" \
        -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=1024 \
        -artifact_prefix="artifacts/$name/" -print_final_stats=1 2>&1 |
        grep -E 'ERROR|panicked|SUMMARY|number_of_executed_units|new_units_added|cov:' | tail -n 5
done
# A crash leaves a file behind.
test -z "$(find artifacts -type f)"

#!/bin/sh
# Cargo's RUSTC_WRAPPER: compiles what reads bytes from outside with coverage for libFuzzer, and
# everything else (cryptography above all) as it is.
for argument; do
    case $argument in
    slicewire_core | slicewire_dns | slicewire_engine | slicewire_fuzz | boringtun | hickory_proto | \
        message | content | vnet | join | control | file | filter | position | dns)
        # A name alone is that of a crate; those of files have more.
        exec "$@" --cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module \
            -Cllvm-args=-sanitizer-coverage-level=4 \
            -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
            -Cllvm-args=-sanitizer-coverage-pc-table \
            -Cllvm-args=-sanitizer-coverage-trace-compares
        ;;
    esac
done
exec "$@"

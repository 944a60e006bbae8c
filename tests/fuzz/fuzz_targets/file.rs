//! See `slicewire_fuzz::file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| slicewire_fuzz::file(data));

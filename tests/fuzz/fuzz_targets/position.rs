//! See `slicewire_fuzz::position`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| slicewire_fuzz::position(data));

//! See `slicewire_fuzz::control`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| slicewire_fuzz::control(data));

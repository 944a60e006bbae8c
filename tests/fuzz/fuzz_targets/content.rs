//! See `slicewire_fuzz::content`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| slicewire_fuzz::content(data));

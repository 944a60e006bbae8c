//! See `slicewire_fuzz::join`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| slicewire_fuzz::join(data));

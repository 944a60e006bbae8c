//! See `slicewire_fuzz::message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| slicewire_fuzz::message(data));

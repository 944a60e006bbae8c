//! See `slicewire_fuzz::vnet`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| slicewire_fuzz::vnet(data));

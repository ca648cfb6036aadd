#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_compute_fuzz::wallets(data));

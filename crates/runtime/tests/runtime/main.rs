//! The engine against the reference.
mod ends;
mod golden;
mod networks;
mod ops;
mod plain;
mod problem;

/// Tells whether to run fewer and smaller cases: an emulated CPU is some 50 times slower. `.ci/cross` asks for it.
fn quick() -> bool {
    std::env::var_os("DSCONV_TEST_QUICK").is_some()
}

/// Returns how many threads can be had: WebAssembly has one.
fn threads(wanted: usize) -> usize {
    if cfg!(target_family = "wasm") { 1 } else { wanted }
}

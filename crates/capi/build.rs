//! Gives the shared library its name in programs that are linked with it, `libdsconv_c.so.0.1`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Before 1.0 every minor version may change functions.
    let version = concat!(env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR"));
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libdsconv_c.so.{version}");
    }
}

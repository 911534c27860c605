//! The `dsconv` command: see the library.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    dsconv_cli::main()
}

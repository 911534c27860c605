# `just` lists what there is. A CONFIG is a TOML file or its name in configs/.
set positional-arguments

# Cargo features of the command line, such as `just features=ndarray,wgpu distill resnet50_4bit --device wgpu`
features := ""

[private]
default:
    @just --list --unsorted

# Quantize a network, win its accuracy back on unlabelled images, export it
distill CONFIG *ARGS:
    @cargo run --release -p dsconv-cli --features '{{ features }}' -- distill "$@"

# Train a float network with labels
train CONFIG *ARGS:
    @cargo run --release -p dsconv-cli --features '{{ features }}' -- train "$@"

# Any other command, such as `just dsconv models`
dsconv *ARGS:
    @cargo run --release -p dsconv-cli --features '{{ features }}' -- "$@"

# Build the browser demo and its npm package, and serve the demo: `just demo`, `just demo 8080 0.0.0.0`
demo *ARGS:
    @bash crates/web/build
    @node crates/web/serve.mjs "${CARGO_TARGET_DIR:-target}/demo/page" "$@"

# Build the Python wheel into target/wheels
wheel:
    @bash .ci/python build

# Run all tests; `web` and `python` have theirs in .ci/demo and .ci/python, and need libraries that nothing else does
test *ARGS:
    cargo test --release --workspace --exclude dsconv-web --exclude dsconv-python "$@"

# Run the tests of `--device ndarray` and `--device wgpu`; for wgpu without a GPU, `just setup --wgpu` first
test-devices *ARGS:
    cargo test --release -p dsconv-cli -p dsconv-burn --features dsconv-cli/ndarray,dsconv-cli/wgpu device "$@" -- --nocapture

# The first of what CI runs: formatting, lints, tests
check:
    cargo fmt --all --check
    cargo clippy --release --workspace --all-targets -- -D warnings
    just test

# The integer engine's tests on other CPUs: Arm under QEMU, WebAssembly under Node
cross *ARGS:
    bash .ci/cross "$@"

# Install what a bare Debian with rustup lacks
setup *ARGS:
    bash .ci/setup "$@"

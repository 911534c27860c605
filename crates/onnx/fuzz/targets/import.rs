//! `onnx::import` of any bytes: no panic, no overflow, bounded time and memory, and what it makes fits together.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(imported) = onnx::import(bytes, &onnx::ImportOptions::default()) {
        assert!(imported.weights.check(&imported.graph).is_ok());
        let shape = imported.graph.output();
        assert_eq!((shape.height, shape.width), (1, 1));
        let floats: usize = imported.weights.0.values().map(|tensor| tensor.data().len()).sum();
        assert!(floats <= 2 * bytes.len() + (1 << 20));
    }
});

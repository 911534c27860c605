//! Imports any bytes: there must be no panic and no overflow, time and memory must be bounded, and weights must fit the graph. A
//! network with a layer to quantize is quantized and run.
#![no_main]

use graph::{Op, Preprocess};
use model::{Info, Model, Policy};
use libfuzzer_sys::fuzz_target;

#[path = "../../../model/fuzz/targets/engine.rs"]
mod engine;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(imported) = onnx::import(bytes, &onnx::ImportOptions::default()) {
        assert!(imported.weights.check(&imported.graph).is_ok());
        let shape = imported.graph.output();
        assert_eq!((shape.height, shape.width), (1, 1));
        let floats: usize = imported.weights.tensors().map(|tensor| tensor.data().len()).sum();
        assert!(floats <= 2 * bytes.len() + (1 << 20));
        if floats < 1 << 16 && imported.graph.nodes().iter().any(|n| matches!(n.op, Op::Conv2d(_) | Op::Linear { .. })) {
            let info = Info { preprocess: Preprocess::imagenet(), classes: vec![], source: "a fuzzer".into() };
            // Weights may hold a NaN, and a policy may not fit.
            let float = Model::float(imported.graph, imported.weights, info);
            if let Some(model) = float.ok().and_then(|float| float.quantize(&Policy::default()).ok()) {
                engine::check(&model);
            }
        }
    }
});

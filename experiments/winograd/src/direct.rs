//! The same layer in the engine: its direct kernels, as `experiments/runtime/layers` times them.
use std::collections::BTreeMap;

use blockfloat::{ActivationFormat, ActivationScale, Bits, BlockSize, QuantizedWeights};
use cpu_time::ThreadTime;
use graph::{Builder, Conv2d, Preprocess, Shape, Tensor, Weights};
use model::{Info, Model, QuantizedLayer};

/// A layer in the engine, behind a ReLU and before another layer, for which its outputs are rounded; and the same without it.
/// The difference is the layer's time, of which CPU time can be taken: others' work on a shared core does not count.
pub struct Direct {
    with: runtime::Session,
    without: runtime::Session,
    image: Vec<f32>,
}

/// The scales of a direct layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scales {
    /// A scale a block of so many channels, of weights and inputs.
    Block(usize),
    /// Weights with a scale a block of so many channels, inputs with one a pixel.
    Pixel(usize),
    /// Weights with a scale a filter and a whole factor a block of 64 channels, inputs with a scale a pixel.
    TwoLevel,
}

impl Direct {
    pub fn new([ci, co, side]: [usize; 3], bits: u8, scales: Scales) -> Self {
        assert_eq!(ci, co, "the next layer must be the same with and without");
        let image = (0..ci * side * side).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
        let session = |layer| session([ci, co, side], bits, scales, layer);
        Self { with: session(true), without: session(false), image }
    }

    /// Returns the seconds of a run with the layer, and of one without.
    pub fn seconds(&mut self) -> [f64; 2] {
        [&mut self.with, &mut self.without].map(|session| {
            let start = ThreadTime::now();
            session.run(&self.image).expect("a run");
            start.elapsed().as_secs_f64()
        })
    }
}

fn session([ci, co, side]: [usize; 3], bits: u8, scales: Scales, layer: bool) -> runtime::Session {
    let mut b = Builder::new("layer", Shape::new(ci, side, side));
    let conv = Conv2d { padding: [1; 2], bias: true, ..Conv2d::new(ci, co, 3) };
    let narrow = Conv2d { bias: true, ..Conv2d::new(co, 16, 1) };
    let input = b.input();
    let mut x = b.relu("positive", input);
    if layer {
        x = b.conv("layer", conv.clone(), x);
        x = b.relu("relu", x);
    }
    b.conv("next", narrow.clone(), x);
    let graph = b.finish().expect("a valid graph");
    let size = |n| BlockSize::new(n).expect("a block");
    let (weights, inputs) = match scales {
        Scales::Block(n) => (size(n), size(n)),
        Scales::Pixel(n) => (size(n), BlockSize::PIXEL),
        Scales::TwoLevel => (size(64), BlockSize::PIXEL),
    };
    let quantized = |conv: &Conv2d| {
        let shape = conv.weight_shape();
        let codes = (0..shape.iter().product::<usize>()).map(|i| (i * 7 % 15) as i8 - 7).collect();
        let alpha = vec![0.01; shape[0] * weights.count(shape[1]) * shape[2] * shape[3]];
        let four = Bits::new(4).expect("4 bits");
        let codes = QuantizedWeights::from_parts(shape, four, weights, codes, alpha).expect("weights");
        let codes = if scales == Scales::TwoLevel { codes.to_two_level() } else { codes };
        let bits = Bits::new(bits).expect("bits");
        let format = ActivationFormat { bits, block: inputs, scale: ActivationScale::Float };
        QuantizedLayer { codes, activation: Some(format), signed: false }
    };
    let convs = [("layer", &conv), ("next", &narrow)].into_iter().skip(usize::from(!layer));
    let layers: BTreeMap<_, _> = convs.clone().map(|(name, conv)| (name.to_owned(), quantized(conv))).collect();
    let mut weights = Weights::default();
    for (name, conv) in convs {
        weights.insert(format!("{name}.bias"), Tensor::new([conv.out_channels], vec![0.1; conv.out_channels]));
    }
    let info = Info { preprocess: Preprocess::imagenet(), classes: vec![], source: "a bench".into() };
    let model = Model::new(graph, weights, layers, info).expect("a model whose parts fit");
    let model = runtime::Model::with_kernel(model, Some(runtime::KernelName::Avx2)).expect("a model for AVX2");
    model.session(1).expect("a session")
}

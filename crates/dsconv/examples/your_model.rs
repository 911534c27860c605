//! Quantizes a burn model of one's own, adapts it to its float teacher without labels, and writes it for the integer engine.
use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::nn::{Linear, LinearConfig, PaddingConfig2d, conv::Conv2d, conv::Conv2dConfig};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Distribution::Default as Uniform, activation::relu, module::adaptive_avg_pool2d};
use burn::{module::ParamGroup, prelude::*};
use dsconv::blockfloat::{ActivationFormat, ActivationScale, Bits, BlockSize, ScaleRule, WeightFormat};
use dsconv::{graph, model};

#[derive(Module, Debug)]
struct Net {
    conv1: Conv2d,
    conv2: Conv2d,
    head: Linear,
}

impl Net {
    /// `round(x, signed)` is what a layer sees of its input.
    fn forward(&self, images: Tensor<4>, round: impl Fn(Tensor<4>, bool) -> Tensor<4>) -> Tensor<2> {
        let x = relu(self.conv1.forward(round(images, true)));
        let x = relu(self.conv2.forward(round(x, false)));
        self.head.forward(round(adaptive_avg_pool2d(x, [1, 1]), false).flatten(1, 3))
    }
}

/// Runs the example.
pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex().autodiff();
    let conv = |channels| Conv2dConfig::new(channels, [3, 3]).with_padding(PaddingConfig2d::Same).init(&device);
    let teacher = Net { conv1: conv([3, 16]), conv2: conv([16, 32]), head: LinearConfig::new(32, 10).init(&device) };
    let weight = WeightFormat::new(Bits::new(4)?, BlockSize::new(16)?, ScaleRule::Mse);
    let input = ActivationFormat { bits: Bits::new(8)?, block: weight.block, scale: ActivationScale::Float };
    let round = |x, signed| dsconv::block_float(x, input, signed, 1);

    let mut student = dsconv::quantize(teacher.clone(), weight, &ParamGroup::all())?;
    let mut optimizer = AdamConfig::new().init();
    let mut rates = ModuleLrScheduler::new(3e-4).with_group(dsconv::shadow_weights(&student), 1e-2);
    for _ in 0..5 {
        let images = Tensor::random([16, 3, 12, 12], Uniform, &device);
        let error = teacher.forward(images.clone(), |x, _| x).detach() - student.forward(images, round);
        let gradients = GradientsParams::from_grads(error.square().mean().backward(), &student);
        student = optimizer.step(rates.step(), student, gradients);
    }

    // The same network as a graph, whose nodes have the names of the module's fields.
    let mut net = graph::Builder::new("net", graph::Shape::new(3, 12, 12));
    let mut x = net.input();
    for (name, [input, output]) in [("conv1", [3, 16]), ("conv2", [16, 32])] {
        x = net.conv(name, graph::Conv2d { bias: true, ..graph::Conv2d::new(input, output, 3).padding(1) }, x);
        x = net.relu(format!("{name}_relu"), x);
    }
    x = net.push("pool", graph::Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![x]);
    net.linear("head", 10, x);
    let info = model::Info { preprocess: graph::Preprocess::imagenet(), classes: vec![], source: "my own".into() };
    let model = dsconv::export(&student, net.finish()?, |_| Some(input), info)?;
    let file = std::env::temp_dir().join("dsconv_your_model.dsc");
    Ok(std::fs::write(file, runtime::to_dsc(&model, &model::SaveOptions::EXACT)?)?)
}

//! Prints the sizes of quantized networks on disk, for `experiments/sizes`. Sizes do not depend on the values of weights, so
//! weights are random and codes come from the fastest rule.
use std::error::Error;
use std::path::Path;

use blockfloat::{Bits, BlockSize, ScaleFormat, ScaleRule};
use graph::{Op, Weights};
use model::{Float, Info, Model, Policy, SaveOptions, dsc};

const NETWORKS: [&str; 5] = ["resnet50", "vgg16", "densenet121", "googlenet", "alexnet"];
/// The formats: bits of a code, block length, form of the scales, type of the stored floats.
const FORMATS: [(u8, usize, ScaleFormat, Float); 4] = [
    (4, 64, ScaleFormat::Float, Float::F32),
    (4, 64, ScaleFormat::Float, Float::F16),
    (4, 64, ScaleFormat::TwoLevel, Float::F32),
    (4, 32, ScaleFormat::Float, Float::F32),
];

fn main() -> Result<(), Box<dyn Error>> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let names: Vec<&str> =
        if names.is_empty() { NETWORKS.to_vec() } else { names.iter().map(String::as_str).collect() };
    let folder = std::env::temp_dir().join(format!("dsconv-sizes-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    println!(
        "| network | weights | scales | floats | .dsc, bytes | smaller | .safetensors | codes | scales | floats | rest |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let result = names.iter().try_for_each(|name| network(name, &folder));
    std::fs::remove_dir_all(&folder)?;
    result
}

fn network(name: &str, folder: &Path) -> Result<(), Box<dyn Error>> {
    let config = zoo::Config::new(name);
    let graph = zoo::build(&config)?;
    let info = Info { preprocess: config.preprocess()?, classes: vec![], source: "random weights".into() };
    let weights = Weights::init(&graph, 1);
    let float = Model::float(graph, weights, info)?;
    let path = folder.join("float.safetensors");
    let fp32 = files::save(&float, &path, &SaveOptions::default())?;
    std::fs::remove_file(&path)?;
    for (bits, block, scales, floats) in FORMATS {
        let block = BlockSize::new(block)?;
        let activation = Policy::default().activation.map(|format| blockfloat::ActivationFormat { block, ..format });
        let policy =
            Policy { bits: Bits::new(bits)?, block, rule: ScaleRule::L2, scales, activation, ..Policy::default() };
        let model = float.quantize(&policy)?;
        let layers = model.graph().nodes().iter().filter(|n| matches!(n.op, Op::Conv2d(_) | Op::Linear { .. })).count();
        assert_eq!(model.layers().len(), layers, "all convolutions and linear layers");
        let options = SaveOptions { floats, scale_precision: Float::F16 };
        let (dsc_path, tensors_path) = (folder.join("model.dsc"), folder.join("model.safetensors"));
        files::save_dsc(&model, &dsc_path, &dsc::Options { floats: options, pair: None })?;
        files::save(&model, &tensors_path, &options)?;
        let size = |path: &Path| std::fs::metadata(path).map(|file| file.len());
        let (size, tensors) = (size(&dsc_path)?, size(&tensors_path)?);
        let codes: usize =
            model.layers().values().map(|l| blockfloat::packed_len(l.codes.codes().len(), l.codes.bits())).sum();
        let scale_bytes: usize = model
            .layers()
            .values()
            .map(|l| match l.codes.two_level() {
                Some(levels) => 4 * levels.channel().len() + levels.factors().len(),
                None => 2 * l.codes.scales().len(),
            })
            .sum();
        let float_bytes: usize = model.weights().tensors().map(|t| t.data().len() * floats.bytes()).sum();
        let rest = size as i64 - (codes + scale_bytes + float_bytes) as i64;
        println!(
            "| {name} | W{bits} B={block} | {} | {floats} | {size} | {:.2}x | {tensors} | {codes} | {scale_bytes} | {float_bytes} | {rest} |",
            if scales == ScaleFormat::Float { "f16" } else { "two-level" },
            fp32 as f64 / size as f64,
        );
    }
    Ok(())
}

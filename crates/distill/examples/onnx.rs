//! Quantizes an ONNX file to 4 bits in Rust, and writes it for the integer engine: fits every layer to the float network's on a folder of
//! unlabelled images or, without one, on pictures that are drawn, and measures what it won.
//!
//! ```text
//! cargo run --release -p dsconv-distill --example onnx -- NET.onnx OUT.dsc [IMAGES]
//! ```
use burn::tensor::Device;
use distill::{Context, LayerFit, evaluate};
use dsconv::Network;
use images::OpenOptions;
use model::{Info, Model, Policy, SaveOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(source), Some(to)) = (args.next(), args.next()) else {
        return Err("expected NET.onnx OUT.dsc [IMAGES]".into());
    };
    let imported = onnx::import(&std::fs::read(&source)?, &onnx::ImportOptions::default())?;
    // What images are in the network's eyes, most files do not say: this is what torchvision's networks expect.
    let preprocess = imported.preprocess.unwrap_or_else(graph::Preprocess::imagenet);
    let info = Info { preprocess, classes: imported.classes, source };
    let float = Model::float(imported.graph, imported.weights, info.clone())?;
    let folded = float.clone().fold()?;
    let plan = Policy::default().resolve(folded.graph())?;

    let options = OpenOptions { limit: Some(128), ..OpenOptions::default() };
    let open = |folder: String| images::open_unlabelled(&folder, &float.preprocess(), &options);
    let given = args.next().map(open).transpose()?;
    let drawn = LayerFit::drawn_beside(given.as_ref().map_or(0, |images| images.len()), 0, &float);
    let fit = LayerFit {
        teacher: &folded,
        weights: folded.weights(),
        plan: &plan,
        given: given.as_ref(),
        drawn: drawn.as_ref(),
        synthetic: None,
        seed: 0,
    };
    let context = Context::new(Device::flex());
    let fitted = fit.run(&context)?.into_model(&fit, info.clone())?;
    let plain = Model::quantize_folded(&folded, &plan, info)?;

    // On other pictures than it was fitted on.
    let others = LayerFit::drawn_beside(0, 1, &float).expect("none are given");
    let networks = [&float, &plain, &fitted].map(|model| Network::new(model, &context.device));
    let logits = evaluate::predict("drawn", &networks.each_ref(), &others, &context)?;
    for (name, found) in [("rounded", &logits[1]), ("fitted", &logits[2])] {
        println!("{name}: same class for {:.1} %", found.agreement(&logits[0]));
    }
    Ok(std::fs::write(to, runtime::to_dsc(&fitted, &SaveOptions::default())?)?)
}

//! Times a `.dsc` file, `time FILE`, or a zoo network with formula weights, `time NAME [SCHEME]`, SCHEME `float64`,
//! `float32`, `float128`, `pixel` or `two`, with `+` behind it for one sum in the layer that reads the image, `:a4` for 4-bit inputs and
//! `:w6` for 3x3 layers by Winograd's algorithm, of 6-bit inputs.
//! Prints milliseconds of CPU time, one line a run for each line on standard input.
use std::io::{BufRead, Write};

use blockfloat::{Bits, BlockSize, ScaleRule};
use model::{Info, Model, Policy};
use zoo::Config;
use zoo::testing::{formula_input, formula_weights};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let model = match args[1].contains('.') {
        true => runtime::Model::load(&args[1])?,
        false => formula(&args[1], args.get(2).map_or("float64", String::as_str))?,
    };
    let mut session = model.session(1)?;
    let s = model.input();
    let input = formula_input([1, s.channels, s.height, s.width]);
    session.run(input.data())?;
    eprintln!(
        "{} ready on {}, weights {} MB, buffers {} MB",
        args[1],
        model.kernel(),
        model.weight_bytes() >> 20,
        session.bytes() >> 20
    );
    for line in std::io::stdin().lock().lines() {
        if line?.trim() == "profile" {
            let mut best = session.profile(input.data())?;
            for _ in 0..60 {
                for (best, new) in best.iter_mut().zip(session.profile(input.data())?) {
                    best.seconds = best.seconds.min(new.seconds);
                }
            }
            let total: f64 = best.iter().map(|s| s.seconds).sum();
            for s in &best {
                let gmacs = s.macs as f64 / s.seconds / 1e9;
                let (ms, shape) = (s.seconds * 1e3, s.shape);
                println!("{:44} {:20} {shape:18} {ms:8.3} ms {gmacs:7.1} GMAC/s", s.name, s.kind);
            }
            println!("total {:.3} ms", total * 1e3);
            continue;
        }
        let start = cpu_time::ThreadTime::now();
        session.run(input.data())?;
        println!("{:.4}", start.elapsed().as_secs_f64() * 1e3);
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// A zoo network, quantized.
fn formula(name: &str, scheme: &str) -> Result<runtime::Model, Box<dyn std::error::Error>> {
    let config = Config::new(name);
    let graph = zoo::build(&config)?;
    let weights = formula_weights(&graph);
    let info = Info { preprocess: config.preprocess()?, classes: vec![], source: "a formula".into() };
    let mut words = scheme.split(':');
    let scheme = words.next().unwrap_or_default();
    let (scheme, image_sum) = scheme.strip_suffix('+').map_or((scheme, false), |scheme| (scheme, true));
    let mut policy = Policy { rule: ScaleRule::L2, block: BlockSize::new(64)?, image_sum, ..Policy::default() };
    let mut bits = Bits::MAX;
    for word in words {
        let n = Bits::new(word.get(1..).unwrap_or_default().parse()?)?;
        match word.get(..1) {
            Some("a") => bits = n,
            Some("w") => policy.winograd = Some(n),
            _ => return Err("a4: bits of inputs; w6: those of 3x3 layers by Winograd's algorithm".into()),
        }
    }
    let activation = policy.activation.as_mut().ok_or("no activation")?;
    (activation.bits, activation.block) = (bits, policy.block);
    match scheme.strip_prefix("float") {
        Some(block) => (policy.block, activation.block) = (block.parse()?, block.parse()?),
        None => activation.block = BlockSize::PIXEL,
    }
    let mut model = Model::float(graph, weights, info)?.quantize(&policy)?;
    if scheme == "two" {
        let mut failed = None;
        model = model.map_layers(|_, layer| match two_level(&layer.codes) {
            _ if layer.codes.two_level().is_some() => {}
            Ok(codes) => layer.codes = codes,
            Err(error) => failed = Some(error),
        })?;
        failed.map_or(Ok(()), Err)?;
    }
    Ok(runtime::Model::new(model)?)
}

/// A cheap two-level form, for timing only: every factor 15, a scale a channel.
fn two_level(w: &blockfloat::QuantizedWeights) -> Result<blockfloat::QuantizedWeights, blockfloat::Error> {
    let factors = vec![15; w.scales().len()];
    let channel = w.scales().chunks(w.scales().len() / w.shape()[0]).map(|s| s[0] / 15.0).collect();
    let two_level = blockfloat::TwoLevel::new(channel, factors);
    blockfloat::QuantizedWeights::from_parts_two_level(w.shape(), w.bits(), w.block(), w.codes().to_vec(), two_level)
}

//! `.dsc` files with an input and its logits in them, for `dsconv verify` and for other engines.
use burn::tensor::{Tensor, TensorData};
use graph::dsc::{self, Pair};
use graph::{Model, SaveOptions};

use crate::args::DeviceName;
use crate::error::Result;
use crate::{device, source};

/// Of the stored input.
const SEED: u64 = 1;

/// The extension of the format.
pub const EXTENSION: &str = "dsc";

/// The model as a `.dsc` file. Logits that are not finite are left out.
///
/// # Errors
/// What such a file cannot hold: a model in floats.
pub fn bytes(model: &Model, floats: &SaveOptions) -> Result<Vec<u8>> {
    let mut stored = model.clone();
    stored.round(floats);
    let logits = if model.is_quantized() { logits(&stored, SEED)? } else { Vec::new() };
    let finite = !logits.is_empty() && logits.iter().all(|v| v.is_finite());
    let pair = finite.then_some(Pair { seed: SEED, logits });
    Ok(dsc::write(&stored, &dsc::Options { floats: *floats, pair })?)
}

/// The simulation's logits for the input of a seed.
///
/// # Errors
/// No such device.
pub fn logits(model: &Model, seed: u64) -> Result<Vec<f32>> {
    let device = device::open(DeviceName::Cpu)?;
    let network = source::network(model, &device);
    let shape = model.graph.input();
    let data = TensorData::new(Pair::input(seed, shape), [1, shape.channels, shape.height, shape.width]);
    let output = network.forward(Tensor::from_data(data, &device));
    Ok(output.into_data().convert::<f32>().try_into_vec().expect("f32 data"))
}

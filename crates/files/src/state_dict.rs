//! PyTorch state dicts: dequantized weights under the names of the network before its batch normalisation was folded.
use std::collections::HashMap;

use safetensors::tensor::{Dtype, TensorView, serialize};

use graph::{Graph, Op, Role, Tensor, Weights};
use model::{Float, Model, ModelError};

use crate::FileError;

/// Writes a model as a PyTorch state dict, as the bytes of a safetensors file with all floats in F32. A module with the
/// parameters of `original` loads it with `load_state_dict(strict=True)`.
///
/// `original` is the graph before its batch normalisations were folded, or the model's own graph. A folded normalisation
/// comes back as one that only adds the bias of its folded layer: `running_mean = 0`, `running_var = 1`,
/// `weight = sqrt(1 + eps)`, so that its scale is 1. If the layer had a bias in `original`, that is 0. A normalisation that
/// became an [`Op::Affine`] has its `weight * sqrt(1 + eps)` and its `bias`. Every normalisation has `num_batches_tracked`,
/// a 0 of type I64 without dimensions.
///
/// # Errors
/// As [`Model::check`]; [`ModelError::Layer`] if `original`, folded, is not the model's graph.
pub fn state_dict(model: &Model, original: &Graph) -> Result<Vec<u8>, FileError> {
    model.check()?;
    let (weights, tracked) = unfold(model, original)?;
    let zero = 0i64.to_le_bytes();
    let encoded: Vec<(String, Vec<usize>, Vec<u8>)> = weights
        .iter()
        .map(|(name, tensor)| (name.to_owned(), tensor.shape().to_vec(), Float::F32.encode(tensor.data())))
        .collect();
    let floats = encoded.iter().map(|(name, shape, data)| (name, Dtype::F32, shape.clone(), data.as_slice()));
    let tracked = tracked.iter().map(|name| (name, Dtype::I64, vec![], zero.as_slice()));
    let views = floats
        .chain(tracked)
        .map(|(name, dtype, shape, data)| Ok((name, TensorView::new(dtype, shape, data)?)))
        .collect::<Result<Vec<_>, FileError>>()?;
    // PyTorch's own writer adds this entry.
    Ok(serialize(views, Some(HashMap::from([("format".into(), "pt".into())])))?)
}

/// Returns the weights under the names of `original`, and the names of `num_batches_tracked` of its normalisations.
fn unfold(model: &Model, original: &Graph) -> Result<(Weights, Vec<String>), ModelError> {
    let mut dense = model.dequantized();
    let folded = original.fold();
    if folded.nodes() != model.graph().nodes() && original.nodes() != model.graph().nodes() {
        let why = format!("its graph is not `{}` with folded batch normalisation", original.name());
        return Err(ModelError::Layer { layer: model.graph().name().into(), why });
    }
    let mut weights = Weights::default();
    let mut tracked = Vec::new();
    for node in original.nodes() {
        let Op::BatchNorm2d { channels, eps } = node.op else { continue };
        let name = |role: Role| role.name(&node.name);
        tracked.push(format!("{}.num_batches_tracked", node.name));
        if model.graph().find(&node.name).is_some_and(|id| matches!(model.graph().node(id).op, Op::BatchNorm2d { .. }))
        {
            // This normalisation is not folded: its parameters are the model's.
            continue;
        }
        let unit = (1.0 + eps).sqrt();
        let vector = |values: Vec<f32>| Tensor::new([channels], values);
        let (gamma, beta) = match dense.remove(&name(Role::Gamma)) {
            Some(scale) => {
                let gamma = scale.data().iter().map(|&k| (f64::from(k) * unit) as f32).collect();
                (gamma, dense.remove(&name(Role::Bias)).expect("an affine node has both"))
            }
            None => {
                // The layer before it has its bias. Of several normalisations in a row the first one gets it.
                let mut layer = original.node(node.inputs[0]);
                while matches!(layer.op, Op::Dropout { .. } | Op::BatchNorm2d { .. }) {
                    layer = original.node(layer.inputs[0]);
                }
                let bias_name = Role::Bias.name(&layer.name);
                let beta = dense.remove(&bias_name).unwrap_or_else(|| vector(vec![0.0; channels]));
                if matches!(&layer.op, Op::Conv2d(conv) if conv.bias)
                    || matches!(layer.op, Op::Linear { bias: true, .. })
                {
                    weights.insert(bias_name, vector(vec![0.0; channels]));
                }
                (vec![unit as f32; channels], beta)
            }
        };
        weights.insert(name(Role::Gamma), vector(gamma));
        weights.insert(name(Role::Bias), beta);
        weights.insert(name(Role::Mean), vector(vec![0.0; channels]));
        weights.insert(name(Role::Variance), vector(vec![1.0; channels]));
    }
    weights.extend(dense);
    weights.check(original)?;
    Ok((weights, tracked))
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;
    use model::fixture;

    #[test]
    fn folding_what_comes_back_gives_the_model_again() {
        let model = fixture::quantized();
        let (weights, tracked) = unfold(&model, &fixture::graph()).unwrap();
        assert_eq!(tracked, ["bn1.num_batches_tracked", "norm.num_batches_tracked"]);
        assert!(weights.get("conv1.bias").is_none(), "the original has none");
        let (graph, again) = graph::Folded::new(&fixture::graph(), weights).unwrap().into_parts();
        assert_eq!(*graph, *model.graph());
        for (name, tensor) in model.dequantized().iter() {
            // sqrt(1 + eps) is rounded once, the quotient once more.
            let close = tensor.data().iter().zip(again[name].data()).all(|(a, b)| (a - b).abs() <= 2e-7 * a.abs());
            assert!(close, "{name}");
        }
    }

    #[test]
    fn normalisations_in_a_row_come_back_as_one_and_identities() {
        let mut b = graph::Builder::new("row", graph::Shape::new(2, 3, 3));
        let x = b.conv("conv", graph::Conv2d::new(2, 4, 1), b.input());
        let x = b.batch_norm("bn1", 1e-5, x);
        let x = b.push("drop", Op::Dropout { p: 0.5 }, vec![x]);
        b.batch_norm("bn2", 0.25, x);
        let original = b.finish().unwrap();
        let mut weights = Weights::init(&original, 3);
        weights.get_mut("bn1.bias").unwrap().data_mut().fill(0.5);
        weights.get_mut("bn2.running_mean").unwrap().data_mut().fill(-2.0);
        let (graph, weights) = graph::Folded::new(&original, weights).unwrap().into_parts();
        let info = model::Info { classes: vec![], ..fixture::info() };
        let model = Model::float(graph.into_graph(), weights, info).unwrap();

        let (again, _) = unfold(&model, &original).unwrap();
        assert_eq!(again["bn1.bias"], model.weights()["conv.bias"]);
        assert_eq!(again["bn2.bias"].data(), [0.0; 4]);
        // sqrt(1 + 0.25), so that the scale is 1.
        assert_eq!(again["bn2.weight"].data(), [1.25f32.sqrt(); 4]);
    }

    #[test]
    fn the_file_is_a_state_dict() {
        let bytes = state_dict(&fixture::quantized(), &fixture::graph()).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let counter = file.tensor("bn1.num_batches_tracked").unwrap();
        assert_eq!((counter.dtype(), counter.shape(), counter.data()), (Dtype::I64, &[][..], &[0; 8][..]));
        let mut names: Vec<String> = fixture::graph().params().into_iter().map(|param| param.name).collect();
        names.extend(["bn1.num_batches_tracked".into(), "norm.num_batches_tracked".into()]);
        names.sort();
        let mut found: Vec<String> = file.names().iter().map(ToString::to_string).collect();
        found.sort();
        assert_eq!(found, names);
        assert_eq!(file.tensor("fc.weight").unwrap().shape(), [3, 4], "a linear layer is a matrix");
    }

    #[test]
    fn a_float_model_gives_its_own_weights_and_another_graph_is_refused() {
        let float = fixture::float();
        assert_eq!(unfold(&float, &fixture::graph()).unwrap().0, *float.weights());
        let mut b = graph::Builder::new("other", graph::Shape::new(3, 5, 5));
        b.conv("conv1", graph::Conv2d::new(3, 10, 3), b.input());
        let error = state_dict(&fixture::quantized(), &b.finish().unwrap()).unwrap_err().to_string();
        assert_eq!(error, "layer `tiny`: its graph is not `other` with folded batch normalisation");
    }
}

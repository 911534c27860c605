//! This module quantizes the weights of anybody's module.
//!
//! burn computes with what [`Param::val`](burn::module::Param::val) gives, and lets a
//! [`Reparameterization`](burn::module::Reparameterization) say what that is. So a layer of burn's own
//! type gets integer weights without a change of its code: the parameter keeps the shadow weight in steps of its codes, the
//! reparameterization keeps the block scales and makes `alpha * q` of both.

mod scales;
mod survey;

use std::collections::BTreeMap;
use std::mem::take;

use blockfloat::{ActivationFormat, QuantizedWeights, WeightFormat};
use burn::module::{Module, ParamGroup};
use graph::{Folded, Graph, Op, Role, Tensor, Weights};
use model::{Info, Model, ModelError, QuantizedLayer};

use crate::Error;
use crate::shadow::host;
use scales::Attach;
use survey::Survey;

/// Quantizes the weights of every `Conv1d`, `Conv2d`, `Conv3d` and `Linear` of a module that are in `group`.
///
/// The module keeps its type and its code. Each of these weights becomes codes with one trained scale for every block of
/// input channels, `alpha * q`; the gradient passes the rounding unchanged. The weight's parameter then holds the shadow
/// weight in steps of its codes, as the `latent` of a [`DsConv2d`](crate::DsConv2d) does, and [`shadow_weights`] names it to
/// optimizers. The parameters `dsconv.scales` and `dsconv.gain` below its path hold the scales; only the gains are trained,
/// unless they are frozen. [`codes`] gives codes and scales out, and [`Module::materialize`] makes floats of them.
///
/// Other layers keep their floats: transposed and deformable convolutions, and layers with weights of their own. So do the
/// inputs of layers, which a parameter does not see: a forward pass rounds them where it calls
/// [`block_float`](crate::block_float), or where it has a [`DsConv2d`](crate::DsConv2d) in place of a `Conv2d`. Batch
/// normalisation stays as it is until [`export`] folds it. Records of the result hold its own parameters: load a float model's record first, then
/// quantize.
///
/// # Errors
/// [`Error::Numbers`] where a weight is NaN or infinite, [`Error::Reparameterized`] where it is quantized already,
/// [`Error::NothingToQuantize`] where there is none.
///
/// # Example
/// ```
/// use blockfloat::{Bits, BlockSize, ScaleRule, WeightFormat};
/// use burn::module::{Module, ParamGroup};
/// use burn::nn::{Linear, LinearConfig};
/// use burn::tensor::{Device, Tensor};
///
/// #[derive(Module, Debug)]
/// struct Perceptron {
///     hidden: Linear,
///     output: Linear,
/// }
///
/// let device = Device::flex();
/// let model = Perceptron {
///     hidden: LinearConfig::new(64, 32).init(&device),
///     output: LinearConfig::new(32, 10).init(&device),
/// };
/// let format = WeightFormat::new(Bits::new(4)?, BlockSize::new(32)?, ScaleRule::Mse);
/// let model = dsconv::quantize(model, format, &ParamGroup::all())?;
/// let y: Tensor<2> = model.hidden.forward(Tensor::ones([1, 64], &device)); // integer weights
///
/// let codes = dsconv::codes(&model)?;
/// assert_eq!(codes.keys().collect::<Vec<_>>(), ["hidden.weight", "output.weight"]);
/// assert_eq!(codes["hidden.weight"].shape(), [32, 64, 1, 1]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn quantize<M: Module>(module: M, format: WeightFormat, group: &ParamGroup) -> Result<M, Error> {
    let parameters = Survey::of(&module).parameters.into_iter();
    let targets: Vec<_> = parameters.filter(|p| p.is_layer_weight() && group.matches(&p.id, Some(&p.path))).collect();
    if let Some(taken) = targets.iter().find(|p| p.reparameterization.is_some()) {
        return Err(Error::Reparameterized { path: taken.path.clone() });
    }
    if targets.is_empty() {
        return Err(Error::NothingToQuantize);
    }
    let mut attach = Attach::new(format, targets.iter().map(|p| p.id).collect());
    let module = module.apply_reparameterization(&mut attach);
    attach.finish().map(|()| module)
}

/// Computes the codes and scales that stand for the present weights of a module that [`quantize`] made. Each has the path of
/// its parameter, `conv1.weight` for example.
///
/// Their shape is `[Co, Ci/G, Kh, Kw]`. Those of a `Linear` are `[d_output, d_input, 1, 1]`, the transpose of burn's weight;
/// the last two lengths are `Kw, 1` for a `Conv1d` and `Kd, Kh * Kw` for a `Conv3d`.
///
/// # Errors
/// [`Error::Numbers`] where training made a weight or a scale NaN or infinite.
pub fn codes<M: Module>(module: &M) -> Result<BTreeMap<String, QuantizedWeights>, Error> {
    let quantized = Survey::of(module).shadows().into_iter().map(|(path, shadow)| match shadow.codes() {
        Ok(codes) => Ok((path, codes)),
        Err(error) => Err(Error::Numbers { path, error }),
    });
    quantized.collect()
}

/// Finds the shadow weights of a module: those of the parameters that [`quantize`] took, and of every
/// [`DsConv2d`](crate::DsConv2d) and [`DsLinear`](crate::DsLinear).
///
/// They are stored in steps of their codes, so they need a learning rate of their own: one of 0.01 moves a weight by about a
/// hundredth of a code at each step of Adam. The gains of the scales, parameters named `gain`, start at 1: a rate of 0.0003
/// moves a scale by 0.03 percent.
pub fn shadow_weights<M: Module>(module: &M) -> ParamGroup {
    let parameters = Survey::of(module).parameters.into_iter();
    ParamGroup::from_ids(parameters.filter(|p| p.is_shadow_weight()).map(|p| p.id).collect())
}

/// Makes a model, which files hold and the integer engine runs, of a module that [`quantize`] made.
///
/// `graph` says how the module computes. Its nodes have the paths of the module's fields as names, `blocks.0.conv1` for
/// example. Quantized layers are those that [`quantize`] made: a [`DsConv2d`](crate::DsConv2d) gives its codes out itself.
/// `activation` gets the name of each of them, and says what the module's forward pass rounds the layer's inputs to with
/// [`block_float`](crate::block_float): `|_| Some(format)` where that is the same for all, `None` where it leaves them in floats.
///
/// Batch normalisation with its running statistics becomes part of the layer before it, of its scales and bias, or an
/// [`Op::Affine`].
///
/// # Errors
/// [`ModelError`] where codes and parameters are not those that the graph needs, or one of them is NaN or infinite.
pub fn export<M: Module>(
    module: &M,
    graph: Graph,
    activation: impl Fn(&str) -> Option<ActivationFormat>,
    info: Info,
) -> Result<Model, ModelError> {
    let survey = Survey::of(module);
    let non_negative = graph.non_negative();
    let is_signed = |name: &str| {
        let inputs = graph.find(name).map_or(&[][..], |id| &graph.node(id).inputs);
        !inputs.iter().all(|input| non_negative[input.index()])
    };
    let mut layers = BTreeMap::new();
    for (path, shadow) in survey.shadows() {
        let layer = path.strip_suffix(".weight").unwrap_or(&path).to_owned();
        match shadow.codes() {
            Ok(codes) => {
                let (activation, signed) = (activation(&layer), is_signed(&layer));
                layers.insert(layer, QuantizedLayer { codes, activation, signed })
            }
            Err(error) => return Err(ModelError::Numbers { layer, error }),
        };
    }
    let mut weights = Weights::default();
    for parameter in survey.floats() {
        let (name, shape) = (parameter.torch_name(), parameter.torch_shape());
        weights.insert(name, Tensor::new(shape, host(parameter.kernel())));
    }
    let graph = fold(graph, &mut weights, &mut layers)?;
    let model = Model::new(graph, weights, layers, info)?;
    model.check()?;
    Ok(model)
}

/// Folds batch normalisation into quantized layers, and into others.
fn fold(
    graph: Graph,
    weights: &mut Weights,
    layers: &mut BTreeMap<String, QuantizedLayer>,
) -> Result<Graph, ModelError> {
    if !graph.nodes().iter().any(|node| matches!(node.op, Op::BatchNorm2d { .. })) {
        return Ok(graph);
    }
    // Weights of 1 become what the normalisation multiplies a filter by.
    for param in graph.params() {
        if let Some(layer) = param.name.strip_suffix(".weight").filter(|&layer| layers.contains_key(layer)) {
            let count = layers[layer].codes.codes().len();
            weights.insert(param.name.clone(), Tensor::new(param.shape, vec![1.0; count]));
        }
    }
    let (folded, mut parameters) = Folded::new(&graph, take(weights))?.into_parts();
    for (layer, QuantizedLayer { codes, .. }) in layers.iter_mut() {
        let Some(factors) = parameters.remove(&Role::Weight.name(layer)) else { continue };
        let row = codes.codes().len() / codes.shape()[0];
        let factors: Vec<f32> = factors.data().iter().step_by(row).copied().collect();
        codes.scale_channels(&factors).map_err(|error| ModelError::Numbers { layer: layer.clone(), error })?;
    }
    *weights = parameters;
    Ok((*folded).clone())
}

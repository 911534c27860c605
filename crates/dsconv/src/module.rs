//! Quantizes the weights of anybody's module.
//!
//! burn computes with what [`Param::val`] gives, and lets a [`Reparameterization`] say what that is. So a layer of burn's own
//! type gets integer weights without a change of its code: the parameter keeps the shadow weight in steps of its codes, the
//! reparameterization keeps the block scales and makes `alpha * q` of both.

use std::collections::{BTreeMap, HashSet};

use blockfloat::{Bits, BlockSize, QuantizedWeights, WeightFormat};
use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param, ParamGroup,
    ParamId, Reparameterization, Reparameterizer,
};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::Error;
use crate::quantization::ScaleUpdate;
use crate::shadow::{Shadow, host};

/// Quantizes the weights of every `Conv1d`, `Conv2d`, `Conv3d` and `Linear` of a module that are in `group`.
///
/// The module keeps its type and its code. Each of these weights becomes codes with one trained scale for every block of
/// input channels, `alpha * q`; the gradient passes the rounding unchanged. The weight's parameter then holds the shadow
/// weight in steps of its codes, as the `latent` of a [`DsConv2d`](crate::DsConv2d) does, and the parameters `dsconv.scales`
/// and `dsconv.gain` below its path hold the scales; only the gains are trained. [`shadow_weights`] names the former to
/// optimizers, [`codes`] gives codes and scales out, and [`Module::materialize`] makes floats of them.
///
/// Other layers keep their floats: transposed and deformable convolutions, and layers with weights of their own. So do the
/// inputs of layers, which a parameter does not see: a forward pass rounds them where it calls
/// [`block_float`](crate::block_float), or where it has a [`DsConv2d`](crate::DsConv2d) in place of a `Conv2d`. Batch
/// normalisation is not folded. Records of the result hold its own parameters: load a float model's record first, then
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
/// let format = WeightFormat { bits: Bits::new(4)?, block: BlockSize::new(32)?, rule: ScaleRule::Mse };
/// let model = dsconv::quantize(model, format, &ParamGroup::all())?;
/// let y: Tensor<2> = model.hidden.forward(Tensor::ones([1, 64], &device)); // integer weights
///
/// let codes = dsconv::codes(&model)?;
/// assert_eq!(codes.keys().collect::<Vec<_>>(), ["hidden.weight", "output.weight"]);
/// assert_eq!(codes["hidden.weight"].shape(), [32, 64, 1, 1]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn quantize<M: Module>(module: M, format: WeightFormat, group: &ParamGroup) -> Result<M, Error> {
    let mut targets = HashSet::new();
    for parameter in survey(&module) {
        if !parameter.is_layer_weight || !group.matches(&parameter.id, Some(&parameter.path)) {
            continue;
        }
        if parameter.is_reparameterized {
            return Err(Error::Reparameterized { path: parameter.path });
        }
        targets.insert(parameter.id);
    }
    if targets.is_empty() {
        return Err(Error::NothingToQuantize);
    }
    let mut attach = Attach { format, targets, error: None };
    let module = module.apply_reparameterization(&mut attach);
    attach.error.map_or(Ok(module), Err)
}

/// The codes and scales that stand for the present weights of a module that [`quantize`] made, by the path of each parameter,
/// `conv1.weight` for example.
///
/// Their shape is `[Co, Ci/G, Kh, Kw]`. Those of a `Linear` are `[d_output, d_input, 1, 1]`, the transpose of burn's weight;
/// the last two lengths are `Kw, 1` for a `Conv1d` and `Kd, Kh * Kw` for a `Conv3d`.
///
/// # Errors
/// [`Error::Numbers`] where training made a weight or a scale NaN or infinite.
pub fn codes<M: Module>(module: &M) -> Result<BTreeMap<String, QuantizedWeights>, Error> {
    let quantized = survey(module).into_iter().filter(|p| p.is_quantized).map(|p| p.id);
    let mut read = Read { quantized: quantized.collect(), ..Read::default() };
    module.visit(&mut read);
    let quantized = read.found.into_iter().map(|(path, shadow)| match shadow.codes() {
        Ok(codes) => Ok((path, codes)),
        Err(source) => Err(Error::Numbers { path, source }),
    });
    quantized.collect()
}

/// The shadow weights of a module: those of the parameters that [`quantize`] took, and of every
/// [`DsConv2d`](crate::DsConv2d) and [`DsLinear`](crate::DsLinear).
///
/// They are stored in steps of their codes, so they need a learning rate of their own: one of 0.01 moves a weight by about a
/// hundredth of a code at each step of Adam. The gains of the scales, parameters named `gain`, start at 1: a rate of 0.0003
/// moves a scale by 0.03 percent.
pub fn shadow_weights<M: Module>(module: &M) -> ParamGroup {
    let quantized = survey(module).into_iter().filter(|p| p.is_quantized || p.is_latent);
    ParamGroup::from_ids(quantized.map(|p| p.id).collect())
}

/// The block scales that [`quantize`] attaches to a weight.
#[derive(Module, Debug)]
struct BlockScales {
    /// The first scales, `[Co, blocks, Kh, Kw]`, which are not trained.
    scales: Param<Tensor<4>>,
    /// The trained factor of each scale, `[Co, blocks, Kh, Kw]`.
    gain: Param<Tensor<4>>,
    format: Format,
}

impl BlockScales {
    fn shadow(&self, latent: Tensor<4>) -> Shadow {
        let Format { bits, block, .. } = self.format;
        Shadow { latent, scales: self.scales.val(), gain: Some(self.gain.val()), bits, block }
    }
}

impl Reparameterization for BlockScales {
    const NAME: &'static str = "dsconv";

    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        let dims = base.dims();
        from_kernel(self.shadow(to_kernel(base)).value(), dims)
    }
}

/// A weight of a convolution or linear layer as `[Co, Ci/G, Kh, Kw]`.
fn to_kernel<const D: usize>(weight: Tensor<D>) -> Tensor<4> {
    let dims = weight.dims();
    if D == 2 {
        return weight.swap_dims(0, 1).reshape([dims[1], dims[0], 1, 1]);
    }
    weight.reshape([dims[0], dims[1], dims[2], dims[3..].iter().product()])
}

/// The reverse of [`to_kernel`], where `dims` are those of the layer's weight.
fn from_kernel<const D: usize>(kernel: Tensor<4>, mut dims: [usize; D]) -> Tensor<D> {
    if D == 2 {
        dims.swap(0, 1);
        return kernel.reshape(dims).swap_dims(0, 1);
    }
    kernel.reshape(dims)
}

/// Attaches [`BlockScales`] to the parameters of `targets`.
struct Attach {
    format: WeightFormat,
    targets: HashSet<ParamId>,
    /// The first parameter that could not be quantized.
    error: Option<Error>,
}

impl Reparameterizer for &mut Attach {
    type Reparam = BlockScales;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<BlockScales>) {
        if self.error.is_some() || !self.targets.contains(&param.id) {
            return (param, None);
        }
        let weight = param.base();
        let (dims, device, is_tracked) = (weight.dims(), weight.device(), weight.is_require_grad());
        let kernel = to_kernel(weight);
        let shape = kernel.dims();
        let weight = host(kernel);
        let codes = match QuantizedWeights::quantize(&weight, shape, self.format) {
            Ok(codes) => codes,
            Err(source) => {
                self.error = Some(Error::Numbers { path: path.to_owned(), source });
                return (param, None);
            }
        };
        let shadow = Shadow::new(&codes, Some(&weight), ScaleUpdate::Trained, &device);
        let base = param.map(|_| from_kernel(shadow.latent, dims).set_require_grad(is_tracked));
        // Records hold it as it is: burn would refuse its own transposed record of a weight that is not lazy any more.
        let base = base.save_mapper(|latent| latent).load_mapper(|latent| latent);
        let gain = Param::from_tensor(Tensor::ones(codes.scale_shape(), &device));
        let scales = BlockScales {
            scales: Param::from_tensor(shadow.scales).set_require_grad(false),
            // A frozen weight keeps its scales.
            gain: gain.set_require_grad(is_tracked || !device.is_autodiff()),
            format: Format { id: ParamId::new(), bits: self.format.bits, block: self.format.block },
        };
        (base, Some(scales))
    }
}

/// The bits and blocks of codes, which visitors, and so records, see as an integer tensor `[bits, block]`, where the block
/// `pixel` is 0. A record that is loaded brings its own.
#[derive(Debug, Clone)]
struct Format {
    id: ParamId,
    bits: Bits,
    block: BlockSize,
}

impl Format {
    /// The tensor is always in this process's memory, so that no device waits for it.
    fn param(&self) -> Param<Tensor<1, Int>> {
        let numbers = [i64::from(self.bits.get()), self.block.get().unwrap_or(0) as i64];
        Param::initialized(self.id, Tensor::from_data(TensorData::from(numbers), &Device::flex()))
    }

    /// `None` where the tensor holds no format.
    fn read(param: &Param<Tensor<1, Int>>) -> Option<Self> {
        let numbers = param.val().into_data().convert::<i64>().try_into_vec::<i64>().ok()?;
        let [bits, block] = numbers[..] else { return None };
        let bits = Bits::try_from(u64::try_from(bits).ok()?).ok()?;
        let block = match usize::try_from(block).ok()? {
            0 => BlockSize::PIXEL,
            block => BlockSize::new(block).ok()?,
        };
        Some(Self { id: param.id, bits, block })
    }
}

impl Module for Format {
    fn collect_devices(&self, devices: Devices) -> Devices {
        devices
    }

    fn fork(self, _device: &Device) -> Self {
        self
    }

    fn to_device(self, _device: &Device) -> Self {
        self
    }

    fn train(self) -> Self {
        self
    }

    fn valid(&self) -> Self {
        self.clone()
    }

    fn materialize(self) -> Self {
        self
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.visit_int(&self.param());
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        Self::read(&mapper.map_int(self.param())).unwrap_or(self)
    }
}

impl ModuleDisplayDefault for Format {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_formatted(&format!("{} bits in blocks of {}", self.bits, self.block)).optional()
    }
}

impl ModuleDisplay for Format {}

/// What a module says of one of its float parameters.
struct Parameter {
    path: String,
    id: ParamId,
    /// Whether it is the weight of one of the layers that [`quantize`] quantizes.
    is_layer_weight: bool,
    /// Whether it is the shadow weight of a `DsConv2d`.
    is_latent: bool,
    is_reparameterized: bool,
    /// Whether its reparameterization is [`BlockScales`].
    is_quantized: bool,
}

fn survey<M: Module>(module: &M) -> Vec<Parameter> {
    let mut survey = Survey::default();
    module.visit(&mut survey);
    survey.found
}

#[derive(Default)]
struct Survey {
    path: Vec<String>,
    /// The type of the struct that the innermost field belongs to.
    container: String,
    found: Vec<Parameter>,
}

const REPARAMETERIZATION: &str = "Reparameterization";

impl ModuleVisitor for Survey {
    fn enter_module(&mut self, name: &str, container: &str) {
        // A reparameterization follows its parameter.
        if container == REPARAMETERIZATION
            && let Some(parameter) = self.found.last_mut()
        {
            parameter.is_reparameterized = true;
            parameter.is_quantized = name == BlockScales::NAME;
        }
        self.path.push(name.to_owned());
        self.container = container.to_owned();
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let field = self.path.last().map_or("", String::as_str);
        let layers = ["Struct:Conv1d", "Struct:Conv2d", "Struct:Conv3d", "Struct:Linear"];
        self.found.push(Parameter {
            path: self.path.join("."),
            id: param.id,
            is_layer_weight: field == "weight" && layers.contains(&self.container.as_str()),
            is_latent: field == "latent" && self.container == "Struct:DsConv2d",
            is_reparameterized: false,
            is_quantized: false,
        });
    }
}

/// Reads the parameters of quantized weights.
#[derive(Default)]
struct Read {
    quantized: HashSet<ParamId>,
    path: Vec<String>,
    /// The shadow weight that was visited last, as `[Co, Ci/G, Kh, Kw]`.
    latent: Option<Tensor<4>>,
    /// What was seen of the reparameterization that is being visited.
    open: Option<Open>,
    found: Vec<(String, Shadow)>,
}

#[derive(Default)]
struct Open {
    scales: Option<Tensor<4>>,
    gain: Option<Tensor<4>>,
    format: Option<Format>,
}

impl ModuleVisitor for Read {
    fn enter_module(&mut self, name: &str, container: &str) {
        if container == REPARAMETERIZATION && name == BlockScales::NAME {
            self.open = Some(Open::default());
        }
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, name: &str, container: &str) {
        self.path.pop();
        if container != REPARAMETERIZATION || name != BlockScales::NAME {
            return;
        }
        let Some(Open { scales: Some(scales), gain, format: Some(format) }) = self.open.take() else { return };
        if let Some(latent) = self.latent.take() {
            let shadow = Shadow { latent, scales, gain, bits: format.bits, block: format.block };
            self.found.push((self.path.join("."), shadow));
        }
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(open) = &mut self.open else {
            self.latent = self.quantized.contains(&param.id).then(|| to_kernel(param.base()));
            return;
        };
        let value = Some(to_kernel(param.val()));
        match self.path.last().map(String::as_str) {
            Some("scales") => open.scales = value,
            Some("gain") => open.gain = value,
            _ => {}
        }
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        if let Some(open) = &mut self.open {
            let values = param.val().reshape([-1]);
            open.format = Format::read(&Param::initialized(param.id, values));
        }
    }
}

//! A reparameterization makes a weight of codes and scales.

use std::collections::HashSet;

use blockfloat::{Bits, BlockSize, QuantizedWeights, WeightFormat};
use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param, ParamId,
    Reparameterization, Reparameterizer,
};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::Error;
use crate::quantization::ScaleUpdate;
use crate::shadow::{Shadow, host};

/// The block scales of a weight whose parameter holds the shadow weight in steps of its codes.
#[derive(Module, Debug)]
pub struct BlockScales {
    /// The first scales, `[Co, blocks, Kh, Kw]`, which are not trained.
    scales: Param<Tensor<4>>,
    /// The trained factor of each scale, `[Co, blocks, Kh, Kw]`, or `[Co, blocks, 1, 1]` where taps share scales.
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

/// Turns a weight of a convolution or linear layer into `[Co, Ci/G, Kh, Kw]`, and a vector into `[len, 1, 1, 1]`.
pub fn to_kernel<const D: usize>(weight: Tensor<D>) -> Tensor<4> {
    let dims = weight.dims();
    if D == 2 {
        return weight.swap_dims(0, 1).reshape([dims[1], dims[0], 1, 1]);
    }
    let length = |axis: usize| dims.get(axis).copied().unwrap_or(1);
    weight.reshape([length(0), length(1), length(2), dims.iter().skip(3).product()])
}

/// Reverses [`to_kernel`] for a weight of shape `dims`.
fn from_kernel<const D: usize>(kernel: Tensor<4>, mut dims: [usize; D]) -> Tensor<D> {
    if D == 2 {
        dims.swap(0, 1);
        return kernel.reshape(dims).swap_dims(0, 1);
    }
    kernel.reshape(dims)
}

/// Attaches [`BlockScales`] to the parameters of `targets`.
pub struct Attach {
    format: WeightFormat,
    targets: HashSet<ParamId>,
    /// What is wrong with the first parameter that could not be quantized.
    error: Option<Error>,
}

impl Attach {
    pub fn new(format: WeightFormat, targets: HashSet<ParamId>) -> Self {
        Self { format, targets, error: None }
    }

    /// # Errors
    /// [`Error::Numbers`] where a parameter could not be quantized.
    pub fn finish(self) -> Result<(), Error> {
        self.error.map_or(Ok(()), Err)
    }
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
            Err(error) => {
                self.error = Some(Error::Numbers { path: path.to_owned(), error });
                return (param, None);
            }
        };
        let shadow = Shadow::new(&codes, Some(&weight), ScaleUpdate::Trained, &device);
        let base = param.map(|_| from_kernel(shadow.latent, dims).set_require_grad(is_tracked));
        // Records hold it as it is: burn would refuse its own transposed record of a weight that is not lazy any more.
        let base = base.save_mapper(|latent| latent).load_mapper(|latent| latent);
        let gain = Param::from_tensor(Shadow::gains(&codes, &device));
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
pub struct Format {
    id: ParamId,
    pub bits: Bits,
    pub block: BlockSize,
}

impl Format {
    /// The tensor is always in this process's memory, so that no device waits for it.
    fn param(&self) -> Param<Tensor<1, Int>> {
        let numbers = [i64::from(self.bits.get()), self.block.get().unwrap_or(0) as i64];
        Param::initialized(self.id, Tensor::from_data(TensorData::from(numbers), &Device::flex()))
    }

    /// Reads a format; `None` where the tensor holds none.
    pub fn read(param: &Param<Tensor<1, Int>>) -> Option<Self> {
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

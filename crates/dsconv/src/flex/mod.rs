//! Operations of our own for burn's CPU backend, `flex`, each with its gradient. On other devices, and for tensors that are not of
//! 32-bit floats, burn's own operations compute the same.
//!
//! What they save is memory: burn makes a tensor for every step of such an operation, and a convolution's gradients go through
//! convolutions whose kernels are images.
#![allow(
    clippy::extra_unused_type_parameters,
    reason = "`macerator` compiles a function once for each instruction set `S`"
)]

mod clip;
mod conv;
mod depthwise;
mod geometry;
mod pool;
#[cfg(test)]
mod tests;
mod weight;

use blockfloat::{ActivationFormat, ActivationSpec};
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, DispatchDevice, Flex, TensorMetadata, backend_extension};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Bytes, DType, Device, Shape, Tensor};

use geometry::Sizes;
use graph::Pool2d;
pub(crate) use weight::Cut;

/// Says whether tensors of a device lie in this process's memory, where plain loops read them without a copy.
pub(crate) fn on_host(device: &Device) -> bool {
    matches!(device.clone().inner().as_dispatch(), DispatchDevice::Flex(_))
}

/// Says whether the operations of this module take a tensor.
pub(crate) fn takes<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && x.shape().num_elements() > 0 && on_host(&x.device())
}

/// Rounds `x` `[N, C, H, W]` to block floating point, with the straight-through gradient.
pub(crate) fn block_float(x: Tensor<4>, format: ActivationFormat, signed: bool, groups: usize) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as FlexOps>::block_float(x.into_dispatch(), format, signed, groups))
}

/// Convolves `x` `[N, Ci, H, W]` with `weight` `[Co, Ci/G, Kh, Kw]` and adds `bias` `[Co]`.
pub(crate) fn convolve(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>, options: &ConvOptions<2>) -> Tensor<4> {
    let sizes = Sizes::new(x.dims(), weight.dims(), options);
    let y = <Dispatch as FlexOps>::convolve(x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch(), sizes);
    Tensor::from_dispatch(y)
}

/// Finds the largest value of every window of `x` `[N, C, H, W]`.
///
/// # Panics
/// If the windows do not fit.
pub(crate) fn max_pool(x: Tensor<4>, pool: &Pool2d) -> Tensor<4> {
    let [_, _, h, w] = x.dims();
    let output = [(0, h), (1, w)].map(|(axis, size)| pool.output(axis, size).expect("windows that fit"));
    let sizes = Sizes::of_pool(x.dims(), pool, output);
    Tensor::from_dispatch(<Dispatch as FlexOps>::max_pool(x.into_dispatch(), sizes))
}

/// Clips values to `min..=max`. The gradient is 0 at both ends, as PyTorch's is.
pub(crate) fn clip(x: Tensor<4>, min: f32, max: f32) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as FlexOps>::clip(x.into_dispatch(), min, max))
}

/// Computes `scales * gain * q`, the values of the codes `q` of a shadow weight `latent`, with the straight-through gradient.
pub(crate) fn weight(latent: Tensor<4>, scales: Tensor<4>, gain: Tensor<4>, cut: Cut) -> Tensor<4> {
    let (latent, scales, gain) = (latent.into_dispatch(), scales.into_dispatch(), gain.into_dispatch());
    Tensor::from_dispatch(<Dispatch as FlexOps>::weight(latent, scales, gain, cut))
}

/// The operations that are added to burn's CPU backend.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait FlexOps: Backend {
    fn block_float(x: FloatTensor<Self>, format: ActivationFormat, signed: bool, groups: usize) -> FloatTensor<Self>;

    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        sizes: Sizes,
    ) -> FloatTensor<Self>;

    fn max_pool(x: FloatTensor<Self>, sizes: Sizes) -> FloatTensor<Self>;

    fn clip(x: FloatTensor<Self>, min: f32, max: f32) -> FloatTensor<Self>;

    fn weight(
        latent: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        cut: Cut,
    ) -> FloatTensor<Self>;
}

impl FlexOps for Flex {
    fn block_float(x: FlexTensor, format: ActivationFormat, signed: bool, groups: usize) -> FlexTensor {
        let x = x.to_contiguous();
        let shape = x.shape().dims();
        let mut value = vec![0.0; x.shape().num_elements()];
        let spec = ActivationSpec { shape, groups, format, signed };
        blockfloat::dequantized_activations(x.storage(), &spec, &mut value);
        tensor(value, shape)
    }

    fn convolve(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, sizes: Sizes) -> FlexTensor {
        let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let forward = if sizes.is_depthwise() { depthwise::forward } else { conv::forward };
        tensor(forward(&sizes, x.storage(), weight.storage(), bias.storage()), sizes.output_shape())
    }

    fn max_pool(x: FlexTensor, sizes: Sizes) -> FlexTensor {
        tensor(pool::forward(&sizes, x.to_contiguous().storage()), sizes.output_shape())
    }

    fn clip(x: FlexTensor, min: f32, max: f32) -> FlexTensor {
        let mut x = owned(x);
        clip::forward(x.storage_mut(), min, max);
        x
    }

    fn weight(latent: FlexTensor, scales: FlexTensor, gain: FlexTensor, cut: Cut) -> FlexTensor {
        let (latent, scales, gain) = (latent.to_contiguous(), scales.to_contiguous(), gain.to_contiguous());
        tensor(weight::forward(&cut, latent.storage(), scales.storage(), gain.storage()), cut.shape)
    }
}

impl<C: CheckpointStrategy> FlexOps for Autodiff<Flex, C> {
    fn block_float(x: FloatTensor<Self>, format: ActivationFormat, signed: bool, groups: usize) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct StraightThrough;

        impl Backward<Flex, 1> for StraightThrough {
            type State = ();

            fn backward(self, ops: Ops<(), 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                unary::<Flex, _>(ops.parents, ops.node, grads, |grad| grad);
            }
        }

        let node = x.node();
        let value = Flex::block_float(x.into_primitive(), format, signed, groups);
        match StraightThrough.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((), value),
            OpsKind::UnTracked(prepared) => prepared.finish(value),
        }
    }

    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        sizes: Sizes,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Convolve;

        impl Backward<Flex, 3> for Convolve {
            type State = (FlexTensor, FlexTensor, Sizes);

            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let ((x, weight, sizes), [of_x, of_weight, of_bias]) = (ops.state, ops.parents);
                let dy = grads.consume::<Flex>(&ops.node).to_contiguous();
                let depthwise = sizes.is_depthwise();
                if let Some(node) = of_bias {
                    let gradient = conv::bias_gradient(&sizes, dy.storage());
                    grads.register::<Flex>(node.id, tensor(gradient, [sizes.groups * sizes.outputs]));
                }
                if let Some(node) = of_weight {
                    let of = if depthwise { depthwise::weight_gradient } else { conv::weight_gradient };
                    let gradient = of(&sizes, x.storage(), dy.storage());
                    grads.register::<Flex>(node.id, tensor(gradient, weight.shape().dims::<4>()));
                }
                if let Some(node) = of_x {
                    let of = if depthwise { depthwise::input_gradient } else { conv::input_gradient };
                    let gradient = of(&sizes, weight.storage(), dy.storage());
                    grads.register::<Flex>(node.id, tensor(gradient, x.shape().dims::<4>()));
                }
            }
        }

        let nodes = [x.node(), weight.node(), bias.node()];
        let (x, weight) = (x.into_primitive().to_contiguous(), weight.into_primitive().to_contiguous());
        let bias = bias.into_primitive();
        match Convolve.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let y = Flex::convolve(x.clone(), weight.clone(), bias, sizes.clone());
                prepared.finish((x, weight, sizes), y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(Flex::convolve(x, weight, bias, sizes)),
        }
    }

    fn max_pool(x: FloatTensor<Self>, sizes: Sizes) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct MaxPool;

        impl Backward<Flex, 1> for MaxPool {
            type State = (FlexTensor, FlexTensor, Sizes);

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let (x, y, sizes) = ops.state;
                unary::<Flex, _>(ops.parents, ops.node, grads, |dy| {
                    let dx = pool::backward(&sizes, x.storage(), y.storage(), dy.to_contiguous().storage());
                    tensor(dx, x.shape().dims::<4>())
                });
            }
        }

        let node = x.node();
        let x = x.into_primitive().to_contiguous();
        let y = Flex::max_pool(x.clone(), sizes.clone());
        match MaxPool.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((x, y.clone(), sizes), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn clip(x: FloatTensor<Self>, min: f32, max: f32) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Clip;

        impl Backward<Flex, 1> for Clip {
            type State = (FlexTensor, f32, f32);

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let (y, min, max) = ops.state;
                unary::<Flex, _>(ops.parents, ops.node, grads, |grad| {
                    let mut grad = owned(grad);
                    clip::backward(grad.storage_mut(), y.storage(), min, max);
                    grad
                });
            }
        }

        let node = x.node();
        let y = Flex::clip(x.into_primitive(), min, max);
        match Clip.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((y.clone(), min, max), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn weight(
        latent: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        cut: Cut,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Weight;

        impl Backward<Flex, 2> for Weight {
            type State = ([FlexTensor; 3], Cut);

            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let (([latent, scales, gain], cut), [of_latent, of_gain]) = (ops.state, ops.parents);
                let dy = grads.consume::<Flex>(&ops.node).to_contiguous();
                let (d_latent, d_gain) =
                    weight::backward(&cut, latent.storage(), scales.storage(), gain.storage(), dy.storage());
                if let Some(node) = of_latent {
                    grads.register::<Flex>(node.id, tensor(d_latent, cut.shape));
                }
                if let Some(node) = of_gain {
                    grads.register::<Flex>(node.id, tensor(d_gain, gain.shape().dims::<4>()));
                }
            }
        }

        let nodes = [latent.node(), gain.node()];
        let [latent, scales, gain] = [latent, scales, gain].map(|x| x.into_primitive().to_contiguous());
        let value = Flex::weight(latent.clone(), scales.clone(), gain.clone(), cut.clone());
        match Weight.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(([latent, scales, gain], cut), value),
            OpsKind::UnTracked(prepared) => prepared.finish(value),
        }
    }
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(Shape::from(shape)), DType::F32)
}

/// The tensor in order, so that it can be changed in its place where nobody else holds it.
fn owned(x: FlexTensor) -> FlexTensor {
    let is_whole = x.as_slice::<f32>().is_some_and(|values| values.len() == x.storage::<f32>().len());
    if is_whole { x } else { x.to_contiguous() }
}

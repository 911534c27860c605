//! The kernel for every CPU: plain loops.
use super::{ConvCall, Kernel, PlanesCall, QuantizeCall, Task, depthwise, plain};
use crate::layout::LANES;

/// The portable kernel.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Scalar;

impl Kernel for Scalar {
    fn new() -> Option<Self> {
        Some(Self)
    }

    fn conv(&self, call: &ConvCall<'_>, _: &mut [u8], out: &mut [f32], stride: usize) -> bool {
        call.check(out, stride);
        if call.weights.depthwise {
            return depthwise::conv::<[f32; LANES]>(call, 1, out, stride);
        }
        plain::conv(call, out, stride)
    }

    fn quantize(&self, call: &QuantizeCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
        call.check(codes, scales);
        if call.layout.depthwise {
            return depthwise::quantize(false, call, codes, scales);
        }
        plain::quantize(call, codes, scales);
    }

    fn quantize_planes(&self, call: &PlanesCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
        plain::quantize_planes(call, codes, scales);
    }

    fn run<T: Task>(&self, task: T) -> T::Output {
        task.run()
    }
}

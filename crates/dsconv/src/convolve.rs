use burn::module::Content;
use burn::nn::PaddingConfig2d;
use burn::tensor::{Tensor, module::conv2d, ops::ConvOptions};

use crate::flex;

/// A geometry says how a kernel moves over its input.
#[derive(Debug, Clone)]
pub(crate) struct Geometry {
    pub stride: [usize; 2],
    pub padding: PaddingConfig2d,
    pub dilation: [usize; 2],
    pub groups: usize,
}

impl Default for Geometry {
    fn default() -> Self {
        Self { stride: [1, 1], padding: PaddingConfig2d::Valid, dilation: [1, 1], groups: 1 }
    }
}

impl Geometry {
    /// Computes burn's options for an input of `size` `[H, W]` and a `kernel` `[Kh, Kw]`.
    pub fn options(&self, size: [usize; 2], kernel: [usize; 2]) -> ConvOptions<2> {
        let padding = match self.padding {
            PaddingConfig2d::Valid => [(0, 0); 2],
            PaddingConfig2d::Explicit(top, left, bottom, right) => [(top, bottom), (left, right)],
            PaddingConfig2d::Same => [0, 1].map(|axis| same(size[axis], kernel[axis], self.stride[axis])),
        };
        ConvOptions::new_with_padding(self.stride, padding, self.dilation, self.groups)
    }

    /// Adds what burn displays of a convolution with a weight of shape `[Co, Ci/G, Kh, Kw]`.
    pub fn display(&self, content: Content, [co, cg, kh, kw]: [usize; 4]) -> Content {
        content
            .add("ch_in", &(cg * self.groups))
            .add("ch_out", &co)
            .add_debug_attribute("kernel_size", &[kh, kw])
            .add_debug_attribute("stride", &self.stride)
            .add_debug_attribute("dilation", &self.dilation)
            .add("groups", &self.groups)
            .add_debug_attribute("padding", &self.padding)
    }
}

/// Convolves `x` `[N, Ci, H, W]` with `weight` `[Co, Ci/G, Kh, Kw]` and adds `bias` `[Co]`.
pub(crate) fn convolve(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, geometry: &Geometry) -> Tensor<4> {
    let [co, _, kh, kw] = weight.dims();
    let [_, _, h, w] = x.dims();
    let options = geometry.options([h, w], [kh, kw]);
    if flex::takes(&x) && flex::takes(&weight) {
        let bias = bias.unwrap_or_else(|| Tensor::zeros([co], &weight.device()));
        return flex::convolve(x, weight, bias, &options);
    }
    conv2d(x, weight, bias, options)
}

/// Counts the zeros before and after an axis so that there are `ceil(size / stride)` outputs, as burn does: without regard to
/// dilation, and with the odd one at the end.
fn same(size: usize, kernel: usize, stride: usize) -> (usize, usize) {
    let outputs = size.div_ceil(stride);
    let needed = outputs.saturating_sub(1) * stride + kernel;
    let zeros = if outputs == 0 { 0 } else { needed.saturating_sub(size) };
    (zeros / 2, zeros - zeros / 2)
}

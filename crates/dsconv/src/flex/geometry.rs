use std::ops::Range;

use burn::tensor::ops::ConvOptions;
use graph::Pool2d;

/// The sizes of a convolution, or of the windows of a pooling.
///
/// Letters: `N` images, `G` groups, `Ci` input and `Co` output channels of a group, an input of `H` by `W`, a kernel of `Kh` by
/// `Kw`, an output of `Oh` by `Ow`; `P = Oh * Ow` and `K = Ci * Kh * Kw`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub images: usize,
    pub groups: usize,
    /// `Ci`.
    pub inputs: usize,
    /// `Co`.
    pub outputs: usize,
    /// `[H, W]`.
    pub input: [usize; 2],
    /// `[Kh, Kw]`.
    pub kernel: [usize; 2],
    /// `[Oh, Ow]`.
    pub output: [usize; 2],
    pub stride: [usize; 2],
    /// The zeros above and left of the input.
    pub padding: [usize; 2],
    pub dilation: [usize; 2],
}

impl Sizes {
    /// Finds the sizes for an input `[N, G * Ci, H, W]` and a weight `[G * Co, Ci, Kh, Kw]`.
    ///
    /// # Panics
    /// If they do not fit, or the padded input is smaller than the kernel.
    pub fn new(x: [usize; 4], weight: [usize; 4], options: &ConvOptions<2>) -> Self {
        let ([images, channels, h, w], [outputs, inputs, kh, kw]) = (x, weight);
        let (groups, input, kernel) = (options.groups, [h, w], [kh, kw]);
        assert!(
            channels == groups * inputs && outputs % groups == 0,
            "a weight of shape {weight:?} for an input of shape {x:?} in {groups} groups"
        );
        let output = [0, 1].map(|axis| {
            let (before, after) = options.padding[axis];
            let (size, reach) = (input[axis] + before + after, options.dilation[axis] * (kernel[axis] - 1) + 1);
            assert!(size >= reach, "a kernel that reaches {reach} on an input of {size} with its padding");
            (size - reach) / options.stride[axis] + 1
        });
        Self {
            images,
            groups,
            inputs,
            outputs: outputs / groups,
            input,
            kernel,
            output,
            stride: options.stride,
            padding: options.padding.map(|(before, _)| before),
            dilation: options.dilation,
        }
    }

    /// The sizes of windows on `x` `[N, C, H, W]` that have an output of `output`.
    pub fn of_pool(x: [usize; 4], pool: &Pool2d, output: [usize; 2]) -> Self {
        let [images, groups, h, w] = x;
        Self {
            images,
            groups,
            inputs: 1,
            outputs: 1,
            input: [h, w],
            kernel: pool.kernel,
            output,
            stride: pool.stride,
            padding: pool.padding,
            dilation: [1, 1],
        }
    }

    /// The shape of the output, `[N, G * Co, Oh, Ow]`.
    pub fn output_shape(&self) -> [usize; 4] {
        [self.images, self.groups * self.outputs, self.output[0], self.output[1]]
    }

    /// Whether every output pixel sees the input at the same place alone, so that the input is its own matrix of columns.
    pub fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == [0, 0] && self.output == self.input
    }

    /// Whether every channel has a kernel of its own.
    pub fn is_depthwise(&self) -> bool {
        self.inputs == 1 && self.outputs == 1
    }

    /// `H * W`.
    pub fn area(&self) -> usize {
        self.input[0] * self.input[1]
    }

    /// `Oh * Ow`.
    pub fn pixels(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// `Kh * Kw`.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// The input along an axis that an element of the kernel meets at an output; `None` in the padding.
    pub fn met(&self, axis: usize, output: usize, element: usize) -> Option<usize> {
        let padded = output * self.stride[axis] + element * self.dilation[axis];
        padded.checked_sub(self.padding[axis]).filter(|&input| input < self.input[axis])
    }

    /// The outputs along an axis at which an element of the kernel meets the input.
    pub fn meeting(&self, axis: usize, element: usize) -> Range<usize> {
        let offset = element * self.dilation[axis];
        let first = |padded: usize| padded.saturating_sub(offset).div_ceil(self.stride[axis]);
        let end = first(self.padding[axis] + self.input[axis]).min(self.output[axis]);
        first(self.padding[axis]).min(end)..end
    }
}

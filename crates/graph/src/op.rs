use serde::{Deserialize, Serialize};

/// The shape of a value without its batch: `[C, H, W]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// The number of channels.
    pub channels: usize,
    /// The number of rows.
    pub height: usize,
    /// The number of columns.
    pub width: usize,
}

impl Shape {
    /// Makes the shape `[channels, height, width]`.
    pub fn new(channels: usize, height: usize, width: usize) -> Self {
        Self { channels, height, width }
    }

    /// Returns the number of elements, which [`Builder::finish`](crate::Builder::finish) checks to fit memory.
    ///
    /// # Panics
    /// If the number overflows, where overflow checks are on.
    pub fn elements(&self) -> usize {
        self.channels * self.height * self.width
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}, {}, {}]", self.channels, self.height, self.width)
    }
}

/// The geometry of a 2-D convolution with a weight `[out_channels, in_channels / groups, kh, kw]` and, if it has one, a bias
/// `[out_channels]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conv2d {
    /// The number of input channels.
    pub in_channels: usize,
    /// The number of output channels.
    pub out_channels: usize,
    /// The size of the kernel, `[kh, kw]`.
    pub kernel: [usize; 2],
    /// The distance of neighbouring windows, `[vertical, horizontal]`.
    pub stride: [usize; 2],
    /// The number of zeros added on both sides, `[vertical, horizontal]`.
    pub padding: [usize; 2],
    /// The distance of neighbouring kernel elements, `[vertical, horizontal]`.
    pub dilation: [usize; 2],
    /// The number of groups, which divides both channel counts.
    pub groups: usize,
    /// Whether the convolution has a bias.
    pub bias: bool,
}

impl Conv2d {
    /// Makes a convolution with a square kernel, stride 1, no padding, one group and no bias.
    pub fn new(in_channels: usize, out_channels: usize, kernel: usize) -> Self {
        Self {
            in_channels,
            out_channels,
            kernel: [kernel; 2],
            stride: [1; 2],
            padding: [0; 2],
            dilation: [1; 2],
            groups: 1,
            bias: false,
        }
    }

    /// Sets the stride of both axes.
    pub fn stride(mut self, stride: usize) -> Self {
        self.stride = [stride; 2];
        self
    }

    /// Sets the padding of both axes.
    pub fn padding(mut self, padding: usize) -> Self {
        self.padding = [padding; 2];
        self
    }

    /// Adds a bias.
    pub fn bias(mut self) -> Self {
        self.bias = true;
        self
    }

    /// Returns the shape of the weight, `[out_channels, in_channels / groups, kh, kw]`.
    ///
    /// # Panics
    /// If there are 0 groups.
    pub fn weight_shape(&self) -> [usize; 4] {
        [self.out_channels, self.in_channels / self.groups, self.kernel[0], self.kernel[1]]
    }
}

/// The windows of a pooling layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool2d {
    /// The size of a window, `[kh, kw]`.
    pub kernel: [usize; 2],
    /// The distance of neighbouring windows, `[vertical, horizontal]`.
    pub stride: [usize; 2],
    /// The padding of both sides, `[vertical, horizontal]`; if `end` is set, of the top and left alone.
    pub padding: [usize; 2],
    /// The padding of the bottom and right, `[vertical, horizontal]`, if it differs or if a padding is more than half the
    /// window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<[usize; 2]>,
    /// Whether the output size is rounded up, as by PyTorch's `ceil_mode` (a window must start inside the input or its left
    /// padding).
    pub ceil_mode: bool,
    /// Whether an average counts padded zeros, as PyTorch's does by default; a maximum ignores them.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub count_include_pad: bool,
}

fn yes() -> bool {
    true
}

impl Pool2d {
    /// Makes square windows without padding.
    pub fn new(kernel: usize, stride: usize) -> Self {
        Self {
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [0; 2],
            end: None,
            ceil_mode: false,
            count_include_pad: true,
        }
    }

    /// Returns the padding of the bottom and right, `[vertical, horizontal]`.
    pub fn padding_after(&self) -> [usize; 2] {
        self.end.unwrap_or(self.padding)
    }

    /// Sets the padding of both axes.
    pub fn padding(mut self, padding: usize) -> Self {
        self.padding = [padding; 2];
        self
    }

    /// Makes the output size round up.
    pub fn ceil_mode(mut self) -> Self {
        self.ceil_mode = true;
        self
    }

    /// Returns the output length along one axis (0 vertical, 1 horizontal) by PyTorch's rule; `None` if the window does not
    /// fit.
    ///
    /// # Panics
    /// If the axis is above 1 or its stride is 0.
    pub fn output(&self, axis: usize, input: usize) -> Option<usize> {
        let (k, s, p) = (self.kernel[axis], self.stride[axis], self.padding[axis]);
        let padded = p.checked_add(self.padding_after()[axis])?.checked_add(input)?;
        let free = padded.checked_sub(k)?;
        let mut out = if self.ceil_mode { free.div_ceil(s) } else { free / s }.checked_add(1)?;
        // A product that overflows is the start of a window beyond any input.
        if self.ceil_mode && (out - 1).checked_mul(s).is_none_or(|start| start >= input + p) {
            out -= 1;
        }
        Some(out)
    }
}

/// A function of one number, other than [`Op::Relu`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "function", rename_all = "snake_case")]
pub enum Activation {
    /// `min(max(x, min), max)`; a bound that is `None` does not limit. ReLU6 has the bounds 0 and 6.
    Clip {
        /// The smallest value.
        min: Option<f64>,
        /// The largest value, not below `min`.
        max: Option<f64>,
    },
    /// `x` where it is positive, else `slope * x`.
    LeakyRelu {
        /// The slope for negative inputs.
        slope: f64,
    },
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `min(max(alpha x + beta, 0), 1)`.
    HardSigmoid {
        /// The slope; PyTorch's is 1/6.
        alpha: f64,
        /// The value at 0; PyTorch's is 1/2.
        beta: f64,
    },
    /// `x * min(max(x + 3, 0), 6) / 6`.
    HardSwish,
    /// `x / (1 + exp(-x))`, also called swish.
    Silu,
    /// `(exp(x) - exp(-x)) / (exp(x) + exp(-x))`.
    Tanh,
    /// `x` where it is positive, else `alpha (exp(x) - 1)`.
    Elu {
        /// The factor for negative inputs.
        alpha: f64,
    },
    /// `ln(1 + exp(x))`.
    Softplus,
}

impl Activation {
    /// One of each function, in the order of their declaration, for tests that must not forget one.
    #[doc(hidden)]
    pub fn examples() -> Vec<Self> {
        // Each names the one after it: a function that is added and left out here does not compile.
        let next = |function: &Self| match function {
            Self::Clip { .. } => Some(Self::LeakyRelu { slope: 0.1 }),
            Self::LeakyRelu { .. } => Some(Self::Sigmoid),
            Self::Sigmoid => Some(Self::HardSigmoid { alpha: 0.2, beta: 0.5 }),
            Self::HardSigmoid { .. } => Some(Self::HardSwish),
            Self::HardSwish => Some(Self::Silu),
            Self::Silu => Some(Self::Tanh),
            Self::Tanh => Some(Self::Elu { alpha: 0.7 }),
            Self::Elu { .. } => Some(Self::Softplus),
            Self::Softplus => None,
        };
        std::iter::successors(Some(Self::Clip { min: Some(-0.5), max: Some(0.5) }), next).collect()
    }
}

/// The operation of a node. Its parameters are in [`Weights`](crate::Weights), under the names that
/// [`Role::name`](crate::Role::name) gives.
///
/// A new operation or [`Activation`] does not compile until shape inference, signs, cost, the burn simulation, the engine
/// and the ONNX exporter know it. Nothing asks for the rest: the ONNX importer (`onnx/src/import/arithmetic.rs` and
/// `pattern.rs`), and the networks with every operation that the tests of `runtime` and `cli` build.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// The image, `[N, C, H, W]`. A graph has exactly one, its first node.
    Input,
    /// A convolution with `weight [Co, Ci/G, kh, kw]` and, if it has one, `bias [Co]`.
    Conv2d(Conv2d),
    /// A fully connected layer on `[N, in, 1, 1]` with `weight [out, in]` and, if it has one, `bias [out]`.
    Linear {
        /// The number of input features.
        in_features: usize,
        /// The number of output features.
        out_features: usize,
        /// Whether the layer has a bias.
        bias: bool,
    },
    /// A batch normalisation with `weight`, `bias`, `running_mean` and `running_var`, each `[C]`.
    BatchNorm2d {
        /// The number of channels.
        channels: usize,
        /// The number that is added to the variance.
        eps: f64,
    },
    /// `y = x * weight[c] + bias[c]`: a batch normalisation with its statistics folded in.
    Affine {
        /// The number of channels.
        channels: usize,
    },
    /// `max(x, 0)`.
    Relu,
    /// `x` where it is positive, else `x * weight[c]`: a leaky ReLU with a slope for each channel (He et al. 2015).
    PRelu {
        /// The number of channels.
        channels: usize,
    },
    /// Another function of each element.
    Activation(Activation),
    /// The largest value of each window.
    MaxPool2d(Pool2d),
    /// The mean of each window.
    AvgPool2d(Pool2d),
    /// The means of roughly equal windows, as many as the output has pixels; `[1, 1]` is global average pooling.
    AdaptiveAvgPool2d {
        /// The size of the output, `[rows, columns]`.
        output: [usize; 2],
    },
    /// The sum of two values of the same shape.
    Add,
    /// The larger element of two values of the same shape.
    Max,
    /// The product of two values of the same shape, or of a value and a gate `[C, 1, 1]` for each channel (squeeze and
    /// excitation).
    Mul,
    /// The concatenation of values along channels.
    Concat,
    /// The channels `start .. start + channels` of a value.
    Slice {
        /// The first channel.
        start: usize,
        /// The number of channels.
        channels: usize,
    },
    /// The channel shuffle of ShuffleNet: channels as `[groups, C / groups]` are transposed.
    Shuffle {
        /// The number of groups, which divides the number of channels.
        groups: usize,
    },
    /// A value with a constant border around it.
    Pad2d {
        /// The rows and columns added: `[top, left, bottom, right]`.
        sides: [usize; 4],
        /// The value of the border, finite.
        value: f64,
    },
    /// Local response normalisation across channels (AlexNet, 2012):
    /// `y = x / (k + alpha / size * sum(x^2))^beta`, the sum over channels `c - (size-1)/2 ..= c + size/2`.
    Lrn {
        /// The number of channels in a sum.
        size: usize,
        /// The factor of the sum.
        alpha: f64,
        /// The exponent.
        beta: f64,
        /// The number that is added to the sum.
        k: f64,
    },
    /// A softmax across channels.
    Softmax,
    /// A value `[N, C, H, W]` as `[N, C*H*W, 1, 1]`.
    Flatten,
    /// The identity at inference; while a teacher is trained, each element is set to 0 with this probability.
    Dropout {
        /// The probability.
        p: f64,
    },
    /// The shortcut "option A" of He et al. 2015, section 4.2: every `stride`-th pixel, with channels of zeros added.
    PadShortcut {
        /// The distance of the pixels that are kept: 0, `stride`, `2 * stride`, ...
        stride: usize,
        /// The number of channels of zeros before the others.
        before: usize,
        /// The number of channels of zeros after the others.
        after: usize,
    },
}

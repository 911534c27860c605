use serde::{Deserialize, Serialize};

/// The shape of a value without its batch: `[C, H, W]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Channels.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Shape {
    /// `[channels, height, width]`.
    pub fn new(channels: usize, height: usize, width: usize) -> Self {
        Self { channels, height, width }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.channels * self.height * self.width
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}, {}, {}]", self.channels, self.height, self.width)
    }
}

/// Geometry of a 2-D convolution; weight `[out_channels, in_channels / groups, kh, kw]`, optional bias `[out_channels]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conv2d {
    /// Input channels.
    pub in_channels: usize,
    /// Output channels.
    pub out_channels: usize,
    /// `[kh, kw]`.
    pub kernel: [usize; 2],
    /// `[vertical, horizontal]`.
    pub stride: [usize; 2],
    /// Zeros added on both sides, `[vertical, horizontal]`.
    pub padding: [usize; 2],
    /// `[vertical, horizontal]`.
    pub dilation: [usize; 2],
    /// Groups; divides both channel counts.
    pub groups: usize,
    /// Whether there is a bias.
    pub bias: bool,
}

impl Conv2d {
    /// A square kernel, stride 1, no padding, one group, no bias.
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

    /// Sets the stride.
    pub fn stride(mut self, stride: usize) -> Self {
        self.stride = [stride; 2];
        self
    }

    /// Sets the padding.
    pub fn padding(mut self, padding: usize) -> Self {
        self.padding = [padding; 2];
        self
    }

    /// Adds a bias.
    pub fn bias(mut self) -> Self {
        self.bias = true;
        self
    }

    /// `[out_channels, in_channels / groups, kh, kw]`.
    pub fn weight_shape(&self) -> [usize; 4] {
        [self.out_channels, self.in_channels / self.groups, self.kernel[0], self.kernel[1]]
    }
}

/// Window of a pooling layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool2d {
    /// `[kh, kw]`.
    pub kernel: [usize; 2],
    /// `[vertical, horizontal]`.
    pub stride: [usize; 2],
    /// `[vertical, horizontal]`, both sides, or before the input where there is `end`.
    pub padding: [usize; 2],
    /// `[vertical, horizontal]` after the input, where that differs or is more than half the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<[usize; 2]>,
    /// Round the output size up, as PyTorch's `ceil_mode` (a window must start inside the input or its left padding).
    pub ceil_mode: bool,
    /// Whether an average counts padded zeros, as PyTorch does unless told otherwise; a maximum never sees them.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub count_include_pad: bool,
}

fn yes() -> bool {
    true
}

impl Pool2d {
    /// A square window without padding.
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

    /// Padding after the input, `[vertical, horizontal]`.
    pub fn padding_after(&self) -> [usize; 2] {
        self.end.unwrap_or(self.padding)
    }

    /// Sets the padding.
    pub fn padding(mut self, padding: usize) -> Self {
        self.padding = [padding; 2];
        self
    }

    /// Rounds the output size up.
    pub fn ceil_mode(mut self) -> Self {
        self.ceil_mode = true;
        self
    }

    /// Output length along one axis (0 vertical, 1 horizontal), PyTorch's rule; `None` where the window does not fit.
    pub fn output(&self, axis: usize, input: usize) -> Option<usize> {
        let (k, s, p) = (self.kernel[axis], self.stride[axis], self.padding[axis]);
        let padded = p.checked_add(self.padding_after()[axis])?.checked_add(input)?;
        let free = padded.checked_sub(k)?;
        let mut out = if self.ceil_mode { free.div_ceil(s) } else { free / s }.checked_add(1)?;
        // The division rounded up: a product that overflows starts a window beyond any input.
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
    /// `min(max(x, min), max)`; a bound that is `None` does not limit. ReLU6 is 0 to 6.
    Clip {
        /// Smallest value.
        min: Option<f64>,
        /// Largest value, not below `min`.
        max: Option<f64>,
    },
    /// `x` where it is positive, else `slope * x`.
    LeakyRelu {
        /// Of the negative side.
        slope: f64,
    },
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `min(max(alpha x + beta, 0), 1)`.
    HardSigmoid {
        /// Slope; PyTorch's is 1/6.
        alpha: f64,
        /// Value at 0; PyTorch's is 1/2.
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
        /// Of the negative side.
        alpha: f64,
    },
    /// `ln(1 + exp(x))`.
    Softplus,
}

/// What a node computes. Parameters live in [`crate::Weights`] under `<node name>.<role>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// The image, `[N, C, H, W]`; exactly one, always node 0.
    Input,
    /// Convolution: `weight [Co, Ci/G, kh, kw]`, `bias [Co]`.
    Conv2d(Conv2d),
    /// Fully connected on `[N, in, 1, 1]`: `weight [out, in]`, `bias [out]`.
    Linear {
        /// Input features.
        in_features: usize,
        /// Output features.
        out_features: usize,
        /// Whether there is a bias.
        bias: bool,
    },
    /// Batch normalisation: `weight`, `bias`, `running_mean`, `running_var`, each `[C]`.
    BatchNorm2d {
        /// Channels.
        channels: usize,
        /// Added to the variance.
        eps: f64,
    },
    /// `y = x * weight[c] + bias[c]`: a batch normalisation with its statistics folded in.
    Affine {
        /// Channels.
        channels: usize,
    },
    /// `max(x, 0)`.
    Relu,
    /// `x` where it is positive, else `x * weight[c]`: a leaky ReLU with a slope for each channel (He et al. 2015).
    PRelu {
        /// Channels.
        channels: usize,
    },
    /// Another function, element by element.
    Activation(Activation),
    /// Largest value of each window.
    MaxPool2d(Pool2d),
    /// Mean of each window.
    AvgPool2d(Pool2d),
    /// Mean over `output` roughly equal windows; `[1, 1]` is global average pooling.
    AdaptiveAvgPool2d {
        /// `[rows, columns]`.
        output: [usize; 2],
    },
    /// Sum of two values of one shape.
    Add,
    /// The larger of two values of one shape.
    Max,
    /// Product of two values: of one shape, or the second `[C, 1, 1]`, a gate for each channel (squeeze and excitation).
    Mul,
    /// Concatenation along channels.
    Concat,
    /// Channels `start .. start + channels`.
    Slice {
        /// First channel.
        start: usize,
        /// How many.
        channels: usize,
    },
    /// Channel shuffle (ShuffleNet): `[groups, C / groups]` transposed.
    Shuffle {
        /// Divides the channels.
        groups: usize,
    },
    /// A constant border.
    Pad2d {
        /// Rows and columns added: `[top, left, bottom, right]`.
        sides: [usize; 4],
        /// What they hold, finite.
        value: f64,
    },
    /// Local response normalisation across channels (AlexNet, 2012):
    /// `y = x / (k + alpha / size * sum(x^2))^beta`, the sum over channels `c - (size-1)/2 ..= c + size/2`.
    Lrn {
        /// Channels in a sum.
        size: usize,
        /// Of the sum.
        alpha: f64,
        /// Exponent.
        beta: f64,
        /// Added.
        k: f64,
    },
    /// Softmax across channels.
    Softmax,
    /// `[N, C, H, W]` to `[N, C*H*W, 1, 1]`.
    Flatten,
    /// Identity at inference; drops with this probability while a teacher is trained.
    Dropout {
        /// Probability of dropping.
        p: f64,
    },
    /// Option A shortcut of He et al. 4.2: every `stride`-th pixel, channels padded with zeros.
    PadShortcut {
        /// Keep pixels 0, stride, 2 stride, ...
        stride: usize,
        /// Zero channels put before.
        before: usize,
        /// Zero channels put after.
        after: usize,
    },
}

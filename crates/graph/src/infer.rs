use crate::op::{Activation, Op, Shape};

/// Tells whether a number is finite in F32, which networks compute in.
fn is_single(value: f64) -> bool {
    (value as f32).is_finite()
}

impl Op {
    /// Returns the shape of the output for inputs of these shapes. Arithmetic on sizes is checked, since they can come from a
    /// file.
    ///
    /// # Errors
    /// A text that says why the inputs do not fit; it continues a sentence that begins with the node's name.
    pub fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let arity_fits = match self {
            Op::Input => return Err("only the first node can be the input".into()),
            Op::Add | Op::Max | Op::Mul => inputs.len() == 2,
            Op::Concat => !inputs.is_empty(),
            _ => inputs.len() == 1,
        };
        if !arity_fits {
            return Err(format!("does not take {} inputs", inputs.len()));
        }
        let x = inputs[0];
        let same_channels = |channels: usize| {
            if channels == x.channels {
                Ok(x)
            } else {
                Err(format!("has {channels} channels, its input {}", x.channels))
            }
        };
        match self {
            Op::Input => unreachable!("handled above"),
            Op::Conv2d(c) => {
                same_channels(c.in_channels)?;
                if c.groups == 0
                    || c.in_channels % c.groups != 0
                    || c.out_channels % c.groups != 0
                    || c.out_channels == 0
                {
                    return Err(format!(
                        "{} groups do not divide {} -> {} channels",
                        c.groups, c.in_channels, c.out_channels
                    ));
                }
                let out = |axis: usize, input: usize| -> Option<usize> {
                    let reach = c.dilation[axis].checked_mul(c.kernel[axis].checked_sub(1)?)?.checked_add(1)?;
                    let padded = c.padding[axis].checked_mul(2)?.checked_add(input)?;
                    padded.checked_sub(reach)?.checked_div(c.stride[axis])?.checked_add(1)
                };
                match (out(0, x.height), out(1, x.width)) {
                    (Some(height), Some(width)) => Ok(Shape::new(c.out_channels, height, width)),
                    _ => Err(format!("kernel {:?} does not fit its input {x}", c.kernel)),
                }
            }
            Op::Linear { in_features, out_features, .. } => {
                if x.height != 1 || x.width != 1 {
                    return Err(format!("needs a flattened input, got {x}"));
                }
                same_channels(*in_features)?;
                Ok(Shape::new(*out_features, 1, 1))
            }
            Op::BatchNorm2d { eps, .. } if !(eps.is_finite() && *eps >= 0.0) => Err("needs a finite eps >= 0".into()),
            Op::BatchNorm2d { channels, .. } | Op::Affine { channels } | Op::PRelu { channels } => {
                same_channels(*channels)
            }
            Op::Relu | Op::Dropout { .. } | Op::Softmax => Ok(x),
            Op::Activation(function) => {
                let fits = match *function {
                    Activation::Clip { min, max } => {
                        let ordered = min.unwrap_or(f64::MIN) <= max.unwrap_or(f64::MAX);
                        min.is_none_or(is_single) && max.is_none_or(is_single) && ordered
                    }
                    Activation::LeakyRelu { slope } => is_single(slope),
                    Activation::HardSigmoid { alpha, beta } => is_single(alpha) && is_single(beta),
                    Activation::Elu { alpha } => is_single(alpha),
                    Activation::Sigmoid
                    | Activation::HardSwish
                    | Activation::Silu
                    | Activation::Tanh
                    | Activation::Softplus => true,
                };
                if fits { Ok(x) } else { Err(format!("{function:?} is not a function")) }
            }
            Op::Lrn { size, alpha, beta, k } => {
                if *size == 0 || ![alpha, beta, k].iter().all(|v| is_single(**v) && **v >= 0.0) {
                    return Err("needs size >= 1 and finite alpha, beta, k >= 0".into());
                }
                Ok(x)
            }
            Op::Slice { start, channels } => match start.checked_add(*channels) {
                Some(end) if end <= x.channels => Ok(Shape { channels: *channels, ..x }),
                _ => Err(format!("takes {channels} channels from {start} of {x}")),
            },
            Op::Shuffle { groups } => {
                if *groups > 0 && x.channels.is_multiple_of(*groups) {
                    Ok(x)
                } else {
                    Err(format!("{groups} groups do not divide {} channels", x.channels))
                }
            }
            Op::Pad2d { sides: [top, left, bottom, right], value } => {
                let height = x.height.checked_add(*top).and_then(|n| n.checked_add(*bottom));
                let width = x.width.checked_add(*left).and_then(|n| n.checked_add(*right));
                match (height, width) {
                    (Some(height), Some(width)) if is_single(*value) => Ok(Shape { height, width, ..x }),
                    _ => Err("needs a finite value and a border that fits memory".into()),
                }
            }
            Op::MaxPool2d(p) | Op::AvgPool2d(p) => {
                if (0..2).any(|a| {
                    p.stride[a] == 0 || p.kernel[a] == 0 || (p.end.is_none() && p.padding[a] > p.kernel[a] / 2)
                }) {
                    return Err("needs stride and kernel >= 1 and padding <= kernel / 2".into());
                }
                // Every window must cover a part of the input.
                if (0..2).any(|a| p.padding[a].max(p.padding_after()[a]) >= p.kernel[a]) {
                    return Err("needs padding < kernel".into());
                }
                match (p.output(0, x.height), p.output(1, x.width)) {
                    (Some(height), Some(width)) => Ok(Shape::new(x.channels, height, width)),
                    _ => Err(format!("window {:?} does not fit its input {x}", p.kernel)),
                }
            }
            Op::AdaptiveAvgPool2d { output } => {
                if output.contains(&0) {
                    return Err("needs an output of at least 1x1".into());
                }
                Ok(Shape::new(x.channels, output[0], output[1]))
            }
            Op::Add | Op::Max => {
                let y = inputs[1];
                let verb = if *self == Op::Add { "adds" } else { "compares" };
                if x == y { Ok(x) } else { Err(format!("{verb} {x} and {y}")) }
            }
            Op::Mul => {
                let y = inputs[1];
                if x == y || y == Shape::new(x.channels, 1, 1) { Ok(x) } else { Err(format!("multiplies {x} and {y}")) }
            }
            Op::Concat => {
                let mut channels = 0usize;
                for y in inputs {
                    if (y.height, y.width) != (x.height, x.width) {
                        return Err(format!("joins {x} and {y}"));
                    }
                    channels = channels.checked_add(y.channels).ok_or("too many channels")?;
                }
                Ok(Shape { channels, ..x })
            }
            Op::Flatten => {
                let features = x.channels.checked_mul(x.height).and_then(|n| n.checked_mul(x.width));
                Ok(Shape::new(features.ok_or("too many features")?, 1, 1))
            }
            Op::PadShortcut { stride, before, after } => {
                if *stride == 0 {
                    return Err("needs stride >= 1".into());
                }
                let channels = x.channels.checked_add(*before).and_then(|n| n.checked_add(*after));
                Ok(Shape::new(
                    channels.ok_or("too many channels")?,
                    x.height.div_ceil(*stride),
                    x.width.div_ceil(*stride),
                ))
            }
        }
    }
}

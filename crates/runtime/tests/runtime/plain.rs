//! The plain interpreter: nodes one by one, integer layers by [`blockfloat::conv2d`], everything else as plain loops over
//! `[C, H, W]`, nothing shared with the engine.
use blockfloat::{ActivationSpec, ConvParams, conv2d, quantize_activations};
use graph::{Activation, Conv2d, Node, Op, Pool2d, Role, Shape};
use model::Model;

/// Returns the output of the last node for one image `[C, H, W]`.
pub fn run(model: &Model, image: &[f32]) -> Vec<f32> {
    try_run(model, image).unwrap_or_else(|node| panic!("`{node}` is not finite"))
}

/// Returns what [`run`] does, or the first node whose value is not finite.
pub fn try_run(model: &Model, image: &[f32]) -> Result<Vec<f32>, String> {
    let nodes = model.graph().nodes();
    let mut values: Vec<Vec<f32>> = vec![];
    for node in nodes {
        let value = if node.op == Op::Input {
            image.to_vec()
        } else {
            let inputs: Vec<(Shape, &[f32])> =
                node.inputs.iter().map(|id| (model.graph().node(*id).shape, values[id.index()].as_slice())).collect();
            one(model, node, &inputs)
        };
        assert_eq!(value.len(), node.shape.elements(), "{}", node.name);
        if value.iter().any(|x| !x.is_finite()) {
            return Err(node.name.clone());
        }
        values.push(value);
    }
    Ok(values.pop().unwrap())
}

fn one(model: &Model, node: &Node, inputs: &[(Shape, &[f32])]) -> Vec<f32> {
    let param = |role| model.weights().of(&node.name).get(role).map(graph::Tensor::data);
    let (shape, x) = inputs[0];
    let area = shape.height * shape.width;
    let map = |f: &dyn Fn(f32) -> f32| x.iter().map(|&x| f(x)).collect::<Vec<_>>();
    match &node.op {
        Op::Conv2d(conv) => convolve(model, node, conv, shape, x),
        Op::Linear { in_features, out_features, .. } => {
            convolve(model, node, &Conv2d::new(*in_features, *out_features, 1), shape, x)
        }
        Op::Affine { .. } => {
            let (w, b) = (param(Role::Gamma).unwrap(), param(Role::Bias).unwrap());
            x.iter().enumerate().map(|(i, x)| x * w[i / area] + b[i / area]).collect()
        }
        Op::Relu => map(&|x| if x > 0.0 { x } else { 0.0 }),
        Op::Activation(function) => map(&|x| apply(*function, x)),
        Op::MaxPool2d(p) => pool(p, shape, x, node.shape, |w, _| w.iter().copied().fold(f32::NEG_INFINITY, f32::max)),
        Op::AvgPool2d(p) => pool(p, shape, x, node.shape, |w, padded| {
            w.iter().fold(0.0, |sum, x| sum + x) / if p.count_include_pad { padded } else { w.len() } as f32
        }),
        Op::AdaptiveAvgPool2d { output: [rows, columns] } => {
            let range = |i: usize, n: usize, size: usize| i * size / n..((i + 1) * size).div_ceil(n);
            let mut y = vec![];
            for plane in x.chunks(area) {
                for oy in 0..*rows {
                    for ox in 0..*columns {
                        let (ys, xs) = (range(oy, *rows, shape.height), range(ox, *columns, shape.width));
                        let count = ys.len() * xs.len();
                        let pixels = ys.flat_map(|y| xs.clone().map(move |x| y * shape.width + x));
                        y.push(pixels.fold(0.0, |sum, p| sum + plane[p]) / count as f32);
                    }
                }
            }
            y
        }
        Op::Add => x.iter().zip(inputs[1].1).map(|(a, b)| a + b).collect(),
        Op::Max => x.iter().zip(inputs[1].1).map(|(a, b)| a.max(*b)).collect(),
        Op::PRelu { .. } => {
            let slopes = model.weights().of(&node.name).weight().data();
            x.iter().enumerate().map(|(i, &x)| if x > 0.0 { x } else { x * slopes[i / area] }).collect()
        }
        Op::Mul => {
            let y = inputs[1].1;
            let gated = inputs[1].0 != shape;
            x.iter().enumerate().map(|(i, a)| a * y[if gated { i / area } else { i }]).collect()
        }
        Op::Concat => inputs.iter().flat_map(|(_, x)| x.iter().copied()).collect(),
        Op::Slice { start, channels } => x[start * area..(start + channels) * area].to_vec(),
        Op::Shuffle { groups } => {
            let each = shape.channels / groups;
            (0..shape.channels).flat_map(|c| x[(c % groups * each + c / groups) * area..][..area].to_vec()).collect()
        }
        Op::Pad2d { sides: [top, left, _, _], value } => {
            let mut y = vec![*value as f32; node.shape.elements()];
            for c in 0..shape.channels {
                for row in 0..shape.height {
                    let to = (c * node.shape.height + row + top) * node.shape.width + left;
                    let from = c * area + row * shape.width;
                    y[to..to + shape.width].copy_from_slice(&x[from..from + shape.width]);
                }
            }
            y
        }
        Op::Lrn { size, alpha, beta, k } => {
            let scale = (alpha / *size as f64) as f32;
            (0..x.len())
                .map(|i| {
                    let c = i / area;
                    let window = c.saturating_sub((size - 1) / 2)..(c + size / 2 + 1).min(shape.channels);
                    let sum: f32 = window.map(|c| x[c * area + i % area] * x[c * area + i % area]).sum();
                    if !(sum * scale + *k as f32).is_finite() {
                        return f32::NAN;
                    }
                    (f64::from(x[i]) / f64::from(sum * scale + *k as f32).powf(*beta)) as f32
                })
                .collect()
        }
        Op::Softmax => {
            let mut y = vec![0.0; x.len()];
            for p in 0..area {
                let column: Vec<f64> = (0..shape.channels).map(|c| f64::from(x[c * area + p])).collect();
                let max = column.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = column.iter().map(|x| (x - max).exp()).sum();
                column.iter().enumerate().for_each(|(c, x)| y[c * area + p] = ((x - max).exp() / sum) as f32);
            }
            y
        }
        Op::Flatten | Op::Dropout { .. } => x.to_vec(),
        Op::PadShortcut { stride, before, .. } => {
            let mut y = vec![0.0; node.shape.elements()];
            let out = node.shape.height * node.shape.width;
            for c in 0..shape.channels {
                for i in 0..out {
                    let (row, column) = (i / node.shape.width * stride, i % node.shape.width * stride);
                    y[(c + before) * out + i] = x[c * area + row * shape.width + column];
                }
            }
            y
        }
        Op::Input | Op::BatchNorm2d { .. } => panic!("no quantized network has {:?} here", node.op),
    }
}

fn convolve(model: &Model, node: &Node, conv: &Conv2d, shape: Shape, x: &[f32]) -> Vec<f32> {
    let bias = model.weights().of(&node.name).bias().map(graph::Tensor::data);
    let params =
        ConvParams { stride: conv.stride, padding: conv.padding, dilation: conv.dilation, groups: conv.groups };
    let dims = [1, shape.channels, shape.height, shape.width];
    let weight = match model.layers().get(&node.name) {
        Some(layer) => match layer.activation {
            Some(format) => {
                let spec = ActivationSpec { shape: dims, groups: conv.groups, format, signed: layer.signed };
                let x = quantize_activations(x, &spec).unwrap();
                return conv2d(&x, &layer.codes, bias, &params).unwrap();
            }
            None => layer.codes.dequantize(),
        },
        None => model.weights().of(&node.name).weight().data().to_vec(),
    };
    // In floats: the bias, then taps in order, channels in order.
    let [kh, kw] = conv.kernel;
    let (cg, each) = (conv.in_channels / conv.groups, conv.out_channels / conv.groups);
    let mut y = vec![];
    for o in 0..conv.out_channels {
        for i in 0..node.shape.height * node.shape.width {
            let mut sum = bias.map_or(0.0, |b| b[o]);
            for tap in 0..kh * kw {
                let row =
                    (i / node.shape.width * conv.stride[0] + tap / kw * conv.dilation[0]).checked_sub(conv.padding[0]);
                let col =
                    (i % node.shape.width * conv.stride[1] + tap % kw * conv.dilation[1]).checked_sub(conv.padding[1]);
                let (Some(row), Some(col)) = (row, col) else { continue };
                if row >= shape.height || col >= shape.width {
                    continue;
                }
                for c in 0..cg {
                    let x = x[((o / each * cg + c) * shape.height + row) * shape.width + col];
                    sum += weight[(o * cg + c) * kh * kw + tap] * x;
                }
            }
            y.push(sum);
        }
    }
    y
}

fn pool(p: &Pool2d, shape: Shape, x: &[f32], out: Shape, reduce: impl Fn(&[f32], usize) -> f32) -> Vec<f32> {
    let mut y = vec![];
    for plane in x.chunks(shape.height * shape.width) {
        for i in 0..out.height * out.width {
            let (top, left) = (i / out.width * p.stride[0], i % out.width * p.stride[1]);
            let bottom = (top + p.kernel[0]).min(shape.height + p.padding[0] + p.padding_after()[0]);
            let right = (left + p.kernel[1]).min(shape.width + p.padding[1] + p.padding_after()[1]);
            let mut window = vec![];
            for row in top..bottom {
                for col in left..right {
                    let (row, col) = (row.wrapping_sub(p.padding[0]), col.wrapping_sub(p.padding[1]));
                    if row < shape.height && col < shape.width {
                        window.push(plane[row * shape.width + col]);
                    }
                }
            }
            y.push(reduce(&window, (bottom - top) * (right - left)));
        }
    }
    y
}

fn apply(function: Activation, x: f32) -> f32 {
    let sigmoid = |x: f32| 1.0 / (1.0 + (-f64::from(x)).exp()) as f32;
    match function {
        Activation::Clip { min, max } => {
            // A zero becomes a bound that is zero, whatever their signs.
            let x = min.map_or(x, |min| if x > min as f32 { x } else { min as f32 });
            max.map_or(x, |max| if x < max as f32 { x } else { max as f32 })
        }
        Activation::LeakyRelu { slope } => {
            if x > 0.0 {
                x
            } else {
                x * slope as f32
            }
        }
        Activation::Sigmoid => sigmoid(x),
        Activation::HardSigmoid { alpha, beta } => (alpha as f32 * x + beta as f32).clamp(0.0, 1.0),
        Activation::HardSwish => x * (x * (1.0 / 6.0) + 0.5).clamp(0.0, 1.0),
        Activation::Silu => x * sigmoid(x),
        Activation::Tanh => f64::from(x).tanh() as f32,
        Activation::Elu { alpha } => {
            if x > 0.0 {
                x
            } else {
                alpha as f32 * f64::from(x).exp_m1() as f32
            }
        }
        // The exponential of a large input is infinite, its logarithm is the input.
        Activation::Softplus => (f64::from(x.max(0.0)) + f64::from(-x.abs()).exp().ln_1p()) as f32,
    }
}

//! Writes operations without weights as ONNX operators. Each function takes the name of a value `[N, C, H, W]` and returns
//! that of the result.
use graph::{Activation, Pool2d, Shape};

use crate::proto::{AttributeProto, DataType};

use super::attribute::{float, floats, int, int64s, ints, raw, signed_ints};
use super::emit::Emitter;

/// Makes the attribute `pads` of `[top, left, bottom, right]`, which is the order of ONNX: all starts, then all ends.
fn pads([top, left, bottom, right]: [usize; 4]) -> AttributeProto {
    ints("pads", [top, left, bottom, right])
}

/// Pads rows, columns or channels with a constant.
fn pad(out: &mut Emitter, name: &str, x: &str, pads: [usize; 8], value: f32) -> String {
    let amounts = out.constant(&format!("{name}.pads"), int64s(&pads.map(|n| n as i64)));
    let value = out.constant(&format!("{name}.value"), floats(&[], &[value]));
    out.node(name, "Pad", &[x, &amounts, &value], [])
}

pub(super) fn pad2d(out: &mut Emitter, name: &str, x: &str, sides: [usize; 4], value: f64) -> String {
    let [top, left, bottom, right] = sides;
    pad(out, name, x, [0, 0, top, left, 0, 0, bottom, right], value as f32)
}

/// A pooling whose sizes do not round up. Runtimes round differently, so pads give the windows instead.
struct PoolWindow<'a> {
    pool: &'a Pool2d,
    /// The rows and columns that are added after the input.
    end: [usize; 2],
}

impl<'a> PoolWindow<'a> {
    fn new(pool: &'a Pool2d, input: Shape, output: Shape) -> Self {
        let end = |axis: usize, input: usize, output: usize| {
            let (k, s, p) = (pool.kernel[axis], pool.stride[axis], pool.padding[axis]);
            if pool.ceil_mode { ((output - 1) * s + k).saturating_sub(input + p) } else { pool.padding_after()[axis] }
        };
        Self { pool, end: [end(0, input.height, output.height), end(1, input.width, output.width)] }
    }

    fn attributes(&self, [top, left]: [usize; 2], [bottom, right]: [usize; 2]) -> Vec<AttributeProto> {
        vec![
            ints("kernel_shape", self.pool.kernel),
            ints("strides", self.pool.stride),
            pads([top, left, bottom, right]),
        ]
    }
}

pub(super) fn max_pool(out: &mut Emitter, name: &str, x: &str, pool: &Pool2d, [from, to]: [Shape; 2]) -> String {
    let window = PoolWindow::new(pool, from, to);
    out.node(name, "MaxPool", &[x], window.attributes(pool.padding, window.end))
}

pub(super) fn avg_pool(out: &mut Emitter, name: &str, x: &str, pool: &Pool2d, [from, to]: [Shape; 2]) -> String {
    let window = PoolWindow::new(pool, from, to);
    let ([top, left], [bottom, right]) = (pool.padding, pool.padding_after());
    if pool.count_include_pad && window.end.iter().zip([bottom, right]).any(|(&end, p)| end > p) {
        // PyTorch counts its padding, but not what rounding up adds, so that the padding becomes a part of the input.
        let x = match [top, left, bottom, right] {
            [0, 0, 0, 0] => x.to_owned(),
            sides => pad2d(out, &format!("{name}.pad"), x, sides, 0.0),
        };
        let end = [window.end[0].saturating_sub(bottom), window.end[1].saturating_sub(right)];
        let mut attributes = window.attributes([0, 0], end);
        attributes.push(int("count_include_pad", 0));
        return out.node(name, "AveragePool", &[&x], attributes);
    }
    let mut attributes = window.attributes(pool.padding, window.end);
    attributes.push(int("count_include_pad", pool.count_include_pad.into()));
    out.node(name, "AveragePool", &[x], attributes)
}

/// Writes means over windows `floor(i * in / out) .. ceil((i + 1) * in / out)`.
pub(super) fn adaptive(out: &mut Emitter, name: &str, x: &str, from: Shape, [rows, columns]: [usize; 2]) -> String {
    if [rows, columns] == [1, 1] {
        return out.node(name, "GlobalAveragePool", &[x], []);
    }
    if (from.height, from.width) == (1, 1) {
        let target = out.constant(&format!("{name}.shape"), int64s(&[1, 1, rows as i64, columns as i64]));
        return out.node(name, "Expand", &[x, &target], []);
    }
    if from.height.is_multiple_of(rows) && from.width.is_multiple_of(columns) {
        let window = [from.height / rows, from.width / columns];
        return out.node(name, "AveragePool", &[x], [ints("kernel_shape", window), ints("strides", window)]);
    }
    // Windows of unequal sizes become a product with a matrix of means for each axis.
    let means = |input: usize, output: usize| {
        let mut matrix = vec![0.0; input * output];
        for o in 0..output {
            let window = o * input / output..((o + 1) * input).div_ceil(output);
            let mean = 1.0 / window.len() as f32;
            matrix[o * input..][window].fill(mean);
        }
        matrix
    };
    let by_row = means(from.height, rows);
    let by_column = means(from.width, columns);
    let transposed: Vec<f32> = (0..from.width)
        .flat_map(|i| (0..columns).map(move |o| (i, o)))
        .map(|(i, o)| by_column[o * from.width + i])
        .collect();
    let by_row = out.constant(&format!("{name}.rows"), floats(&[rows, from.height], &by_row));
    let by_column = out.constant(&format!("{name}.columns"), floats(&[from.width, columns], &transposed));
    let narrow = out.node(&format!("{name}.across"), "MatMul", &[x, &by_column], []);
    out.node(name, "MatMul", &[&by_row, &narrow], [])
}

pub(super) fn activation(out: &mut Emitter, name: &str, x: &str, function: Activation) -> String {
    match function {
        Activation::Clip { min, max } => {
            let mut bound = |suffix: &str, value: Option<f64>| {
                value.map(|v| out.constant(&format!("{name}.{suffix}"), floats(&[], &[v as f32]))).unwrap_or_default()
            };
            let (min, max) = (bound("min", min), bound("max", max));
            out.node(name, "Clip", &[x, &min, &max], [])
        }
        Activation::LeakyRelu { slope } => out.node(name, "LeakyRelu", &[x], [float("alpha", slope as f32)]),
        Activation::Sigmoid => out.node(name, "Sigmoid", &[x], []),
        Activation::HardSigmoid { alpha, beta } => {
            out.node(name, "HardSigmoid", &[x], [float("alpha", alpha as f32), float("beta", beta as f32)])
        }
        Activation::HardSwish => {
            let gate = [float("alpha", 1.0 / 6.0), float("beta", 0.5)];
            let gate = out.node(&format!("{name}.gate"), "HardSigmoid", &[x], gate);
            out.node(name, "Mul", &[x, &gate], [])
        }
        Activation::Tanh => out.node(name, "Tanh", &[x], []),
        Activation::Elu { alpha } => out.node(name, "Elu", &[x], [float("alpha", alpha as f32)]),
        Activation::Softplus => out.node(name, "Softplus", &[x], []),
        Activation::Silu => {
            let gate = out.node(&format!("{name}.gate"), "Sigmoid", &[x], []);
            out.node(name, "Mul", &[x, &gate], [])
        }
    }
}

/// Writes a `PRelu` with a slope for each channel.
pub(super) fn prelu(out: &mut Emitter, name: &str, x: &str, slopes: &[f32]) -> String {
    let slopes = out.constant(&format!("{name}.weight"), floats(&[slopes.len(), 1, 1], slopes));
    out.node(name, "PRelu", &[x, &slopes], [])
}

/// Writes a local response normalisation. ONNX Runtime runs odd sizes only.
pub(super) fn lrn(out: &mut Emitter, name: &str, x: &str, size: usize, [alpha, beta, k]: [f64; 3]) -> String {
    let attributes =
        [int("size", size as i64), float("alpha", alpha as f32), float("beta", beta as f32), float("bias", k as f32)];
    out.node(name, "LRN", &[x], attributes)
}

/// Writes `y = x * scale[c] + shift[c]`, as a batch normalisation of mean 0 and variance 1.
pub(super) fn affine(out: &mut Emitter, name: &str, x: &str, scale: &[f32], shift: &[f32]) -> String {
    let channels = [scale.len()];
    let scale = out.constant(&format!("{name}.weight"), floats(&channels, scale));
    let shift = out.constant(&format!("{name}.bias"), floats(&channels, shift));
    let mean = out.constant(&format!("{name}.mean"), floats(&channels, &vec![0.0; channels[0]]));
    let variance = out.constant(&format!("{name}.variance"), floats(&channels, &vec![1.0; channels[0]]));
    out.node(name, "BatchNormalization", &[x, &scale, &shift, &mean, &variance], [float("epsilon", 0.0)])
}

fn slice(out: &mut Emitter, name: &str, x: &str, [starts, ends, axes, steps]: [&[i64]; 4]) -> String {
    let mut constant = |suffix: &str, values: &[i64]| out.constant(&format!("{name}.{suffix}"), int64s(values));
    let inputs = [constant("starts", starts), constant("ends", ends), constant("axes", axes), constant("steps", steps)];
    let [starts, ends, axes, steps] = &inputs;
    out.node(name, "Slice", &[x, starts, ends, axes, steps], [])
}

pub(super) fn channels(out: &mut Emitter, name: &str, x: &str, start: usize, count: usize) -> String {
    slice(out, name, x, [&[start as i64], &[(start + count) as i64], &[1], &[1]])
}

/// Writes a shortcut of every `stride`-th pixel, with channels of zeros before and after.
pub(super) fn shortcut(out: &mut Emitter, name: &str, x: &str, from: Shape, parts: [usize; 3]) -> String {
    let [stride, before, after] = parts;
    let step = stride as i64;
    let ends = [from.height as i64, from.width as i64];
    if before + after == 0 {
        return slice(out, name, x, [&[0, 0], &ends, &[2, 3], &[step, step]]);
    }
    let kept = match stride {
        1 => x.to_owned(),
        _ => slice(out, &format!("{name}.pixels"), x, [&[0, 0], &ends, &[2, 3], &[step, step]]),
    };
    pad(out, name, &kept, [0, before, 0, 0, 0, after, 0, 0], 0.0)
}

/// Writes a channel shuffle, which transposes `[groups, C / groups]`.
pub(super) fn shuffle(out: &mut Emitter, name: &str, x: &str, shape: Shape, groups: usize) -> String {
    let each = shape.channels / groups;
    let split = reshape(out, &format!("{name}.split"), x, &[0, groups as i64, each as i64, -1]);
    let turned = out.node(&format!("{name}.turn"), "Transpose", &[&split], [signed_ints("perm", [0, 2, 1, 3])]);
    let joined = [0, shape.channels as i64, shape.height as i64, shape.width as i64];
    reshape(out, name, &turned, &joined)
}

/// Writes a reshape, where 0 keeps a size and -1 takes the rest.
pub(super) fn reshape(out: &mut Emitter, name: &str, x: &str, shape: &[i64]) -> String {
    let shape = out.constant(&format!("{name}.shape"), int64s(shape));
    out.node(name, "Reshape", &[x, &shape], [])
}

/// Makes a scalar constant.
pub(super) fn scalar_u8(code: u8) -> crate::proto::TensorProto {
    raw(DataType::Uint8, &[], vec![code])
}

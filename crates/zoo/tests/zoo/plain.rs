//! The reference executor, which runs every operation as plain loops in f32 and shares nothing with any other engine.
//! N is images, C channels, H rows, W columns; tensors are row-major.

use graph::{Conv2d, Graph, Node, Op, Pool2d, Role, Shape, Tensor, Weights};

/// Returns the outputs of all nodes, by position, each `[N, C, H, W]`.
pub fn run(graph: &Graph, weights: &Weights, image: &Tensor) -> Vec<Vec<f32>> {
    let batch = image.shape()[0];
    let mut values: Vec<Vec<f32>> = Vec::new();
    for node in graph.nodes() {
        let inputs: Vec<(Shape, &[f32])> =
            node.inputs.iter().map(|id| (graph.node(*id).shape, values[id.index()].as_slice())).collect();
        let value = match node.op {
            Op::Input => image.data().to_vec(),
            _ => (0..batch)
                .flat_map(|n| one(node, weights, &inputs.iter().map(|(s, v)| image_of(*s, v, n)).collect::<Vec<_>>()))
                .collect(),
        };
        assert_eq!(value.len(), batch * node.shape.elements(), "{}", node.name);
        values.push(value);
    }
    values
}

/// Returns one image of a batch, `[C, H, W]`.
#[derive(Clone, Copy)]
struct Image<'a> {
    shape: Shape,
    data: &'a [f32],
}

fn image_of(shape: Shape, batch: &[f32], n: usize) -> Image<'_> {
    Image { shape, data: &batch[n * shape.elements()..][..shape.elements()] }
}

impl Image<'_> {
    fn channel(&self, c: usize) -> &[f32] {
        let size = self.shape.height * self.shape.width;
        &self.data[c * size..][..size]
    }

    fn map(&self, f: impl Fn(usize, f32) -> f32) -> Vec<f32> {
        (0..self.shape.channels).flat_map(|c| self.channel(c).iter().map(|&x| f(c, x)).collect::<Vec<_>>()).collect()
    }
}

fn one(node: &Node, weights: &Weights, inputs: &[Image]) -> Vec<f32> {
    let param = |role: Role| weights[role.name(&node.name).as_str()].data();
    let x = inputs[0];
    match &node.op {
        Op::Input => unreachable!("the input has no inputs"),
        Op::Conv2d(conv) => conv2d(conv, x, node.shape, param(Role::Weight), conv.bias.then(|| param(Role::Bias))),
        Op::Linear { in_features, bias, .. } => {
            let rows = param(Role::Weight).chunks(*in_features);
            let mut y: Vec<f32> = rows.map(|row| row.iter().zip(x.data).map(|(w, x)| w * x).sum()).collect();
            if *bias {
                y.iter_mut().zip(param(Role::Bias)).for_each(|(y, b)| *y += b);
            }
            y
        }
        Op::BatchNorm2d { eps, .. } => {
            let (gamma, beta, mean, var) =
                (param(Role::Gamma), param(Role::Bias), param(Role::Mean), param(Role::Variance));
            x.map(|c, x| (x - mean[c]) / (var[c] + *eps as f32).sqrt() * gamma[c] + beta[c])
        }
        Op::Affine { .. } => {
            let (weight, bias) = (param(Role::Gamma), param(Role::Bias));
            x.map(|c, x| x * weight[c] + bias[c])
        }
        Op::Relu => x.map(|_, x| x.max(0.0)),
        Op::MaxPool2d(pool) => {
            pool2d(pool, x, node.shape, |window, _| window.iter().copied().fold(f32::NEG_INFINITY, f32::max))
        }
        Op::AvgPool2d(pool) => pool2d(pool, x, node.shape, |window, size| window.iter().sum::<f32>() / size as f32),
        Op::AdaptiveAvgPool2d { output } => adaptive(*output, x),
        Op::Add => x.data.iter().zip(inputs[1].data).map(|(x, y)| x + y).collect(),
        Op::Concat => inputs.iter().flat_map(|x| x.data.iter().copied()).collect(),
        Op::Flatten | Op::Dropout { .. } => x.data.to_vec(),
        Op::PadShortcut { stride, before, after } => {
            let zeros = |channels| std::iter::repeat_n(0.0, channels * node.shape.height * node.shape.width);
            let kept = (0..x.shape.channels).flat_map(|c| {
                let rows = x.channel(c).chunks(x.shape.width).step_by(*stride);
                rows.flat_map(|row| row.iter().copied().step_by(*stride))
            });
            zeros(*before).chain(kept).chain(zeros(*after)).collect()
        }
        op => panic!("no network of the zoo has {op:?}"),
    }
}

fn conv2d(conv: &Conv2d, x: Image, out: Shape, weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let (ci, co) = (conv.in_channels / conv.groups, conv.out_channels / conv.groups);
    let [kh, kw] = conv.kernel;
    let mut y = vec![0.0; out.elements()];
    for (o, plane) in y.chunks_mut(out.height * out.width).enumerate() {
        plane.fill(bias.map_or(0.0, |bias| bias[o]));
        for i in 0..ci {
            let input = x.channel(o / co * ci + i);
            for ky in 0..kh {
                for kx in 0..kw {
                    let w = weight[((o * ci + i) * kh + ky) * kw + kx];
                    for (oy, row) in plane.chunks_mut(out.width).enumerate() {
                        let Some(iy) =
                            inside(oy * conv.stride[0] + ky * conv.dilation[0], conv.padding[0], x.shape.height)
                        else {
                            continue;
                        };
                        for (ox, y) in row.iter_mut().enumerate() {
                            if let Some(ix) =
                                inside(ox * conv.stride[1] + kx * conv.dilation[1], conv.padding[1], x.shape.width)
                            {
                                *y += w * input[iy * x.shape.width + ix];
                            }
                        }
                    }
                }
            }
        }
    }
    y
}

/// Returns the position in the input of a position in the padded input.
fn inside(padded: usize, padding: usize, size: usize) -> Option<usize> {
    padded.checked_sub(padding).filter(|&at| at < size)
}

/// Pools with `reduce`, which takes the pixels of a window and its size. Padding counts in the size, rows and columns that are
/// added by rounding up do not.
fn pool2d(pool: &Pool2d, x: Image, out: Shape, reduce: impl Fn(&[f32], usize) -> f32) -> Vec<f32> {
    let mut y = Vec::with_capacity(out.elements());
    let end = |axis: usize, start: usize, size: usize| (start + pool.kernel[axis]).min(size + 2 * pool.padding[axis]);
    for c in 0..x.shape.channels {
        let input = x.channel(c);
        for oy in 0..out.height {
            for ox in 0..out.width {
                let (top, left) = (oy * pool.stride[0], ox * pool.stride[1]);
                let (bottom, right) = (end(0, top, x.shape.height), end(1, left, x.shape.width));
                let mut window = Vec::new();
                for py in top..bottom {
                    for px in left..right {
                        let at =
                            (inside(py, pool.padding[0], x.shape.height), inside(px, pool.padding[1], x.shape.width));
                        if let (Some(iy), Some(ix)) = at {
                            window.push(input[iy * x.shape.width + ix]);
                        }
                    }
                }
                y.push(reduce(&window, (bottom - top) * (right - left)));
            }
        }
    }
    y
}

/// Returns window `i` of `n` over `size` pixels: `floor(i * size / n)` to `ceil((i + 1) * size / n)`.
fn adaptive([rows, columns]: [usize; 2], x: Image) -> Vec<f32> {
    let window = |i: usize, n: usize, size: usize| i * size / n..((i + 1) * size).div_ceil(n);
    let mut y = Vec::new();
    for c in 0..x.shape.channels {
        for oy in 0..rows {
            for ox in 0..columns {
                let (ys, xs) = (window(oy, rows, x.shape.height), window(ox, columns, x.shape.width));
                let count = ys.len() * xs.len();
                let sum: f32 = ys
                    .flat_map(|iy| xs.clone().map(move |ix| (iy, ix)))
                    .map(|(iy, ix)| x.channel(c)[iy * x.shape.width + ix])
                    .sum();
                y.push(sum / count as f32);
            }
        }
    }
    y
}

#[test]
fn rounded_up_average_window_is_divided_by_what_lies_in_the_padded_input() {
    // PyTorch: AvgPool2d(2, 2, ceil_mode=True) of [[1, 2, 3]] tripled: the last column's window is 2 high, 1 wide.
    let x = Image { shape: Shape::new(1, 2, 3), data: &[1.0, 2.0, 3.0, 5.0, 6.0, 7.0] };
    let pool = Pool2d::new(2, 2).ceil_mode();
    let y = pool2d(&pool, x, Shape::new(1, 1, 2), |window, size| window.iter().sum::<f32>() / size as f32);
    assert_eq!(y, [3.5, 5.0]); // (1 + 2 + 5 + 6) / 4, (3 + 7) / 2
}

//! Lowers pooling, and reductions over rows and columns.
use graph::{Op, Pool2d, Shape};

use super::error::{Refusal, Result};
use super::layers::{NORMALISATION, Window};
use super::lower::{LoweredOp, Lowering, axes_once};
use super::node::Node;
use super::view::View;

impl<'a> Lowering<'a> {
    pub fn pool(&mut self, node: Node<'a>) -> Result<View> {
        let x = self.view(node, 0)?;
        let is_max = node.op() == "MaxPool";
        if let (5, false, Some(&[size, 1, 1])) = (x.rank(), is_max, node.ints("kernel_shape")?) {
            return self.channel_mean(node, &x, size);
        }
        let input = self.images(node)?;
        let shape = self.nodes[input].shape;
        let window = Window::read(node, None, shape)?;
        if window.dilation != [1, 1] {
            return Err("a pooling with `dilations` is not supported".into());
        }
        let ceil_mode =
            node.flag("ceil_mode")? && !node.string("auto_pad")?.is_some_and(|auto| auto.starts_with("SAME"));
        let [top, left, bottom, right] = window.pads;
        let half = (0..2).all(|axis| window.pads[axis] <= window.kernel[axis] / 2);
        // Without padding the flag has no effect, and is PyTorch's default.
        let counts = is_max || node.flag("count_include_pad")? || (window.pads == [0; 4] && !ceil_mode);
        let pool = Pool2d {
            kernel: window.kernel,
            stride: window.stride,
            padding: [top, left],
            end: (!window.is_symmetric() || !half).then_some([bottom, right]),
            ceil_mode,
            count_include_pad: counts,
        };
        self.simple(if is_max { Op::MaxPool2d(pool) } else { Op::AvgPool2d(pool) }, input)
    }

    /// Lowers an average over channels as a third dimension, as PyTorch writes it in local response normalisation.
    fn channel_mean(&mut self, node: Node<'a>, x: &View, size: i64) -> Result<View> {
        let plain = node.ints("pads")?.is_none_or(|pads| pads.iter().all(|&p| p == 0))
            && node.ints("strides")?.is_none_or(|strides| strides.iter().all(|&s| s == 1))
            && node.ints("dilations")?.is_none_or(|dilations| dilations.iter().all(|&d| d == 1))
            && !node.flag("ceil_mode")?
            && matches!(node.string("auto_pad")?, None | Some("NOTSET" | "VALID"));
        let Shape { channels, height, width } = self.nodes[x.node].shape;
        if !x.is_plain() || x.dims != [self.batch, 1, channels, height, width] || !plain {
            return Err("a 3-D pooling".into());
        }
        let size = usize::try_from(size).ok().filter(|&size| size > 0).ok_or("a window of no size")?;
        let node = self.add(LoweredOp::ChannelMean { size }, vec![x.node], vec![], None)?;
        let Shape { channels, height, width } = self.nodes[node].shape;
        Ok(View::plain(node, vec![self.batch, 1, channels, height, width]))
    }

    pub fn global_pool(&mut self, node: Node<'a>) -> Result<View> {
        let input = self.images(node)?;
        if node.op() == "GlobalAveragePool" {
            return self.simple(Op::AdaptiveAvgPool2d { output: [1, 1] }, input);
        }
        let Shape { height, width, .. } = self.nodes[input].shape;
        let pool = Pool2d { kernel: [height, width], ..Pool2d::new(1, 1) };
        self.simple(Op::MaxPool2d(pool), input)
    }

    /// Lowers a mean, sum or extreme over rows, columns or both.
    pub fn reduce(&mut self, node: Node<'a>) -> Result<View> {
        let x = self.view(node, 0)?;
        let rank = x.rank();
        let axes = match self.ints(node, "axes", 1)? {
            Some(axes) if !axes.is_empty() => axes_once(&axes, rank)?,
            _ if node.flag("noop_with_empty_axes")? => return Ok(x),
            _ => (0..rank).collect(),
        };
        let keep = node.int("keepdims")?.unwrap_or(1) != 0;
        let Shape { channels, height, width } = self.nodes[x.node].shape;
        // The axes of the node that are reduced, which must come after the batch and the channels.
        let reduced: Vec<usize> = (0..rank).filter(|&axis| axes.iter().any(|&a| x.perm[a] == axis)).collect();
        if reduced.contains(&1) {
            return Err(Refusal::hint(
                "a reduction over channels is not supported, nor is layer normalisation",
                NORMALISATION,
            ));
        }
        let spatial = x.dims.get(..2) == Some(&[self.batch, channels]) && !reduced.contains(&0);
        let is_all = spatial && (2..rank).all(|axis| x.dims[axis] == 1 || reduced.contains(&axis));
        let window = if is_all {
            [height, width]
        } else if spatial && x.dims == [self.batch, channels, height, width] {
            [if reduced.contains(&2) { height } else { 1 }, if reduced.contains(&3) { width } else { 1 }]
        } else {
            return Err(format!(
                "a reduction over axes {axes:?} of {:?}: only rows and columns are supported",
                x.shape()
            )
            .into());
        };
        let node = self.reduced(node.op(), x.node, window)?;
        let mut view = View { node, ..x };
        for &axis in &reduced {
            view.dims[axis] = 1;
        }
        if !keep {
            let mut gone = axes;
            gone.sort_unstable_by(|a, b| b.cmp(a));
            return Ok(gone.into_iter().fold(view, |view, axis| view.squeeze(axis)));
        }
        let rank: Vec<usize> = (0..view.rank()).collect();
        Ok(view.transpose(&rank))
    }

    /// Adds a reduction over windows, which cover the input's rows or columns or both.
    fn reduced(&mut self, op: &str, input: usize, window: [usize; 2]) -> Result<usize> {
        let Shape { height, width, .. } = self.nodes[input].shape;
        let pool = || Pool2d { kernel: window, ..Pool2d::new(1, 1) };
        let mean = match window == [height, width] {
            true => Op::AdaptiveAvgPool2d { output: [1, 1] },
            false => Op::AvgPool2d(pool()),
        };
        match op {
            "ReduceMean" => self.add(LoweredOp::Op(mean), vec![input], vec![], None),
            "ReduceSum" => {
                let mean = self.add(LoweredOp::Op(mean), vec![input], vec![], None)?;
                self.affine(mean, &[(window[0] * window[1]) as f32], &[0.0])
            }
            "ReduceMax" => self.add(LoweredOp::Op(Op::MaxPool2d(pool())), vec![input], vec![], None),
            // -max(-x)
            _ => {
                let negative = self.affine(input, &[-1.0], &[0.0])?;
                let largest = self.add(LoweredOp::Op(Op::MaxPool2d(pool())), vec![negative], vec![], None)?;
                self.affine(largest, &[-1.0], &[0.0])
            }
        }
    }
}

//! Lowers operators that pick, split, join or add channels, and borders.
use graph::{Op, Pool2d, Shape};

use super::error::Result;
use super::lower::{LoweredOp, Lowering, Value, axes_once, axis};
use super::node::Node;
use super::view::View;

impl<'a> Lowering<'a> {
    /// Lowers a `Slice` of channels, or of every n-th row and column.
    pub fn slice(&mut self, node: Node<'a>) -> Result<View> {
        let mut x = self.view(node, 0)?;
        let starts = self.ints(node, "starts", 1)?.ok_or("lacks `starts`")?;
        let ends = self.ints(node, "ends", 2)?.ok_or("lacks `ends`")?;
        let axes = match self.ints(node, "axes", 3)? {
            Some(axes) => axes,
            None => (0..starts.len() as i64).collect(),
        };
        let steps = self.ints(node, "steps", 4)?.unwrap_or_else(|| vec![1; starts.len()]);
        if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
            return Err("`starts`, `ends`, `axes` and `steps` of different lengths".into());
        }
        let mut stride = [1, 1];
        for (i, at) in axes_once(&axes, x.rank())?.into_iter().enumerate() {
            let size = x.shape()[at];
            let (start, length) = super::fold::range(size, starts[i], ends[i], steps[i])?;
            if (start, length, steps[i]) == (0, size, 1) {
                continue;
            }
            let base = x.perm[at];
            let Shape { channels, height, width } = self.nodes[x.node].shape;
            if x.dims != [self.batch, channels, height, width] {
                x = self.image_of(&x)?;
            }
            match (base, start, steps[i]) {
                (1, start, 1) => x = self.channels(x, start, length)?,
                (1, start, step) => {
                    let order = (0..length as i64).map(|k| start as i64 + k * step);
                    x = self.pick(x, order.map(|c| c as usize).collect())?;
                }
                (2 | 3, 0, step) if step > 1 && length == size.div_ceil(step as usize) => {
                    stride[base - 2] = step as usize;
                }
                _ => return Err(format!("a slice of axis {} of {:?} is not supported", axes[i], x.shape()).into()),
            }
        }
        if stride == [1, 1] {
            return Ok(x);
        }
        // Every n-th pixel is the maximum over a window of one pixel.
        let pool = Pool2d { stride, ..Pool2d::new(1, 1) };
        let pooled = self.add(LoweredOp::Op(Op::MaxPool2d(pool)), vec![x.node], vec![], None)?;
        Ok(View { dims: self.image(pooled).dims, node: pooled, perm: x.perm })
    }

    /// Returns the value with the dimensions of its node.
    fn image_of(&mut self, x: &View) -> Result<View> {
        let node = self.nchw(x)?;
        let mut view = self.image(node);
        while view.rank() > x.rank().max(2) {
            view = view.squeeze(view.rank() - 1);
        }
        Ok(view)
    }

    /// Returns consecutive channels of a view, whose channels are axis 1 before its permutation.
    fn channels(&mut self, x: View, start: usize, channels: usize) -> Result<View> {
        if (start, channels) == (0, x.dims[1]) {
            return Ok(x);
        }
        let node = self.add(LoweredOp::Op(Op::Slice { start, channels }), vec![x.node], vec![], None)?;
        let mut dims = x.dims;
        dims[1] = channels;
        Ok(View { node, dims, perm: x.perm })
    }

    /// Returns these channels of a view, whose channels are axis 1 before its permutation.
    fn pick(&mut self, x: View, order: Vec<usize>) -> Result<View> {
        let start = order.first().copied().ok_or("picks nothing")?;
        if order.iter().enumerate().all(|(i, &channel)| start.checked_add(i) == Some(channel)) {
            return self.channels(x, start, order.len());
        }
        // Each channel may become a slice of its own.
        self.charge(order.len().saturating_mul(64))?;
        let mut dims = x.dims;
        dims[1] = order.len();
        let node = self.add(LoweredOp::Pick(order), vec![x.node], vec![], None)?;
        Ok(View { node, dims, perm: x.perm })
    }

    /// Returns the sizes of the parts of a `Split` of an axis of `size`.
    pub fn split_sizes(&self, node: Node<'a>, size: usize) -> Result<Vec<usize>> {
        let outputs = node.0.output.len();
        let sizes: Vec<usize> = match self.ints(node, "split", 1)? {
            Some(sizes) => sizes
                .iter()
                .map(|&n| usize::try_from(n))
                .collect::<std::result::Result<_, _>>()
                .map_err(|_| "a negative size")?,
            None => {
                let stated = node.int("num_outputs")?;
                if stated.is_some_and(|n| usize::try_from(n) != Ok(outputs)) {
                    return Err(format!("{outputs} outputs, `num_outputs` says otherwise").into());
                }
                // Before opset 18 all parts have the same size.
                if self.opset < 18 && outputs > 0 && !size.is_multiple_of(outputs) {
                    return Err(format!("{size} into {outputs} equal parts").into());
                }
                let each = size.div_ceil(outputs.max(1));
                (0..outputs).map(|i| each.min(size.saturating_sub(i * each))).collect()
            }
        };
        if sizes.len() != outputs || sizes.iter().try_fold(0usize, |sum, &n| sum.checked_add(n)) != Some(size) {
            return Err(format!("{size} into {sizes:?}").into());
        }
        Ok(sizes)
    }

    pub fn split(&mut self, node: Node<'a>) -> Result<Vec<Option<Value>>> {
        let mut x = self.view(node, 0)?;
        let at = axis(node.int("axis")?.unwrap_or(0), x.rank())?;
        let sizes = self.split_sizes(node, x.shape()[at])?;
        if x.dims.get(..2) != Some(&[self.batch, self.nodes[x.node].shape.channels]) {
            x = self.image_of(&x)?;
        }
        if x.perm[at] != 1 {
            return Err("only channels can be split".into());
        }
        let mut start = 0;
        let mut parts = Vec::new();
        for (name, size) in node.0.output.iter().zip(sizes) {
            let used = self.uses.get(name.as_str()).is_some_and(|&uses| uses > 0);
            parts.push(if used { Some(Value::View(self.channels(x.clone(), start, size)?)) } else { None });
            start += size;
        }
        Ok(parts)
    }

    /// Lowers a `Gather` of channels, in any order.
    pub fn gather(&mut self, node: Node<'a>) -> Result<View> {
        let x = self.view(node, 0)?;
        let at = axis(node.int("axis")?.unwrap_or(0), x.rank())?;
        let indices = self.constant(node, 1)?.ok_or("lacks indices")?;
        let size = x.shape()[at];
        let picked = indices.as_ints()?.iter().map(|&i| axis(i, size)).collect::<Result<Vec<_>>>()?;
        let Shape { channels, height, width } = self.nodes[x.node].shape;
        // The only image of a batch of one may be picked.
        if x.perm[at] == 0 && self.batch == 1 && picked == [0] && indices.dims.len() < 2 && x.dims[0] == 1 {
            return Ok(if indices.dims.is_empty() { x.squeeze(at) } else { x });
        }
        let whole = [self.batch, channels, height, width];
        let is_image = x.dims == whole || ((height, width) == (1, 1) && x.dims == whole[..2]);
        if x.perm[at] != 1 || !is_image || indices.dims.len() > 1 {
            return Err("only channels can be picked".into());
        }
        let part = self.pick(x, picked)?;
        Ok(if indices.dims.is_empty() { part.squeeze(at) } else { part })
    }

    pub fn pad(&mut self, node: Node<'a>) -> Result<View> {
        let x = self.view(node, 0)?;
        let mode = node.string("mode")?.unwrap_or("constant");
        if mode != "constant" {
            return Err(format!("`mode` is `{mode}`: only constant borders are supported").into());
        }
        let rank = x.rank();
        let pads = self.ints(node, "pads", 1)?.ok_or("lacks `pads`")?;
        let pads: Vec<usize> = pads
            .iter()
            .map(|&n| usize::try_from(n))
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| "a negative border")?;
        let axes: Vec<usize> = match self.ints(node, "axes", 3)? {
            Some(axes) => axes_once(&axes, rank)?,
            None => (0..rank).collect(),
        };
        if axes.len().checked_mul(2) != Some(pads.len()) {
            return Err(format!("{} borders for {} axes", pads.len(), axes.len()).into());
        }
        let value = match (node.float("value")?, self.constant(node, 2)?) {
            (Some(value), _) => value,
            (None, Some(constant)) => constant.scalar().ok_or("a border of more than one value")?,
            (None, None) => 0.0,
        };
        if value.is_nan() {
            return Err("a border that is not a number".into());
        }
        let value = f64::from(value.clamp(f32::MIN, f32::MAX));
        let mut view = x;
        let mut sides = [0; 4];
        for (i, &at) in axes.iter().enumerate() {
            let (before, after) = (pads[i], pads[i + axes.len()]);
            if (before, after) == (0, 0) {
                continue;
            }
            let base = view.perm[at];
            let batch = self.batch;
            let is_channels = |view: &View, channels: usize| {
                view.dims[..base].iter().product::<usize>() == batch && view.dims[base] == channels
            };
            if view.is_plain() && !is_channels(&view, self.nodes[view.node].shape.channels) && sides == [0; 4] {
                view = self.image_of(&view)?;
            }
            let Shape { channels, height, width } = self.nodes[view.node].shape;
            let is_image = view.dims == [self.batch, channels, height, width];
            let is_channels = is_channels(&view, channels);
            match base {
                2 | 3 if is_image => (sides[base - 2], sides[base]) = (before, after),
                _ if is_channels && base > 0 && value == 0.0 => {
                    let total = channels.checked_add(before).and_then(|n| n.checked_add(after));
                    view.dims[base] = total.ok_or("too many channels")?;
                    let op = Op::PadShortcut { stride: 1, before, after };
                    view.node = self.add(LoweredOp::Op(op), vec![view.node], vec![], None)?;
                }
                _ => return Err(format!("a border of {pads:?} around {:?} is not supported", view.shape()).into()),
            }
        }
        if sides == [0; 4] {
            return Ok(view);
        }
        let node = self.add(LoweredOp::Op(Op::Pad2d { sides, value }), vec![view.node], vec![], None)?;
        Ok(View { dims: self.image(node).dims, node, perm: view.perm })
    }

    pub fn concat(&mut self, node: Node<'a>) -> Result<View> {
        let values = (0..node.0.input.len()).map(|i| self.value(node, i)).collect::<Result<Vec<_>>>()?;
        let mut views: Vec<View> = Vec::new();
        // The dimensions of zeros before the first and after the last value.
        let mut zeros = [vec![], vec![]];
        for (i, value) in values.iter().enumerate() {
            match value {
                Value::View(view) if zeros[1].is_empty() => views.push(view.clone()),
                Value::Constant(zero) if zero.collapsed().scalar() == Some(0.0) => {
                    zeros[usize::from(!views.is_empty())].push(zero.dims.clone());
                }
                _ => return Err(format!("input {i} is a constant: only zeros before or after channels can be").into()),
            }
        }
        let rank = views.first().ok_or("joins nothing")?.rank();
        let at = axis(node.int("axis")?.ok_or("lacks `axis`")?, rank)?;
        if views.iter().any(|view| view.rank() != rank) {
            return Err("joins values of different ranks".into());
        }
        // All views have the dimensions of their nodes and the same permutation.
        let perm = views[0].perm.clone();
        for view in &mut views {
            let Shape { channels, height, width } = self.nodes[view.node].shape;
            let whole = [self.batch, channels, height, width];
            let fits = view.perm == perm && (view.dims == whole || (rank == 2 && view.dims == whole[..2]));
            if !fits || view.dims.len() < 2 {
                *view = self.image_of(view)?;
            }
        }
        let perm = views[0].perm.clone();
        if views.iter().any(|view| view.perm != perm || view.rank() != rank) || perm[at] != 1 {
            return Err("joins something else than channels".into());
        }
        let inputs: Vec<usize> = views.iter().map(|view| view.node).collect();
        let joined = self.add(LoweredOp::Op(Op::Concat), inputs, vec![], None)?;
        let mut dims = self.image(joined).dims;
        dims.truncate(rank);
        self.zero_channels(View { node: joined, dims, perm }, at, zeros)
    }

    /// Adds as many channels of zeros before and after as constants of these dimensions have.
    fn zero_channels(&mut self, x: View, at: usize, zeros: [Vec<Vec<usize>>; 2]) -> Result<View> {
        let shape = x.shape();
        let alike = |dims: &Vec<usize>| {
            dims.len() == shape.len() && (0..dims.len()).all(|axis| axis == at || dims[axis] == shape[axis])
        };
        if !zeros.iter().flatten().all(alike) {
            return Err(format!("joins {shape:?} and zeros of other shapes").into());
        }
        let [before, after] = zeros.map(|parts| parts.iter().map(|dims| dims[at]).fold(0, usize::saturating_add));
        if (before, after) == (0, 0) {
            return Ok(x);
        }
        let node = self.add(LoweredOp::Op(Op::PadShortcut { stride: 1, before, after }), vec![x.node], vec![], None)?;
        let mut dims = x.dims;
        dims[1] = self.nodes[node].shape.channels;
        Ok(View { node, dims, perm: x.perm })
    }
}

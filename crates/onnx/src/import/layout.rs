//! Reshapes, transposes, and what picks, joins or adds channels and borders.
use graph::{Op, Pool2d, Shape};

use super::constant::MAX_RANK;
use super::error::Result;
use super::lower::{Kind, Lowering, Value, axes_once, axis};
use super::node::Node;
use super::view::View;

/// The dimensions that a `Reshape` of `dims` to `target` gives.
pub(super) fn reshape(dims: &[usize], target: &[i64], allow_zero: bool) -> Result<Vec<usize>> {
    if target.len() > MAX_RANK {
        return Err(format!("a shape of {} axes", target.len()).into());
    }
    let count: usize = dims.iter().product();
    let mut result = Vec::with_capacity(target.len());
    let mut open = None;
    for (i, &size) in target.iter().enumerate() {
        result.push(match size {
            -1 if open.is_none() => {
                open = Some(i);
                1
            }
            0 if !allow_zero => *dims.get(i).ok_or("a 0 in its shape where its input has no axis")?,
            size => usize::try_from(size).map_err(|_| "a shape with negative sizes")?,
        });
    }
    let known = result.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or("a shape that is too large")?;
    if let Some(open) = open {
        result[open] = count.checked_div(known).unwrap_or(0);
    }
    if result.iter().product::<usize>() != count {
        return Err(format!("a reshape of {dims:?} to {target:?}").into());
    }
    Ok(result)
}

/// From which axis on a `Flatten` joins axes.
pub(super) fn flatten_axis(node: Node<'_>, rank: usize) -> Result<usize> {
    let at = node.int("axis")?.unwrap_or(1);
    if usize::try_from(at) == Ok(rank) { Ok(rank) } else { axis(at, rank) }
}

/// The order that a `Transpose` puts axes into.
pub(super) fn permutation(node: Node<'_>, rank: usize) -> Result<Vec<usize>> {
    let Some(perm) = node.ints("perm")? else { return Ok((0..rank).rev().collect()) };
    let order = axes_once(perm, rank)?;
    if order.len() == rank { Ok(order) } else { Err(format!("`perm` {perm:?} for a value of {rank} axes").into()) }
}

impl<'a> Lowering<'a> {
    /// What only looks at a value in another way.
    pub fn rearrange(&mut self, node: Node<'a>) -> Result<View> {
        let x = self.view(node, 0)?;
        let shape = x.shape();
        let rank = x.rank();
        match node.op() {
            "Reshape" => {
                let target = self.constant(node, 1)?.ok_or("lacks a shape")?;
                let target = reshape(&shape, target.as_ints()?, node.flag("allowzero")?)?;
                self.reshaped(x, target)
            }
            "Flatten" => {
                let at = flatten_axis(node, rank)?;
                let target = vec![shape[..at].iter().product(), shape[at..].iter().product()];
                self.reshaped(x, target)
            }
            "Squeeze" => {
                let mut axes = match self.ints(node, "axes", 1)? {
                    Some(axes) => axes_once(&axes, rank)?,
                    None => (0..rank).filter(|&a| shape[a] == 1).collect(),
                };
                axes.sort_unstable();
                // The batch can go where it is 1 for certain.
                if axes.iter().any(|&a| shape[a] != 1) {
                    return Err(format!("removes axes {axes:?} of {shape:?}").into());
                }
                Ok(axes.iter().rev().fold(x, |x, &a| x.squeeze(a)))
            }
            "Unsqueeze" => {
                let axes = self.ints(node, "axes", 1)?.ok_or("lacks `axes`")?;
                let wide = rank.checked_add(axes.len()).filter(|&n| n <= 8).ok_or("too many axes")?;
                let mut axes = axes_once(&axes, wide)?;
                axes.sort_unstable();
                Ok(axes.into_iter().fold(x, |x, a| x.unsqueeze(a)))
            }
            "Transpose" => {
                let perm = permutation(node, rank)?;
                Ok(x.transpose(&perm))
            }
            _ => self.expand(node, x),
        }
    }

    fn reshaped(&mut self, x: View, target: Vec<usize>) -> Result<View> {
        // A single image can be looked at without its batch.
        if target.first() != Some(&self.batch) && self.batch != 1 {
            return Err(format!("a reshape of {:?} to {target:?} mixes images", x.shape()).into());
        }
        if target.len() > 8 {
            return Err("too many axes".into());
        }
        let plain = x.is_plain() || x.shape() == target;
        if plain {
            return Ok(if x.is_plain() { View::plain(x.node, target) } else { x });
        }
        if let Some(groups) = x.shuffle(self.nodes[x.node].shape.channels) {
            let node = self.add(Kind::Op(Op::Shuffle { groups }), vec![x.node], vec![], None)?;
            return Ok(View::plain(node, target));
        }
        // Features in another order: only a fully connected layer can take them.
        if target.len() == 2 && x.perm.first() == Some(&0) {
            let shape = Shape::new(target[1], 1, 1);
            let node = self.add(Kind::Reordered(x.clone()), vec![x.node], vec![], Some(shape))?;
            return Ok(View::plain(node, target));
        }
        Err(format!("a reshape of {:?} to {target:?} after a transpose that does not cancel", x.shape()).into())
    }

    /// The view whose elements, in order, are the features of `x`, where these are not in their node's order.
    pub fn flattened_order(&self, x: &View) -> Option<View> {
        match &self.nodes[x.node].kind {
            Kind::Reordered(view) => Some(view.clone()),
            _ => None,
        }
    }

    /// An `Expand` that changes nothing, or that repeats the one pixel of each channel.
    fn expand(&mut self, node: Node<'a>, x: View) -> Result<View> {
        let target = self.constant(node, 1)?.ok_or("lacks a shape")?;
        let target = target.as_ints()?;
        let shape = x.shape();
        let refuse = || format!("an expansion of {shape:?} to {target:?} is not supported");
        // Sizes of 1 in the target keep the value's.
        let wanted = target.iter().rev().zip(shape.iter().rev());
        let wanted: Option<Vec<usize>> =
            wanted.map(|(&t, &n)| if t == 1 { Some(n) } else { usize::try_from(t).ok() }).collect();
        let mut wanted = wanted.ok_or_else(refuse)?;
        if target.len() > shape.len() {
            return Err(refuse().into());
        }
        wanted.extend(shape.iter().rev().skip(target.len()));
        wanted.reverse();
        if wanted == shape {
            return Ok(x);
        }
        // [N, C, 1, 1], or [N, 1, 1, C] where channels come last.
        let channels = self.nodes[x.node].shape.channels;
        let one = self.nodes[x.node].shape == Shape::new(channels, 1, 1) && x.is_plain();
        let size = |sizes: &[usize], perm: &[usize; 4], axis: usize| {
            perm.iter().position(|&p| p == axis).and_then(|i| sizes.get(i).copied()).unwrap_or(0)
        };
        let fits = |perm: &[usize; 4]| {
            let same = |axis: usize, n: usize| size(&shape, perm, axis) == n && size(&wanted, perm, axis) == n;
            shape.len() == 4 && same(0, self.batch) && same(1, channels)
        };
        let perm = [[0, 1, 2, 3], [0, 2, 3, 1]].into_iter().find(fits).filter(|_| one).ok_or_else(refuse)?;
        let node = self.expanded(x.node, [size(&wanted, &perm, 2), size(&wanted, &perm, 3)])?;
        Ok(self.image(node).transpose(&perm))
    }

    /// Channels, or every n-th row and column.
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
        // Every n-th pixel is the maximum of a window of one.
        let pool = Pool2d { stride, ..Pool2d::new(1, 1) };
        let pooled = self.add(Kind::Op(Op::MaxPool2d(pool)), vec![x.node], vec![], None)?;
        Ok(View { dims: self.image(pooled).dims, node: pooled, perm: x.perm })
    }

    /// The same value with its node's own dimensions, where it can be had.
    fn image_of(&mut self, x: &View) -> Result<View> {
        let node = self.nchw(x)?;
        let mut view = self.image(node);
        while view.rank() > x.rank().max(2) {
            view = view.squeeze(view.rank() - 1);
        }
        Ok(view)
    }

    /// Some channels of a view whose axis 1 before its permutation they are.
    fn channels(&mut self, x: View, start: usize, channels: usize) -> Result<View> {
        if (start, channels) == (0, x.dims[1]) {
            return Ok(x);
        }
        let node = self.add(Kind::Op(Op::Slice { start, channels }), vec![x.node], vec![], None)?;
        let mut dims = x.dims;
        dims[1] = channels;
        Ok(View { node, dims, perm: x.perm })
    }

    /// Channels of a view whose axis 1 before its permutation they are, in this order.
    fn pick(&mut self, x: View, order: Vec<usize>) -> Result<View> {
        let start = order.first().copied().ok_or("picks nothing")?;
        if order.iter().enumerate().all(|(i, &channel)| start.checked_add(i) == Some(channel)) {
            return self.channels(x, start, order.len());
        }
        // Each may become a slice of its own.
        self.charge(order.len().saturating_mul(64))?;
        let mut dims = x.dims;
        dims[1] = order.len();
        let node = self.add(Kind::Pick(order), vec![x.node], vec![], None)?;
        Ok(View { node, dims, perm: x.perm })
    }

    /// The sizes of the parts of a `Split` of an axis of `size`.
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
                // Before opset 18 all parts are alike.
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

    /// Channels, in any order.
    pub fn gather(&mut self, node: Node<'a>) -> Result<View> {
        let x = self.view(node, 0)?;
        let at = axis(node.int("axis")?.unwrap_or(0), x.rank())?;
        let indices = self.constant(node, 1)?.ok_or("lacks indices")?;
        let size = x.shape()[at];
        let picked = indices.as_ints()?.iter().map(|&i| axis(i, size)).collect::<Result<Vec<_>>>()?;
        let Shape { channels, height, width } = self.nodes[x.node].shape;
        // The one image of a batch of one.
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
                    view.node = self.add(Kind::Op(op), vec![view.node], vec![], None)?;
                }
                _ => return Err(format!("a border of {pads:?} around {:?} is not supported", view.shape()).into()),
            }
        }
        if sides == [0; 4] {
            return Ok(view);
        }
        let node = self.add(Kind::Op(Op::Pad2d { sides, value }), vec![view.node], vec![], None)?;
        Ok(View { dims: self.image(node).dims, node, perm: view.perm })
    }

    pub fn concat(&mut self, node: Node<'a>) -> Result<View> {
        let values = (0..node.0.input.len()).map(|i| self.value(node, i)).collect::<Result<Vec<_>>>()?;
        let mut views: Vec<View> = Vec::new();
        // Zeros before the first and after the last value.
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
        // Each as its node gives it, all permuted alike.
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
        let joined = self.add(Kind::Op(Op::Concat), inputs, vec![], None)?;
        let mut dims = self.image(joined).dims;
        dims.truncate(rank);
        self.zero_channels(View { node: joined, dims, perm }, at, zeros)
    }

    /// With as many channels of zeros before and after as constants of these dimensions have.
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
        let node = self.add(Kind::Op(Op::PadShortcut { stride: 1, before, after }), vec![x.node], vec![], None)?;
        let mut dims = x.dims;
        dims[1] = self.nodes[node].shape.channels;
        Ok(View { node, dims, perm: x.perm })
    }
}

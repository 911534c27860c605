//! Reshapes, transposes, and what picks, joins or adds channels and borders.
use graph::{Op, Pool2d, Shape};

use super::error::Result;
use super::lower::{Kind, Lowering, Value, axis};
use super::node::Node;
use super::view::View;

/// The dimensions that a `Reshape` of `dims` to `target` gives.
pub(super) fn reshape(dims: &[usize], target: &[i64], allow_zero: bool) -> Result<Vec<usize>> {
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
                let at = node.int("axis")?.unwrap_or(1);
                let at = if at == i64::try_from(rank).unwrap_or(i64::MAX) { rank } else { axis(at, rank)? };
                let target = vec![shape[..at].iter().product(), shape[at..].iter().product()];
                self.reshaped(x, target)
            }
            "Squeeze" => {
                let mut axes = match self.ints(node, "axes", 1)? {
                    Some(axes) => axes.iter().map(|&a| axis(a, rank)).collect::<Result<Vec<_>>>()?,
                    None => (0..rank).filter(|&a| shape[a] == 1).collect(),
                };
                axes.sort_unstable();
                axes.dedup();
                if axes.iter().any(|&a| shape[a] != 1 || x.perm[a] == 0) {
                    return Err(format!("removes axes {axes:?} of {shape:?}").into());
                }
                Ok(axes.iter().rev().fold(x, |x, &a| x.squeeze(a)))
            }
            "Unsqueeze" => {
                let axes = self.ints(node, "axes", 1)?.ok_or("lacks `axes`")?;
                let wide = rank.checked_add(axes.len()).filter(|&n| n <= 8).ok_or("too many axes")?;
                let mut axes = axes.iter().map(|&a| axis(a, wide)).collect::<Result<Vec<_>>>()?;
                axes.sort_unstable();
                axes.iter().try_fold(x, |x, &a| if a <= x.rank() { Ok(x.unsqueeze(a)) } else { Err("axes".into()) })
            }
            "Transpose" => {
                let perm: Vec<usize> = match node.ints("perm")? {
                    None => (0..rank).rev().collect(),
                    Some(perm) => perm.iter().map(|&a| axis(a, rank)).collect::<Result<_>>()?,
                };
                let mut sorted = perm.clone();
                sorted.sort_unstable();
                if sorted.len() != rank || sorted.iter().enumerate().any(|(i, &a)| i != a) {
                    return Err(format!("`perm` {perm:?} for a value of {rank} axes").into());
                }
                Ok(x.transpose(&perm))
            }
            _ => self.expand(node, x),
        }
    }

    fn reshaped(&mut self, x: View, target: Vec<usize>) -> Result<View> {
        if target.first() != Some(&self.batch) {
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

    /// An `Expand` that multiplication does anyway.
    fn expand(&mut self, node: Node<'a>, x: View) -> Result<View> {
        let target = self.constant(node, 1)?.ok_or("lacks a shape")?;
        let target = target.as_ints()?;
        let shape = x.shape();
        let same = target.len() <= shape.len()
            && target.iter().rev().zip(shape.iter().rev()).all(|(&t, &n)| t == 1 || usize::try_from(t) == Ok(n));
        let readers = node.0.output.first().and_then(|output| self.readers.get(output.as_str()));
        let multiplied = readers.is_some_and(|readers| readers.iter().all(|&op| op == "Mul"));
        if same || (multiplied && target.len() == shape.len()) {
            Ok(x)
        } else {
            Err(format!("an expansion of {shape:?} to {target:?} is not supported").into())
        }
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
        for i in 0..starts.len() {
            let at = axis(axes[i], x.rank())?;
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
            let step = usize::try_from(steps[i]).map_err(|_| "a slice that runs backwards is not supported")?;
            match (base, start, step) {
                (1, start, 1) => x = self.channels(x, start, length)?,
                (2 | 3, 0, step) if step > 1 && length == size.div_ceil(step) => stride[base - 2] = step,
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

    pub fn split(&mut self, node: Node<'a>) -> Result<Vec<Option<Value>>> {
        let mut x = self.view(node, 0)?;
        let at = axis(node.int("axis")?.unwrap_or(0), x.rank())?;
        let outputs = node.0.output.len();
        let size = x.shape()[at];
        let sizes: Vec<usize> = match self.ints(node, "split", 1)? {
            Some(sizes) => sizes
                .iter()
                .map(|&n| usize::try_from(n))
                .collect::<std::result::Result<_, _>>()
                .map_err(|_| "a negative size")?,
            None => {
                let each = size.div_ceil(outputs.max(1));
                (0..outputs).map(|i| each.min(size.saturating_sub(i * each))).collect()
            }
        };
        if sizes.len() != outputs || sizes.iter().try_fold(0usize, |sum, &n| sum.checked_add(n)) != Some(size) {
            return Err(format!("{size} channels into {sizes:?}").into());
        }
        if x.dims.get(1) != Some(&self.nodes[x.node].shape.channels) {
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

    /// Consecutive channels, or one.
    pub fn gather(&mut self, node: Node<'a>) -> Result<View> {
        let x = self.view(node, 0)?;
        let at = axis(node.int("axis")?.unwrap_or(0), x.rank())?;
        let indices = self.constant(node, 1)?.ok_or("lacks indices")?;
        let picked = indices.as_ints()?;
        let first = *picked.first().ok_or("picks nothing")?;
        let size = x.shape()[at];
        let start = axis(first, size)?;
        let consecutive = picked.iter().enumerate().all(|(i, &index)| axis(index, size).ok() == start.checked_add(i));
        let Shape { channels, height, width } = self.nodes[x.node].shape;
        if x.perm[at] != 1 || x.dims != [self.batch, channels, height, width] || !consecutive || indices.dims.len() > 1
        {
            return Err("only channels that follow each other can be picked".into());
        }
        let part = self.channels(x, start, picked.len())?;
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
            Some(axes) => axes.iter().map(|&a| axis(a, rank)).collect::<Result<_>>()?,
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
            let Shape { channels, height, width } = self.nodes[view.node].shape;
            let is_image = view.dims == [self.batch, channels, height, width];
            let is_channels = view.dims[..base].iter().product::<usize>() == self.batch && view.dims[base] == channels;
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
        let count = node.0.input.len();
        let mut views = (0..count).map(|i| self.view(node, i)).collect::<Result<Vec<_>>>()?;
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
        Ok(View { node: joined, dims, perm })
    }
}

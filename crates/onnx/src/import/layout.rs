//! Lowers reshapes, transposes and expansions, which rearrange a value.
use graph::{Op, Shape};

use super::constant::MAX_RANK;
use super::error::Result;
use super::lower::{LoweredOp, Lowering, axes_once, axis};
use super::node::Node;
use super::view::View;

/// Returns the dimensions that a `Reshape` of `dims` to `target` gives.
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

/// Returns the axis from which on a `Flatten` joins axes.
pub(super) fn flatten_axis(node: Node<'_>, rank: usize) -> Result<usize> {
    let at = node.int("axis")?.unwrap_or(1);
    if usize::try_from(at) == Ok(rank) { Ok(rank) } else { axis(at, rank) }
}

/// Returns the order into which a `Transpose` puts axes.
pub(super) fn permutation(node: Node<'_>, rank: usize) -> Result<Vec<usize>> {
    let Some(perm) = node.ints("perm")? else { return Ok((0..rank).rev().collect()) };
    let order = axes_once(perm, rank)?;
    if order.len() == rank { Ok(order) } else { Err(format!("`perm` {perm:?} for a value of {rank} axes").into()) }
}

impl<'a> Lowering<'a> {
    /// Lowers an operator that only rearranges a value.
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
                // The batch may be removed if it is fixed at 1.
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
        // A single image may lose its batch.
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
            let node = self.add(LoweredOp::Op(Op::Shuffle { groups }), vec![x.node], vec![], None)?;
            return Ok(View::plain(node, target));
        }
        // Only a fully connected layer can take features in another order.
        if target.len() == 2 && x.perm.first() == Some(&0) {
            let shape = Shape::new(target[1], 1, 1);
            let node = self.add(LoweredOp::Reordered(x.clone()), vec![x.node], vec![], Some(shape))?;
            return Ok(View::plain(node, target));
        }
        Err(format!("a reshape of {:?} to {target:?} after a transpose that does not cancel", x.shape()).into())
    }

    /// Returns the view whose elements are the features of `x`, if these are not in their node's order.
    pub fn flattened_order(&self, x: &View) -> Option<View> {
        match &self.nodes[x.node].kind {
            LoweredOp::Reordered(view) => Some(view.clone()),
            _ => None,
        }
    }

    /// Lowers an `Expand` that changes nothing, or that repeats the only pixel of each channel.
    fn expand(&mut self, node: Node<'a>, x: View) -> Result<View> {
        let target = self.constant(node, 1)?.ok_or("lacks a shape")?;
        let target = target.as_ints()?;
        let shape = x.shape();
        let refuse = || format!("an expansion of {shape:?} to {target:?} is not supported");
        // A size of 1 in the target keeps that of the value.
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
        // The value is [N, C, 1, 1], or [N, 1, 1, C] where channels come last.
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
}

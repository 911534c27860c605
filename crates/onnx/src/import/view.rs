//! Values of the file as views of the values of nodes.

/// A value of the file as a view of the value `[N, C, H, W]` of one node of the graph: the node's value in row-major order,
/// reshaped to `dims`, with its axes then taken in the order `perm`.
///
/// Reshapes and transposes only change the view, so that pairs of them cancel, and a shuffle of channels can be recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    /// The position of the node among the lowered nodes.
    pub node: usize,
    /// The sizes before `perm`, with the batch first.
    pub dims: Vec<usize>,
    /// Axis `i` of the ONNX value is axis `perm[i]` of `dims`.
    pub perm: Vec<usize>,
}

impl View {
    /// Makes a view that reshapes a node's value and moves nothing.
    pub fn plain(node: usize, dims: Vec<usize>) -> Self {
        let perm = (0..dims.len()).collect();
        Self { node, dims, perm }
    }

    /// Returns the dimensions of the ONNX value.
    pub fn shape(&self) -> Vec<usize> {
        self.perm.iter().map(|&axis| self.dims[axis]).collect()
    }

    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// Returns whether the elements are in the node's order.
    pub fn is_plain(&self) -> bool {
        self.perm.iter().enumerate().all(|(i, &axis)| i == axis)
    }

    /// Makes a view plain that moves only axes of size 1.
    fn canonical(mut self) -> Self {
        if self.perm.iter().filter(|&&axis| self.dims[axis] != 1).is_sorted() {
            self.dims = self.shape();
            self.perm = (0..self.dims.len()).collect();
        }
        self
    }

    /// Returns the view with its axes in another order.
    ///
    /// # Panics
    /// Panics if `perm` is not a permutation of the axes.
    pub fn transpose(&self, perm: &[usize]) -> Self {
        let perm = perm.iter().map(|&i| self.perm[i]).collect();
        Self { node: self.node, dims: self.dims.clone(), perm }.canonical()
    }

    /// Returns the view with a new axis of size 1 before axis `at`.
    pub fn unsqueeze(&self, at: usize) -> Self {
        let mut view = self.clone();
        view.dims.push(1);
        view.perm.insert(at, view.dims.len() - 1);
        view.canonical()
    }

    /// Returns the view without axis `at`, whose size is 1.
    pub fn squeeze(&self, at: usize) -> Self {
        let mut view = self.clone();
        let base = view.perm.remove(at);
        view.dims.remove(base);
        for axis in &mut view.perm {
            *axis -= usize::from(*axis > base);
        }
        view.canonical()
    }

    /// Returns the groups of a channel shuffle, if this view is one: `[N, g, C / g, rest]` with the middle axes exchanged.
    pub fn shuffle(&self, channels: usize) -> Option<usize> {
        let order: Vec<usize> = self.perm.iter().copied().filter(|&axis| self.dims[axis] != 1).collect();
        // A batch of 1 is left out.
        let order = order.strip_prefix(&[0]).unwrap_or(&order);
        let &[second, first, ref rest @ ..] = order else { return None };
        let is_pair = first < second && self.dims[first].checked_mul(self.dims[second]) == Some(channels);
        let groups = self.dims[first];
        let before: usize = self.dims[1..second].iter().product();
        (is_pair && first >= 1 && before == groups && rest.is_sorted() && rest.first().is_none_or(|&r| r > second))
            .then_some(groups)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposes_cancel() {
        let view = View::plain(1, vec![7, 3, 4, 5]);
        let nhwc = view.transpose(&[0, 2, 3, 1]);
        assert_eq!((nhwc.shape(), nhwc.is_plain()), (vec![7, 4, 5, 3], false));
        assert_eq!(nhwc.transpose(&[0, 3, 1, 2]), view);
        // Moving an axis of size 1 moves nothing.
        let pooled = View::plain(1, vec![7, 3, 1, 1]).transpose(&[0, 2, 3, 1]);
        assert_eq!((pooled.shape(), pooled.is_plain()), (vec![7, 1, 1, 3], true));
    }

    #[test]
    fn axes_of_size_one_come_and_go() {
        let nhwc = View::plain(1, vec![7, 3, 4, 5]).transpose(&[0, 2, 3, 1]);
        let wide = nhwc.unsqueeze(1);
        assert_eq!(wide.shape(), [7, 1, 4, 5, 3]);
        assert_eq!(wide.squeeze(1), nhwc);
        assert_eq!(View::plain(1, vec![7, 3]).unsqueeze(2), View::plain(1, vec![7, 3, 1]));
    }

    #[test]
    fn a_shuffle_shows() {
        let shuffle = |dims: &[usize], perm: &[usize]| View::plain(1, dims.to_vec()).transpose(perm).shuffle(6);
        assert_eq!(shuffle(&[7, 2, 3, 4, 4], &[0, 2, 1, 3, 4]), Some(2));
        assert_eq!(shuffle(&[7, 2, 3, 16], &[0, 2, 1, 3]), Some(2));
        assert_eq!(shuffle(&[1, 3, 2, 16], &[0, 2, 1, 3]), Some(3));
        assert_eq!(shuffle(&[7, 6, 4, 4], &[0, 2, 3, 1]), None);
        assert_eq!(shuffle(&[7, 2, 3, 4, 4], &[0, 2, 1, 4, 3]), None);
        assert_eq!(shuffle(&[7, 2, 3, 4, 4], &[1, 2, 0, 3, 4]), None);
    }
}

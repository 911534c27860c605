//! Adds nodes to the graph that is made.
use graph::{Op, Role, Shape, Tensor};

use super::constant::{Constant, Data};
use super::error::Result;
use super::lower::{Lowered, LoweredOp, Lowering};
use super::view::View;

/// The limit of elements of a value of one image.
const MAX_VALUE: usize = 1 << 28;

impl Lowering<'_> {
    /// Adds a node of the graph under the name of the current node. The shape is computed unless it is given.
    pub fn add(
        &mut self,
        kind: LoweredOp,
        inputs: Vec<usize>,
        params: Vec<(Role, Tensor)>,
        shape: Option<Shape>,
    ) -> Result<usize> {
        let name = self.wanted.clone();
        self.add_named(&name, kind, inputs, params, shape)
    }

    /// Adds a node of the graph. The shape is computed unless it is given.
    pub fn add_named(
        &mut self,
        name: &str,
        kind: LoweredOp,
        inputs: Vec<usize>,
        params: Vec<(Role, Tensor)>,
        shape: Option<Shape>,
    ) -> Result<usize> {
        let shapes: Vec<Shape> = inputs.iter().map(|&input| self.nodes[input].shape).collect();
        let shape = match (&kind, shape) {
            (_, Some(shape)) => shape,
            (LoweredOp::Op(op), None) => op.output(&shapes)?,
            (LoweredOp::ChannelMean { size }, None) => {
                let channels = (shapes[0].channels + 1).checked_sub(*size).ok_or("a window larger than its input")?;
                Shape { channels, ..shapes[0] }
            }
            (LoweredOp::Pick(order), None) => Shape { channels: order.len(), ..shapes[0] },
            (LoweredOp::ArgMax, None) => Shape::new(1, 1, 1),
            (
                LoweredOp::Power { .. }
                | LoweredOp::Divide
                | LoweredOp::Reordered(_)
                | LoweredOp::Float
                | LoweredOp::LogSoftmax,
                None,
            ) => shapes[0],
        };
        let bytes = kind != LoweredOp::Float && inputs.iter().any(|&input| self.nodes[input].bytes);
        let elements = shape.channels.checked_mul(shape.height).and_then(|n| n.checked_mul(shape.width));
        match elements {
            Some(1..=MAX_VALUE) => {}
            Some(0) => return Err(format!("its value {shape} is empty").into()),
            _ => return Err(format!("its value {shape} is too large").into()),
        }
        if let Some((role, _)) = params.iter().find(|(_, tensor)| tensor.data().iter().any(|v| !v.is_finite())) {
            return Err(format!("its {} has values that are NaN or infinite", role.suffix()).into());
        }
        let name = name.to_owned();
        self.nodes.push(Lowered { name, kind, inputs, params, shape, origin: self.origin.clone(), bytes });
        Ok(self.nodes.len() - 1)
    }

    /// Adds an operation without parameters that reads one node, and returns its value `[N, C, H, W]`.
    pub fn simple(&mut self, op: Op, input: usize) -> Result<View> {
        let node = self.add(LoweredOp::Op(op), vec![input], vec![], None)?;
        Ok(self.image(node))
    }

    /// Returns the value of a node, `[N, C, H, W]`.
    pub fn image(&self, node: usize) -> View {
        let Shape { channels, height, width } = self.nodes[node].shape;
        View::plain(node, vec![self.batch, channels, height, width])
    }

    /// Returns the same view of another node.
    pub fn over(&self, x: &View, node: usize) -> View {
        View { node, ..x.clone() }
    }

    /// Returns the value of a node of 1x1 pixels as `[N, C]`.
    pub fn features(&self, node: usize) -> View {
        View::plain(node, vec![self.batch, self.nodes[node].shape.channels])
    }

    /// Returns the node whose value `[N, C, H, W]` is this view, where `[N, F]` counts as `[N, F, 1, 1]`. It flattens where that
    /// is needed.
    pub fn nchw(&mut self, view: &View) -> Result<usize> {
        if !view.is_plain() {
            return Err(
                format!("its input of shape {:?} is transposed in a way that does not cancel", view.shape()).into()
            );
        }
        let shape = self.nodes[view.node].shape;
        let dims = &view.dims;
        if dims.first() != Some(&self.batch) {
            return Err(format!("its input of shape {dims:?} has no batch in front").into());
        }
        if dims[1..] == [shape.channels, shape.height, shape.width] {
            return Ok(view.node);
        }
        if !(2..=4).contains(&dims.len()) || dims[2..].iter().any(|&n| n != 1) {
            return Err(format!("its input was reshaped from {shape} to {dims:?}: only flattening is supported").into());
        }
        self.flatten(view.node)
    }

    fn flatten(&mut self, node: usize) -> Result<usize> {
        let shape = self.nodes[node].shape;
        if shape.height == 1 && shape.width == 1 {
            return Ok(node);
        }
        if let Some(&flat) = self.flattened.get(&node) {
            return Ok(flat);
        }
        let flat = self.add_named("flatten", LoweredOp::Op(Op::Flatten), vec![node], vec![], None)?;
        self.flattened.insert(node, flat);
        Ok(flat)
    }

    /// Adds an `Affine` with these values, which are one for each channel or one for all.
    pub fn affine(&mut self, input: usize, weight: &[f32], bias: &[f32]) -> Result<usize> {
        let channels = self.nodes[input].shape.channels;
        self.charge(channels.saturating_mul(2))?;
        let spread = |values: &[f32]| match values {
            &[value] => vec![value; channels],
            values => values.to_vec(),
        };
        let params = vec![
            (Role::Gamma, Tensor::new([channels], spread(weight))),
            (Role::Bias, Tensor::new([channels], spread(bias))),
        ];
        self.add(LoweredOp::Op(Op::Affine { channels }), vec![input], params, None)
    }

    /// Returns the floats of a parameter of `count` elements.
    pub fn floats(&mut self, constant: &Constant, count: usize, what: &str) -> Result<Vec<f32>> {
        match &constant.data {
            Data::Float(values) if values.len() == count => {
                self.charge(count)?;
                Ok(values.clone())
            }
            Data::Float(values) => Err(format!("its {what} has {} elements, {count} are needed", values.len()).into()),
            Data::Int(_) => Err(format!("its {what} has integers").into()),
        }
    }
}

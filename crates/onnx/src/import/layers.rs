//! Lowers convolutions, linear layers, normalisations and softmax.
use graph::{Conv2d, Op, Role, Shape, Tensor};

use super::constant::Data;
use super::error::{Refusal, Result};
use super::fold;
use super::lower::{LoweredOp, Lowering, axis};
use super::names;
use super::node::{Node, decimal};
use super::view::View;

/// The advice for layer normalisation.
pub(super) const NORMALISATION: &str = "ConvNeXt and transformers need layer normalisation and GELU, which are missing: take a network with batch normalisation";

/// The advice for a network that was exported in training mode.
pub(super) const EVALUATION: &str = "export the model after `model.eval()`";

/// Returns whether a `BatchNormalization` takes its statistics from the images. From opset 14 on an attribute says so, and
/// before that the outputs for these statistics.
pub(super) fn is_training(node: Node<'_>, opset: i64) -> Result<bool> {
    let has_statistics = node.0.output.iter().skip(1).any(|output| !output.is_empty());
    Ok(node.flag("training_mode")? || (opset < 14 && has_statistics))
}

/// The window, strides and borders of a convolution or pooling, over rows and columns.
pub(super) struct Window {
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    /// The borders, `[top, left, bottom, right]`.
    pub pads: [usize; 4],
}

impl Window {
    /// Reads the attributes; `kernel` is that of the weight, where there is one.
    pub fn read(node: Node<'_>, kernel: Option<[usize; 2]>, input: Shape) -> Result<Self> {
        let pair = |name: &str| -> Result<Option<[usize; 2]>> {
            let Some(values) = node.ints(name)? else { return Ok(None) };
            match sizes(name, values)?[..] {
                [rows, columns] => Ok(Some([rows, columns])),
                _ => Err(format!("`{name}` has {} values: only 2-D is supported", values.len()).into()),
            }
        };
        let stated = pair("kernel_shape")?;
        if let (Some(stated), Some(kernel)) = (stated, kernel)
            && stated != kernel
        {
            return Err(format!("`kernel_shape` is {stated:?}, its weight's kernel {kernel:?}").into());
        }
        let kernel = kernel.or(stated).ok_or("lacks `kernel_shape`")?;
        let stride = pair("strides")?.unwrap_or([1, 1]);
        let dilation = pair("dilations")?.unwrap_or([1, 1]);
        if [kernel, stride, dilation].as_flattened().contains(&0) {
            return Err("a kernel, stride or dilation of 0".into());
        }
        let explicit = match node.ints("pads")? {
            None => [0; 4],
            Some(values) => sizes("pads", values)?.try_into().map_err(|_| "`pads` must have 4 values")?,
        };
        let auto = node.string("auto_pad")?.unwrap_or("NOTSET");
        let pads = match auto {
            "NOTSET" => explicit,
            "VALID" => [0; 4],
            "SAME_UPPER" | "SAME_LOWER" => {
                let side = |axis: usize, size: usize| -> Result<(usize, usize)> {
                    let large = "its borders are too large";
                    let reach =
                        dilation[axis].checked_mul(kernel[axis] - 1).and_then(|n| n.checked_add(1)).ok_or(large)?;
                    let start = (size.div_ceil(stride[axis]) - 1).checked_mul(stride[axis]).ok_or(large)?;
                    let needed = start.checked_add(reach).ok_or(large)?;
                    // Some engines cut the input on both sides here, others begin at its first pixel.
                    if needed + 1 < size {
                        return Err(
                            format!("windows of {reach}, {} apart: `{auto}` is not clear there", stride[axis]).into()
                        );
                    }
                    let total = needed.saturating_sub(size);
                    let (less, more) = (total / 2, total - total / 2);
                    Ok(if auto == "SAME_UPPER" { (less, more) } else { (more, less) })
                };
                let (rows, columns) = (side(0, input.height)?, side(1, input.width)?);
                [rows.0, columns.0, rows.1, columns.1]
            }
            other => return Err(format!("`auto_pad` is `{other}`").into()),
        };
        Ok(Self { kernel, stride, dilation, pads })
    }

    pub fn is_symmetric(&self) -> bool {
        self.pads[0] == self.pads[2] && self.pads[1] == self.pads[3]
    }
}

fn sizes(name: &str, values: &[i64]) -> Result<Vec<usize>> {
    let sizes: Option<Vec<usize>> = values.iter().map(|&v| usize::try_from(v).ok()).collect();
    sizes.ok_or_else(|| format!("`{name}` has a negative value").into())
}

impl<'a> Lowering<'a> {
    pub fn conv(&mut self, node: Node<'a>) -> Result<View> {
        let input = self.images(node)?;
        let shape = self.nodes[input].shape;
        let weight = self.constant(node, 1)?.ok_or("lacks a weight")?;
        let &[out_channels, per_group, rows, columns] = weight.dims.as_slice() else {
            return Err(format!("its weight has the shape {:?}: only 2-D is supported", weight.dims).into());
        };
        let window = Window::read(node, Some([rows, columns]), shape)?;
        let groups = usize::try_from(node.int("group")?.unwrap_or(1)).map_err(|_| "a negative `group`")?;
        let in_channels = per_group.checked_mul(groups).ok_or("too many channels")?;
        let bias = self.constant(node, 2)?;
        let mut conv = Conv2d {
            in_channels,
            out_channels,
            kernel: window.kernel,
            stride: window.stride,
            padding: [window.pads[0], window.pads[1]],
            dilation: window.dilation,
            groups,
            bias: bias.is_some(),
        };
        self.use_parameter_name(&weight.name);
        let values = self.floats(&weight, weight.data.len(), "weight")?;
        let mut params = vec![(Role::Weight, Tensor::new(weight.dims.clone(), values))];
        if let Some(bias) = bias {
            params.push((Role::Bias, Tensor::new([out_channels], self.floats(&bias, out_channels, "bias")?)));
        }
        let mut from = input;
        if !window.is_symmetric() {
            conv.padding = [0, 0];
            from = self.border(input, window.pads, 0.0)?;
        }
        let node = self.add(LoweredOp::Op(Op::Conv2d(conv)), vec![from], params, None)?;
        Ok(self.image(node))
    }

    pub fn border(&mut self, input: usize, sides: [usize; 4], value: f64) -> Result<usize> {
        self.add_named("pad", LoweredOp::Op(Op::Pad2d { sides, value }), vec![input], vec![], None)
    }

    pub fn gemm(&mut self, node: Node<'a>) -> Result<View> {
        if node.flag("transA")? {
            return Err("`transA` is not supported".into());
        }
        let weight = self.constant(node, 1)?.ok_or("lacks a weight")?;
        let &[rows, columns] = weight.dims.as_slice() else {
            return Err(format!("its weight has the shape {:?}", weight.dims).into());
        };
        self.use_parameter_name(&weight.name);
        let (alpha, beta) = (node.float("alpha")?.unwrap_or(1.0), node.float("beta")?.unwrap_or(1.0));
        let transposed = node.flag("transB")?;
        let mut values = self.floats(&weight, weight.data.len(), "weight")?;
        let [out_features, in_features] = if transposed { [rows, columns] } else { [columns, rows] };
        if !transposed {
            values = fold::permute(&values, &weight.dims, &[1, 0]);
        }
        if alpha != 1.0 {
            values.iter_mut().for_each(|v| *v *= alpha);
        }
        let bias = match self.constant(node, 2)? {
            None => None,
            Some(bias) => {
                let mut values = bias.as_floats()?.to_vec();
                if values.len() == 1 {
                    self.charge(out_features)?;
                    values = vec![values[0]; out_features];
                } else if bias.dims.last() != Some(&out_features) || values.len() != out_features || bias.dims.len() > 2
                {
                    return Err(format!("its bias has the shape {:?}", bias.dims).into());
                }
                values.iter_mut().for_each(|v| *v *= beta);
                Some(values)
            }
        };
        self.linear(node, values, [out_features, in_features], bias)
    }

    pub fn matmul(&mut self, node: Node<'a>) -> Result<View> {
        let weight = self.constant(node, 1)?.ok_or("lacks a weight")?;
        let &[in_features, out_features] = weight.dims.as_slice() else {
            return Err(format!("its weight has the shape {:?}", weight.dims).into());
        };
        self.use_parameter_name(&weight.name);
        let values = self.floats(&weight, weight.data.len(), "weight")?;
        let values = fold::permute(&values, &weight.dims, &[1, 0]);
        self.linear(node, values, [out_features, in_features], None)
    }

    /// Adds a linear layer with a weight `[out, in]`.
    fn linear(
        &mut self,
        node: Node<'a>,
        mut weight: Vec<f32>,
        [out_features, in_features]: [usize; 2],
        bias: Option<Vec<f32>>,
    ) -> Result<View> {
        let mut x = self.view(node, 0)?;
        // The input may be `[features]`, of one image.
        let single = x.rank() == 1 && self.batch == 1 && node.op() == "MatMul";
        if single {
            x = x.unsqueeze(0);
        }
        if x.rank() != 2 {
            return Err(format!("its input has the shape {:?}: only [N, features] is supported", x.shape()).into());
        }
        self.charge(weight.len())?;
        let input = if let Some(order) = self.flattened_order(&x) {
            // The features are those of a transposed image; the columns of the weight are moved instead.
            if order.dims.iter().skip(1).product::<usize>() != in_features {
                return Err(format!("its weight has {in_features} inputs for {:?}", x.shape()).into());
            }
            let inverse: Vec<usize> =
                (1..order.dims.len()).map(|axis| order.perm.iter().position(|&p| p == axis).unwrap_or(0)).collect();
            let columns: Vec<usize> = order.shape()[1..].to_vec();
            let dims: Vec<usize> = [&[out_features], columns.as_slice()].concat();
            let perm: Vec<usize> = [&[0], inverse.as_slice()].concat();
            weight = fold::permute(&weight, &dims, &perm);
            let plain = View::plain(order.node, vec![self.batch, in_features]);
            self.nchw(&plain)?
        } else {
            self.nchw(&x)?
        };
        let mut params = vec![(Role::Weight, Tensor::new([out_features, in_features], weight))];
        let op = Op::Linear { in_features, out_features, bias: bias.is_some() };
        if let Some(bias) = bias {
            params.push((Role::Bias, Tensor::new([out_features], bias)));
        }
        let node = self.add(LoweredOp::Op(op), vec![input], params, None)?;
        let features = self.features(node);
        Ok(if single { features.squeeze(0) } else { features })
    }

    pub fn batch_norm(&mut self, node: Node<'a>) -> Result<View> {
        if is_training(node, self.opset)? {
            return Err(Refusal::hint("takes its statistics from the images, as in training", EVALUATION));
        }
        if self.opset < 9 && node.int("spatial")? == Some(0) {
            return Err("statistics for each pixel (`spatial` is 0) are not supported".into());
        }
        let x = self.view(node, 0)?;
        let (input, view) = self.channels_second(&x)?;
        let channels = self.nodes[input].shape.channels;
        let eps = node.decimal("epsilon", 1e-5)?;
        let mut params = Vec::new();
        for (index, role) in [(1, Role::Gamma), (2, Role::Bias), (3, Role::Mean), (4, Role::Variance)] {
            let values = self.constant(node, index)?.ok_or_else(|| format!("lacks input {index}"))?;
            if index == 1 {
                self.use_parameter_name(&values.name);
            }
            params.push((role, Tensor::new([channels], self.floats(&values, channels, role.suffix())?)));
        }
        let node = self.add(LoweredOp::Op(Op::BatchNorm2d { channels, eps }), vec![input], params, None)?;
        Ok(View { node, ..view })
    }

    pub fn lrn(&mut self, node: Node<'a>) -> Result<View> {
        let input = self.images(node)?;
        let size = node.int("size")?.ok_or("lacks `size`")?;
        let stated = usize::try_from(size).map_err(|_| "a negative `size`")?;
        // A window of twice the channels holds all of them at any position; a larger one only divides by more.
        let size = stated.min(self.nodes[input].shape.channels.saturating_mul(2));
        let share = if size < stated { size as f64 / stated as f64 } else { 1.0 };
        let op = Op::Lrn {
            size,
            alpha: node.decimal("alpha", 1e-4)? * share,
            beta: node.decimal("beta", 0.75)?,
            k: node.decimal("bias", 1.0)?,
        };
        self.simple(op, input)
    }

    /// Lowers a softmax over channels, or at the end of the network its logarithm or the index of the largest class.
    pub fn softmax(&mut self, node: Node<'a>) -> Result<View> {
        let x = self.view(node, 0)?;
        let default = match node.op() {
            "ArgMax" => 0,
            _ if self.opset < 13 => 1,
            _ => -1,
        };
        let at = axis(node.int("axis")?.unwrap_or(default), x.rank())?;
        // The input may be `[classes]`, of one image.
        let single = x.rank() == 1 && self.batch == 1;
        let (over, input) = match single {
            true => (1, self.nchw(&x.unsqueeze(0))?),
            false => (x.perm[at], self.nchw(&x)?),
        };
        let Shape { channels, height, width } = self.nodes[input].shape;
        // Opset 12 and older include the axes after it.
        let alone = (self.opset >= 13 && node.op() != "ArgMax") || (height == 1 && width == 1);
        if over != 1 || !alone {
            return Err(format!("only over classes is {} supported", node.op()).into());
        }
        let kind = match node.op() {
            "Softmax" => LoweredOp::Op(Op::Softmax),
            "LogSoftmax" => LoweredOp::LogSoftmax,
            _ if channels == 1 => return Err("of one class is always 0".into()),
            _ => LoweredOp::ArgMax,
        };
        let is_index = kind == LoweredOp::ArgMax;
        let result = self.add(kind, vec![input], vec![], None)?;
        if !is_index {
            return Ok(self.over(&x, result));
        }
        let mut dims = x.shape();
        match node.int("keepdims")?.unwrap_or(1) {
            0 => drop(dims.remove(at)),
            _ => dims[at] = 1,
        }
        Ok(View::plain(result, dims))
    }

    /// Lowers the logarithm of a softmax.
    pub fn log(&mut self, node: Node<'a>) -> Result<View> {
        let x = self.view(node, 0)?;
        if self.nodes[x.node].kind != LoweredOp::Op(Op::Softmax) {
            return Err("not supported, but of a softmax at the end".into());
        }
        let logits = self.nodes[x.node].inputs[0];
        let node = self.add(LoweredOp::LogSoftmax, vec![logits], vec![], None)?;
        Ok(self.over(&x, node))
    }

    /// Returns the node of an input `[N, C, H, W]`.
    pub fn images(&mut self, node: Node<'a>) -> Result<usize> {
        let x = self.view(node, 0)?;
        if x.rank() != 4 {
            return Err(format!("its input has the shape {:?}: only [N, C, H, W] is supported", x.shape()).into());
        }
        self.nchw(&x)
    }

    /// Names the current node after its parameter, where that has a name.
    fn use_parameter_name(&mut self, initializer: &str) {
        if let Some(path) = names::of_parameter(initializer) {
            self.wanted = path.to_owned();
        }
    }

    /// Returns the node and the view of a value whose channels are axis 1, for an operation on channels.
    pub fn channels_second(&mut self, x: &View) -> Result<(usize, View)> {
        let channels = self.nodes[x.node].shape.channels;
        let direct = x.dims.get(..2) == Some(&[self.batch, channels]) && x.perm.get(1) == Some(&1);
        if direct {
            return Ok((x.node, x.clone()));
        }
        let node = self.nchw(x)?;
        Ok((node, self.over(x, node)))
    }
}

/// Returns the only element of a constant, if it is a finite float.
pub(super) fn scalar(constant: &super::constant::Constant) -> Result<f64> {
    match (&constant.data, constant.scalar()) {
        (Data::Float(_), Some(value)) if value.is_finite() => Ok(decimal(value)),
        _ => Err(format!("a constant of shape {:?} where one finite number belongs", constant.dims).into()),
    }
}

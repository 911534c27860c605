//! Reads the input of a network, which is an image.
use std::collections::{BTreeSet, HashSet};

use graph::Shape;

use super::{ImportError, ImportOptions, malformed};
use crate::proto::{DataType, DimensionValue, GraphProto, ValueInfoProto};

/// The input image.
pub(super) struct Image<'a> {
    pub name: &'a str,
    pub shape: Shape,
    /// The order of the axes `[N, C, H, W]` in the file.
    pub order: [usize; 4],
    /// The number of images, where it is fixed.
    pub batch: Option<usize>,
    /// Whether the elements are bytes.
    pub bytes: bool,
}

/// Finds the only input that is not a constant and that a node reads.
pub(super) fn find(graph: &GraphProto) -> Result<&ValueInfoProto, ImportError> {
    // Files from 2018 list constants among the inputs.
    let constants: HashSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    let mut inputs: Vec<&ValueInfoProto> =
        graph.input.iter().filter(|input| !constants.contains(input.name.as_str())).collect();
    if inputs.len() > 1 {
        let mut names = BTreeSet::new();
        graph.node.iter().for_each(|node| super::inline::read(node, &mut names));
        inputs.retain(|input| names.contains(input.name.as_str()));
    }
    match inputs.as_slice() {
        [input] => Ok(input),
        [] => Err(malformed("it has no input")),
        [first, second, ..] => Err(ImportError::Input {
            input: second.name.clone(),
            why: format!("a second input beside '{}'", first.name),
            hint: Some("only networks that look at one image are supported"),
        }),
    }
}

pub(super) fn read<'a>(input: &'a ValueInfoProto, options: &ImportOptions) -> Result<Image<'a>, ImportError> {
    let refuse = |why: String, hint: Option<&'static str>| ImportError::Input { input: input.name.clone(), why, hint };
    let tensor = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    let shape = tensor.and_then(|t| t.shape.as_ref()).ok_or_else(|| refuse("has no shape".into(), None))?;
    let kind = tensor.and_then(|t| DataType::try_from(t.elem_type).ok()).unwrap_or(DataType::Undefined);
    let bytes = kind == DataType::Uint8;
    if !bytes && !super::constant::is_float(kind) {
        let hint = "the network must take the normalised image, or its bytes (uint8)";
        return Err(refuse("is not of floats".into(), Some(hint)));
    }
    if shape.dim.len() != 4 {
        return Err(refuse(format!("has {} axes, an image batch has 4", shape.dim.len()), None));
    }
    let mut sizes = [None; 4];
    for (size, dim) in sizes.iter_mut().zip(&shape.dim) {
        // PaddlePaddle writes -1 where a size is open.
        if let Some(DimensionValue::DimValue(value)) = dim.value
            && value != 0
            && value != -1
        {
            let value = usize::try_from(value).ok().filter(|&v| v <= 1 << 16);
            *size = Some(value.ok_or_else(|| refuse("has an impossible size".into(), None))?);
        }
    }
    let [batch, a, b, c] = sizes;
    // Channels come last where only that makes sense.
    let is_side = |size: Option<usize>| size.is_none_or(|size| size >= 8);
    let is_last = matches!(c, Some(1 | 3)) && is_side(a) && is_side(b);
    let (channels, rows, columns) = if is_last { (c, a, b) } else { (a, b, c) };
    let channels = channels.ok_or_else(|| refuse("the number of channels is left open".into(), None))?;
    let given = options.input.unwrap_or_default();
    let side = |stated: Option<usize>, given: usize| match (stated, given) {
        (Some(stated), 0) => Ok(stated),
        (Some(stated), given) if stated == given => Ok(stated),
        (Some(stated), given) => Err(refuse(format!("takes images of {stated} pixels a side, not of {given}"), None)),
        (None, 0) => Err(ImportError::OpenSize { input: input.name.clone() }),
        (None, given) => Ok(given),
    };
    let (rows, columns) = (side(rows, given[0])?, side(columns, given[1])?);
    let order = if is_last { [0, 2, 3, 1] } else { [0, 1, 2, 3] };
    Ok(Image { name: &input.name, shape: Shape::new(channels, rows, columns), order, batch, bytes })
}

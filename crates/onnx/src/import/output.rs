//! Finds the logits among the outputs of a network.
use graph::{Activation, Op};

use super::lower::{Lowered, LoweredOp, Lowering, Value};
use super::view::View;
use super::{ImportError, malformed};
use crate::proto::GraphProto;

/// Returns the node of the logits. Where the file has several outputs, the others must be computed from the logits alone.
///
/// # Errors
/// An output is not one value for each class, or the outputs are not of the same logits.
pub(super) fn logits(graph: &GraphProto, lowering: &mut Lowering<'_>) -> Result<usize, ImportError> {
    if graph.output.is_empty() {
        return Err(malformed("it has 0 outputs, a classifier has one"));
    }
    let mut nodes = Vec::new();
    for output in &graph.output {
        let refuse = |why: String| ImportError::Output { output: output.name.clone(), why, hint: None };
        nodes.push(match lowering.values.get(output.name.as_str()).cloned() {
            None => return Err(refuse("no node computes it".into())),
            Some(Value::Constant(_)) => return Err(refuse("does not depend on the image".into())),
            Some(Value::View(view)) if lowering.nodes[view.node].kind == LoweredOp::ArgMax => view.node,
            Some(Value::View(view)) => {
                let whole = with_batch(&view, lowering.batch);
                lowering.nchw(&whole).map_err(|refusal| refuse(refusal.why))?
            }
        });
    }
    if let &[node] = nodes.as_slice() {
        return Ok(node);
    }
    let bases: Vec<usize> = nodes.iter().map(|&node| base(&lowering.nodes, node)).collect();
    if let Some(other) = bases.iter().position(|&base| base != bases[0]) {
        return Err(ImportError::Output {
            output: graph.output[other].name.clone(),
            why: format!("a second output beside '{}', and not of the same logits", graph.output[0].name),
            hint: Some(
                "keep the classifier's output alone: `onnx.utils.extract_model(\"x.onnx\", \"one.onnx\", [\"INPUT\"], [\"OUTPUT\"])`",
            ),
        });
    }
    let kept = nodes.iter().position(|&node| node == bases[0]);
    let left: Vec<String> = (0..nodes.len())
        .filter(|&i| Some(i) != kept)
        .map(|i| format!("'{}' ({})", graph.output[i].name, lowering.nodes[nodes[i]].origin.1))
        .collect();
    if !left.is_empty() {
        let what = kept.map_or("what they are computed from".to_owned(), |i| format!("'{}'", graph.output[i].name));
        lowering.notes.push(format!("of its outputs {} left out: the logits are {what}", are(&left)));
    }
    Ok(bases[0])
}

fn are(names: &[String]) -> String {
    format!("{} {}", names.join(" and "), if names.len() == 1 { "is" } else { "are" })
}

/// Returns the view with a batch, which the logits of one image may lack.
fn with_batch(view: &View, batch: usize) -> View {
    if batch == 1 && view.rank() == 1 { view.unsqueeze(0) } else { view.clone() }
}

/// Returns the node from which probabilities or the index of a class are computed.
fn base(nodes: &[Lowered], mut node: usize) -> usize {
    while is_of_logits(&nodes[node]) {
        node = nodes[node].inputs[0];
    }
    node
}

fn is_of_logits(node: &Lowered) -> bool {
    match &node.kind {
        LoweredOp::ArgMax
        | LoweredOp::LogSoftmax
        | LoweredOp::Op(Op::Softmax | Op::Activation(Activation::Sigmoid)) => {
            (node.shape.height, node.shape.width) == (1, 1)
        }
        _ => false,
    }
}

//! Builds a `GraphProto` with unique names.
use std::collections::HashSet;

use crate::proto::{AttributeProto, GraphProto, NodeProto, TensorProto};

use super::attribute;

/// The name of the graph's input.
pub(super) const INPUT: &str = "image";
/// The name of the graph's output.
pub(super) const OUTPUT: &str = "logits";

/// A `GraphProto` that is being built.
#[derive(Default)]
pub(super) struct Emitter {
    pub(super) graph: GraphProto,
    /// The names of nodes and constants. A node has the name of its output.
    names: HashSet<String>,
}

impl Emitter {
    pub(super) fn new(name: &str) -> Self {
        let graph = GraphProto { name: name.into(), ..Default::default() };
        Self { graph, names: [INPUT, OUTPUT].map(String::from).into() }
    }

    /// Returns `wanted`, or `wanted_2` and so on where that is taken.
    fn fresh(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut count = 1;
        while !self.names.insert(name.clone()) {
            count += 1;
            name = format!("{wanted}_{count}");
        }
        name
    }

    /// Adds a node and returns the name of its output, which is also that of the node.
    pub(super) fn node(
        &mut self,
        name: &str,
        op_type: &str,
        inputs: &[&str],
        attribute: impl Into<Vec<AttributeProto>>,
    ) -> String {
        let name = self.fresh(name);
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|&input| input.into()).collect(),
            output: vec![name.clone()],
            name: name.clone(),
            op_type: op_type.into(),
            attribute: attribute.into(),
            ..Default::default()
        });
        name
    }

    /// Returns the node that was added last.
    ///
    /// # Panics
    /// Panics if there is none.
    pub(super) fn last(&mut self) -> &mut NodeProto {
        self.graph.node.last_mut().expect("a node was added")
    }

    /// Adds a constant and returns its name.
    pub(super) fn constant(&mut self, name: &str, tensor: TensorProto) -> String {
        let name = self.fresh(name);
        self.graph.initializer.push(TensorProto { name: name.clone(), ..tensor });
        name
    }

    /// Records the shape of a value, without its batch.
    pub(super) fn shape(&mut self, value: &str, dims: &[usize]) {
        self.graph.value_info.push(attribute::value(value, dims));
    }
}

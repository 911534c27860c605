//! Prepares a file for lowering: inlines its functions and sorts its nodes.
use std::collections::{BTreeSet, HashMap};

use prost::Message;

use super::{ImportError, malformed};
use crate::proto::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto};

/// The limit of nodes after inlining, which is more than any network has.
const MAX_NODES: usize = 200_000;

/// The limit of the nesting of calls.
const MAX_DEPTH: usize = 32;

/// Replaces calls of the model's functions by the nodes of the functions, and sorts the nodes.
///
/// `bytes` is the size of the file, which limits the size of the inlined nodes.
///
/// # Errors
/// A function calls itself, or there are more nodes than any network has, or nodes feed each other.
pub(super) fn prepare(model: &mut ModelProto, opset: i64, bytes: usize) -> Result<(), ImportError> {
    let functions = std::mem::take(&mut model.functions);
    let Some(graph) = &mut model.graph else { return Ok(()) };
    if !functions.is_empty() {
        let by_name =
            functions.iter().map(|f| ((domain(&f.domain), f.name.as_str(), f.overload.as_str()), f)).collect();
        let mut inliner = Inliner {
            functions: by_name,
            opset,
            calls: 0,
            nodes: 0,
            bytes: bytes.saturating_mul(4).saturating_add(1 << 22),
        };
        inliner.graph(graph, 0)?;
    }
    sort(graph)
}

fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

/// The state of inlining.
struct Inliner<'a> {
    /// The functions by domain, name and overload.
    functions: HashMap<(&'a str, &'a str, &'a str), &'a FunctionProto>,
    opset: i64,
    calls: usize,
    nodes: usize,
    /// The bytes that nodes of functions may still take.
    bytes: usize,
}

impl Inliner<'_> {
    fn graph(&mut self, graph: &mut GraphProto, depth: usize) -> Result<(), ImportError> {
        let nodes = std::mem::take(&mut graph.node);
        for node in nodes {
            self.node(node, depth, &mut graph.node)?;
        }
        Ok(())
    }

    fn node(&mut self, mut node: NodeProto, depth: usize, out: &mut Vec<NodeProto>) -> Result<(), ImportError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(malformed("its functions make more nodes than any network has"));
        }
        if depth > MAX_DEPTH {
            return Err(malformed(format!("its function '{}' calls itself, or others too deep", node.op_type)));
        }
        let key = (domain(&node.domain), node.op_type.as_str(), node.overload.as_str());
        let Some(&function) = self.functions.get(&key) else {
            for graph in node.attribute.iter_mut().filter_map(|attribute| attribute.g.as_mut()) {
                self.graph(graph, depth + 1)?;
            }
            out.push(node);
            return Ok(());
        };
        let other =
            |set: &&crate::proto::OperatorSetIdProto| domain(&set.domain).is_empty() && set.version != self.opset;
        if let Some(set) = function.opset_import.iter().find(other) {
            return Err(malformed(format!(
                "its function '{}' is of opset {}, the model of opset {}",
                function.name, set.version, self.opset
            )));
        }
        self.calls += 1;
        let call = Call { function, node: &node, prefix: format!("{}/{}", title(&node), self.calls) };
        for inner in &function.node {
            let instance = call.instance(inner);
            let left = self.bytes.checked_sub(instance.encoded_len());
            self.bytes = left.ok_or_else(|| malformed("its functions make more of it than its size justifies"))?;
            self.node(instance, depth + 1, out)?;
        }
        Ok(())
    }
}

fn title(node: &NodeProto) -> &str {
    match (node.name.as_str(), node.output.first()) {
        ("", Some(output)) => output,
        (name, _) => name,
    }
}

/// A call of a function.
struct Call<'a> {
    function: &'a FunctionProto,
    node: &'a NodeProto,
    /// The prefix of the names of values within the function.
    prefix: String,
}

impl Call<'_> {
    /// Returns the name outside of a value within the function.
    fn value(&self, name: &str) -> String {
        if name.is_empty() {
            return String::new();
        }
        let place = |formal: &[String], actual: &[String]| {
            formal.iter().position(|f| f == name).map(|i| actual.get(i).cloned().unwrap_or_default())
        };
        if let Some(actual) = place(&self.function.input, &self.node.input) {
            return actual;
        }
        match place(&self.function.output, &self.node.output) {
            Some(actual) if !actual.is_empty() => actual,
            _ => format!("{}/{name}", self.prefix),
        }
    }

    /// Returns a node of the function with the names and attributes of this call.
    fn instance(&self, inner: &NodeProto) -> NodeProto {
        let mut node = inner.clone();
        self.rename(&mut node);
        node
    }

    fn rename(&self, node: &mut NodeProto) {
        node.name = match node.name.as_str() {
            "" => String::new(),
            name => format!("{}/{name}", title(self.node)),
        };
        for name in node.input.iter_mut().chain(&mut node.output) {
            *name = self.value(name);
        }
        let attributes = std::mem::take(&mut node.attribute);
        node.attribute = attributes.into_iter().filter_map(|attribute| self.attribute(attribute)).collect();
    }

    /// Returns an attribute with the value of the call, or nothing where neither the call nor the function has a value.
    fn attribute(&self, mut attribute: AttributeProto) -> Option<AttributeProto> {
        if !attribute.ref_attr_name.is_empty() {
            let named = |list: &[AttributeProto]| list.iter().find(|a| a.name == attribute.ref_attr_name).cloned();
            let given = named(&self.node.attribute).or_else(|| named(&self.function.attribute_proto))?;
            return Some(AttributeProto { name: attribute.name, ..given });
        }
        if let Some(graph) = &mut attribute.g {
            graph.node.iter_mut().for_each(|node| self.rename(node));
            for value in graph.input.iter_mut().chain(&mut graph.output) {
                value.name = self.value(&value.name);
            }
            for tensor in &mut graph.initializer {
                tensor.name = self.value(&tensor.name);
            }
        }
        Some(attribute)
    }
}

/// Puts nodes after those whose outputs they read, and otherwise keeps their order.
fn sort(graph: &mut GraphProto) -> Result<(), ImportError> {
    for node in &mut graph.node {
        for inner in node.attribute.iter_mut().filter_map(|attribute| attribute.g.as_mut()) {
            sort(inner)?;
        }
    }
    let mut makers: HashMap<&str, usize> = HashMap::new();
    for (i, node) in graph.node.iter().enumerate() {
        for output in node.output.iter().filter(|output| !output.is_empty()) {
            // Two values of one name are refused later; until then the first counts.
            makers.entry(output).or_insert(i);
        }
    }
    let mut readers: Vec<Vec<usize>> = vec![vec![]; graph.node.len()];
    let mut waits = vec![0usize; graph.node.len()];
    let mut is_sorted = true;
    for (i, node) in graph.node.iter().enumerate() {
        let mut names = BTreeSet::new();
        read(node, &mut names);
        let from: BTreeSet<usize> = names.into_iter().filter_map(|name| makers.get(name).copied()).collect();
        for maker in from {
            readers[maker].push(i);
            waits[i] += 1;
            is_sorted &= maker < i;
        }
    }
    if is_sorted {
        return Ok(());
    }
    let mut ready: BTreeSet<usize> = (0..waits.len()).filter(|&i| waits[i] == 0).collect();
    let mut order = Vec::with_capacity(waits.len());
    while let Some(next) = ready.pop_first() {
        order.push(next);
        for &reader in &readers[next] {
            waits[reader] -= 1;
            if waits[reader] == 0 {
                ready.insert(reader);
            }
        }
    }
    if let Some(stuck) = waits.iter().position(|&n| n > 0) {
        return Err(malformed(format!(
            "node '{}' waits for its own output: nodes feed each other",
            title(&graph.node[stuck])
        )));
    }
    let mut nodes: Vec<NodeProto> = std::mem::take(&mut graph.node);
    graph.node = order.into_iter().map(|i| std::mem::take(&mut nodes[i])).collect();
    Ok(())
}

/// Collects all names that a node reads, also in graphs within it.
pub(super) fn read<'a>(node: &'a NodeProto, names: &mut BTreeSet<&'a str>) {
    names.extend(node.input.iter().map(String::as_str).filter(|name| !name.is_empty()));
    for graph in node.attribute.iter().filter_map(|attribute| attribute.g.as_deref()) {
        graph.node.iter().for_each(|node| read(node, names));
        names.extend(graph.output.iter().map(|output| output.name.as_str()));
    }
}

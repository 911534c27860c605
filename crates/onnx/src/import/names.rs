//! The names of nodes, which are the module paths of the network where the file tells them.
use std::collections::HashMap;

use super::node::Node;

/// The limit of bytes of a name from a file.
const MAX_LENGTH: usize = 200;

/// The names that are taken.
#[derive(Debug, Default)]
pub(super) struct UniqueNames(HashMap<String, usize>);

impl UniqueNames {
    /// Returns `wanted`, with a number after it where it is taken.
    pub fn unique(&mut self, wanted: &str) -> String {
        let mut name = clean(wanted);
        if name.is_empty() {
            name = "node".to_owned();
        }
        loop {
            let Some(taken) = self.0.get_mut(&name) else {
                self.0.insert(name.clone(), 0);
                return name;
            };
            *taken += 1;
            let next = format!("{name}_{taken}");
            if !self.0.contains_key(&next) {
                self.0.insert(next.clone(), 0);
                return next;
            }
        }
    }
}

/// Returns the path of a parameter's module, `layer1.0.conv1` for `layer1.0.conv1.weight`.
pub(super) fn of_parameter(initializer: &str) -> Option<&str> {
    initializer.strip_suffix(".weight").filter(|path| !path.is_empty())
}

/// Returns a name for the result of a node. In a sequence, PyTorch's exporter writes each part of a path with the parts above
/// it: `/layer1/layer1.0/conv1/Conv` is `layer1.0.conv1`.
pub(super) fn of_node(node: Node<'_>) -> String {
    let name = node.0.name.as_str();
    let Some(path) = name.strip_prefix('/') else {
        return if name.is_empty() { node.op().to_lowercase() } else { name.to_owned() };
    };
    let mut parts: Vec<&str> = Vec::new();
    let (modules, last) = path.rsplit_once('/').unwrap_or(("", path));
    for part in modules.split('/').filter(|part| !part.is_empty()) {
        let repeats =
            parts.last().is_some_and(|above| part.strip_prefix(above).is_some_and(|rest| rest.starts_with('.')));
        if repeats {
            parts.pop();
        }
        parts.push(part);
    }
    if parts.is_empty() { last.to_lowercase() } else { parts.join(".") }
}

/// Replaces the characters that would break a table, a config or a log.
pub(super) fn clean(name: &str) -> String {
    let mut clean: String = name.chars().map(|c| if c.is_control() || c == '`' { '_' } else { c }).collect();
    if clean.len() > MAX_LENGTH {
        let end = (0..=MAX_LENGTH).rev().find(|&end| clean.is_char_boundary(end)).unwrap_or(0);
        clean.truncate(end);
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::NodeProto;

    #[test]
    fn paths_of_modules() {
        let name = |name: &str| {
            let proto = NodeProto { name: name.into(), op_type: "Conv".into(), ..NodeProto::default() };
            of_node(Node(&proto))
        };
        assert_eq!(name("/layer1/layer1.0/conv1/Conv"), "layer1.0.conv1");
        assert_eq!(name("/features/features.0/features.0.0/Conv"), "features.0.0");
        assert_eq!(name("/conv1/Conv"), "conv1");
        assert_eq!(name("/Flatten"), "flatten");
        assert_eq!(name("conv1/7x7_s2"), "conv1/7x7_s2");
        assert_eq!(name(""), "conv");
        assert_eq!(of_parameter("layer1.0.conv1.weight"), Some("layer1.0.conv1"));
        assert_eq!((of_parameter(".weight"), of_parameter("onnx::Conv_497")), (None, None));
    }

    #[test]
    fn names_come_once() {
        let mut names = UniqueNames::default();
        let given: Vec<String> =
            ["relu", "relu", "relu_1", "relu", "", "a\nb"].iter().map(|n| names.unique(n)).collect();
        assert_eq!(given, ["relu", "relu_1", "relu_1_1", "relu_2", "node", "a_b"]);
        assert_eq!(names.unique(&"é".repeat(200)).len(), 200);
    }
}

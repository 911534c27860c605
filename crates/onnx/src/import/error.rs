//! The errors of import.
use graph::GraphError;

/// The reason why a file cannot be imported. [`ImportError::hint`] gives advice, where there is any.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The bytes are not protocol buffers, or are cut off.
    #[error("not an ONNX file: {0}")]
    Decode(prost::DecodeError),
    /// The bytes are protocol buffers, but not a usable model.
    #[error("not an ONNX model: {why}")]
    Malformed {
        /// The mistake.
        why: String,
    },
    /// The version of an operator set is not supported.
    #[error("opset {version} of `{domain}`: this reads opset {} to {} of `ai.onnx`", super::OPSETS.start(), super::OPSETS.end())]
    Opset {
        /// The operator set.
        domain: String,
        /// The version.
        version: i64,
    },
    /// A node is not supported, or is wrong.
    #[error("node '{node}' (op {op}): {why}")]
    Node {
        /// The name of the node, or of its first output.
        node: String,
        /// The operator, with the domain where it is not the standard one.
        op: String,
        /// The mistake.
        why: String,
        /// The advice for the user, if there is any.
        hint: Option<&'static str>,
    },
    /// A constant cannot be read.
    #[error("tensor '{tensor}': {why}")]
    Tensor {
        /// The name of the tensor.
        tensor: String,
        /// The mistake.
        why: String,
        /// The advice for the user, if there is any.
        hint: Option<&'static str>,
    },
    /// The input of the network is not one image `[N, C, H, W]`.
    #[error("input '{input}': {why}")]
    Input {
        /// The name of the input.
        input: String,
        /// The mistake.
        why: String,
        /// The advice for the user, if there is any.
        hint: Option<&'static str>,
    },
    /// The file leaves the size of the image open, and [`super::ImportOptions::input`] does not give it.
    #[error("input '{input}': the size of the image is left open")]
    OpenSize {
        /// The name of the input.
        input: String,
    },
    /// The output of the network is not one value for each class.
    #[error("output '{output}': {why}")]
    Output {
        /// The name of the output.
        output: String,
        /// The mistake.
        why: String,
        /// The advice for the user, if there is any.
        hint: Option<&'static str>,
    },
    /// The nodes do not make a graph.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

impl From<prost::DecodeError> for ImportError {
    fn from(error: prost::DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl ImportError {
    /// Returns advice for the user, if there is any.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Node { hint, .. }
            | Self::Tensor { hint, .. }
            | Self::Input { hint, .. }
            | Self::Output { hint, .. } => *hint,
            Self::OpenSize { .. } => Some("give it, such as `--input 224`"),
            Self::Opset { version, .. } if *version < *super::OPSETS.start() => {
                Some("convert it with `onnx.version_converter.convert_version(model, 17)`")
            }
            _ => None,
        }
    }
}

/// The reason why a node is refused, without the node.
#[derive(Debug)]
pub(super) struct Refusal {
    pub why: String,
    pub hint: Option<&'static str>,
    /// The error that is reported instead, where it is not about the node.
    pub whole: Option<Box<ImportError>>,
}

pub(super) type Result<T> = std::result::Result<T, Refusal>;

impl Refusal {
    pub fn hint(why: impl Into<String>, hint: &'static str) -> Self {
        Self { why: why.into(), hint: Some(hint), whole: None }
    }

    /// Makes the error of a node.
    pub fn at(self, node: &str, op: &str) -> ImportError {
        match self.whole {
            Some(error) => *error,
            None => ImportError::Node { node: node.to_owned(), op: op.to_owned(), why: self.why, hint: self.hint },
        }
    }
}

impl<T: Into<String>> From<T> for Refusal {
    fn from(why: T) -> Self {
        Self { why: why.into(), hint: None, whole: None }
    }
}

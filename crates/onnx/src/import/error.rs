use graph::GraphError;

/// Why a file cannot be imported. [`ImportError::hint`] says what to do about it, where something can be done.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// Not protocol buffers, or cut off.
    #[error("not an ONNX file: {0}")]
    Decode(#[from] prost::DecodeError),
    /// Protocol buffers, but not a usable model.
    #[error("not an ONNX model: {why}")]
    Malformed {
        /// What is missing or wrong.
        why: String,
    },
    /// An operator set that this does not know.
    #[error("opset {version} of `{domain}`: this reads opset {} to {} of `ai.onnx`", super::OPSETS.start(), super::OPSETS.end())]
    Opset {
        /// The operator set.
        domain: String,
        /// Its version.
        version: i64,
    },
    /// A node that is not supported, or that is wrong.
    #[error("node '{node}' (op {op}): {why}")]
    Node {
        /// Its name, or its first output's.
        node: String,
        /// Its type, with the domain where it is not the standard one.
        op: String,
        /// What is wrong.
        why: String,
        /// What to do.
        hint: Option<&'static str>,
    },
    /// A constant that cannot be read.
    #[error("tensor '{tensor}': {why}")]
    Tensor {
        /// Its name.
        tensor: String,
        /// What is wrong.
        why: String,
        /// What to do.
        hint: Option<&'static str>,
    },
    /// The network's input is not one image `[N, C, H, W]`.
    #[error("input '{input}': {why}")]
    Input {
        /// Its name.
        input: String,
        /// What is wrong.
        why: String,
        /// What to do.
        hint: Option<&'static str>,
    },
    /// The file leaves the size of the image open: [`super::ImportOptions::input`] can say it.
    #[error("input '{input}': the size of the image is left open")]
    OpenSize {
        /// Its name.
        input: String,
    },
    /// The network's output is not one value for each class.
    #[error("output '{output}': {why}")]
    Output {
        /// Its name.
        output: String,
        /// What is wrong.
        why: String,
        /// What to do.
        hint: Option<&'static str>,
    },
    /// The whole does not make a graph.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

impl ImportError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Node { hint, .. }
            | Self::Tensor { hint, .. }
            | Self::Input { hint, .. }
            | Self::Output { hint, .. } => *hint,
            Self::OpenSize { .. } => Some("give it, such as `--input-size 224`"),
            Self::Opset { version, .. } if *version < *super::OPSETS.start() => {
                Some("convert it with `onnx.version_converter.convert_version(model, 17)`")
            }
            _ => None,
        }
    }
}

/// Why one node cannot be taken over, before it is known which.
#[derive(Debug)]
pub(super) struct Refusal {
    pub why: String,
    pub hint: Option<&'static str>,
    /// An error of another kind, as it is.
    pub whole: Option<Box<ImportError>>,
}

pub(super) type Result<T> = std::result::Result<T, Refusal>;

impl Refusal {
    pub fn hint(why: impl Into<String>, hint: &'static str) -> Self {
        Self { why: why.into(), hint: Some(hint), whole: None }
    }

    /// About this node.
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

//! What `dsconv export` is told.
use clap::ValueEnum;
use distill::Calibration;

use crate::models::{Changes, ModelSpec};
use crate::output::Target;

/// The model to write in another file format, and how.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// The model.
    pub model: ModelSpec,
    /// How the network of a checkpoint differs from the zoo's.
    pub changes: Changes,
    /// The format; `None` for the one that the file's ending names.
    pub format: Option<ExportFormat>,
    /// What an ONNX file holds.
    pub onnx: OnnxOptions,
    /// Whether only what would be written is shown.
    pub dry_run: bool,
    /// The file to write.
    pub target: Target,
}

/// The format of a file that is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// Packed codes, block scales and the graph, in one safetensors file
    Safetensors,
    /// The same, ready to run in integers: checked, aligned, with an input and its logits
    Dsc,
    /// Dequantized floats under the names of torchvision's modules, for `load_state_dict`
    StateDict,
    /// An ONNX file: see --profile
    Onnx,
}

/// What an ONNX file holds.
#[derive(Debug, Clone, Default)]
pub struct OnnxOptions {
    /// The kind of numbers; `None` for the one that fits the model.
    pub profile: Option<OnnxProfile>,
    /// Whether the profile int4 rounds the inputs of layers; `None` for yes.
    pub activations: Option<bool>,
    /// The images on which the ranges of the profile int8 are found.
    pub calibrate: Option<String>,
    /// How those ranges are found; `None` for the least squared error.
    pub calibration: Option<Calibration>,
    /// The most images for that; `None` for 256.
    pub calibration_images: Option<usize>,
    /// Whether activations of the profile int8 are INT8 with zero point 0, in place of UINT8.
    pub symmetric: bool,
}

/// The kinds of numbers in an ONNX file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnnxProfile {
    /// Codes with block scales
    Int4,
    /// 8-bit weights and activations
    Int8,
    /// Floats
    Fp32,
}

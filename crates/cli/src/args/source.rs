use std::path::{Path, PathBuf};

use graph::{ChannelOrder, Preprocess};

/// Each option names its heading: one that is set for all of them would go on to the options after them.
const INPUT: &str = "The network's input, which an ONNX file does not tell";

/// A model, as every command takes it.
#[derive(Debug, Clone, clap::Args)]
pub struct ModelArgs {
    /// A name (see `dsconv models`), a file that dsconv wrote, an ONNX file, or a run folder
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Weights of a named network: .pth, .pt, .th or .safetensors
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// What the network expects of an image.
    #[command(flatten)]
    pub image: ImageArgs,
}

/// What a network expects of an image, where its file does not say so or is wrong: the input is
/// `(pixel / divide - mean) / std`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ImageArgs {
    /// Side of the square image, for an ONNX file that leaves it open
    #[arg(long, value_name = "N", help_heading = INPUT, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub input_size: Option<u32>,
    /// Subtracted from the channels, in the order of --order
    #[arg(long, value_name = "C,C,C", help_heading = INPUT, value_parser = triple, allow_hyphen_values = true)]
    pub mean: Option<[f32; 3]>,
    /// Divides the channels after that
    #[arg(long, value_name = "C,C,C", help_heading = INPUT, value_parser = deviations)]
    pub std: Option<[f32; 3]>,
    /// Order of the channels: rgb or bgr
    #[arg(long, value_name = "ORDER", help_heading = INPUT, value_parser = order)]
    pub order: Option<ChannelOrder>,
    /// What pixels of 0..255 are divided by first: 255 for 0..1, 1 for networks of Caffe
    #[arg(long, value_name = "X", help_heading = INPUT, value_parser = divisor)]
    pub divide: Option<f32>,
}

impl ModelArgs {
    /// The files that are read.
    pub fn files(&self) -> Vec<&Path> {
        [Some(Path::new(&self.model)), self.weights.as_deref()].into_iter().flatten().collect()
    }
}

impl ImageArgs {
    /// Whether anything is said but the size.
    pub fn says_values(&self) -> bool {
        self.mean.is_some() || self.std.is_some() || self.order.is_some() || self.divide.is_some()
    }

    /// Changes what is said.
    pub fn apply(&self, preprocess: &mut Preprocess) {
        preprocess.mean = self.mean.unwrap_or(preprocess.mean);
        preprocess.std = self.std.unwrap_or(preprocess.std);
        preprocess.order = self.order.unwrap_or(preprocess.order);
        preprocess.divide = self.divide.unwrap_or(preprocess.divide);
    }
}

fn triple(text: &str) -> Result<[f32; 3], String> {
    let values: Result<Vec<f32>, _> = text.split(',').map(|part| part.trim().parse::<f32>()).collect();
    let values = values.ok().filter(|values| values.iter().all(|value| value.is_finite()));
    values
        .and_then(|values| values.try_into().ok())
        .ok_or_else(|| "three numbers, such as 0.485,0.456,0.406".to_owned())
}

fn deviations(text: &str) -> Result<[f32; 3], String> {
    triple(text)
        .ok()
        .filter(|values| values.iter().all(|&value| value > 0.0))
        .ok_or_else(|| "three numbers above 0, such as 0.229,0.224,0.225".to_owned())
}

fn divisor(text: &str) -> Result<f32, String> {
    text.parse()
        .ok()
        .filter(|&value: &f32| value.is_finite() && value > 0.0)
        .ok_or_else(|| "a number above 0".to_owned())
}

fn order(text: &str) -> Result<ChannelOrder, String> {
    match text {
        "rgb" => Ok(ChannelOrder::Rgb),
        "bgr" => Ok(ChannelOrder::Bgr),
        _ => Err("`rgb` or `bgr`".to_owned()),
    }
}

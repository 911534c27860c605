use std::path::PathBuf;

use graph::{ChannelOrder, ImageConfig, Preprocess, Resize, Said};

use crate::models::ModelSpec;

/// The heading of these options. Each names it by itself: a heading that is set for all of them would go on to the options
/// after them.
const INPUT: &str = "The network's input, which an ONNX file does not tell";

/// The options of a model, which every command takes alike.
#[derive(Debug, Clone, clap::Args)]
pub struct ModelArgs {
    /// A name (see `dsconv models`), a file that dsconv wrote, a checkpoint, an ONNX file, or a run folder
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Weights of a named network: a checkpoint, such as .pth or .safetensors
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Names of the classes in the order of the outputs: a file with one a line, or JSON
    #[arg(long, value_name = "FILE")]
    pub classes: Option<PathBuf>,
    /// The options of what the network expects of an image.
    #[command(flatten)]
    pub image: ImageArgs,
}

/// The options of what a network expects of an image, where its file does not say so or is wrong. Its input is
/// `(pixel / divide - mean) / std`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ImageArgs {
    /// Side of the square input, or height and width, where the network leaves it open: ONNX, or a checkpoint
    #[arg(long, alias = "input-size", value_name = "N|H,W", help_heading = INPUT, value_parser = size)]
    pub input: Option<Resize>,
    /// Resize images so that the shorter side is N, or to H,W; none: not at all
    #[arg(long, value_name = "N|H,W|none", help_heading = INPUT, value_parser = said)]
    pub resize: Option<Said>,
    /// Cut the middle out after that: N,N or H,W; none: do not
    #[arg(long, value_name = "N|H,W|none", help_heading = INPUT, value_parser = said)]
    pub crop: Option<Said>,
    /// Subtracted from the channels, in the order of --order; one value is for all
    #[arg(long, value_name = "C,C,C|C", help_heading = INPUT, value_parser = values, allow_hyphen_values = true)]
    pub mean: Option<Values>,
    /// Divides the channels after that
    #[arg(long, value_name = "C,C,C|C", help_heading = INPUT, value_parser = deviations)]
    pub std: Option<Values>,
    /// Order of the channels: rgb, bgr or grey (one channel)
    #[arg(long, value_name = "ORDER", help_heading = INPUT, value_parser = order)]
    pub order: Option<ChannelOrder>,
    /// What pixels of 0..255 are divided by first: 255 for 0..1, 1 for networks of Caffe
    #[arg(long, value_name = "X", help_heading = INPUT, value_parser = divisor)]
    pub divide: Option<f32>,
}

impl From<ModelArgs> for ModelSpec {
    fn from(ModelArgs { model, weights, classes, image }: ModelArgs) -> Self {
        Self { name: model, weights, state_dict: None, classes, image: image.into() }
    }
}

/// A value for each channel, or one for all.
#[derive(Debug, Clone)]
pub struct Values(pub Vec<f32>);

impl From<ImageArgs> for ImageConfig {
    fn from(ImageArgs { input, resize, crop, mean, std, order, divide }: ImageArgs) -> Self {
        let [mean, std] = [mean, std].map(|values| values.map(|Values(values)| values));
        Self { input, resize, crop, order, divide, mean, std }
    }
}

fn size(text: &str) -> Result<Resize, String> {
    let sides: Option<Vec<usize>> = text.split([',', 'x']).map(|side| side.trim().parse().ok()).collect();
    let sides = sides.filter(|sides| sides.iter().all(|side| (1..=Preprocess::MAX_SIDE).contains(side)));
    match sides.as_deref() {
        Some(&[side]) => Ok(Resize::Shorter(side)),
        Some(&[height, width]) => Ok(Resize::Exact([height, width])),
        _ => Err(format!("one number or height,width, each from 1 to {}", Preprocess::MAX_SIDE)),
    }
}

fn said(text: &str) -> Result<Said, String> {
    match text {
        "none" => Ok(Said::NONE),
        _ => size(text).map(Said::Size).map_err(|why| format!("{why}; or none")),
    }
}

fn values(text: &str) -> Result<Values, String> {
    let values: Result<Vec<f32>, _> = text.split(',').map(|part| part.trim().parse::<f32>()).collect();
    let usable = |values: &Vec<f32>| [1, 3].contains(&values.len()) && values.iter().all(|value| value.is_finite());
    let values = values.ok().filter(usable).map(Values);
    values.ok_or_else(|| "three numbers, such as 0.485,0.456,0.406, or one for all channels".to_owned())
}

fn deviations(text: &str) -> Result<Values, String> {
    values(text)
        .ok()
        .filter(|Values(values)| values.iter().all(|&value| value > 0.0))
        .ok_or_else(|| "three numbers above 0, such as 0.229,0.224,0.225, or one for all channels".to_owned())
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
        "grey" | "gray" => Ok(ChannelOrder::Grey),
        _ => Err("`rgb`, `bgr` or `grey`".to_owned()),
    }
}

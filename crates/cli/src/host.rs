//! Commands for other programs: Python calls [`quantize`] and [`analyze`] with the words that follow the name of the command on
//! its line, `["resnet50.pth", "--bits", "4"]`, so that options, their defaults and errors are the same, and gets values in place
//! of text.
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::Device;
use clap::Parser;
use distill::{Context, Prediction, Report, RunFolder};
use model::{Model, SaveOptions, dsc};
use serde::Serialize;

pub use distill::{Interrupter, Progress};
pub use images::Picture;

use crate::args::{Cli, Command};
use crate::commands::analyze::{self, AnalyzeOptions};
use crate::commands::eval::{self, EvalOptions};
use crate::commands::fitted::FitImages;
use crate::commands::quantize::{self, QuantizeOptions};
use crate::commands::{compare, export};
use crate::error::{Error, Result};
use crate::models::ModelSpec;
use crate::output::{Ending, Output, Target};
use crate::printer::Printer;
use crate::{checkpoint, deploy, usage};

pub use crate::pictures::GivenImages;

/// The name of a model whose state dict is given in memory, and that is to be found by its parameters.
pub const STATE_DICT: &str = checkpoint::STATE_DICT;

/// A listener that hears what a command says on stderr.
pub trait Listener: Progress {
    /// Hears a sentence about what was found.
    fn note(&self, text: &str);

    /// Hears a sentence about what is assumed because neither a file nor the user says it.
    fn assume(&self, text: &str);

    /// Hears a warning.
    fn warn(&self, text: &str);
}

/// A program that runs a command: who listens, and who may stop it.
#[derive(Clone)]
pub struct Host {
    listener: Arc<dyn Listener>,
    interrupter: Interrupter,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host")
    }
}

impl Host {
    /// Makes a host of a listener, which `interrupter` stops.
    pub fn new(listener: Arc<dyn Listener>, interrupter: Interrupter) -> Self {
        Self { listener, interrupter }
    }

    pub(crate) fn listener(&self) -> &dyn Listener {
        &*self.listener
    }

    pub(crate) fn context(&self, device: Device) -> Context {
        Context { device, progress: self.listener.clone(), interrupter: self.interrupter.clone(), dashboard: false }
    }
}

/// What a program has in memory, in place of what words name.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// The weights as the bytes of a safetensors file, of the network that the words name, or of [`STATE_DICT`].
    pub state_dict: Option<Vec<u8>>,
    /// The images.
    pub images: Option<GivenImages>,
}

/// A quantized network, which can be written to a file.
#[derive(Debug)]
pub struct Quantized {
    name: String,
    model: Model,
    /// How its floats are stored.
    stored: SaveOptions,
    /// The files that were read, which are not replaced.
    inputs: Vec<PathBuf>,
}

/// What was found out about a quantized network.
#[derive(Debug)]
pub struct Findings(quantize::Summary);

impl Findings {
    /// Returns what `dsconv quantize --json` prints of a file.
    pub fn document(&self) -> impl Serialize {
        &self.0
    }

    /// Returns the verdict in words; `None` where there is none.
    pub fn verdict(&self) -> Option<String> {
        self.0.verdict.as_ref().map(ToString::to_string)
    }
}

/// Quantizes a network as `dsconv quantize` followed by these words does, and writes nothing.
///
/// # Errors
/// Those of the command.
pub fn quantize(words: &[OsString], given: Given, host: Host) -> Result<(Quantized, Findings)> {
    let printer = Printer::hosted(host);
    let Command::Quantize(args) = parse("quantize", words)? else { unreachable!("the command that was named") };
    let count = args.image_count;
    let mut options = QuantizeOptions::try_from(args)?;
    options.model.state_dict = given.state_dict.map(Into::into);
    if let Some(images) = given.images {
        options.images = FitImages::Given(images, count.unwrap_or(FitImages::GIVEN));
    }
    let quantize::Quantized { name, model, stored, summary, .. } = quantize::quantize(&options, &printer)?;
    Ok((Quantized { name, model, stored, inputs: files(&options.model) }, Findings(summary)))
}

impl Quantized {
    /// Makes the network again of the bytes of its `.dsc` file, and of what the other functions return.
    ///
    /// # Errors
    /// The bytes are no `.dsc` file.
    pub fn restore(name: String, dsc: &[u8], stored: SaveOptions, inputs: Vec<PathBuf>) -> Result<Self> {
        Ok(Self { name, model: dsc::File::parse(dsc)?.to_model()?, stored, inputs })
    }

    /// Returns the name of the network that was quantized.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the quantized model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Returns how its floats are stored.
    pub fn stored(&self) -> &SaveOptions {
        &self.stored
    }

    /// Returns the files that were read.
    pub fn inputs(&self) -> &[PathBuf] {
        &self.inputs
    }

    /// Returns the bytes of its `.dsc` file. Where the integer engine cannot run it, the host is warned.
    ///
    /// # Errors
    /// None in practice.
    pub fn dsc(&self, host: Host) -> Result<Vec<u8>> {
        deploy::bytes(&self.model, &self.stored, &Printer::hosted(host))
    }

    /// Returns a state dict of dequantized floats, as the bytes of a safetensors file. Where its names are not torchvision's, the
    /// host is warned.
    ///
    /// # Errors
    /// None in practice.
    pub fn state_dict(&self, host: Host) -> Result<Vec<u8>> {
        export::state_dict(&self.model, &Printer::hosted(host))
    }

    /// Writes it in the format of the file's ending, and returns the size of the file. A file that is there is replaced, but for
    /// the one that the network came from.
    ///
    /// # Errors
    /// The ending names no format; the file cannot be written.
    pub fn save(&self, path: &Path, host: Host) -> Result<u64> {
        let ending = Ending::of(path, &Ending::ALL)?;
        let target = Target { path: Some(path.to_owned()), force: true, ..Target::default() };
        let inputs: Vec<&Path> = self.inputs.iter().map(PathBuf::as_path).collect();
        let output = Output::new(&target, "", &inputs)?;
        let Self { model, stored, .. } = self;
        let start = Instant::now();
        let written = match ending {
            Ending::Safetensors => output.save(model, stored, start)?,
            Ending::Dsc => output.save_bytes(&self.dsc(host)?, model, start)?,
            Ending::Onnx => {
                let profile = onnx::Profile::Int4 { activations: true };
                output.save_bytes(&onnx::export(model, &profile)?, model, start)?
            }
        };
        Ok(written.bytes)
    }
}

pub use crate::commands::analyze::Analysis;

/// Analyzes a network as `dsconv analyze` followed by these words does, and writes nothing.
///
/// # Errors
/// Those of the command.
pub fn analyze(words: &[OsString], given: Given, host: Host) -> Result<Analysis> {
    let Command::Analyze(args) = parse("analyze", words)? else { unreachable!("the command that was named") };
    let mut options = AnalyzeOptions::from(args);
    options.model.state_dict = given.state_dict.map(Into::into);
    options.images = given.images.or(options.images);
    analyze::analyze(&options, &Printer::hosted(host))
}

/// Measures the accuracy of a network as `dsconv eval` followed by these words does, and writes nothing. Returns what
/// `dsconv eval --json` prints. `state_dict` is that of [`Given`].
///
/// # Errors
/// Those of the command.
pub fn eval(words: &[OsString], state_dict: Option<Vec<u8>>, host: Host) -> Result<impl Serialize> {
    let Command::Eval(args) = parse("eval", words)? else { unreachable!("the command that was named") };
    let mut options = EvalOptions::from(args);
    options.model.state_dict = state_dict.map(Into::into);
    Ok(eval::evaluate(&options, &Printer::hosted(host))?.outcome)
}

/// Returns the names of the networks that can be built.
pub fn networks() -> Vec<&'static str> {
    zoo::variants().iter().map(|variant| variant.name).collect()
}

/// The results of a run of `dsconv distill`.
#[derive(Debug, Serialize)]
pub struct RunResults {
    /// The folder.
    pub run: PathBuf,
    /// What was measured.
    pub metrics: Report,
    /// The settings.
    pub config: toml::Table,
    /// What the networks named for each image; `None` where an older version made the run.
    pub predictions: Option<Vec<Prediction>>,
}

/// Reads the results of a run, which is a folder, or the name of one in the folder of runs.
///
/// # Errors
/// There is no such run, it is not finished, or a file of it is damaged.
pub fn read_run(run: &Path) -> Result<RunResults> {
    let compare::Run { run, report } = compare::read(&compare::find(run)?)?;
    let at = |path: &Path, error: &dyn fmt::Display| Error::failed(format!("`{}`: {error}", path.display()));
    let path = run.join(RunFolder::CONFIG);
    let text = std::fs::read_to_string(&path).map_err(|error| at(&path, &error))?;
    let config = toml::from_str(&text).map_err(|error| at(&path, &error))?;
    let path = run.join(RunFolder::PREDICTIONS);
    let predictions = match path.is_file() {
        true => Some(distill::predictions(&path)?),
        false => None,
    };
    Ok(RunResults { run, metrics: report, config, predictions })
}

/// Reads the words that follow the name of a command.
///
/// # Errors
/// They are no usage of it, and the error says what clap says.
fn parse(command: &str, words: &[OsString]) -> Result<Command> {
    let words = [OsString::from("dsconv"), command.into()].into_iter().chain(words.iter().cloned());
    Cli::try_parse_from(words).map(|cli| cli.command).map_err(|error| usage::in_short(&error))
}

fn files(model: &ModelSpec) -> Vec<PathBuf> {
    model.files().into_iter().map(Path::to_owned).collect()
}

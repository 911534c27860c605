//! The integer engine, for commands that compute logits.
use std::path::{Path, PathBuf};

use distill::{Context, Logits, RunFolder};
use graph::{Graph, Head};
use images::Unlabelled;
use model::Model;

use crate::commands::distill::DEPLOYED;
use crate::device::DeviceName;
use crate::error::{Error, Result};
use crate::{names, progress, runs};

/// The extension of the files that the engine runs.
pub const EXTENSION: &str = "dsc";

/// The number of images that run together: a linear layer's weights are read once for all of them.
const BATCH: usize = 32;
/// The most operations of a run on a thread: some tenths of a second, after which work that was stopped ends.
const OPERATIONS: u64 = 1 << 35;

/// Tells whether a command runs the integer engine: it does for a `.dsc` file, unless a device or the simulation is asked for.
pub fn is_for(model: &str, device: Option<DeviceName>, simulate: bool) -> bool {
    let dsc = Path::new(model).extension().is_some_and(|extension| extension.eq_ignore_ascii_case(EXTENSION));
    dsc && device.is_none() && !simulate
}

/// Returns the number of threads of a session where the user does not say it: one a core.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Loads a model's file into the engine, `.dsc` or packed safetensors. A `.dsc` file is packed layer by layer.
///
/// # Errors
/// The file cannot be read, is no model, or is one that the engine does not run.
pub fn load(path: &Path) -> Result<runtime::Model> {
    let at = |error: &dyn std::fmt::Display| Error::failed(format!("`{}`: {error}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| at(&error))?;
    if bytes.starts_with(&model::dsc::MAGIC) {
        return runtime::Model::from_bytes(&bytes).map_err(|error| at(&error));
    }
    let model = files::from_bytes(&bytes).map_err(|error| at(&error))?;
    drop(bytes);
    runtime::Model::new(model).map_err(|error| at(&error))
}

/// Returns the file that a path means: its own, or the `.dsc` file of the run folder that it is, or names.
///
/// # Errors
/// It is a folder without one.
pub fn file(path: &Path) -> Result<PathBuf> {
    if path.is_file() {
        return Ok(path.to_owned());
    }
    let Some(run) = runs::find(path) else { return Ok(path.to_owned()) };
    let file = run.join(DEPLOYED);
    if file.is_file() {
        return Ok(file);
    }
    let shown = run.display();
    Err(Error::usage(format!("`{shown}` is a folder, in which there is no {DEPLOYED}")).hint(
        match RunFolder::is_run(&run) {
            true if run.join(RunFolder::MODEL).is_file() => {
                let (run, file) = (names::typed(&shown), names::typed(file.display()));
                format!("`dsconv quantize {run} -o {file}` makes one")
            }
            true => format!("the run is not finished: `{}` goes on with it", runs::resuming(&run)),
            false => "a .dsc file, or the folder of a run of `dsconv distill`".to_owned(),
        },
    ))
}

/// Computes the logits of a quantized model for a set of images.
///
/// # Errors
/// This CPU lacks the kernel that `DSCONV_KERNEL` names; images cannot be read or do not fit; the user interrupts it.
pub fn predict(phase: &str, model: &Model, images: &Unlabelled, context: &Context) -> Result<Logits> {
    let engine = runtime::Model::new(model.clone())?;
    let input = engine.input();
    let [channels, height, width] = images.shape();
    if [input.channels, input.height, input.width] != [channels, height, width] {
        return Err(Error::failed(format!(
            "the images of `{}` are {channels}x{height}x{width}, `{}` takes {}x{}x{}",
            images.name(),
            model.graph().name(),
            input.channels,
            input.height,
            input.width
        )));
    }
    let mut session = engine.session(threads())?;
    let (graph, most) = (model.graph(), at_once(model.graph()));
    predict_by(phase, images, most, graph.head(), context, |pixels| Ok(session.run(pixels)?.to_vec()))
}

/// Returns how many images of a network run together.
pub fn at_once(graph: &Graph) -> usize {
    let affordable = OPERATIONS.saturating_mul(threads() as u64) / graph.cost().operations.max(1);
    graph.at_once(BATCH.min(usize::try_from(affordable).unwrap_or(BATCH).max(1)))
}

/// Computes the logits for a set of images, at most `most` at a time, by what `run` makes of the pixels of some.
///
/// # Errors
/// `run` fails; images cannot be read; the user interrupts it.
pub fn predict_by(
    phase: &str,
    images: &Unlabelled,
    most: usize,
    head: Head,
    context: &Context,
    mut run: impl FnMut(&[f32]) -> Result<Vec<f32>>,
) -> Result<Logits> {
    let (mut seen, mut values) = (Vec::with_capacity(images.len()), Vec::new());
    context.progress.start(phase, images.len());
    for first in (0..images.len()).step_by(most) {
        if context.interrupter.should_stop() {
            return Err(progress::stopped());
        }
        let batch = images.batch(&(first..images.len().min(first + most)).collect::<Vec<_>>())?;
        if !batch.indices.is_empty() {
            values.extend(run(&batch.pixels)?);
            seen.extend_from_slice(&batch.indices);
        }
        context.progress.advance((first + most).min(images.len()), "");
    }
    context.progress.finish();
    Ok(Logits::of_images(head, seen, values))
}

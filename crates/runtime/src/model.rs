//! A quantized network that is ready to run.
use std::path::Path;
use std::sync::Arc;

use graph::Shape;
use model::Info;

use crate::Error;
use crate::kernels::{AnyKernel, KernelName, select};
use crate::plan::{Format, Parameters, Plan, Sums};
use crate::session::StepReport;

/// The environment variable that names a kernel.
const KERNEL: &str = "DSCONV_KERNEL";

/// A quantized network, ready to run: cheap to clone, safe to share between threads.
#[derive(Clone)]
pub struct Model {
    inner: Arc<Inner>,
}

struct Inner {
    plan: Plan,
    kernel: AnyKernel,
}

/// Reads which kernel the environment asks for.
fn asked() -> Result<Option<KernelName>, Error> {
    match std::env::var(KERNEL) {
        Ok(name) if !name.is_empty() => Ok(Some(name.parse()?)),
        _ => Ok(None),
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("input", &self.input()).field("kernel", &self.kernel()).finish_non_exhaustive()
    }
}

impl Model {
    /// Loads a `.dsc` file and packs it for the fastest kernel of this CPU, or the one that `DSCONV_KERNEL` names.
    ///
    /// Models in packed safetensors are read by the crate `files` and given to [`Model::new`].
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] around [`Error::Dsc`], [`Error::Model`], [`Error::Layer`] or [`Error::Kernel`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|error| Error::Io { path: path.to_owned(), error })?;
        Self::from_bytes(&bytes).map_err(|error| Error::File { path: path.to_owned(), error: Box::new(error) })
    }

    /// Loads a `.dsc` file from its bytes, as [`Model::load`] does. Layers are decoded and packed one by one.
    ///
    /// # Errors
    /// [`Error::Dsc`], [`Error::Layer`] or [`Error::Kernel`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let file = model::dsc::File::parse(bytes)?;
        Self::build(Parameters::File(&file), asked()?)
    }

    /// Packs a model in memory for the fastest kernel of this CPU, or the one that `DSCONV_KERNEL` names.
    ///
    /// # Errors
    /// [`Error::Model`], [`Error::Layer`] or [`Error::Kernel`].
    pub fn new(model: model::Model) -> Result<Self, Error> {
        Self::with_kernel(model, asked()?)
    }

    /// Packs a model in memory for a kernel, or for the fastest of this CPU.
    ///
    /// # Errors
    /// [`Error::Model`], [`Error::Layer`] or [`Error::Kernel`].
    pub fn with_kernel(model: model::Model, kernel: Option<KernelName>) -> Result<Self, Error> {
        Self::build(Parameters::of_model(model)?, kernel)
    }

    fn build(parameters: Parameters<'_>, kernel: Option<KernelName>) -> Result<Self, Error> {
        let kernel = select(kernel)?;
        let plan = Plan::new(parameters, &kernel)?;
        Ok(Self { inner: Arc::new(Inner { plan, kernel }) })
    }

    /// Returns the kernel that the model is packed for.
    pub fn kernel(&self) -> KernelName {
        self.inner.kernel.name()
    }

    /// Returns what goes with the network: how images are preprocessed, the names of the classes, where it came from.
    pub fn info(&self) -> &Info {
        self.inner.plan.info()
    }

    /// Returns the shape of an input image.
    pub fn input(&self) -> Shape {
        self.inner.plan.input()
    }

    /// Returns the number of elements of an image's output.
    pub fn outputs(&self) -> usize {
        self.inner.plan.outputs()
    }

    /// Returns the number of bytes that the packed weights take.
    pub fn weight_bytes(&self) -> usize {
        self.inner.plan.weight_bytes()
    }

    /// Measures how many multiply-accumulates a second the kernel's innermost loop does on one thread with all data in the
    /// nearest cache, in the format of the layer with the most of them, which the speed of a layer can be compared with. This takes some milliseconds.
    pub fn ceiling(&self) -> f64 {
        self.inner.plan.ceiling(&self.inner.kernel)
    }

    /// Measures, as [`Model::ceiling`] does, how many multiply-accumulates a second a thread does at most in each step of a
    /// [profile](crate::Session::profile), in the formats of its own layers; `None` for a step of other work than integer sums, and for
    /// depthwise layers. Each format is measured once.
    pub fn ceilings(&self, steps: &[StepReport]) -> Vec<Option<f64>> {
        let mut known: Vec<(Format, f64)> = Vec::new();
        let mut seconds = |sums: &Sums| {
            let found = known.iter().find(|(format, _)| *format == sums.format).map(|&(_, ceiling)| ceiling);
            let ceiling = found.unwrap_or_else(|| {
                let ceiling = sums.format.ceiling(&self.inner.kernel);
                known.push((sums.format, ceiling));
                ceiling
            });
            sums.macs as f64 / ceiling
        };
        let ceiling = |step: &StepReport| {
            let seconds: f64 = step.sums.iter().map(&mut seconds).sum();
            (seconds > 0.0).then(|| step.macs as f64 / seconds)
        };
        steps.iter().map(ceiling).collect()
    }

    /// Returns the plan.
    pub(crate) fn plan(&self) -> &Plan {
        &self.inner.plan
    }

    /// Returns the kernel that runs the plan.
    pub(crate) fn any_kernel(&self) -> &AnyKernel {
        &self.inner.kernel
    }
}

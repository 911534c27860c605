use std::path::Path;
use std::sync::Arc;

use graph::Shape;
use model::Info;

use crate::Error;
use crate::kernels::{self, AnyKernel, KernelName, select};
use crate::plan::{Parameters, Plan};

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

/// The kernel that the environment asks for.
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
        let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        Self::from_bytes(&bytes).map_err(|source| Error::File { path: path.to_owned(), source: Box::new(source) })
    }

    /// [`Model::load`] of a file's bytes. The layers of a `.dsc` file are decoded and packed one by one.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let file = model::dsc::File::parse(bytes)?;
        Self::build(Parameters::File(&file), asked()?)
    }

    /// From a model in memory.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn new(model: model::Model) -> Result<Self, Error> {
        Self::with_kernel(model, asked()?)
    }

    /// From a model in memory, for one kernel or the fastest.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn with_kernel(model: model::Model, kernel: Option<KernelName>) -> Result<Self, Error> {
        Self::build(Parameters::of_model(model)?, kernel)
    }

    fn build(parameters: Parameters<'_>, kernel: Option<KernelName>) -> Result<Self, Error> {
        let kernel = select(kernel)?;
        let plan = Plan::new(parameters, &kernel)?;
        Ok(Self { inner: Arc::new(Inner { plan, kernel }) })
    }

    /// The kernel it runs on.
    pub fn kernel(&self) -> KernelName {
        self.inner.kernel.name()
    }

    /// What goes with the network.
    pub fn info(&self) -> &Info {
        self.inner.plan.info()
    }

    /// Shape of an input image.
    pub fn input(&self) -> Shape {
        self.inner.plan.input()
    }

    /// Elements of an image's output.
    pub fn outputs(&self) -> usize {
        self.inner.plan.outputs()
    }

    /// Bytes of packed weights.
    pub fn weight_bytes(&self) -> usize {
        self.inner.plan.weight_bytes()
    }

    /// Multiply-accumulates a second of the kernel's innermost loop on one thread, all data in the nearest cache: what
    /// layers can be compared with. Takes some milliseconds.
    pub fn ceiling(&self) -> f64 {
        kernels::ceiling(&self.inner.kernel)
    }

    /// What it was planned to be.
    pub(crate) fn plan(&self) -> &Plan {
        &self.inner.plan
    }

    /// What its plan is run with.
    pub(crate) fn any_kernel(&self) -> &AnyKernel {
        &self.inner.kernel
    }
}

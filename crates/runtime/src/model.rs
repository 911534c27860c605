use std::path::Path;
use std::sync::Arc;

use graph::Shape;
use model::Info;

use crate::Error;
use crate::exec::{self, Given, Workspace};
use crate::float::finite;
use crate::kernels::{AnyKernel, Environment, KernelName, select};
use crate::plan::{Parameters, Plan, Step};

/// Most threads of a [`Session`].
pub const MAX_THREADS: usize = 1024;

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
        Self::build(Parameters::Model(Box::new(model)), kernel)
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
        &self.inner.plan.info
    }

    /// Shape of an input image.
    pub fn input(&self) -> Shape {
        self.inner.plan.input
    }

    /// Elements of an image's output.
    pub fn outputs(&self) -> usize {
        self.inner.plan.outputs
    }

    /// Bytes of packed weights.
    pub fn weight_bytes(&self) -> usize {
        self.inner.plan.weight_bytes()
    }

    /// Multiply-accumulates a second of the kernel's innermost loop on one thread, all data in the nearest cache: what
    /// layers can be compared with. Takes some milliseconds.
    pub fn ceiling(&self) -> f64 {
        crate::kernels::ceiling(&self.inner.kernel)
    }

    /// Memory to run it in, with a pool of `threads` threads (at least one).
    ///
    /// # Errors
    /// [`Error::Threads`] for more than [`MAX_THREADS`], or where the system does not give as many; [`Error::Memory`],
    /// [`Error::Allocation`] where one image takes too much.
    pub fn session(&self, threads: usize) -> Result<Session, Error> {
        let threads = threads.max(1);
        let refuse = |why: String| Error::Threads { threads, why };
        if threads > MAX_THREADS {
            return Err(refuse(format!("a session has at most {MAX_THREADS}")));
        }
        self.inner.plan.check_memory(1, threads)?;
        let body = Workspace::new(&self.inner.plan.body, 1, threads)?;
        let builder = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("dsconv-{i}"));
        let builder = builder.start_handler(|_| Environment::keep());
        let pool = (threads > 1).then(|| builder.build().map_err(|error| refuse(error.to_string()))).transpose()?;
        let model = self.clone();
        Ok(Session { model, threads, pool, bodies: vec![body], head: None, rows: vec![], logits: vec![] })
    }
}

/// One thread's memory for running a [`Model`]. After the first run of a batch size, runs allocate nothing.
#[derive(Debug)]
pub struct Session {
    model: Model,
    threads: usize,
    pool: Option<rayon::ThreadPool>,
    /// One for each image that runs at the same time.
    bodies: Vec<Workspace>,
    /// With the batch it is for.
    head: Option<(usize, Workspace)>,
    rows: Vec<f32>,
    logits: Vec<f32>,
}

/// What a step of a run took.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// The node it begins with.
    pub name: String,
    /// What it computes.
    pub kind: &'static str,
    /// Shape of its output.
    pub shape: Shape,
    /// Multiply-accumulates of one image.
    pub macs: u64,
    /// Seconds.
    pub seconds: f64,
}

impl Session {
    /// The model it runs.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Runs `[N, C, H, W]` images, preprocessed as [`Info::preprocess`] says, to `[N, outputs]`.
    ///
    /// # Errors
    /// [`Error::Input`] unless these are whole images; [`Error::Memory`], [`Error::Allocation`] where they are too many;
    /// [`Error::NonFiniteInput`], [`Error::NonFinite`].
    pub fn run(&mut self, input: &[f32]) -> Result<&[f32], Error> {
        let _floats = Environment::standard();
        self.check(input)?;
        let images = input.len() / self.model.input().elements();
        let pool = self.pool.take();
        let result = match &pool {
            Some(pool) => pool.install(|| self.forward(input, images)),
            None => self.forward(input, images),
        };
        self.pool = pool;
        result.map(|()| self.logits.as_slice())
    }

    /// The most likely class of each image with its logit; see [`Session::run`].
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn classify(&mut self, input: &[f32]) -> Result<Vec<(usize, f32)>, Error> {
        let outputs = self.model.outputs();
        let best = |row: &[f32]| {
            let mut best = (0, row[0]);
            for (class, &logit) in row.iter().enumerate() {
                if logit > best.1 {
                    best = (class, logit);
                }
            }
            best
        };
        Ok(self.run(input)?.chunks_exact(outputs).map(best).collect())
    }

    /// One image, each step timed.
    ///
    /// # Errors
    /// As [`Session::run`]; also if there is more than one image.
    pub fn profile(&mut self, input: &[f32]) -> Result<Vec<StepReport>, Error> {
        let _floats = Environment::standard();
        self.check(input)?;
        if input.len() != self.model.input().elements() {
            return Err(self.wrong_input(input.len()));
        }
        self.reserve(1, 1)?;
        let inner = self.model.inner.clone();
        let plan = &inner.plan;
        let mut times = Vec::with_capacity(plan.body.steps.len() + plan.head.steps.len());
        let pool = self.pool.take();
        let mut run = || {
            let mut last = std::time::Instant::now();
            let mut observe = |_: usize| {
                let now = std::time::Instant::now();
                times.push((now - last).as_secs_f64());
                last = now;
            };
            let kernel = &inner.kernel;
            let given = Given { rows: &[], image: input };
            exec::run(plan, &plan.body, kernel, &mut self.bodies[0], given, 1, Some(&mut observe))?;
            exec::cross(plan, &self.bodies[0], &mut self.rows);
            let (_, head) = self.head.as_mut().expect("reserved");
            exec::run(plan, &plan.head, kernel, head, Given { rows: &self.rows, image: &[] }, 1, Some(&mut observe))
        };
        let result = match &pool {
            Some(pool) => pool.install(&mut run),
            None => run(),
        };
        self.pool = pool;
        result?;
        let steps = plan.body.steps.iter().chain(&plan.head.steps);
        let report = |(step, seconds): (&Step, f64)| StepReport {
            name: step.name.clone(),
            kind: step.op.kind(),
            shape: step.shape,
            macs: step.macs(),
            seconds,
        };
        Ok(steps.zip(times).map(report).collect())
    }

    /// Bytes of its buffers.
    pub fn bytes(&self) -> usize {
        let head = self.head.as_ref().map_or(0, |(_, head)| head.bytes());
        self.bodies.iter().map(Workspace::bytes).sum::<usize>() + head
    }

    fn wrong_input(&self, found: usize) -> Error {
        let shape = self.model.input();
        Error::Input { found, image: shape.elements(), shape }
    }

    fn check(&self, input: &[f32]) -> Result<(), Error> {
        if input.is_empty() || !input.len().is_multiple_of(self.model.input().elements()) {
            return Err(self.wrong_input(input.len()));
        }
        if !finite([input].into_iter()) {
            let index = input.iter().position(|x| !x.is_finite()).unwrap_or(0);
            return Err(Error::NonFiniteInput { index });
        }
        Ok(())
    }

    /// Buffers for this many images, up to `bodies` of them at the same time: as many as there may be memory for. Gives
    /// how many.
    fn reserve(&mut self, images: usize, bodies: usize) -> Result<usize, Error> {
        let plan = &self.model.inner.plan;
        let more = plan.check_memory(images, self.threads)? / plan.body.bytes(1, 1).max(1);
        let bodies = bodies.min(usize::try_from(more).unwrap_or(usize::MAX).saturating_add(1));
        while self.bodies.len() < bodies {
            self.bodies.push(Workspace::new(&plan.body, 1, 1)?);
        }
        if self.head.as_ref().is_none_or(|(batch, _)| *batch != images) {
            self.head = None;
            self.head = Some((images, Workspace::new(&plan.head, images, self.threads)?));
        }
        for (values, each) in [(&mut self.rows, plan.row), (&mut self.logits, plan.outputs)] {
            let len = images * each;
            let no_memory = |_| Error::Allocation { bytes: 4 * len as u64 };
            values.try_reserve_exact(len.saturating_sub(values.len())).map_err(no_memory)?;
            values.resize(len, 0.0);
        }
        Ok(bodies)
    }

    fn forward(&mut self, input: &[f32], images: usize) -> Result<(), Error> {
        let bodies = if images >= self.threads { self.threads } else { 1 };
        let bodies = self.reserve(images, bodies)?;
        let Inner { plan, kernel } = &*self.model.inner;
        let one = |workspace: &mut Workspace, image: &[f32], row: &mut [f32]| {
            exec::run(plan, &plan.body, kernel, workspace, Given { rows: &[], image }, 1, None)?;
            exec::cross(plan, workspace, row);
            Ok(())
        };
        let image = plan.input.elements();
        if bodies > 1 {
            exec::each_image(&mut self.bodies[..bodies], input, image, &mut self.rows, plan.row, one)?;
        } else {
            for (image, row) in input.chunks_exact(image).zip(self.rows.chunks_exact_mut(plan.row)) {
                one(&mut self.bodies[0], image, row)?;
            }
        }
        let (_, head) = self.head.as_mut().expect("reserved");
        exec::run(plan, &plan.head, kernel, head, Given { rows: &self.rows, image: &[] }, images, None)?;
        exec::output(plan, head, &self.rows, &mut self.logits);
        Ok(())
    }
}

//! The memory and the threads that a model runs in.
use std::fmt;

use graph::Shape;

use crate::exec::{Given, Images, Profile, Run, StepTime, Workspace, copy_output, hand_on};
use crate::float::finite;
use crate::kernels::{Environment, Task};
use crate::plan::{Part, Step, Sums};
use crate::threads::Threads;
use crate::{Error, Model};

impl Model {
    /// Makes the memory to run the model in, and a pool of `threads` threads; 0 counts as one thread. WebAssembly
    /// has no threads: more than one is an error there. A process that is forked can go on with the session: it makes threads of its own.
    ///
    /// # Errors
    /// [`Error::Threads`] for more than [`MAX_THREADS`](crate::MAX_THREADS), or where the system does not give as many; [`Error::Memory`],
    /// [`Error::Allocation`] where one image takes too much.
    pub fn session(&self, threads: usize) -> Result<Session, Error> {
        let threads = Threads::new(threads)?;
        self.plan().check_memory(1, threads.count())?;
        let body = Workspace::new(self.plan().program(Part::Body), 1, threads.count())?;
        let model = self.clone();
        Ok(Session { model, threads, bodies: vec![body], head: None, rows: vec![], logits: vec![] })
    }
}

/// The memory in which one caller runs a [`Model`]. After the first run of a batch size, runs allocate nothing.
pub struct Session {
    model: Model,
    threads: Threads,
    /// The body's buffers, for each image that runs at the same time.
    bodies: Vec<Workspace>,
    /// The head's buffers, and the number of images that they are for.
    head: Option<(usize, Workspace)>,
    rows: Vec<f32>,
    logits: Vec<f32>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Session");
        shown.field("model", &self.model).field("threads", &self.threads).field("bytes", &self.bytes());
        shown.finish_non_exhaustive()
    }
}

/// The time that a step of a run took.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct StepReport {
    /// The name of the node that the step begins with: of a convolution and the depthwise one that runs with it, the first.
    pub name: String,
    /// The kind of work, for example `integer convolution`.
    pub kind: &'static str,
    /// The shape of the step's output.
    pub shape: Shape,
    /// The number of multiply-accumulates for one image.
    pub macs: u64,
    /// The time, in seconds.
    pub seconds: f64,
    /// The seconds that all threads together spend on the sums of convolutions, and on what is done to them before they are
    /// stored. Rounding is among it where a depthwise layer is all that reads them.
    pub convolving: f64,
    /// The seconds that all threads together spend on making integers of floats.
    pub rounding: f64,
    /// The seconds that all threads together spend on operations in floats.
    pub floats: f64,
    /// The integer sums that its multiply-accumulates are; none where others are among them.
    pub(crate) sums: Vec<Sums>,
}

impl Session {
    /// Returns the model that the session runs.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Runs `[N, C, H, W]` images, preprocessed as [`Info::preprocess`](model::Info::preprocess) says, to `[N, outputs]`.
    ///
    /// # Errors
    /// [`Error::Input`] unless these are whole images; [`Error::Memory`], [`Error::Allocation`] where they are too many;
    /// [`Error::NonFiniteInput`], [`Error::NonFinite`].
    pub fn run(&mut self, input: &[f32]) -> Result<&[f32], Error> {
        let _floats = Environment::standard();
        self.check(input)?;
        let images = input.len() / self.model.input().elements();
        self.on_threads(|session| session.forward(input, images))?;
        Ok(&self.logits)
    }

    /// Runs images as [`Session::run`] does, and returns the most likely class of each with its logit.
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

    /// Runs one image and returns the time of each step.
    ///
    /// # Errors
    /// As [`Session::run`]; [`Error::Input`] also for more than one image.
    pub fn profile(&mut self, input: &[f32]) -> Result<Vec<StepReport>, Error> {
        let _floats = Environment::standard();
        self.check(input)?;
        if input.len() != self.model.input().elements() {
            return Err(self.wrong_input(input.len()));
        }
        self.reserve(1, 1)?;
        let mut profile = Profile::begin();
        self.on_threads(|session| {
            body(&session.model, &mut session.bodies[0], input, &mut session.rows, Some(&mut profile))?;
            session.head(1, Some(&mut profile))
        })?;
        let plan = self.model.plan();
        let steps = plan.steps(Part::Body).iter().chain(plan.steps(Part::Head));
        let mut source: Option<&Step> = None;
        // Two steps that run together are one.
        let joined = steps.filter_map(|step| match step.runs_with_next() {
            true => {
                source = Some(step);
                None
            }
            false => Some((source.take(), step)),
        });
        let report = |((first, step), time): ((Option<&Step>, &Step), StepTime)| {
            let [convolving, rounding, floats] = time.spent;
            let parts = [first, Some(step)].into_iter().flatten().filter(|step| step.macs() > 0);
            let sums: Vec<&[Sums]> = parts.map(|step| plan.sums(step)).collect();
            let sums = if sums.iter().any(|sums| sums.is_empty()) { Vec::new() } else { sums.concat() };
            StepReport {
                name: first.unwrap_or(step).name.clone(),
                kind: step.op.kind(),
                shape: step.shape,
                macs: step.macs() + first.map_or(0, Step::macs),
                seconds: time.seconds,
                convolving,
                rounding,
                floats,
                sums,
            }
        };
        Ok(joined.zip(profile.times).map(report).collect())
    }

    /// Returns the number of bytes that the session's buffers take.
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
        if !self.model.any_kernel().run(Finite(input)) {
            let index = input.iter().position(|x| !x.is_finite()).unwrap_or(0);
            return Err(Error::NonFiniteInput { index });
        }
        Ok(())
    }

    /// Makes buffers for this many images, of which up to `bodies` run at the same time: as many as there may be memory
    /// for. Returns how many those are.
    fn reserve(&mut self, images: usize, bodies: usize) -> Result<usize, Error> {
        let plan = self.model.plan();
        let (body, head) = (plan.program(Part::Body), plan.program(Part::Head));
        let more = plan.check_memory(images, self.threads.count())? / body.bytes(1, 1).max(1);
        let bodies = bodies.min(usize::try_from(more).unwrap_or(usize::MAX).saturating_add(1));
        while self.bodies.len() < bodies {
            self.bodies.push(Workspace::new(body, 1, 1)?);
        }
        if self.head.as_ref().is_none_or(|(batch, _)| *batch != images) {
            self.head = None;
            self.head = Some((images, Workspace::new(head, images, self.threads.count())?));
        }
        for (values, each) in [(&mut self.rows, plan.row()), (&mut self.logits, plan.outputs())] {
            let len = images * each;
            let no_memory = |_| Error::Allocation { bytes: 4 * len as u64 };
            values.try_reserve_exact(len.saturating_sub(values.len())).map_err(no_memory)?;
            values.resize(len, 0.0);
        }
        Ok(bodies)
    }

    /// Calls `work` on the threads.
    fn on_threads(&mut self, work: impl FnOnce(&mut Self) -> Result<(), Error> + Send) -> Result<(), Error> {
        match self.threads.pool()? {
            Some(pool) => pool.install(|| work(self)),
            None => work(self),
        }
    }

    fn forward(&mut self, input: &[f32], images: usize) -> Result<(), Error> {
        let threads = self.threads.count();
        let bodies = self.reserve(images, if images >= threads { threads } else { 1 })?;
        let (model, plan) = (&self.model, self.model.plan());
        let images_and_rows =
            Images { images: input, image: plan.input().elements(), rows: &mut self.rows, row: plan.row() };
        images_and_rows
            .run(&mut self.bodies[..bodies], |workspace, image, row| body(model, workspace, image, row, None))?;
        self.head(images, None)
    }

    /// Runs the head on the rows of all images, and copies its output.
    fn head(&mut self, images: usize, profile: Option<&mut Profile>) -> Result<(), Error> {
        let plan = self.model.plan();
        let (_, workspace) = self.head.as_mut().expect("reserved");
        let given = Given::Rows(&self.rows);
        Run { plan, part: Part::Head, kernel: self.model.any_kernel(), given, images }.steps(workspace, profile)?;
        copy_output(plan, workspace, &self.rows, &mut self.logits);
        Ok(())
    }
}

/// The task of telling whether all elements are finite.
struct Finite<'a>(&'a [f32]);

impl Task for Finite<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        finite([self.0].into_iter())
    }
}

/// Runs the body on an image, and copies what it hands on to a row.
fn body(
    model: &Model,
    workspace: &mut Workspace,
    image: &[f32],
    row: &mut [f32],
    profile: Option<&mut Profile>,
) -> Result<(), Error> {
    let plan = model.plan();
    let run = Run { plan, part: Part::Body, kernel: model.any_kernel(), given: Given::Image(image), images: 1 };
    run.steps(workspace, profile)?;
    hand_on(plan, workspace, row);
    Ok(())
}

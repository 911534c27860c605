//! The integer engine: a network that runs.
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use classifier::{Classifier, Widths};
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;

use crate::images::Picture;
use crate::quantize::json;
use crate::refused;

/// How long a batch takes at least, and about twice as long at most, between two looks for signals.
const BATCH: Duration = Duration::from_millis(60);

/// How long a forked process waits for a lock that none of its own threads holds.
const PATIENCE: Duration = Duration::from_secs(1);

/// A network that is ready to run. Threads may share it: one of them runs it at a time.
#[pyclass(frozen, module = "dsconv._native")]
pub struct Model {
    classifier: Mutex<Classifier>,
    /// The process of the thread that runs it, or 0.
    runs_in: AtomicU32,
    /// The process that loaded it.
    loaded_in: u32,
    threads: usize,
    facts: Facts,
}

/// What can be told while the network runs.
struct Facts {
    name: String,
    source: String,
    classes: Vec<String>,
    shape: (usize, usize, usize),
    outputs: usize,
    parameters: u64,
    widths: Option<Widths>,
    kernel: String,
    preprocess: String,
}

impl Facts {
    fn of(classifier: &Classifier) -> PyResult<Self> {
        let (engine, graph) = (classifier.engine(), classifier.graph());
        let shape = engine.input();
        Ok(Self {
            name: graph.name().to_owned(),
            source: engine.info().source.clone(),
            classes: classifier.classes(),
            shape: (shape.channels, shape.height, shape.width),
            outputs: engine.outputs(),
            parameters: graph.cost().parameters,
            widths: classifier.widths(),
            kernel: engine.kernel().to_string(),
            preprocess: json(classifier.preprocess())?,
        })
    }
}

impl Model {
    /// Does work with the network, when no other thread does.
    ///
    /// # Errors
    /// This process was forked while another thread ran the network, which no thread can end here.
    fn with<T>(&self, work: impl FnOnce(&mut Classifier) -> T) -> PyResult<T> {
        let mut classifier = self.lock()?;
        self.runs_in.store(process::id(), Ordering::Relaxed);
        let result = work(&mut classifier);
        self.runs_in.store(0, Ordering::Relaxed);
        Ok(result)
    }

    fn lock(&self) -> PyResult<MutexGuard<'_, Classifier>> {
        let here = process::id();
        if here == self.loaded_in {
            return Ok(self.classifier.lock().unwrap_or_else(PoisonError::into_inner));
        }
        let mut lost = None;
        loop {
            match self.classifier.try_lock() {
                Ok(classifier) => return Ok(classifier),
                Err(TryLockError::Poisoned(error)) => return Ok(error.into_inner()),
                Err(TryLockError::WouldBlock) if self.runs_in.load(Ordering::Relaxed) == here => lost = None,
                Err(TryLockError::WouldBlock) if lost.get_or_insert_with(Instant::now).elapsed() > PATIENCE => {
                    return Err(refused("another thread ran this model when the process was forked: load it again"));
                }
                Err(TryLockError::WouldBlock) => {}
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[pymethods]
impl Model {
    #[new]
    fn new(py: Python<'_>, bytes: &[u8], threads: usize) -> PyResult<Self> {
        let classifier = py.detach(|| Classifier::load(bytes, threads)).map_err(refused)?;
        let facts = Facts::of(&classifier)?;
        let (runs_in, loaded_in) = (AtomicU32::new(0), process::id());
        Ok(Self { classifier: Mutex::new(classifier), runs_in, loaded_in, threads: threads.max(1), facts })
    }

    #[getter]
    fn name(&self) -> &str {
        &self.facts.name
    }

    #[getter]
    fn source(&self) -> &str {
        &self.facts.source
    }

    #[getter]
    fn classes(&self) -> Vec<String> {
        self.facts.classes.clone()
    }

    #[getter]
    fn shape(&self) -> (usize, usize, usize) {
        self.facts.shape
    }

    #[getter]
    fn outputs(&self) -> usize {
        self.facts.outputs
    }

    #[getter]
    fn parameters(&self) -> u64 {
        self.facts.parameters
    }

    /// The bits of a weight and of an activation in most quantized layers.
    #[getter]
    fn widths(&self) -> Option<(u8, u8)> {
        self.facts.widths.map(|widths| (widths.weights, widths.activations))
    }

    #[getter]
    fn kernel(&self) -> &str {
        &self.facts.kernel
    }

    /// How a picture becomes the input, as JSON.
    #[getter]
    fn preprocess(&self) -> &str {
        &self.facts.preprocess
    }

    /// Makes the input of a picture.
    fn input<'py>(&self, py: Python<'py>, picture: &Picture) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let input = py.detach(|| self.with(|classifier| classifier.input(&picture.0)))?.map_err(refused)?;
        Ok(PyArray1::from_vec(py, input))
    }

    /// Runs inputs, one after the other in one row, to logits `[N, outputs]`: batch by batch, so that signals are heard.
    fn run<'py>(&self, py: Python<'py>, input: PyReadonlyArray1<'py, f32>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let input = input.as_slice()?;
        let (channels, height, width) = self.facts.shape;
        let image = channels * height * width;
        let images = input.len() / image;
        let mut logits = Vec::with_capacity(images * self.facts.outputs);
        let (mut done, mut most) = (0, self.threads);
        while done < images {
            let count = most.min(images - done);
            // A copy: other threads may write to the array while this one runs.
            let batch = input[done * image..(done + count) * image].to_vec();
            let begun = Instant::now();
            let found = py.detach(|| self.with(|classifier| classifier.run(&batch).map(<[f32]>::to_vec)))?;
            logits.extend(found.map_err(|error| refused(moved(error, done * image)))?);
            py.check_signals()?;
            done += count;
            if begun.elapsed() < BATCH {
                most *= 2;
            }
        }
        PyArray1::from_vec(py, logits).reshape([images, self.facts.outputs])
    }

    /// Returns the probability of each class from the logits of one image.
    fn probabilities(&self, py: Python<'_>, logits: PyReadonlyArray1<'_, f32>) -> PyResult<Vec<f64>> {
        let logits = logits.to_vec().map_err(refused)?;
        py.detach(|| self.with(|classifier| classifier.probabilities(&logits)))?.map_err(refused)
    }

    /// Checks a file's bytes, and runs the input that a `.dsc` file stores: its logits must be the stored ones, to the bit. Returns
    /// whether there are any.
    fn verify(&self, py: Python<'_>, bytes: &[u8]) -> PyResult<bool> {
        py.detach(|| self.with(|classifier| classifier.verify(bytes)))?.map_err(refused)
    }
}

/// Moves the position that an error names from a batch to all inputs.
fn moved(error: classifier::Error, by: usize) -> classifier::Error {
    match error {
        classifier::Error::Engine(runtime::Error::NonFiniteInput { index }) => {
            runtime::Error::NonFiniteInput { index: index + by }.into()
        }
        other => other,
    }
}

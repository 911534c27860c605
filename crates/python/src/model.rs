//! The integer engine: a network that runs.
use std::sync::{Mutex, PoisonError};

use classifier::Classifier;
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;

use crate::images::Picture;
use crate::refused;

/// A network that is ready to run. Threads may share it: one of them runs it at a time.
#[pyclass(frozen, module = "dsconv._native")]
pub struct Model {
    classifier: Mutex<Classifier>,
}

impl Model {
    fn with<T>(&self, work: impl FnOnce(&mut Classifier) -> T) -> T {
        work(&mut self.classifier.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[pymethods]
impl Model {
    #[new]
    fn new(py: Python<'_>, bytes: &[u8], threads: usize) -> PyResult<Self> {
        let classifier = py.detach(|| Classifier::load(bytes, threads)).map_err(refused)?;
        Ok(Self { classifier: Mutex::new(classifier) })
    }

    #[getter]
    fn name(&self) -> String {
        self.with(|classifier| classifier.graph().name().to_owned())
    }

    #[getter]
    fn source(&self) -> String {
        self.with(|classifier| classifier.engine().info().source.clone())
    }

    #[getter]
    fn classes(&self) -> Vec<String> {
        self.with(|classifier| classifier.classes())
    }

    #[getter]
    fn shape(&self) -> (usize, usize, usize) {
        let shape = self.with(|classifier| classifier.engine().input());
        (shape.channels, shape.height, shape.width)
    }

    #[getter]
    fn outputs(&self) -> usize {
        self.with(|classifier| classifier.engine().outputs())
    }

    #[getter]
    fn parameters(&self) -> u64 {
        self.with(|classifier| classifier.graph().cost().parameters)
    }

    /// The bits of a weight and of an activation in most quantized layers.
    #[getter]
    fn widths(&self) -> Option<(u8, u8)> {
        self.with(|classifier| classifier.widths().map(|widths| (widths.weights, widths.activations)))
    }

    #[getter]
    fn kernel(&self) -> String {
        self.with(|classifier| classifier.engine().kernel().to_string())
    }

    /// Makes the input of a picture.
    fn input<'py>(&self, py: Python<'py>, picture: &Picture) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let input = py.detach(|| self.with(|classifier| classifier.input(&picture.0))).map_err(refused)?;
        Ok(PyArray1::from_vec(py, input))
    }

    /// Runs inputs, one after the other in one row, to logits `[N, outputs]`.
    fn run<'py>(&self, py: Python<'py>, input: PyReadonlyArray1<'py, f32>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        // A copy: other threads may write to the array while this one runs.
        let input = input.to_vec().map_err(refused)?;
        let logits =
            py.detach(|| self.with(|classifier| classifier.run(&input).map(<[f32]>::to_vec))).map_err(refused)?;
        let outputs = self.outputs();
        PyArray1::from_vec(py, logits).reshape([input.len() / self.elements(), outputs])
    }

    /// Returns the probability of each class from the logits of one image.
    fn probabilities(&self, logits: PyReadonlyArray1<'_, f32>) -> PyResult<Vec<f64>> {
        let logits = logits.to_vec().map_err(refused)?;
        self.with(|classifier| classifier.probabilities(&logits)).map_err(refused)
    }

    /// Runs the input that a `.dsc` file stores, and fails unless the logits are the stored ones, to the bit.
    fn verify(&self, py: Python<'_>, dsc: &[u8]) -> PyResult<bool> {
        py.detach(|| self.with(|classifier| classifier.verify(dsc))).map_err(refused)
    }
}

impl Model {
    fn elements(&self) -> usize {
        self.with(|classifier| classifier.engine().input().elements())
    }
}

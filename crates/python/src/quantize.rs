//! The commands `quantize`, `analyze` and what reads a run's results.
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use cli::host::{self, Given};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde::Serialize;

use crate::images::Images;
use crate::{refused, work};

/// Writes a value as JSON, which Python reads.
pub fn json(value: &impl Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(refused)
}

fn given(state_dict: Option<Vec<u8>>, images: Option<PyRef<'_, Images>>) -> Given {
    Given { state_dict, images: images.map(|images| images.0.clone()) }
}

/// A quantized network.
#[pyclass(frozen, module = "dsconv._native")]
pub struct Quantized {
    network: Arc<host::Quantized>,
    dsc: Arc<[u8]>,
}

#[pymethods]
impl Quantized {
    #[getter]
    fn name(&self) -> &str {
        self.network.name()
    }

    /// The bytes that its parameters take as F32.
    #[getter]
    fn fp32_bytes(&self) -> u64 {
        self.network.model().fp32_bytes()
    }

    /// What was found out, as JSON.
    #[getter]
    fn summary(&self) -> PyResult<String> {
        json(&self.network.summary())
    }

    /// The verdict in words.
    #[getter]
    fn verdict(&self) -> Option<String> {
        self.network.verdict()
    }

    /// The bytes of its `.dsc` file.
    #[getter]
    fn dsc<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.dsc)
    }

    /// The bytes of a safetensors file with dequantized floats.
    fn state_dict<'py>(&self, py: Python<'py>, ear: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let network = self.network.clone();
        let bytes = work::run(py, ear, move |host| network.state_dict(host))?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// Writes a file, and returns its size.
    fn save(&self, py: Python<'_>, path: PathBuf, ear: &Bound<'_, PyAny>) -> PyResult<u64> {
        let network = self.network.clone();
        work::run(py, ear, move |host| network.save(&path, host))
    }
}

/// Quantizes a network as the command does with these words.
#[pyfunction]
pub fn quantize(
    py: Python<'_>,
    words: Vec<OsString>,
    state_dict: Option<Vec<u8>>,
    images: Option<PyRef<'_, Images>>,
    ear: &Bound<'_, PyAny>,
) -> PyResult<Quantized> {
    let given = given(state_dict, images);
    let (network, dsc) = work::run(py, ear, move |host| {
        let network = host::quantize(&words, given, host.clone())?;
        let dsc = network.dsc(host)?;
        Ok((network, dsc))
    })?;
    Ok(Quantized { network: Arc::new(network), dsc: dsc.into() })
}

/// Analyzes a network as the command does with these words. Returns the result as JSON, the picture as SVG, and the rules.
#[pyfunction]
pub fn analyze(
    py: Python<'_>,
    words: Vec<OsString>,
    state_dict: Option<Vec<u8>>,
    images: Option<PyRef<'_, Images>>,
    ear: &Bound<'_, PyAny>,
) -> PyResult<(String, String, Option<String>)> {
    let given = given(state_dict, images);
    let analysis = work::run(py, ear, move |host| host::analyze(&words, given, host))?;
    let report = json(&analysis.document())?;
    Ok((report, analysis.svg(), analysis.rules))
}

/// Returns the names of the networks that can be built.
#[pyfunction]
pub fn networks() -> Vec<&'static str> {
    host::networks()
}

/// Reads the results of a run, as JSON.
#[pyfunction]
pub fn read_run(py: Python<'_>, run: PathBuf, ear: &Bound<'_, PyAny>) -> PyResult<String> {
    json(&work::run(py, ear, move |_| host::read_run(&run))?)
}

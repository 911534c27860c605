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
    /// Makes a network again of the bytes of its file and the other properties.
    #[new]
    fn new(name: String, dsc: Vec<u8>, stored: &str, inputs: Vec<PathBuf>) -> PyResult<Self> {
        let stored = serde_json::from_str(stored).map_err(refused)?;
        let network = host::Quantized::restore(name, &dsc, stored, inputs).map_err(refused)?;
        Ok(Self { network: Arc::new(network), dsc: dsc.into() })
    }

    #[getter]
    fn name(&self) -> &str {
        self.network.name()
    }

    /// The bytes that its parameters take as F32.
    #[getter]
    fn fp32_bytes(&self) -> u64 {
        self.network.model().fp32_bytes()
    }

    /// How its floats are stored, as JSON.
    #[getter]
    fn stored(&self) -> PyResult<String> {
        json(self.network.stored())
    }

    /// The files that it was made of.
    #[getter]
    fn inputs(&self) -> Vec<PathBuf> {
        self.network.inputs().to_vec()
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

/// Quantizes a network as the command does with these words. Returns it, what was found out as JSON, and the verdict in words.
#[pyfunction]
pub fn quantize(
    py: Python<'_>,
    words: Vec<OsString>,
    state_dict: Option<Vec<u8>>,
    images: Option<PyRef<'_, Images>>,
    ear: &Bound<'_, PyAny>,
) -> PyResult<(Quantized, String, Option<String>)> {
    let given = given(state_dict, images);
    let (network, findings, dsc) = work::run(py, ear, move |host| {
        let (network, findings) = host::quantize(&words, given, host.clone())?;
        let dsc = network.dsc(host)?;
        Ok((network, findings, dsc))
    })?;
    let network = Quantized { network: Arc::new(network), dsc: dsc.into() };
    Ok((network, json(&findings.document())?, findings.verdict()))
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

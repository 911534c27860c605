//! Pictures and inputs that Python has in memory.
use std::path::PathBuf;
use std::sync::Arc;

use cli::host::GivenImages;
use numpy::{PyReadonlyArray4, PyUntypedArrayMethods};
use pyo3::prelude::*;

use crate::refused;

/// A decoded picture.
#[pyclass(frozen, module = "dsconv._native")]
pub struct Picture(pub cli::host::Picture);

#[pymethods]
impl Picture {
    /// Decodes the bytes of an image file.
    #[staticmethod]
    fn decode(py: Python<'_>, bytes: &[u8]) -> PyResult<Self> {
        py.detach(|| cli::host::Picture::decode(bytes)).map(Self).map_err(refused)
    }

    /// Takes pixels, `[H, W, 3]` in one row.
    #[staticmethod]
    fn from_rgb(py: Python<'_>, width: usize, height: usize, rgb: &[u8]) -> PyResult<Self> {
        py.detach(|| cli::host::Picture::from_rgb(width, height, rgb)).map(Self).map_err(refused)
    }
}

/// Images for a command.
#[pyclass(frozen, module = "dsconv._native")]
pub struct Images(pub GivenImages);

#[pymethods]
impl Images {
    /// Takes image files, which are decoded when they are used.
    #[staticmethod]
    fn files(paths: Vec<PathBuf>) -> Self {
        Self(GivenImages::Files(paths))
    }

    #[staticmethod]
    fn pictures(pictures: Vec<PyRef<'_, Picture>>) -> Self {
        Self(GivenImages::Pictures(pictures.iter().map(|picture| picture.0.clone()).collect()))
    }

    /// Takes inputs of a network, `[N, C, H, W]`.
    #[staticmethod]
    fn inputs(values: PyReadonlyArray4<'_, f32>) -> PyResult<Self> {
        let shape = values.shape().try_into().map_err(|_| refused("inputs have four dimensions"))?;
        // A copy: other threads may write to the array while a command runs.
        Ok(Self(GivenImages::Inputs(Arc::new(values.as_array().iter().copied().collect()), shape)))
    }
}

//! DSConv for Python, as the module `dsconv._native`. `python/dsconv` is what users see; this hands on to the integer engine and to
//! the commands of `dsconv`, without the GIL where they compute, and turns errors into `dsconv.Error`.
mod images;
mod model;
mod quantize;
mod work;

use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

create_exception!(
    dsconv,
    Error,
    PyValueError,
    "What is refused: arguments, or what is wrong with a file. The text ends with a hint of what to do, where there is one."
);

fn refused(error: impl std::fmt::Display) -> PyErr {
    Error::new_err(error.to_string())
}

/// The module. It is not tested without the GIL, so that Python must not switch it off.
#[pymodule(gil_used = true)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<images::Images>()?;
    module.add_class::<images::Picture>()?;
    module.add_class::<model::Model>()?;
    module.add_class::<quantize::Quantized>()?;
    module.add_function(wrap_pyfunction!(quantize::quantize, module)?)?;
    module.add_function(wrap_pyfunction!(quantize::analyze, module)?)?;
    module.add_function(wrap_pyfunction!(quantize::networks, module)?)?;
    module.add_function(wrap_pyfunction!(quantize::read_run, module)?)?;
    module.add("Error", module.py().get_type::<Error>())?;
    module.add("MOST_THREADS", runtime::MAX_THREADS)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}

//! From `--device` to a burn device.
use burn::tensor::Device;

use crate::args::DeviceName;
use crate::error::{Error, Result};

/// What this binary was built with, and what this machine has of it.
#[derive(Debug, serde::Serialize)]
pub struct Backend {
    /// As in `--device`.
    pub name: &'static str,
    /// The cargo feature that brings it; `None` for what is always there.
    pub feature: Option<&'static str>,
    /// Whether this binary has it.
    pub compiled: bool,
    /// How many devices it finds.
    pub found: usize,
}

/// All backends that `--device` knows.
pub fn backends() -> Vec<Backend> {
    let backend = |name, feature: Option<&'static str>, compiled, found| Backend { name, feature, compiled, found };
    vec![
        backend("cpu", None, true, 1),
        backend("ndarray", Some("ndarray"), cfg!(feature = "ndarray"), usize::from(cfg!(feature = "ndarray"))),
        backend("wgpu", Some("wgpu"), cfg!(feature = "wgpu"), wgpu::list().len()),
        backend("cuda", Some("cuda"), cfg!(feature = "cuda"), cuda::list().len()),
    ]
}

/// The device of this name.
///
/// # Errors
/// A device that this binary was built without, or that this machine does not have.
pub fn open(name: DeviceName) -> Result<Device> {
    match name {
        DeviceName::Cpu => Ok(Device::flex()),
        DeviceName::NdArray => ndarray(),
        DeviceName::Wgpu(index) => wgpu::open(name, index),
        DeviceName::Cuda(index) => cuda::open(name, index),
    }
}

#[cfg(feature = "ndarray")]
fn ndarray() -> Result<Device> {
    #[allow(deprecated, reason = "burn prefers flex; whoever asks for ndarray gets it")]
    Ok(Device::ndarray())
}

#[cfg(not(feature = "ndarray"))]
fn ndarray() -> Result<Device> {
    Err(not_compiled("ndarray"))
}

#[allow(dead_code, reason = "not used where everything is compiled in")]
fn not_compiled(feature: &str) -> Error {
    Error::usage(format!("this dsconv was built without `{feature}`")).hint(format!(
        "build it in: `cargo run --release -p cli --features {feature} -- ...`, or `just features={feature} ...`"
    ))
}

#[allow(dead_code, reason = "not used on a CPU-only build")]
fn not_found(name: DeviceName, what: &str, found: usize) -> Error {
    let error = Error::failed(format!("no device `{name}`: {found} found{what}"));
    error.hint("`dsconv doctor` shows what there is; `--device cpu` is always there")
}

/// The devices of one kind. A driver that is not there makes burn panic while it looks; then there are none.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn list(kind: burn::tensor::DeviceType) -> Vec<Device> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let found = std::panic::catch_unwind(|| Device::enumerate(kind).into_vec()).unwrap_or_default();
    std::panic::set_hook(hook);
    found
}

#[cfg(feature = "wgpu")]
mod wgpu {
    use super::*;

    pub fn list() -> Vec<Device> {
        super::list(burn::tensor::DeviceType::Wgpu)
    }

    pub fn open(name: DeviceName, index: Option<usize>) -> Result<Device> {
        let mut found = list();
        match index {
            None if !found.is_empty() => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
            Some(index) if index < found.len() => Ok(found.swap_remove(index)),
            _ => Err(not_found(name, ", by the drivers of Vulkan, Metal and DirectX", found.len())),
        }
    }
}

#[cfg(not(feature = "wgpu"))]
mod wgpu {
    use super::*;

    pub fn list() -> Vec<Device> {
        Vec::new()
    }

    pub fn open(_: DeviceName, _: Option<usize>) -> Result<Device> {
        Err(not_compiled("wgpu"))
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use super::*;

    pub fn list() -> Vec<Device> {
        super::list(burn::tensor::DeviceType::Cuda)
    }

    pub fn open(name: DeviceName, index: usize) -> Result<Device> {
        let found = list().len();
        if index < found { Ok(Device::cuda(index)) } else { Err(not_found(name, "", found)) }
    }
}

#[cfg(not(feature = "cuda"))]
mod cuda {
    use super::*;

    pub fn list() -> Vec<Device> {
        Vec::new()
    }

    pub fn open(_: DeviceName, _: usize) -> Result<Device> {
        Err(not_compiled("cuda"))
    }
}

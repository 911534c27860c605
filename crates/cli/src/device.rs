//! Devices by name.
use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;

use crate::error::{Error, Result};

/// The name of a device, which this binary may or may not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceName {
    /// The CPU, through burn-flex: pure Rust.
    Cpu,
    /// The CPU, through burn-ndarray.
    NdArray,
    /// A GPU through Vulkan, Metal or DirectX: the best one, or the one of this index.
    Wgpu(Option<usize>),
    /// The NVIDIA GPU of this index.
    Cuda(usize),
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("devices are cpu, ndarray, wgpu, wgpu:N, cuda and cuda:N, not `{text}`");
        let (name, index) = match text.split_once(':') {
            Some((name, index)) => (name, Some(index.parse::<usize>().map_err(|_| unknown())?)),
            None => (text, None),
        };
        match (name, index) {
            ("cpu", None) => Ok(Self::Cpu),
            ("ndarray", None) => Ok(Self::NdArray),
            ("wgpu", index) => Ok(Self::Wgpu(index)),
            ("cuda", index) => Ok(Self::Cuda(index.unwrap_or(0))),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::NdArray => f.write_str("ndarray"),
            Self::Wgpu(None) => f.write_str("wgpu"),
            Self::Wgpu(Some(index)) => write!(f, "wgpu:{index}"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// A backend of burn: whether this binary was built with it, and what this machine has of it.
#[derive(Debug, serde::Serialize)]
pub struct Backend {
    /// The name that `--device` takes.
    pub name: &'static str,
    /// The cargo feature that adds the backend; `None` for the one that is always there.
    pub feature: Option<&'static str>,
    /// Whether this binary was built with it.
    pub compiled: bool,
    /// The number of devices that are found.
    pub found: usize,
}

/// Returns all backends that `--device` knows.
pub fn backends() -> Vec<Backend> {
    let backend = |name, feature: Option<&'static str>, compiled, found| Backend { name, feature, compiled, found };
    vec![
        backend("cpu", None, true, 1),
        backend("ndarray", Some("ndarray"), cfg!(feature = "ndarray"), usize::from(cfg!(feature = "ndarray"))),
        backend("wgpu", Some("wgpu"), cfg!(feature = "wgpu"), wgpu::list().len()),
        backend("cuda", Some("cuda"), cfg!(feature = "cuda"), cuda::list().len()),
    ]
}

/// Opens the device of this name.
///
/// # Errors
/// This binary was built without the device, or this machine does not have it.
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
        "build it in: `cargo run --release -p dsconv-cli --features {feature} -- ...`, or `just features={feature} ...`"
    ))
}

#[allow(dead_code, reason = "not used on a CPU-only build")]
fn not_found(name: DeviceName, what: &str, found: usize) -> Error {
    let error = Error::failed(format!("no device `{name}`: {found} found{what}"));
    error.hint("`dsconv doctor` shows what there is; `--device cpu` is always there")
}

/// Returns the devices of one kind. Where a driver is missing burn panics while it looks; then there are none.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_parse() {
        let cases = [
            ("cpu", Some(DeviceName::Cpu)),
            ("ndarray", Some(DeviceName::NdArray)),
            ("wgpu", Some(DeviceName::Wgpu(None))),
            ("wgpu:1", Some(DeviceName::Wgpu(Some(1)))),
            ("cuda", Some(DeviceName::Cuda(0))),
            ("cuda:3", Some(DeviceName::Cuda(3))),
            ("cpu:0", None),
            ("cuda:x", None),
            ("gpu", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<DeviceName>().ok(), expected, "{text}");
        }
    }
}

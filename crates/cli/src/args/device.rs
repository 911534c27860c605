use std::fmt;
use std::str::FromStr;

/// Where to compute.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct DeviceArg {
    /// Where to compute: cpu (the default), ndarray, wgpu, wgpu:N, cuda or cuda:N
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceName>,
}

/// A device by name, whether or not this binary has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceName {
    /// burn-flex, pure Rust.
    Cpu,
    /// burn-ndarray.
    NdArray,
    /// A GPU through Vulkan, Metal or DirectX: the best one, or the `n`-th.
    Wgpu(Option<usize>),
    /// An NVIDIA GPU.
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

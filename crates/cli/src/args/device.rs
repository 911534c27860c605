use crate::device::DeviceName;

/// The device to compute on.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct DeviceArg {
    /// Where to compute: cpu (the default), ndarray, wgpu, wgpu:N, cuda or cuda:N
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceName>,
}

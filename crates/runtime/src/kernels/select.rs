//! Which kernel runs.
use std::fmt;
use std::str::FromStr;

use super::Kernel;
#[cfg(target_arch = "x86_64")]
use super::amx::Amx;
#[cfg(target_arch = "x86_64")]
use super::avx512::Avx512Vnni;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
use super::neon::NeonDot;
use super::scalar::Scalar;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
use super::wasm::Simd128;
#[cfg(target_arch = "x86_64")]
use super::ymm::{avx2::Avx2, avxvnni::AvxVnni};
use crate::Error;

/// An instruction set that the engine has kernels for; `DSCONV_KERNEL` takes its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KernelName {
    /// Plain loops, for every CPU.
    Scalar,
    /// SIMD of 128 bits in WebAssembly, where the engine was compiled with `-C target-feature=+simd128`.
    Simd128,
    /// NEON with dot products, of 64-bit Arm.
    NeonDot,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-VNNI: 256-bit integer dot products.
    AvxVnni,
    /// AVX-512 F, BW, VL and VNNI.
    Avx512Vnni,
    /// AMX-int8 with AVX-512: tiles of 16 pixels by 16 outputs; Linux only.
    Amx,
}

impl KernelName {
    /// All of them, slowest first.
    pub const ALL: [Self; 7] =
        [Self::Scalar, Self::Simd128, Self::NeonDot, Self::Avx2, Self::AvxVnni, Self::Avx512Vnni, Self::Amx];

    /// As `DSCONV_KERNEL` takes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Simd128 => "simd128",
            Self::NeonDot => "neondot",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512Vnni => "avx512vnni",
            Self::Amx => "amx",
        }
    }

    fn make(self) -> Option<Box<dyn Kernel>> {
        match self {
            Self::Scalar => Some(Box::new(Scalar)),
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Simd128 => Some(Box::new(Simd128)),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Self::NeonDot => Some(Box::new(NeonDot::new()?)),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Some(Box::new(Avx2::new()?)),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => Some(Box::new(AvxVnni::new()?)),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => Some(Box::new(Avx512Vnni::new()?)),
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Some(Box::new(Amx::new()?)),
            // Those of other CPUs.
            _ => None,
        }
    }
}

impl fmt::Display for KernelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for KernelName {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self, Error> {
        let known = Self::ALL.into_iter().find(|k| k.as_str() == name);
        known.ok_or_else(|| refuse(name, "is not known"))
    }
}

fn refuse(name: &str, why: &'static str) -> Error {
    Error::Kernel { name: name.into(), why, available: kernels().into_iter().map(KernelName::as_str).collect() }
}

/// The kernels that this CPU runs, slowest first.
pub fn kernels() -> Vec<KernelName> {
    KernelName::ALL.into_iter().filter(|name| name.make().is_some()).collect()
}

/// The kernel asked for, or the fastest.
pub(crate) fn select(asked: Option<KernelName>) -> Result<Box<dyn Kernel>, Error> {
    match asked {
        Some(name) => name.make().ok_or_else(|| refuse(name.as_str(), "cannot run on this CPU")),
        None => {
            Ok(KernelName::ALL.into_iter().rev().find_map(KernelName::make).expect("the scalar kernel runs anywhere"))
        }
    }
}

//! The kernels there are, and which one runs.
use std::fmt;
use std::str::FromStr;

use super::{ConvCall, Kernel, PlanesCall, QuantizeCall, Target, Task, Wants, WinogradCall};
use crate::Error;
use crate::pack::Packed;

/// Gives the kernels to a macro, slowest first. A new kernel is one row here, its file, and its
/// `mod` line in `kernels/mod.rs`.
///
/// Each row has the kernel's documentation, its name in `DSCONV_KERNEL`, its [`KernelName`], its type, and where it is
/// compiled.
macro_rules! rows {
    ($to:ident) => {
        $to! {
            /// Plain loops, for every CPU.
            scalar, Scalar: scalar::Scalar, if all();
            /// SIMD of 128 bits in WebAssembly, where the engine was compiled with `-C target-feature=+simd128`.
            simd128, Simd128: wasm::Simd128, if all(target_arch = "wasm32", target_feature = "simd128");
            /// NEON with dot products, of 64-bit Arm.
            neondot, NeonDot: neon::NeonDot, if all(target_arch = "aarch64", target_endian = "little");
            /// NEON with products of 8-bit matrices (i8mm), of 64-bit Arm.
            neoni8mm, NeonI8mm: neon::NeonI8mm, if all(target_arch = "aarch64", target_endian = "little");
            /// AVX2 and FMA.
            avx2, Avx2: ymm::Avx2, if target_arch = "x86_64";
            /// AVX-VNNI: 256-bit integer dot products.
            avxvnni, AvxVnni: ymm::AvxVnni, if target_arch = "x86_64";
            /// AVX-512 F, BW, DQ, VL and VNNI.
            avx512vnni, Avx512Vnni: avx512::Avx512Vnni, if target_arch = "x86_64";
            /// AMX-int8 with AVX-512: tiles of 16 pixels by 16 outputs; Linux only.
            amx, Amx: amx::Amx, if target_arch = "x86_64";
        }
    };
}

/// Makes [`KernelName`] and [`AnyKernel`].
macro_rules! table {
    ($($(#[$doc:meta])+ $name:ident, $variant:ident: $module:ident $(::$part:ident)*, if $place:meta;)+) => {
        /// An instruction set that the engine has kernels for; `DSCONV_KERNEL` takes its name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum KernelName {
            $($(#[$doc])+ $variant,)+
        }

        impl KernelName {
            /// All kernels, slowest first.
            pub const ALL: [Self; [$(stringify!($name)),+].len()] = [$(Self::$variant),+];

            /// Returns the name that `DSCONV_KERNEL` takes.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($name),)+
                }
            }

            /// Makes the kernel, or `None` on a CPU that does not run it.
            pub(crate) fn make(self) -> Option<AnyKernel> {
                match self {
                    $(
                        #[cfg($place)]
                        Self::$variant => Kernel::new().map(AnyKernel::$variant),
                        #[cfg(not($place))]
                        Self::$variant => None,
                    )+
                }
            }
        }

        /// One of the kernels of [`KernelName`].
        #[derive(Debug, Clone, Copy)]
        pub(crate) enum AnyKernel {
            $(#[cfg($place)] $variant(super::$module $(::$part)*),)+
        }

        impl AnyKernel {
            /// Returns the kernel's row in the table.
            pub fn name(&self) -> KernelName {
                match self {
                    $(#[cfg($place)] Self::$variant(_) => KernelName::$variant,)+
                }
            }

            /// Returns [`Kernel::WANTS`].
            pub fn wants(&self) -> Wants {
                match self {
                    $(#[cfg($place)] Self::$variant(_) => <super::$module $(::$part)* as Kernel>::WANTS,)+
                }
            }

            /// Calls [`Kernel::conv`].
            ///
            /// # Panics
            /// Panics if the weights were packed for another kernel, or if the call does not lie in its slices.
            #[must_use]
            pub fn conv(&self, call: &ConvCall<'_>, unpacked: &mut [u8], out: &mut [f32], stride: usize) -> bool {
                assert!(self.reads(call.weights), "weights packed for another kernel");
                match self {
                    $(#[cfg($place)] Self::$variant(kernel) => kernel.conv(call, unpacked, out, stride),)+
                }
            }

            /// Calls [`Kernel::conv_to_values`].
            ///
            /// # Panics
            /// As [`AnyKernel::conv`] and [`AnyKernel::quantize`].
            #[must_use]
            pub fn conv_to_values(&self, call: &ConvCall<'_>, unpacked: &mut [u8], to: Target<'_>) -> bool {
                assert!(self.reads(call.weights), "weights packed for another kernel");
                match self {
                    $(#[cfg($place)] Self::$variant(kernel) => kernel.conv_to_values(call, unpacked, to),)+
                }
            }

            /// Calls [`Kernel::winograd`].
            ///
            /// # Panics
            /// Panics if the call does not lie in its slices.
            #[must_use]
            pub fn winograd(&self, call: &WinogradCall<'_>, room: &mut [u8], out: &mut [f32], stride: usize) -> bool {
                match self {
                    $(#[cfg($place)] Self::$variant(kernel) => kernel.winograd(call, room, out, stride),)+
                }
            }

            /// Calls [`Kernel::quantize`].
            ///
            /// # Panics
            /// Panics if the call does not lie in its slices.
            pub fn quantize(&self, call: &QuantizeCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
                match self {
                    $(#[cfg($place)] Self::$variant(kernel) => kernel.quantize(call, codes, scales),)+
                }
            }

            /// Calls [`Kernel::quantize_planes`].
            ///
            /// # Panics
            /// Panics if the call does not lie in its slices.
            pub fn quantize_planes(&self, call: &PlanesCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
                call.check(codes, scales);
                match self {
                    $(#[cfg($place)] Self::$variant(kernel) => kernel.quantize_planes(call, codes, scales),)+
                }
            }

            /// Calls [`Kernel::run`].
            pub fn run<T: Task>(&self, task: T) -> T::Output {
                match self {
                    $(#[cfg($place)] Self::$variant(kernel) => kernel.run(task),)+
                }
            }
        }
    };
}

rows!(table);

#[cfg(test)]
pub(super) use rows;

impl AnyKernel {
    /// Tells whether the kernel reads weights that are packed this way: with factors apart and panels of several groups only where it
    /// wants them, in nibbles with two-level scales only with their factors apart.
    fn reads(&self, weights: &Packed) -> bool {
        let wants = self.wants();
        let codes = weights.depthwise || weights.signed_codes == wants.signed_codes;
        let products = weights.levels.is_empty() && !(weights.nibbles && weights.two_level());
        let panels = weights.panel_groups == 1 || wants.shared_panels;
        let steps = weights.depthwise || weights.paired_steps == wants.paired_steps;
        codes && panels && steps && (products || !weights.levels.is_empty() && wants.factors_apart)
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

/// Returns the kernels that this CPU runs, slowest first.
pub fn kernels() -> Vec<KernelName> {
    KernelName::ALL.into_iter().filter(|name| name.make().is_some()).collect()
}

/// Makes the kernel that was asked for, or the fastest.
pub(crate) fn select(asked: Option<KernelName>) -> Result<AnyKernel, Error> {
    match asked {
        Some(name) => name.make().ok_or_else(|| refuse(name.as_str(), "cannot run on this CPU")),
        None => {
            Ok(KernelName::ALL.into_iter().rev().find_map(KernelName::make).expect("the scalar kernel runs anywhere"))
        }
    }
}

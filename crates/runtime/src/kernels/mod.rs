//! The kernels: the loops that take the time, one module for each instruction set.
//!
//! This module tree is the only place with `unsafe`. A kernel is a value that can be made only where the CPU runs it
//! (`new() -> Option<Self>`), and [`Kernel`]'s functions check the lengths of all slices before a pointer is used.
//! Every kernel gives the bits of [`blockfloat::conv2d`] and [`blockfloat::quantize_activations`]: vectors run across
//! outputs, never inside one sum.
//!
//! A value that is not finite ends a run. It is looked for where arithmetic makes it, before a limit or a maximum could
//! hide it: `0 * y` is 0 of a finite `y` and NaN of any other, and a NaN stays in a sum. So what is rounded is finite, and
//! vector minima and maxima, which treat NaNs as each CPU likes, never see one.
#![allow(unsafe_code)]
// Tiles of registers are arrays, walked by the indices that also address memory.
#![allow(clippy::needless_range_loop)]

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod call;
#[cfg(test)]
mod cases;
#[cfg(target_arch = "x86_64")]
mod chains;
mod depthwise;
#[cfg(target_arch = "x86_64")]
mod dots;
mod end;
mod environment;
#[cfg(any(target_arch = "x86_64", all(target_arch = "aarch64", target_endian = "little")))]
mod instructions;
mod kernel;
// Without vectors there is only the scalar kernel.
#[cfg_attr(all(target_family = "wasm", not(target_feature = "simd128")), allow(dead_code))]
mod lanes;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon;
mod plain;
mod round;
mod rule;
mod scalar;
mod table;
mod tile;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod vector;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;
mod winograd;
#[cfg(target_arch = "x86_64")]
mod ymm;

pub(crate) use call::{ConvCall, PlanesCall, QuantizeCall, Residual, Rows, SLACK, STRIP, Target};
pub(crate) use environment::Environment;
pub(crate) use kernel::{Kernel, Task, Wants};
pub(crate) use plain::Largest;
pub(crate) use table::{AnyKernel, select};
pub use table::{KernelName, kernels};
pub(crate) use winograd::WinogradCall;

use call::PLANES;

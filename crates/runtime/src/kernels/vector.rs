//! The kernel that every instruction set has: tiles and rounding, written once and compiled for each.
use std::marker::PhantomData;

use super::round::{Quantize, QuantizePlanes, Rounds};
use super::tile::Conv;
use super::{ConvCall, Kernel, PlanesCall, QuantizeCall, Task, Wants};

impl<I: Rounds> Kernel for I {
    const WANTS: Wants = I::WANTS;

    fn new() -> Option<Self> {
        I::detect()
    }

    fn conv(&self, call: &ConvCall<'_>, unpacked: &mut [u8], out: &mut [f32], stride: usize) -> bool {
        call.check(out, stride);
        self.run(Conv::<I> { call, unpacked, out, stride, isa: PhantomData })
    }

    fn quantize(&self, call: &QuantizeCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
        call.check(codes, scales);
        self.run(Quantize::<I> { call, codes, scales, isa: PhantomData });
    }

    fn quantize_planes(&self, call: &PlanesCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
        self.run(QuantizePlanes { call, codes, scales });
    }

    fn run<T: Task>(&self, task: T) -> T::Output {
        // SAFETY: the CPU has the instructions, or there would be no `self`.
        unsafe { I::vectorize(task) }
    }
}

//! The kernel that every instruction set has: tiles and rounding, written once and compiled for each.
use std::marker::PhantomData;

use super::round::{Quantize, QuantizePlanes, Rounds};
use super::tile::Conv;
use super::winograd::{Run, WinogradCall};
use super::{ConvCall, Kernel, PlanesCall, QuantizeCall, Target, Task, Wants, depthwise};

impl<I: Rounds> Kernel for I {
    const WANTS: Wants = I::WANTS;

    fn new() -> Option<Self> {
        I::detect()
    }

    fn conv(&self, call: &ConvCall<'_>, unpacked: &mut [u8], out: &mut [f32], stride: usize) -> bool {
        self.run(Conv::<I> { call, unpacked, out, stride, values: None, isa: PhantomData }).0
    }

    fn conv_to_values(&self, call: &ConvCall<'_>, unpacked: &mut [u8], mut to: Target<'_>) -> bool {
        let rounded = if I::FUSED { depthwise::values(call, &mut to) } else { None };
        if let Some(values) = rounded {
            let (out, stride) = (&mut *to.scratch, to.layout.channels);
            let task =
                Conv::<I> { call, unpacked: &mut *unpacked, out, stride, values: Some(&values), isa: PhantomData };
            let (finite, bits) = self.run(task);
            if depthwise::ordinary(bits) {
                to.pixels.iter().for_each(|&pixel| to.codes[pixel as usize] = 0);
                return finite;
            }
        }
        to.in_two_passes(self, call, unpacked)
    }

    fn winograd(&self, call: &WinogradCall<'_>, room: &mut [u8], out: &mut [f32], stride: usize) -> bool {
        let places = call.check(room, out, stride);
        // SAFETY: the CPU has the instructions, or there would be no `self`.
        unsafe { I::winograd(Run { call, places, room, out, stride }) }
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

//! The kernel that every instruction set has: tiles and rounding, written once and compiled for each.
use std::marker::PhantomData;

use super::round::{Quantize, QuantizePlanes, Rounds};
use super::tile::Conv;
use super::{ConvCall, Kernel, PlanesCall, QuantizeCall, Rows, Target, Task, Wants, depthwise};

impl<I: Rounds> Kernel for I {
    const WANTS: Wants = I::WANTS;

    fn new() -> Option<Self> {
        I::detect()
    }

    fn conv(&self, call: &ConvCall<'_>, unpacked: &mut [u8], out: &mut [f32], stride: usize) -> bool {
        self.run(Conv::<I> { call, unpacked, out, stride, values: None, isa: PhantomData }).0
    }

    fn conv_to_values(
        &self,
        call: &ConvCall<'_>,
        to: &Target<'_>,
        unpacked: &mut [u8],
        scratch: &mut [f32],
        codes: &mut [u8],
        values: &mut [f32],
    ) -> bool {
        let &Target { layout, width, pixels } = to;
        let stride = layout.channels;
        let rounds = if I::FUSED { depthwise::values(call, to, values) } else { None };
        if let Some(places) = rounds {
            assert_eq!(call.pixels.len(), pixels.len(), "a place for each output");
            let x = Rows { data: scratch, stride };
            QuantizeCall { layout, x, width, pixels }.check(codes, values);
            let task = Conv::<I> {
                call,
                unpacked: &mut *unpacked,
                out: &mut *scratch,
                stride,
                values: Some(&places),
                isa: PhantomData,
            };
            let (finite, bits) = self.run(task);
            if depthwise::ordinary(bits) {
                pixels.iter().for_each(|&pixel| codes[pixel as usize] = 0);
                return finite;
            }
        }
        let finite = self.conv(call, unpacked, scratch, stride);
        let x = Rows { data: scratch, stride };
        self.quantize(&QuantizeCall { layout, x, width, pixels }, codes, values);
        finite
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

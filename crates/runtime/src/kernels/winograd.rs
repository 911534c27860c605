//! What a kernel is asked to do of a convolution by Winograd's algorithm, and plain loops that do it.
use super::{Residual, plain};
use crate::layout::LANES;
use crate::math;
use crate::winograd::{self, POSITIONS, Places, Winograd};

/// Some rows of outputs of a 3x3 convolution of stride 1.
#[derive(Debug)]
pub(crate) struct WinogradCall<'a> {
    pub weights: &'a Winograd,
    /// The codes of all pixels, borders included, in rows of `width` pixels of [`channels`](crate::winograd::Fields::channels) bytes.
    pub codes: &'a [u8],
    pub width: usize,
    /// The input pixel under the first tap of the first output.
    pub origin: usize,
    /// The rows of outputs, and the pixels of each.
    pub size: [usize; 2],
    /// The scale of all codes.
    pub scale: f32,
    /// What is added after the bias.
    pub residual: Residual<'a>,
    /// The limits of the result.
    pub clamp: Option<(f32, f32)>,
}

/// A checked call, and where it works and writes.
pub(super) struct Run<'a> {
    pub call: &'a WinogradCall<'a>,
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86 works in it"))]
    pub places: Places,
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86 works in it"))]
    pub room: &'a mut [u8],
    pub out: &'a mut [f32],
    pub stride: usize,
}

impl WinogradCall<'_> {
    /// Returns the tiles of a row of them, and all.
    pub fn tiles(&self) -> [usize; 2] {
        let [rows, columns] = self.size.map(|n| n.div_ceil(2));
        [columns, rows * columns]
    }

    /// Returns the pixels of a tile's patch. Outside of the memory, where no output that counts sees them, they are others.
    #[inline(always)]
    pub fn patch(&self, tile: usize) -> [[usize; 4]; 4] {
        let [across, _] = self.tiles();
        let first = self.origin + tile / across * 2 * self.width + tile % across * 2;
        let last = self.codes.len() / self.weights.channels - 1;
        std::array::from_fn(|i| std::array::from_fn(|j| (first + i * self.width + j).min(last)))
    }

    /// Returns where things lie in `room`. `out` has row `i` of output `i`.
    ///
    /// # Panics
    /// Panics unless every access of a kernel lies in its slice.
    pub fn check(&self, room: &[u8], out: &[f32], stride: usize) -> Places {
        let (w, [rows, width]) = (self.weights, self.size);
        let pixels = self.codes.len() / w.channels;
        // The taps of all outputs; what lies behind is another pixel, see `patch`.
        assert!(rows > 0 && width > 0 && pixels > self.origin + (rows + 1) * self.width + width + 1, "codes");
        let channels = w.panels.iter().map(|p| p.first + p.lanes).max().unwrap_or(0);
        let rows_fit = |len: usize, stride: usize| len >= (rows * width - 1) * stride + channels;
        assert!(rows_fit(out.len(), stride), "output rows");
        if let Residual::Rows(r) = self.residual {
            assert!(rows_fit(r.data.len(), r.stride), "residual rows");
        }
        let places = w.places(self.tiles()[1]);
        assert!(room.len() >= places.bytes && room.as_ptr().addr().is_multiple_of(64), "room");
        let lanes = w.panels.len() * LANES;
        assert!(w.scale.len() == lanes && (w.bias.is_empty() || w.bias.len() == lanes));
        let chains = if w.tiling.chains { w.panels.len() * w.blocks.len() * POSITIONS } else { 0 };
        assert!(w.lengths.len() == chains && (w.tiling.chains || w.corrections.len() == lanes * 4));
        assert!(w.panels.iter().all(|p| p.lanes <= LANES));
        places
    }

    /// Computes the call in plain loops, tile by tile; returns whether all outputs were finite before their limits.
    pub fn plain(&self, out: &mut [f32], stride: usize) -> bool {
        let (w, [_, all]) = (self.weights, self.tiles());
        let mut finite = true;
        for tile in 0..all {
            let patch = self.patch(tile);
            for p in 0..w.panels.len() {
                let mut sums = [[0i32; LANES]; POSITIONS];
                for (b, block) in w.blocks.iter().enumerate() {
                    for (position, sums) in sums.iter_mut().enumerate() {
                        for c in block.channels.clone() {
                            let v = i32::from(self.transformed(&patch, c)[position]) - i32::from(w.offsets[position]);
                            for lane in 0..LANES {
                                let factor = i32::from(w.factors[(p * w.blocks.len() + b) * 2 * LANES + lane * 2]);
                                sums[lane] += w.u(p, b, position, lane, c) * v * factor;
                            }
                        }
                    }
                }
                finite &= self.end(tile, p, &sums, out, stride);
            }
        }
        finite
    }

    /// Returns `V` of a channel, with its offsets.
    fn transformed(&self, patch: &[[usize; 4]; 4], c: usize) -> [u8; POSITIONS] {
        let d = patch.map(|row| row.map(|pixel| self.codes[pixel * self.weights.channels + c]));
        let half = |d: [u8; 4]| {
            let [a, b, c, d] = d;
            [a.wrapping_sub(c), b.wrapping_add(c), c.wrapping_sub(b), b.wrapping_sub(d)]
        };
        let columns: [[u8; 4]; 4] = std::array::from_fn(|j| half([d[0][j], d[1][j], d[2][j], d[3][j]]));
        std::array::from_fn(|at| {
            let v = half(std::array::from_fn(|j| columns[j][at / 4]))[at % 4];
            v.wrapping_add(self.weights.offsets[at])
        })
    }

    /// Ends and stores a tile's outputs of a panel; returns whether they were finite.
    fn end(&self, tile: usize, p: usize, m: &[[i32; LANES]; POSITIONS], out: &mut [f32], stride: usize) -> bool {
        let (w, [across, _], [rows, width]) = (self.weights, self.tiles(), self.size);
        let mut finite = true;
        for (i, lane) in (0..4).flat_map(|i| (0..w.panels[p].lanes).map(move |lane| (i, lane))) {
            let (row, column) = (tile / across * 2 + i / 2, tile % across * 2 + i % 2);
            if row >= rows || column >= width {
                continue;
            }
            let sum =
                (0..POSITIONS).fold(0i32, |sum, at| sum.wrapping_add(winograd::end(i, at).wrapping_mul(m[at][lane])));
            let acc = math::mul_add(self.scale, (sum >> 2) as f32, 0.0);
            let s = w.scale[p * LANES + lane];
            let y = match w.bias.get(p * LANES + lane) {
                Some(bias) => math::mul_add(acc, s, *bias),
                None => acc * s,
            };
            let (pixel, channel) = (row * width + column, w.panels[p].first + lane);
            finite &= plain::end(y, self.residual, self.clamp, pixel, channel, (&mut *out, stride));
        }
        finite
    }
}

#[cfg(test)]
mod tests {
    use blockfloat::{ActivationFormat, ActivationScale, Bits, BlockSize, QuantizedWeights, SplitMix64, TwoLevel};
    use graph::Conv2d;

    use super::*;
    use crate::buffer::Buffer;
    use crate::kernels::KernelName;
    use crate::layout::{LayerInput, Layout, OFFSET, Whole};
    use crate::winograd::Tiling;

    /// All kernels give what plain loops over nine taps give: for odd sizes, a shorter last block and last panel, an odd number of panels,
    /// groups of any number of tiles, and with residuals.
    #[test]
    fn every_kernel_gives_the_sums_of_nine_taps() {
        for outputs in [20, 40] {
            for size in [[1, 1], [1, 3], [2, 6], [3, 4], [2, 9], [5, 7], [4, 13]] {
                nine_taps(outputs, size);
            }
        }
    }

    fn nine_taps(outputs: usize, [rows, width]: [usize; 2]) {
        let channels = 48;
        let conv = Conv2d { padding: [1, 1], bias: true, ..Conv2d::new(channels, outputs, 3) };
        for (seed, signed) in [(1, false), (2, true)] {
            let mut random = SplitMix64::new(seed);
            let mut below = |n: i32| (random.next_f32() * n as f32) as i32;
            let bits = |n| Bits::new(n).unwrap();
            let format = ActivationFormat { bits: bits(6), block: BlockSize::IMAGE, scale: ActivationScale::Float };
            let weight_block = BlockSize::new(32).unwrap();
            let layout = Layout::new(LayerInput {
                channels,
                groups: 1,
                weight_block,
                format,
                signed,
                depthwise: false,
                whole: Whole::Apart,
            });
            let q: Vec<i8> = (0..outputs * channels * 9).map(|_| (below(16) - 8) as i8).collect();
            let factors: Vec<i8> = (0..outputs * 2).flat_map(|_| [(below(31) - 15) as i8; 9]).collect();
            let scales: Vec<f32> = (0..outputs).map(|o| 0.01 * o as f32 - 0.07).collect();
            let bias: Vec<f32> = (0..outputs).map(|o| 1.0 - o as f32).collect();
            let levels = TwoLevel::new(scales.clone(), factors.clone());
            let weights =
                QuantizedWeights::from_parts_two_level(conv.weight_shape(), bits(4), weight_block, q.clone(), levels);
            let weights = weights.unwrap();
            assert!(Winograd::suits(&conv, &weights, &layout));
            let mut a = vec![0i32; (rows + 2) * (width + 2) * channels];
            for (y, x) in (1..=rows).flat_map(|y| (1..=width).map(move |x| (y, x))) {
                let pixel = (y * (width + 2) + x) * channels;
                a[pixel..pixel + channels].fill_with(|| if signed { below(63) - 31 } else { below(64) });
            }
            let codes: Vec<u8> = a.iter().map(|a| (a + if signed { OFFSET } else { 0 }) as u8).collect();
            let residual: Vec<f32> = (0..rows * width * outputs).map(|i| i as f32 * 0.125).collect();
            let (scale, clamp) = (0.03f32, (0.0, 50.0));
            let expected: Vec<f32> = (0..rows * width * outputs)
                .map(|i| {
                    let (o, pixel) = (i % outputs, i / outputs);
                    let sum: i32 = (0..channels * 9)
                        .map(|j| {
                            let (c, tap) = (j / 9, j % 9);
                            let at = (pixel / width + tap / 3) * (width + 2) + pixel % width + tap % 3;
                            let factor = factors[(o * 2 + c / 32) * 9];
                            i32::from(factor) * i32::from(q[o * channels * 9 + j]) * a[at * channels + c]
                        })
                        .sum();
                    let y = (scale * sum as f32).mul_add(scales[o], bias[o]) + residual[i];
                    y.clamp(clamp.0, clamp.1)
                })
                .collect();

            // Plain loops read them as any kernel wants them.
            let usual = Tiling { tiles: 1, panels: 1, chains: false, codes_from: 0, strip: 1, fewest: 0 };
            for kernel in KernelName::ALL.into_iter().filter_map(KernelName::make) {
                let tiling = kernel.wants().winograd.unwrap_or(usual);
                for codes_from in [0, usize::MAX] {
                    let packed = Winograd::new(&weights, Some(&bias), &layout, Tiling { codes_from, ..tiling });
                    let call = WinogradCall {
                        weights: &packed,
                        codes: &codes,
                        width: width + 2,
                        origin: 0,
                        size: [rows, width],
                        scale,
                        residual: Residual::Output,
                        clamp: Some(clamp),
                    };
                    let mut room = Buffer::new(packed.places(call.tiles()[1]).bytes);
                    let mut out = residual.clone();
                    assert!(kernel.winograd(&call, &mut room, &mut out, outputs));
                    assert!(out == expected, "{}: {outputs} outputs, {rows} by {width}", kernel.name());
                }
            }
        }
    }
}

//! Plain loops in the reference's order, for every CPU.
use blockfloat::ActivationScale;

use super::rule::Rule;
use super::{ConvCall, PLANES, PlanesCall, QuantizeCall, Residual, STRIP, Task};
use crate::layout::{BORDER, LANES, Layout, RAW};
use crate::math;
use crate::pack::Packed;

/// Computes a convolution; returns whether all outputs were finite before their limits.
#[inline(always)]
pub(super) fn conv(call: &ConvCall<'_>, out: &mut [f32], stride: usize) -> bool {
    let w = call.weights;
    let mut finite = true;
    for p in call.panels.clone() {
        let panel = w.panels[p];
        for (i, &pixel) in call.pixels.iter().enumerate() {
            let mut acc = [0.0f32; LANES];
            for (tap, &distance) in call.taps.iter().enumerate() {
                if w.depthwise {
                    let line = call.layout.line(pixel as usize, call.width) + distance as usize + p * call.width;
                    let (at, values) = ((p * w.taps + tap) * LANES, &call.scales[line * LANES..][..LANES]);
                    let byte = call.codes[pixel as usize + call.distance(distance)];
                    depthwise_tap(call.layout, w, at, byte, values, &mut acc);
                } else {
                    let pixel = (pixel + distance) as usize;
                    let codes = &call.codes[pixel * call.layout.bytes..];
                    let scales = &call.scales[pixel * call.layout.scales..];
                    dense(
                        w,
                        p,
                        tap,
                        &codes[panel.group * w.group_bytes..],
                        &scales[panel.group * w.group_scales..],
                        &mut acc,
                    );
                }
            }
            let at = p * LANES;
            for lane in 0..panel.lanes {
                let bias = w.bias.get(at + lane).copied();
                let y = match (w.channel.get(at + lane), bias) {
                    (Some(s), Some(bias)) => math::mul_add(acc[lane], *s, bias),
                    (Some(s), None) => acc[lane] * s,
                    (None, Some(bias)) => acc[lane] + bias,
                    (None, None) => acc[lane],
                };
                finite &= end(y, call.residual, call.clamp, i, panel.first + lane, (&mut *out, stride));
            }
        }
    }
    finite
}

/// Adds what is added to output `i` of a channel, limits and stores it; returns whether it was finite before.
#[inline(always)]
pub(super) fn end(
    mut y: f32,
    residual: Residual<'_>,
    clamp: Option<(f32, f32)>,
    i: usize,
    channel: usize,
    (out, stride): (&mut [f32], usize),
) -> bool {
    match residual {
        Residual::Rows(r) => y += r.data[i * r.stride + channel],
        Residual::Output => y += out[i * stride + channel],
        Residual::None => {}
    }
    let finite = y.is_finite();
    if let Some((lo, hi)) = clamp {
        y = math::limit(y, lo, hi);
    }
    out[i * stride + channel] = y;
    finite
}

#[inline(always)]
fn dense(w: &Packed, p: usize, tap: usize, codes: &[u8], scales: &[f32], acc: &mut [f32; LANES]) {
    let line = |s: usize| if w.nibbles { s.div_ceil(2) } else { s };
    let tap_lines: usize = w.segments.iter().map(|s| line(s.steps)).sum();
    let mut weights = &w.weights[p * w.panel_bytes + tap * tap_lines * 64..];
    let mut codes = codes;
    for (i, segment) in w.segments.iter().enumerate() {
        let at = ((p * w.taps + tap) * w.segments.len() + i) * LANES;
        let mut dot = [0i32; LANES];
        if !w.start.is_empty() {
            dot.copy_from_slice(&w.start[at..at + LANES]);
        }
        for step in 0..segment.steps {
            let a: [u8; 4] = std::array::from_fn(|k| codes[step * 4 + k]);
            for lane in 0..LANES {
                for k in 0..4 {
                    let q = if w.nibbles {
                        // Up to the top of the byte, and back down with its sign.
                        ((weights[step / 2 * 64 + lane * 4 + k] << (4 - step % 2 * 4)) as i8) >> 4
                    } else {
                        weights[step * 64 + lane * 4 + k] as i8
                    };
                    dot[lane] += i32::from(q) * i32::from(a[k]);
                }
            }
        }
        let s = scales[segment.scale];
        for lane in 0..LANES {
            let factor = if w.two_level() { s } else { w.alpha[at + lane] * s };
            acc[lane] = math::mul_add(factor, dot[lane] as f32, acc[lane]);
        }
        weights = &weights[line(segment.steps) * 64..];
        codes = &codes[segment.steps * 4..];
    }
}

/// Adds one tap of sixteen channels of a depthwise layer, as the contract writes it.
fn depthwise_tap(layout: &Layout, w: &Packed, at: usize, byte: u8, x: &[f32], sum: &mut [f32; LANES]) {
    if byte == BORDER {
        return;
    }
    let rule = Rule::new(layout);
    for (lane, (&x, sum)) in x.iter().zip(sum).enumerate() {
        let (a, s) = match rule.kind {
            // What was rounded before rounds to itself.
            ActivationScale::Float if byte != RAW => {
                (if x == 0.0 { 0.0 } else { (rule.hi as f32).copysign(x) }, x.abs())
            }
            _ => {
                let (s, inv) = rule.scale(x.abs());
                (f32::from(i16::from(rule.code(x, inv)) - rule.offset as i16), s)
            }
        };
        let dot = f32::from(w.weights[at + lane] as i8) * a;
        let factor = if w.two_level() { s } else { w.alpha[at + lane] * s };
        // An integer 0 has no sign.
        *sum = math::mul_add(factor, dot + 0.0, *sum);
    }
}

/// Rounds rows.
#[inline(always)]
pub(super) fn quantize(call: &QuantizeCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
    let layout = call.layout;
    let rule = Rule::new(layout);
    let round = |x: &[f32], inv: f32, codes: &mut [u8]| {
        for (code, &x) in codes.iter_mut().zip(x) {
            *code = rule.code(x, inv);
        }
    };
    for (i, &pixel) in call.pixels.iter().enumerate() {
        let x = call.x.pixel(i, layout.channels);
        let codes = &mut codes[pixel as usize * layout.bytes..][..layout.bytes];
        let scales = &mut scales[pixel as usize * layout.scales..][..layout.scales];
        let mut pieces = layout.pieces.iter().peekable();
        for (block, scale) in layout.blocks.iter().zip(scales) {
            let own = || x[block.clone()].iter().fold(0.0f32, |max, x| max.max(x.abs()));
            let (s, inv) = rule.scale(call.largest.unwrap_or_else(own));
            *scale = s;
            if layout.pieces.is_empty() {
                round(&x[block.clone()], inv, &mut codes[block.clone()]);
            }
            while let Some(piece) = pieces.next_if(|p| p.channels.end <= block.end) {
                let x = &x[piece.channels.clone()];
                round(x, inv, &mut codes[piece.at..][..x.len()]);
            }
        }
    }
    fill_spare(call, codes);
}

/// Fills the [spare](Layout::spare) bytes of pixels.
#[inline(always)]
pub(super) fn fill_spare(call: &QuantizeCall<'_>, codes: &mut [u8]) {
    let spare = call.layout.spare();
    if !spare.is_empty() {
        for &pixel in call.pixels {
            codes[pixel as usize * call.layout.bytes..][spare.clone()].fill(call.layout.zero());
        }
    }
}

/// Rounds a planar image, a plane at a time.
#[inline(always)]
pub(super) fn quantize_planes(call: &PlanesCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
    let (layout, count) = (call.layout, call.pixels.len());
    let rule = Rule::new(layout);
    let plane = |c: usize| &call.image[c * call.area + call.first..][..count];
    let (mut scale, mut inv) = ([0.0f32; STRIP], [0.0f32; STRIP]);
    if let Some(largest) = call.largest {
        let all = rule.scale(largest);
        (scale, inv) = ([all.0; STRIP], [all.1; STRIP]);
    } else {
        let mut max = [0.0f32; STRIP];
        for c in 0..layout.channels {
            for (max, x) in max[..count].iter_mut().zip(plane(c)) {
                *max = if x.abs() > *max { x.abs() } else { *max };
            }
        }
        rule.scale_all(max[..count].iter().copied(), &mut scale, &mut inv);
    }
    // A pixel's codes are the bytes of a word, the first channel's the lowest.
    let spare = layout.spare().fold(0, |word, byte| word | u32::from(layout.zero()) << (8 * byte));
    let mut words = [spare; STRIP];
    for c in 0..layout.channels {
        for ((word, x), inv) in words[..count].iter_mut().zip(plane(c)).zip(&inv) {
            *word |= u32::from(rule.code(*x, *inv)) << (8 * c);
        }
    }
    // Pixels of a row lie side by side.
    let mut i = 0;
    while i < count {
        let first = call.pixels[i] as usize;
        let mut run = count - i;
        // Half as many until all of them lie side by side: a comparison of many at a time.
        let apart = |run| call.pixels[i..i + run].iter().zip(call.pixels[i]..).fold(0, |all, (&a, b)| all | (a ^ b));
        while apart(run) != 0 {
            run /= 2;
        }
        let codes = &mut codes[first * layout.bytes..][..run * layout.bytes];
        if layout.bytes == PLANES {
            for (code, word) in codes.as_chunks_mut::<PLANES>().0.iter_mut().zip(&words[i..]) {
                *code = word.to_le_bytes();
            }
        } else if layout.bytes == 3 {
            let (fours, rest) = words[i..i + run].as_chunks::<4>();
            let (codes, last) = codes.split_at_mut(12 * fours.len());
            for (code, [a, b, c, d]) in codes.as_chunks_mut::<12>().0.iter_mut().zip(fours) {
                let (low, middle, high) = (a | b << 24, b >> 8 | c << 16, c >> 16 | d << 8);
                *code = (u128::from(low) | u128::from(middle) << 32 | u128::from(high) << 64).to_le_bytes()[..12]
                    .try_into()
                    .expect("12 of 16 bytes");
            }
            for (code, word) in last.as_chunks_mut::<3>().0.iter_mut().zip(rest) {
                code.copy_from_slice(&word.to_le_bytes()[..3]);
            }
        } else {
            for (code, word) in codes.chunks_exact_mut(layout.bytes).zip(&words[i..]) {
                code.copy_from_slice(&word.to_le_bytes()[..layout.bytes]);
            }
        }
        scales[first..first + run].copy_from_slice(&scale[i..i + run]);
        i += run;
    }
}

/// Finds the largest magnitude of finite floats.
pub(crate) struct Largest<'a>(pub &'a [f32]);

impl Task for Largest<'_> {
    type Output = f32;

    #[inline(always)]
    fn run(self) -> f32 {
        let (chunks, rest) = self.0.as_chunks::<64>();
        let mut max = [0.0f32; 64];
        for chunk in chunks {
            for i in 0..64 {
                max[i] = if chunk[i].abs() > max[i] { chunk[i].abs() } else { max[i] };
            }
        }
        for (max, x) in max.iter_mut().zip(rest) {
            *max = if x.abs() > *max { x.abs() } else { *max };
        }
        max.into_iter().fold(0.0, f32::max)
    }
}

//! What a kernel is asked to do: slices and where in them, checked before a pointer is used.
use std::ops::Range;

use super::Kernel;
use crate::layout::{LANES, Layout};
use crate::pack::Packed;

/// The most outputs that one call computes.
pub(crate) const STRIP: usize = 256;

/// Rows of floats: one row a pixel, `stride` floats apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub data: &'a [f32],
    pub stride: usize,
}

impl<'a> Rows<'a> {
    /// Returns the first `channels` floats of row `i`.
    #[inline(always)]
    pub fn pixel(&self, i: usize, channels: usize) -> &'a [f32] {
        &self.data[i * self.stride..][..channels]
    }
}

/// What is added to an output.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Residual<'a> {
    None,
    /// Row `i` is added to output `i`.
    Rows(Rows<'a>),
    /// What lies where the output goes is added to it.
    Output,
}

/// Some output pixels of a convolution.
#[derive(Debug)]
pub(crate) struct ConvCall<'a> {
    pub weights: &'a Packed,
    pub layout: &'a Layout,
    /// The codes of all pixels, borders included: `[pixels, layout.bytes]` and [`SLACK`] bytes.
    pub codes: &'a [u8],
    /// The scales of all pixels, `[pixels, layout.scales]`; of a depthwise layer the values, see [`Layout`].
    pub scales: &'a [f32],
    /// The number of pixels of an input row, borders included.
    pub width: usize,
    /// The input pixel under the first tap, for each output.
    pub pixels: &'a [u32],
    /// The distance of each tap from the first, in pixels; of a depthwise layer in its lines of values.
    pub taps: &'a [u32],
    /// The panels to compute.
    pub panels: Range<usize>,
    /// What is added after the bias.
    pub residual: Residual<'a>,
    /// The limits of the result.
    pub clamp: Option<(f32, f32)>,
}

/// The number of bytes that a kernel may read after the last pixel's codes.
pub(crate) const SLACK: usize = 64;

impl ConvCall<'_> {
    /// Returns the distance of the last tap from the first, in pixels.
    pub fn reach(&self) -> usize {
        self.taps.iter().max().map_or(0, |&tap| self.distance(tap))
    }

    /// Returns the distance of a tap from the first, in pixels.
    pub fn distance(&self, tap: u32) -> usize {
        let row = self.width * if self.weights.depthwise { self.layout.lines() } else { 1 };
        match row {
            0 => 0,
            _ => tap as usize / row * self.width + tap as usize % row,
        }
    }

    /// Panics unless every access of a kernel lies in its slice. `out` has row `i` of output `i`.
    #[inline(always)]
    pub fn check(&self, out: &[f32], stride: usize) {
        let (w, layout) = (self.weights, self.layout);
        let reach = self.reach();
        let last = self.pixels.iter().max().map(|&pixel| pixel as usize);
        let area = last.map_or(0, |last| last + reach + 1);
        assert!(self.codes.len() >= area * layout.bytes + SLACK, "codes of {area} pixels");
        if w.depthwise {
            let tap = self.taps.iter().max().map_or(0, |&tap| tap as usize);
            let last_panel = layout.lines().saturating_sub(1) * self.width;
            let lines = last.map_or(0, |last| layout.line(last, self.width) + tap + last_panel + 1);
            assert!(self.scales.len() >= lines * LANES, "values of {area} pixels");
        } else {
            assert!(self.scales.len() >= area * layout.scales, "scales of {area} pixels");
        }
        assert!(self.pixels.len() <= STRIP && self.taps.len() == w.taps && self.panels.end <= w.panels.len());
        let channels = w.panels[self.panels.clone()].iter().map(|p| p.first + p.lanes).max().unwrap_or(0);
        let rows_fit = |len: usize, stride: usize| match self.pixels.len() {
            0 => true,
            n => len >= (n - 1) * stride + channels,
        };
        assert!(rows_fit(out.len(), stride), "output rows");
        if let Residual::Rows(r) = self.residual {
            assert!(rows_fit(r.data.len(), r.stride), "residual rows");
        }
        let scales = w.panels.len() * w.taps * w.segments.len() * LANES;
        if w.depthwise {
            let values = w.panels.len() * w.taps * LANES;
            assert!(w.weights.len() == values && (w.two_level() || w.alpha.len() == values));
            assert!(w.values.len() == values && (w.factors.is_empty() || w.factors.len() == values));
            assert!(w.ordinary.len() == w.panels.len() && layout.bytes == 1 && layout.scales >= w.panels.len() * LANES);
        } else {
            let steps: usize = w.segments.iter().map(|s| s.lines(w.nibbles)).sum();
            assert!(w.panel_bytes == w.taps * steps * 64 && w.weights.len() == w.panels.len() * w.panel_bytes);
            assert!(w.two_level() || w.alpha.len() == scales);
            assert!(w.start.is_empty() || w.start.len() == scales);
            assert!(w.levels.is_empty() || w.levels.len() == scales && w.fitting > 0);
            let codes: usize = w.segments.iter().map(|s| s.steps * 4).sum();
            let last = |panel: usize| w.quarters(panel, layout.groups)[3];
            let group = (0..w.panels.len()).map(last).max().unwrap_or(0);
            assert!(w.panels.iter().all(|p| p.group < layout.groups) && w.panel_groups <= 4);
            assert!(group * w.group_bytes + codes <= layout.bytes);
            assert!(w.segments.iter().all(|s| group * w.group_scales + s.scale < layout.scales));
        }
        let lanes = w.panels.len() * LANES;
        assert!(w.channel.is_empty() || w.channel.len() == lanes);
        assert!(w.bias.is_empty() || w.bias.len() == lanes);
        assert!(w.panels.iter().all(|p| p.lanes <= LANES));
    }
}

/// Where the outputs of a convolution go as the input of a depthwise layer: output `i` becomes pixel `pixels[i]`.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    pub layout: &'a Layout,
    /// The number of pixels of a row, borders included.
    pub width: usize,
    pub pixels: &'a [u32],
    pub codes: &'a mut [u8],
    pub values: &'a mut [f32],
    /// Room for the outputs as rows of floats.
    pub scratch: &'a mut [f32],
}

impl Target<'_> {
    /// Computes the outputs of a call as rows, then rounds these; returns as [`Kernel::conv`].
    pub fn in_two_passes(self, kernel: &impl Kernel, call: &ConvCall<'_>, unpacked: &mut [u8]) -> bool {
        let Self { layout, width, pixels, codes, values, scratch } = self;
        let stride = layout.channels;
        let finite = kernel.conv(call, unpacked, scratch, stride);
        kernel.quantize(
            &QuantizeCall { layout, x: Rows { data: scratch, stride }, width, pixels, largest: None },
            codes,
            values,
        );
        finite
    }
}

/// Rows of floats to round: row `i` of `x` becomes the codes of pixel `pixels[i]`.
#[derive(Debug)]
pub(crate) struct QuantizeCall<'a> {
    pub layout: &'a Layout,
    pub x: Rows<'a>,
    /// The number of pixels of a row, borders included.
    pub width: usize,
    pub pixels: &'a [u32],
    /// The largest magnitude of the image, where all pixels share its scale.
    pub largest: Option<f32>,
}

impl QuantizeCall<'_> {
    pub fn check(&self, codes: &[u8], scales: &[f32]) {
        let layout = self.layout;
        let area = self.pixels.iter().max().map_or(0, |&pixel| pixel as usize + 1);
        assert!(codes.len() >= area * layout.bytes);
        if layout.depthwise && area > 0 {
            let lines = layout.line(area - 1, self.width) + (layout.lines() - 1) * self.width + 1;
            assert!(scales.len() >= lines * LANES);
        } else {
            assert!(scales.len() >= area * layout.scales);
        }
        let rows = self.pixels.len();
        assert!(rows <= STRIP && (rows == 0 || self.x.data.len() >= (rows - 1) * self.x.stride + layout.channels));
    }
}

/// Pixels of a planar image of at most [`PLANES`] channels to round: pixel `first + i` becomes the codes of pixel
/// `pixels[i]`.
#[derive(Debug)]
pub(crate) struct PlanesCall<'a> {
    pub layout: &'a Layout,
    /// The image, `[C, area]`.
    pub image: &'a [f32],
    pub area: usize,
    pub first: usize,
    pub pixels: &'a [u32],
    /// The largest magnitude of the image, where all pixels share its scale.
    pub largest: Option<f32>,
}

/// The most channels of a [`PlanesCall`].
pub(crate) const PLANES: usize = 4;

impl PlanesCall<'_> {
    /// Tells whether a layout can be made from planes: all channels of a pixel share a scale.
    pub fn fits(layout: &Layout) -> bool {
        layout.channels <= PLANES && layout.blocks.len() == 1 && layout.pieces.is_empty() && !layout.depthwise
    }

    /// Panics unless every access of a kernel lies in its slice.
    pub fn check(&self, codes: &[u8], scales: &[f32]) {
        let area = self.pixels.iter().max().map_or(0, |&pixel| pixel as usize + 1);
        assert!(Self::fits(self.layout) && self.layout.bytes <= PLANES && self.pixels.len() <= STRIP);
        assert!(codes.len() >= area * self.layout.bytes && scales.len() >= area);
        assert!(self.first + self.pixels.len() <= self.area && self.image.len() >= self.layout.channels * self.area);
    }
}

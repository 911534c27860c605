//! Files to RGB bytes, and RGB bytes to the network's size, with the results of PIL and torchvision.

use std::io::Cursor;
use std::path::Path;

use graph::Preprocess;
use image::{DynamicImage, ImageFormat, ImageReader};

use crate::resize::resize;

/// Interleaved RGB bytes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rgb {
    /// Height and width.
    pub(crate) size: [usize; 2],
    pub(crate) pixels: Vec<u8>,
}

/// A resized image larger than this is refused: a 1x60000 image is small as a file and huge at 256 pixels' width.
const MOST_PIXELS: usize = 1 << 26;

/// Reads a file as PIL's `convert("RGB")` does: grey is repeated, alpha is dropped, a palette is looked up, CMYK is
/// converted. The content decides the format, not the name. An orientation in EXIF is not applied. Unlike PIL, which turns
/// 16-bit grey white, this keeps its high byte.
pub(crate) fn decode(path: &Path) -> Result<Rgb, String> {
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    if bytes.is_empty() {
        return Err("the file is empty".to_owned());
    }
    let reader = ImageReader::new(Cursor::new(&bytes)).with_guessed_format().map_err(|e| e.to_string())?;
    let format = reader.format().ok_or("not an image: neither JPEG, PNG, BMP nor WebP")?;
    if format == ImageFormat::Jpeg && !ends(&bytes) {
        // The decoder fills the missing part with grey.
        return Err("JPEG data ends early".to_owned());
    }
    let image = reader.decode().map_err(|e| e.to_string())?;
    let size = [image.height() as usize, image.width() as usize];
    Ok(Rgb { size, pixels: to_rgb(image) })
}

/// Whether an end-of-image marker follows the first scan. Segments before it are skipped: a thumbnail has its own marker.
fn ends(jpeg: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xDA;
    let mut rest = &jpeg[2..];
    while let [0xFF, marker, high, low, ..] = *rest {
        if marker == START_OF_SCAN {
            return rest.windows(2).any(|pair| pair == [0xFF, 0xD9]);
        }
        // A marker may be preceded by fill bytes.
        let length = if marker == 0xFF { 1 } else { 2 + usize::from(u16::from_be_bytes([high, low])) };
        rest = rest.get(length..).unwrap_or_default();
    }
    // Not a sequence of segments: the decoder says what is wrong.
    true
}

fn to_rgb(image: DynamicImage) -> Vec<u8> {
    // PIL keeps the high byte of a 16-bit colour; `image` would round.
    let high = |sample: u16| (sample >> 8) as u8;
    match image {
        DynamicImage::ImageRgb16(image) => image.into_raw().into_iter().map(high).collect(),
        DynamicImage::ImageRgba16(image) => image.pixels().flat_map(|p| [p[0], p[1], p[2]].map(high)).collect(),
        DynamicImage::ImageLuma16(image) => image.into_raw().into_iter().flat_map(|p| [high(p); 3]).collect(),
        DynamicImage::ImageLumaA16(image) => image.pixels().flat_map(|p| [high(p[0]); 3]).collect(),
        image => image.into_rgb8().into_raw(),
    }
}

/// The part of [`Preprocess`] that changes an image's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fit {
    resize: Option<usize>,
    crop: Option<usize>,
}

impl Fit {
    pub(crate) fn new(preprocess: &Preprocess) -> Self {
        Self { resize: preprocess.resize, crop: preprocess.crop }
    }

    /// Keeps every size.
    pub(crate) fn none() -> Self {
        Self { resize: None, crop: None }
    }

    /// Height and width of what `apply` makes of an image of `size`.
    pub(crate) fn output(&self, size: [usize; 2]) -> [usize; 2] {
        match self.crop {
            Some(side) => [side, side],
            None => self.resized(size),
        }
    }

    pub(crate) fn apply(&self, image: Rgb) -> Result<Rgb, String> {
        let size = self.resized(image.size);
        if size[0].saturating_mul(size[1]) > MOST_PIXELS {
            return Err(format!("{}x{} pixels after resizing", size[1], size[0]));
        }
        let image = if size == image.size { image } else { resize(&image, size) };
        Ok(match self.crop {
            Some(side) if image.size != [side, side] => centre_crop(&image, side),
            _ => image,
        })
    }

    /// The shorter side becomes `resize`, the longer one `int(resize * long / short)` as in torchvision.
    fn resized(&self, [height, width]: [usize; 2]) -> [usize; 2] {
        match self.resize {
            None => [height, width],
            Some(side) if width <= height => [side * height / width, side],
            Some(side) => [side, side * width / height],
        }
    }
}

/// torchvision's: a smaller image is padded with black first, half of an odd difference rounds to the even number.
fn centre_crop(image: &Rgb, side: usize) -> Rgb {
    let mut pixels = vec![0; 3 * side * side];
    let [rows, columns] = image.size.map(|length| overlap(length, side));
    for row in 0..rows.count {
        let from = 3 * ((rows.source + row) * image.size[1] + columns.source);
        let to = 3 * ((rows.target + row) * side + columns.target);
        pixels[to..][..3 * columns.count].copy_from_slice(&image.pixels[from..][..3 * columns.count]);
    }
    Rgb { size: [side, side], pixels }
}

/// One axis of a crop: `count` pixels from `source` on go to `target`.
struct Overlap {
    source: usize,
    target: usize,
    count: usize,
}

fn overlap(length: usize, side: usize) -> Overlap {
    if length < side {
        return Overlap { source: 0, target: (side - length) / 2, count: length };
    }
    let offset = ((length - side) as f64 / 2.0).round_ties_even() as usize;
    Overlap { source: offset, target: 0, count: side }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(size: [usize; 2]) -> Rgb {
        let pixels = (0..size[0] * size[1]).flat_map(|i| [i as u8 + 1; 3]).collect();
        Rgb { size, pixels }
    }

    #[test]
    fn longer_side_is_rounded_down() {
        let fit = Fit { resize: Some(256), crop: None };
        // 256 * 500 / 375 = 341.33
        assert_eq!(fit.output([375, 500]), [256, 341]);
        assert_eq!(fit.output([500, 375]), [341, 256]);
        assert_eq!(fit.output([100, 100]), [256, 256]);
    }

    #[test]
    fn crop_of_an_odd_difference_rounds_half_to_even() {
        // (5 - 2) / 2 = 1.5 -> 2; (3 - 2) / 2 = 0.5 -> 0
        let cropped = centre_crop(&ramp([5, 3]), 2);
        let first: Vec<u8> = cropped.pixels.iter().step_by(3).copied().collect();
        assert_eq!(first, [7, 8, 10, 11]);
    }

    #[test]
    fn crop_larger_than_the_image_pads_with_black() {
        let cropped = centre_crop(&ramp([1, 2]), 4);
        let first: Vec<u8> = cropped.pixels.iter().step_by(3).copied().collect();
        // (4 - 1) / 2 = 1 row above, (4 - 2) / 2 = 1 column to the left
        assert_eq!(first, [0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn long_thin_image_is_refused() {
        let fit = Fit { resize: Some(256), crop: Some(224) };
        // 256 x (256 * 2000) = 131 million pixels
        assert_eq!(fit.apply(ramp([2000, 1])).unwrap_err(), "256x512000 pixels after resizing");
    }

    #[test]
    fn end_of_image_is_looked_for_after_the_first_scan() {
        let thumbnail = [0xFF, 0xE1, 0, 4, 0xFF, 0xD9];
        let scan = [0xFF, 0xDA, 0, 2, 1, 2, 3];
        let cut = [&[0xFF, 0xD8][..], &thumbnail, &scan].concat();
        assert!(!ends(&cut));
        assert!(ends(&[&cut[..], &[0xFF, 0xD9]].concat()));
    }

    #[test]
    fn size_kept_means_bytes_kept() {
        assert_eq!(Fit::none().apply(ramp([3, 4])), Ok(ramp([3, 4])));
    }

    /// Every made image, cut off and with bytes changed: an error or an image, no panic.
    #[test]
    fn damaged_files_do_not_panic() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("damaged");
        let mut random = crate::random::Random::new(1, 1);
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/images")).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let jpeg = bytes.starts_with(&[0xFF, 0xD8]);
            for _ in 0..30 {
                let cut = random.below(bytes.len());
                std::fs::write(&file, &bytes[..cut]).unwrap();
                let decoded = decode(&file);
                // The decoders of the other formats notice all but a lost ending.
                assert!(decoded.is_err() || (!jpeg && cut + 64 > bytes.len()), "{} cut at {cut}", path.display());

                let mut changed = bytes.clone();
                for _ in 0..3 {
                    changed[random.below(bytes.len())] = random.next() as u8;
                }
                std::fs::write(&file, &changed).unwrap();
                let _ = decode(&file);
            }
        }
    }
}

//! Decodes image files and fits images to the size of a network's input, with the results of PIL and torchvision.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use graph::{ChannelOrder, Preprocess, Resize, Shape};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use crate::ImageError;
use crate::resize::resize;

/// A decoded picture in memory.
///
/// ```
/// use graph::{Preprocess, Shape};
/// use images::Picture;
///
/// let red = Picture::from_rgba(1, 1, &[255, 0, 0, 255])?;
/// let input = red.input(&Preprocess::imagenet(), Shape::new(3, 224, 224))?;
/// assert_eq!((input.len(), input[0]), (3 * 224 * 224, (1.0 - 0.485) / 0.229));
/// # Ok::<(), images::ImageError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// The number of channels: 3 for red, green and blue, 1 for grey.
    pub(crate) channels: usize,
    /// The height and width.
    pub(crate) size: [usize; 2],
    /// The bytes, `[H, W, C]`.
    pub(crate) pixels: Vec<u8>,
}

impl Picture {
    /// Decodes the bytes of an image file, JPEG, PNG, BMP or WebP, as those of a set are decoded. An orientation in EXIF is not
    /// applied.
    ///
    /// # Errors
    /// [`ImageError::Undecodable`] for bytes that are none of these formats, damaged, or of more than 2^26 pixels.
    pub fn decode(bytes: &[u8]) -> Result<Self, ImageError> {
        decode_bytes(bytes).map_err(ImageError::Undecodable)
    }

    /// Takes pixels of red, green and blue.
    ///
    /// # Errors
    /// [`ImageError::Undecodable`] unless there are as many bytes as pixels need, at least one pixel, and 2^26 at most.
    pub fn from_rgb(width: usize, height: usize, rgb: &[u8]) -> Result<Self, ImageError> {
        Self::from_pixels::<3>(width, height, rgb)
    }

    /// Takes pixels of red, green, blue and alpha, which is dropped.
    ///
    /// # Errors
    /// As [`Picture::from_rgb`].
    pub fn from_rgba(width: usize, height: usize, rgba: &[u8]) -> Result<Self, ImageError> {
        Self::from_pixels::<4>(width, height, rgba)
    }

    fn from_pixels<const N: usize>(width: usize, height: usize, bytes: &[u8]) -> Result<Self, ImageError> {
        let count = check_size([height, width]).map_err(ImageError::Undecodable)?;
        let (pixels, rest) = bytes.as_chunks::<N>();
        if pixels.len() != count || !rest.is_empty() {
            let why = format!("{} bytes are not {width}x{height} pixels of {N} bytes", bytes.len());
            return Err(ImageError::Undecodable(why));
        }
        let pixels = pixels.iter().flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
        Ok(Self { channels: 3, size: [height, width], pixels })
    }

    /// Returns the height and width.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// Makes the input `[C, H, W]` of a network that takes this shape: the picture is resized, cropped and normalised. Sizes
    /// that `preprocess` leaves open follow from the shape.
    ///
    /// # Errors
    /// [`ImageError::Preprocess`] where `preprocess` is not valid or makes another shape, or would make too large a picture on
    /// the way.
    pub fn input(&self, preprocess: &Preprocess, shape: Shape) -> Result<Vec<f32>, ImageError> {
        preprocess.check().map_err(ImageError::Preprocess)?;
        let preprocess = preprocess.fitted(shape);
        let fit = Fit::new(&preprocess);
        let [height, width] = fit.output(self.size);
        let made = Shape::new(preprocess.channels(), height, width);
        if made != shape {
            return Err(ImageError::Preprocess(format!("images become {made}, the network takes {shape}")));
        }
        let fitted = fit.apply(self.clone()).map_err(ImageError::Preprocess)?;
        let mut input = vec![0.0; shape.elements()];
        preprocess.normaliser().apply(&fitted.pixels, &mut input);
        Ok(input)
    }
}

/// The limit of pixels of an image, decoded or resized: a file of 254 bytes can say that it is 60000x60000.
const MOST_PIXELS: usize = 1 << 26;
/// Images of more pixels are decoded one at a time, so that memory does not grow with the number of cores.
const LARGE: usize = 1 << 23;
/// The limit of bytes of a file.
const MOST_BYTES: u64 = 1 << 28;
/// The limit of bytes of a row of a PNG, and of its colour profile, which nobody needs here and which may unpack to a thousand
/// times its size in the file. A longer one is passed over.
const MOST_BESIDE: u64 = 1 << 26;

/// Decodes a file as PIL's `convert("RGB")` does: grey is repeated, alpha is dropped, a palette is looked up, CMYK is
/// converted. The content decides the format, not the name. An orientation in EXIF is not applied, as in torchvision's
/// `ImageFolder`. Only the first frame of an animation is read. Unlike PIL, which turns 16-bit grey white, this keeps its
/// high byte.
pub(crate) fn decode(path: &Path) -> Result<Picture, String> {
    decode_bytes(&read(path)?)
}

/// Reads a regular file. Other files are refused, since a pipe could be waited for without end.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let file = std::fs::metadata(path).map_err(|e| e.to_string())?;
    if !file.is_file() {
        return Err(if file.is_dir() { "a folder, not an image" } else { "not a file" }.to_owned());
    }
    if file.len() > MOST_BYTES {
        return Err(format!("{} bytes: an image has {MOST_BYTES} at most", file.len()));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MOST_BYTES).read_to_end(&mut bytes)).map_err(|e| e.to_string())?;
    Ok(bytes)
}

fn decode_bytes(bytes: &[u8]) -> Result<Picture, String> {
    static ONE_LARGE: Mutex<()> = Mutex::new(());
    if bytes.is_empty() {
        return Err("the file is empty".to_owned());
    }
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MOST_BESIDE);
    reader.limits(limits);
    let format = reader.format().ok_or("not an image: neither JPEG, PNG, BMP nor WebP")?;
    if format == ImageFormat::Jpeg && !ends(bytes) {
        // The decoder would fill the missing part with grey.
        return Err("JPEG data ends early".to_owned());
    }
    let decoder = reader.into_decoder().map_err(|e| e.to_string())?;
    let size = [decoder.dimensions().1, decoder.dimensions().0].map(|side| side as usize);
    let pixels = check_size(size)?;
    let _one = (pixels > LARGE).then(|| ONE_LARGE.lock().unwrap_or_else(PoisonError::into_inner));
    let image = DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?;
    Ok(Picture { channels: 3, size, pixels: to_rgb(image) })
}

/// Returns the number of pixels of an image of this height and width, if it may be read.
fn check_size([height, width]: [usize; 2]) -> Result<usize, String> {
    let pixels = height.saturating_mul(width);
    match pixels {
        0 => Err(format!("{width}x{height} pixels: an image has at least one")),
        1..=MOST_PIXELS => Ok(pixels),
        _ => Err(format!("{width}x{height} pixels: {MOST_PIXELS} are read at most")),
    }
}

/// Returns whether an end-of-image marker follows the first scan. The segments before it are skipped, since a thumbnail has
/// a marker of its own.
fn ends(jpeg: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xDA;
    let mut rest = &jpeg[2..];
    while let [0xFF, marker, high, low, ..] = *rest {
        if marker == START_OF_SCAN {
            return rest.windows(2).any(|pair| pair == [0xFF, 0xD9]);
        }
        // Fill bytes may stand before a marker.
        let length = if marker == 0xFF { 1 } else { 2 + usize::from(u16::from_be_bytes([high, low])) };
        rest = rest.get(length..).unwrap_or_default();
    }
    // This is no sequence of segments, and the decoder says what is wrong.
    true
}

fn to_rgb(image: DynamicImage) -> Vec<u8> {
    // PIL keeps the high byte of a 16-bit colour; the crate `image` would round.
    let high = |sample: u16| (sample >> 8) as u8;
    match image {
        DynamicImage::ImageRgb16(image) => image.into_raw().into_iter().map(high).collect(),
        DynamicImage::ImageRgba16(image) => image.pixels().flat_map(|p| [p[0], p[1], p[2]].map(high)).collect(),
        DynamicImage::ImageLuma16(image) => image.into_raw().into_iter().flat_map(|p| [high(p); 3]).collect(),
        DynamicImage::ImageLumaA16(image) => image.pixels().flat_map(|p| [high(p[0]); 3]).collect(),
        image => image.into_rgb8().into_raw(),
    }
}

/// Converts to grey as Pillow's `convert("L")` does.
pub(crate) fn to_grey(rgb: &Picture) -> Picture {
    let luma = |[r, g, b]: [u8; 3]| {
        let [r, g, b] = [r, g, b].map(u32::from);
        ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8
    };
    let pixels = rgb.pixels.as_chunks::<3>().0.iter().map(|&pixel| luma(pixel)).collect();
    Picture { channels: 1, size: rgb.size, pixels }
}

/// The part of [`Preprocess`] that changes an image's size and number of channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fit {
    grey: bool,
    resize: Option<Resize>,
    crop: Option<[usize; 2]>,
}

impl Fit {
    pub(crate) fn new(preprocess: &Preprocess) -> Self {
        let grey = preprocess.order == ChannelOrder::Grey;
        Self { grey, resize: preprocess.resize, crop: preprocess.crop }
    }

    /// Makes a fit that keeps every image.
    pub(crate) fn none() -> Self {
        Self { grey: false, resize: None, crop: None }
    }

    /// Returns the height and width that [`Fit::apply`] gives an image of `size`.
    pub(crate) fn output(&self, size: [usize; 2]) -> [usize; 2] {
        self.crop.unwrap_or_else(|| self.resized(size))
    }

    /// Returns whether [`Fit::apply`] keeps images of `channels` and `size`.
    pub(crate) fn keeps(&self, channels: usize, size: [usize; 2]) -> bool {
        self.resized(size) == size && self.output(size) == size && !(self.grey && channels == 3)
    }

    /// Converts, resizes and crops an image.
    pub(crate) fn apply(&self, image: Picture) -> Result<Picture, String> {
        let image = if self.grey && image.channels == 3 { to_grey(&image) } else { image };
        let size = self.resized(image.size);
        let crop = self.crop.unwrap_or(size);
        let window = std::array::from_fn(|axis| CropWindow::new(size[axis], crop[axis]));
        let image = resize(image, size, window.map(|w: CropWindow| w.source..w.source + w.count), MOST_PIXELS)?;
        Ok(if image.size == crop { image } else { pad(&image, crop, window.map(|w| w.target)) })
    }

    /// Returns the result of [`Fit::apply`], and the height and width that the image had.
    pub(crate) fn sized(&self, image: Picture) -> Result<(Picture, [usize; 2]), String> {
        let size = image.size;
        Ok((self.apply(image)?, size))
    }

    /// Returns the size after the resize. With [`Resize::Shorter`] the longer side becomes `int(side * long / short)`, as in
    /// torchvision.
    fn resized(&self, [height, width]: [usize; 2]) -> [usize; 2] {
        // A pixel by 2^26 becomes more than 32 bits can count; `resize` refuses that.
        let longer = |side: usize, long: usize, short: usize| {
            usize::try_from(side as u64 * long as u64 / short as u64).unwrap_or(usize::MAX)
        };
        match self.resize {
            None => [height, width],
            Some(Resize::Exact(size)) => size,
            Some(Resize::Shorter(side)) if width <= height => [longer(side, height, width), side],
            Some(Resize::Shorter(side)) => [side, longer(side, width, height)],
        }
    }
}

/// Puts an image on black of the given size, for a crop that is larger than the image.
fn pad(image: &Picture, size: [usize; 2], at: [usize; 2]) -> Picture {
    let channels = image.channels;
    let mut pixels = vec![0; channels * size[0] * size[1]];
    let row = channels * image.size[1];
    for (y, from) in image.pixels.chunks_exact(row).enumerate() {
        pixels[channels * ((at[0] + y) * size[1] + at[1])..][..row].copy_from_slice(from);
    }
    Picture { channels, size, pixels }
}

/// One axis of torchvision's centre crop: `count` pixels from `source` on go to `target`. A smaller image is padded first.
/// Half of an odd difference rounds to the even number.
#[derive(Clone, Copy)]
struct CropWindow {
    source: usize,
    target: usize,
    count: usize,
}

impl CropWindow {
    fn new(length: usize, side: usize) -> Self {
        if length < side {
            return Self { source: 0, target: (side - length) / 2, count: length };
        }
        let source = ((length - side) as f64 / 2.0).round_ties_even() as usize;
        Self { source, target: 0, count: side }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_in_memory_are_as_many_as_said() {
        let rgb = Picture::from_rgb(2, 1, &[1, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!(Picture::from_rgba(2, 1, &[1, 2, 3, 9, 4, 5, 6, 9]).unwrap(), rgb);
        assert_eq!((rgb.size(), rgb.pixels), ([1, 2], vec![1, 2, 3, 4, 5, 6]));
        let said = |width, height, bytes: &[u8]| Picture::from_rgb(width, height, bytes).unwrap_err().to_string();
        assert_eq!(said(1, 1, &[0; 4]), "4 bytes are not 1x1 pixels of 3 bytes");
        assert_eq!(said(0, 1, &[]), "0x1 pixels: an image has at least one");
        assert_eq!(said(usize::MAX, 2, &[]), format!("{}x2 pixels: 67108864 are read at most", usize::MAX));
        assert_eq!(Picture::decode(b"text").unwrap_err().to_string(), "not an image: neither JPEG, PNG, BMP nor WebP");
    }

    #[test]
    fn an_input_has_the_shape_of_the_network() {
        let picture = ramp([2, 3]);
        let input =
            |preprocess: &Preprocess, shape| picture.input(preprocess, shape).map_err(|error| error.to_string());
        // Without sizes the picture becomes what the network takes.
        let bytes = Preprocess::bytes(ChannelOrder::Rgb);
        assert_eq!(input(&bytes, Shape::new(3, 4, 4)).unwrap().len(), 48);
        // 19595 + 38470 + 7471 is 65536: a grey pixel stays what it is.
        let grey = Preprocess { crop: Some([2, 3]), ..Preprocess::bytes(ChannelOrder::Grey) };
        assert_eq!(input(&grey, Shape::new(1, 2, 3)).unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let why = "preprocessing: images become [1, 2, 3], the network takes [3, 2, 3]";
        assert_eq!(input(&grey, Shape::new(3, 2, 3)).unwrap_err(), why);
        let wrong = Preprocess { divide: 0.0, ..bytes };
        assert_eq!(input(&wrong, Shape::new(3, 4, 4)).unwrap_err(), "preprocessing: divide is 0");
    }

    fn ramp(size: [usize; 2]) -> Picture {
        let pixels = (0..size[0] * size[1]).flat_map(|i| [i as u8 + 1; 3]).collect();
        Picture { channels: 3, size, pixels }
    }

    fn shorter(side: usize) -> Fit {
        Fit { resize: Some(Resize::Shorter(side)), ..Fit::none() }
    }

    /// Returns the first channel of a centre crop.
    fn cropped(size: [usize; 2], crop: [usize; 2]) -> Vec<u8> {
        let image = Fit { crop: Some(crop), ..Fit::none() }.apply(ramp(size)).unwrap();
        assert_eq!(image.size, crop);
        image.pixels.iter().step_by(3).copied().collect()
    }

    #[test]
    fn longer_side_is_rounded_down() {
        // 256 * 500 / 375 = 341.33
        assert_eq!(shorter(256).output([375, 500]), [256, 341]);
        assert_eq!(shorter(256).output([500, 375]), [341, 256]);
        assert_eq!(shorter(256).output([100, 100]), [256, 256]);
        let exact = Fit { resize: Some(Resize::Exact([48, 192])), ..Fit::none() };
        assert_eq!(exact.output([375, 500]), [48, 192]);
    }

    #[test]
    fn crop_of_an_odd_difference_rounds_half_to_even() {
        // (5 - 2) / 2 = 1.5 -> 2; (3 - 2) / 2 = 0.5 -> 0
        assert_eq!(cropped([5, 3], [2, 2]), [7, 8, 10, 11]);
        assert_eq!(cropped([5, 3], [2, 3]), [7, 8, 9, 10, 11, 12]);
    }

    #[test]
    fn crop_larger_than_the_image_pads_with_black() {
        // (4 - 1) / 2 = 1 row above, (4 - 2) / 2 = 1 column to the left
        assert_eq!(cropped([1, 2], [4, 4]), [0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn grey_is_pillows_luma() {
        // (255 * 19595 + 32768) >> 16 and so on; white is (255 * 65536 + 32768) >> 16
        let pixels = vec![255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255, 10, 20, 30];
        let grey = to_grey(&Picture { channels: 3, size: [1, 5], pixels });
        assert_eq!((grey.channels, grey.pixels), (1, vec![76, 150, 29, 255, 18]));
    }

    #[test]
    fn of_a_long_thin_image_only_the_crop_is_made() {
        let fit = Fit { crop: Some([224; 2]), ..shorter(256) };
        // 256 x (256 * 60000) would be 3.9 thousand million pixels.
        let image = fit.apply(Picture { channels: 3, size: [60_000, 1], pixels: vec![7; 180_000] }).unwrap();
        assert_eq!((image.size, image.pixels), ([224, 224], vec![7; 3 * 224 * 224]));
        assert_eq!(shorter(256).apply(ramp([2000, 1])).unwrap_err(), "256x512000 pixels after resizing");
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

    /// Makes a file of a format whose header claims another size.
    fn bomb(format: ImageFormat, width: u32, height: u32) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        image::RgbImage::new(8, 8).write_to(&mut file, format).unwrap();
        let mut file = file.into_inner();
        let at = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|w| w == what).unwrap();
        match format {
            ImageFormat::Png => {
                file[16..20].copy_from_slice(&width.to_be_bytes());
                file[20..24].copy_from_slice(&height.to_be_bytes());
                let mut crc = flate2::Crc::new();
                crc.update(&file[12..29]);
                file[29..33].copy_from_slice(&crc.sum().to_be_bytes());
            }
            ImageFormat::Jpeg => {
                let frame = at(&file, &[0xFF, 0xC0]) + 5;
                file[frame..frame + 2].copy_from_slice(&(height as u16).to_be_bytes());
                file[frame + 2..frame + 4].copy_from_slice(&(width as u16).to_be_bytes());
            }
            ImageFormat::Bmp => {
                file[18..22].copy_from_slice(&width.to_le_bytes());
                file[22..26].copy_from_slice(&height.to_le_bytes());
            }
            _ => {
                let size = at(&file, b"VP8L") + 9;
                let bits = (width - 1) & 0x3FFF | ((height - 1) & 0x3FFF) << 14;
                file[size..size + 4].copy_from_slice(&bits.to_le_bytes());
            }
        }
        file
    }

    #[test]
    fn a_header_that_asks_for_too_much_is_refused_before_anything_is_made() {
        let bombs = [
            bomb(ImageFormat::Png, 60_000, 60_000),
            bomb(ImageFormat::Png, i32::MAX as u32, 1),
            bomb(ImageFormat::Png, i32::MAX as u32, i32::MAX as u32),
            bomb(ImageFormat::Jpeg, 65_535, 65_535),
            bomb(ImageFormat::Bmp, 60_000, 60_000),
            bomb(ImageFormat::Bmp, i32::MAX as u32, i32::MAX as u32),
            bomb(ImageFormat::WebP, 16_384, 16_384),
        ];
        for bomb in bombs {
            let start = std::time::Instant::now();
            let error = decode_bytes(&bomb).unwrap_err();
            assert!(start.elapsed().as_millis() < 500, "{error}");
            assert!(!error.is_empty());
        }
        assert_eq!(
            decode_bytes(&bomb(ImageFormat::Png, 60_000, 60_000)).unwrap_err(),
            "60000x60000 pixels: 67108864 are read at most"
        );
        // The largest allowed size is accepted, and then the data is missing.
        assert!(decode_bytes(&bomb(ImageFormat::Png, 8_192, 8_192)).is_err());
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(decode(folder.path()).unwrap_err(), "a folder, not an image");
        if cfg!(target_os = "linux") {
            assert_eq!(decode(Path::new("/dev/zero")).unwrap_err(), "not a file");
        }
    }

    /// Every golden image is cut off and has bytes changed. The result is an error or an image, and no panic.
    #[test]
    fn damaged_files_do_not_panic() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("damaged");
        let mut random = crate::random::Random::new(1, 1);
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/images")).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            if path.file_stem().unwrap() == "animated" {
                // Only the first frame is needed.
                continue;
            }
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

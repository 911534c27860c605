//! Draws a sheet of images of the embedded set, and dumps its bytes for other tools.
//!
//! `cargo run --release -p dsconv-images --example sheet -- sheet.png [dump-folder]`
//!
//! The sheet has a row for each class. The dump is `<split>_images.bin` (interleaved RGB), `<split>_labels.bin` (a byte each),
//! and the first image of each class of `eval` as `<class>.png`.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use images::{EMBEDDED_CLASSES, Labelled, Split};

const COLUMNS: usize = 16;
const ZOOM: usize = 2;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let sheet = arguments.next().unwrap_or_else(|| "sheet.png".to_owned());
    let start = Instant::now();
    let train = images::embedded(Split::Train);
    println!("drew {} images in {:.2?}", train.len(), start.elapsed());
    draw(&train, Path::new(&sheet))?;
    println!("{sheet}");
    if let Some(folder) = arguments.next() {
        for (set, name) in [(train, "train"), (images::embedded(Split::Eval), "eval")] {
            let all: Vec<usize> = (0..set.len()).collect();
            std::fs::write(Path::new(&folder).join(format!("{name}_images.bin")), bytes(&set, &all)?)?;
            let labels: Vec<u8> = set.labels().iter().map(|&label| label as u8).collect();
            std::fs::write(Path::new(&folder).join(format!("{name}_labels.bin")), labels)?;
        }
        let eval = images::embedded(Split::Eval);
        let [_, height, width] = eval.shape();
        for (class, name) in EMBEDDED_CLASSES.iter().enumerate() {
            let first = eval.labels().iter().position(|&label| label == class).ok_or("a class without images")?;
            let image = image::RgbImage::from_raw(width as u32, height as u32, bytes(&eval, &[first])?);
            image.ok_or("no image")?.save(Path::new(&folder).join(format!("{name}.png")))?;
        }
    }
    Ok(())
}

/// Returns the bytes of images before normalisation, as interleaved RGB.
fn bytes(set: &Labelled, indices: &[usize]) -> Result<Vec<u8>, Box<dyn Error>> {
    let preprocess = images::embedded_preprocess();
    let batch = set.batch(indices)?.images;
    let plane = batch.shape[2] * batch.shape[3];
    let value = |i: usize, c: usize, p: usize| {
        let value = batch.pixels[(i * 3 + c) * plane + p];
        ((value * preprocess.std[c] + preprocess.mean[c]) * preprocess.divide).round() as u8
    };
    Ok((0..indices.len())
        .flat_map(|i| (0..plane).flat_map(move |p| [0, 1, 2].map(|c| (i, c, p))))
        .map(|(i, c, p)| value(i, c, p))
        .collect())
}

fn draw(set: &Labelled, path: &Path) -> Result<(), Box<dyn Error>> {
    let [_, height, width] = set.shape();
    let mut sheet =
        image::RgbImage::new((COLUMNS * width * ZOOM) as u32, (EMBEDDED_CLASSES.len() * height * ZOOM) as u32);
    for class in 0..EMBEDDED_CLASSES.len() {
        let indices: Vec<usize> = (0..set.len()).filter(|&i| set.labels()[i] == class).take(COLUMNS).collect();
        let pixels = bytes(set, &indices)?;
        for (column, image) in pixels.chunks_exact(3 * height * width).enumerate() {
            for y in 0..height * ZOOM {
                for x in 0..width * ZOOM {
                    let at = 3 * (y / ZOOM * width + x / ZOOM);
                    let pixel = image::Rgb([image[at], image[at + 1], image[at + 2]]);
                    sheet.put_pixel((column * width * ZOOM + x) as u32, (class * height * ZOOM + y) as u32, pixel);
                }
            }
        }
    }
    Ok(sheet.save(path)?)
}

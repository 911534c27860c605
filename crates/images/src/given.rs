//! Sets of images that a caller has in memory: decoded pictures, or inputs that are prepared already.
use std::path::PathBuf;
use std::sync::Arc;

use graph::Preprocess;

use crate::decode::{Fit, Picture};
use crate::set::{DecodedImages, Unlabelled, spread};
use crate::{ImageError, OpenOptions};

/// The part of a channel's range by which an input may lie outside it: some ways of resizing overshoot.
const OVERSHOOT: f32 = 0.1;

/// The part of the range of pixels that pictures surely take more of, taken together. Inputs that were normalised take less of 0..255:
/// ImageNet's 4.8.
const SPREAD: f32 = 0.02;

/// Makes a set of pictures, or of those that are spread over them if they are more than [`OpenOptions::limit`]. They are
/// resized, cropped and normalised as those of files are.
///
/// # Errors
/// [`ImageError::Preprocess`] where `preprocess` is not valid or makes too large a picture on the way;
/// [`ImageError::SizesDiffer`]; [`ImageError::Inputs`] where there are no pictures.
pub fn open_pictures(
    pictures: &[Picture],
    preprocess: &Preprocess,
    options: &OpenOptions,
) -> Result<Unlabelled, ImageError> {
    preprocess.check().map_err(ImageError::Preprocess)?;
    let fit = Fit::new(preprocess);
    let name = |index: usize| format!("picture {index}");
    let Some(expected) = pictures.first().map(|picture| fit.output(picture.size)) else {
        return Err(ImageError::Inputs { reason: "no pictures are given".to_owned(), hint: String::new() });
    };
    let (mut pixels, mut resized) = (Vec::new(), None);
    for index in spread(pictures.len(), options.limit.unwrap_or(pictures.len())) {
        let (fitted, size) = fit.sized(pictures[index].clone()).map_err(ImageError::Preprocess)?;
        if fitted.size != expected {
            return Err(ImageError::SizesDiffer { path: PathBuf::from(name(index)), got: fitted.size, expected });
        }
        if size != expected {
            resized.get_or_insert_with(|| (name(index), size));
        }
        pixels.extend_from_slice(&fitted.pixels);
    }
    let memory = Arc::new(DecodedImages::new(preprocess.channels(), expected, pixels));
    Ok(Unlabelled::from_fitted("given pictures".to_owned(), memory, preprocess).with_notes(
        Vec::new(),
        Vec::new(),
        resized,
    ))
}

/// Makes a set of a network's inputs `[N, C, H, W]`, at most [`OpenOptions::limit`] of them, which are taken as they are. `preprocess` is what makes inputs of
/// pictures: values that it cannot have made are refused, since the network would see something else than in use.
///
/// # Errors
/// [`ImageError::Inputs`] for no images, another number of values or channels, a value that is NaN or infinite, one that no
/// pixel becomes, where all are those of pixels in 0..1 that were not normalised, and where all lie within a fiftieth of the range, as
/// normalised ones do in 0..255; [`ImageError::Preprocess`].
pub fn open_inputs(
    values: Arc<Vec<f32>>,
    shape: [usize; 4],
    preprocess: &Preprocess,
    options: &OpenOptions,
) -> Result<Unlabelled, ImageError> {
    preprocess.check().map_err(ImageError::Preprocess)?;
    let refused = |reason: String, hint: &str| Err(ImageError::Inputs { reason, hint: hint.to_owned() });
    let [count, channels, height, width] = shape;
    let elements = shape.iter().try_fold(1usize, |product, &side| product.checked_mul(side));
    if values.is_empty() || elements != Some(values.len()) {
        return refused(format!("{} values are no images of the shape {shape:?}", values.len()), "");
    }
    if channels != preprocess.channels() {
        return refused(
            format!("the inputs have {channels} channels, the network takes {}", preprocess.channels()),
            "",
        );
    }
    let ranges = preprocess.normaliser().ranges();
    let plane = height * width;
    for (index, &value) in values.iter().enumerate() {
        let channel = index / plane % channels;
        let [low, high] = ranges[channel];
        let beyond = OVERSHOOT * (high - low);
        if !(low - beyond..=high + beyond).contains(&value) {
            let at = [index / plane / channels, channel, index % plane / width, index % width];
            return refused(
                format!("input {at:?} is {value}: a normalised pixel is from {low:.3} to {high:.3}"),
                NORMALISED,
            );
        }
    }
    let signed = ranges.iter().all(|&[low, high]| low < 0.0 && high > 1.0);
    if signed && values.iter().all(|value| (0.0..=1.0).contains(value)) {
        return refused("all inputs are from 0 to 1, as pixels are before they are normalised".to_owned(), NORMALISED);
    }
    let [low, high] =
        ranges.iter().fold([f32::MAX, f32::MIN], |all, range| [all[0].min(range[0]), all[1].max(range[1])]);
    let [least, most] = values.iter().fold([f32::MAX, f32::MIN], |all, value| [all[0].min(*value), all[1].max(*value)]);
    if most - least < SPREAD * (high - low) {
        return refused(
            format!("all inputs are from {least} to {most}: those of pictures spread over {low:.3} to {high:.3}"),
            NORMALISED,
        );
    }
    let set = Unlabelled::from_inputs("given inputs".to_owned(), values, [height, width], preprocess);
    Ok(set.take(options.limit.unwrap_or(count)))
}

/// The advice for inputs that look otherwise than the network's preprocessing makes them.
const NORMALISED: &str = "give inputs as the network takes them in use, or pictures, which are normalised here; --mean, --std and \
                          --divide say how, where the network's file is wrong or says nothing";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open_files;

    fn golden(name: &str) -> PathBuf {
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/images")).join(name)
    }

    fn inputs(values: &[f32], shape: [usize; 4], preprocess: &Preprocess) -> Result<Unlabelled, ImageError> {
        open_inputs(Arc::new(values.to_vec()), shape, preprocess, &OpenOptions::default())
    }

    #[test]
    fn pictures_and_inputs_are_those_of_files() {
        let paths = ["420.jpg", "rgb.png", "gray.png"].map(golden);
        for preprocess in
            [Preprocess::imagenet(), Preprocess { crop: Some([20, 20]), resize: None, ..Preprocess::grey() }]
        {
            let files = open_files(&paths, &preprocess, &OpenOptions::default()).unwrap();
            let decoded: Vec<Picture> =
                paths.iter().map(|path| Picture::decode(&std::fs::read(path).unwrap()).unwrap()).collect();
            let expected = files.batch(&[2, 0, 1]).unwrap();
            let made = open_pictures(&decoded, &preprocess, &OpenOptions::default()).unwrap();
            assert_eq!(made.batch(&[2, 0, 1]).unwrap(), expected);
            assert_eq!(made.resized().unwrap().0, "picture 0");

            let all = files.batch(&[0, 1, 2]).unwrap();
            let given = inputs(&all.pixels, all.shape, &preprocess).unwrap();
            assert_eq!(given.batch(&[2, 0, 1]).unwrap(), expected);
            // Two of three are the first and the second.
            let two = OpenOptions { limit: Some(2), ..OpenOptions::default() };
            let expected = given.batch(&[0, 1]).unwrap();
            let given_two = open_inputs(Arc::new(all.pixels), all.shape, &preprocess, &two).unwrap();
            for set in [open_pictures(&decoded, &preprocess, &two).unwrap(), given_two] {
                assert_eq!((set.len(), set.batch(&[0, 1]).unwrap()), (2, expected.clone()));
            }
            assert_ne!(given.select(&[0]).fingerprint(), given.select(&[1]).fingerprint());
        }
    }

    #[test]
    fn inputs_that_no_picture_becomes_are_refused() {
        let preprocess = Preprocess::imagenet_statistics();
        let refused = |values: &[f32; 6], shape, part: &str| {
            let error = inputs(values, shape, &preprocess).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        let shape = [1, 3, 1, 2];
        let good = [-2.0, 2.2, -2.0, 2.4, -1.8, 2.6];
        assert_eq!(inputs(&good, shape, &preprocess).unwrap().batch(&[0]).unwrap().pixels, good);
        // (1 - 0.485) / 0.229 = 2.2489, (0 - 0.485) / 0.229 = -2.1179; a tenth of the range more is 2.686.
        refused(
            &[-2.0, 2.7, -2.0, 2.4, -1.8, 2.6],
            shape,
            "input [0, 0, 0, 1] is 2.7: a normalised pixel is from -2.118 to 2.249",
        );
        refused(&[-2.0, 2.2, -2.0, f32::NAN, -1.8, 2.6], shape, "input [0, 1, 0, 1] is NaN");
        refused(&[-2.0, 2.2, -2.0, 2.4, f32::INFINITY, 2.6], shape, "input [0, 2, 0, 0] is inf");
        refused(&[0.0, 0.1, 0.5, 1.0, 0.9, 0.0], shape, "all inputs are from 0 to 1");
        refused(&good, [1, 2, 1, 3], "the inputs have 2 channels, the network takes 3");
        refused(&good, [2, 3, 1, 2], "6 values are no images of the shape [2, 3, 1, 2]");
        refused(&good, [usize::MAX, 3, 2, 2], "6 values are no images");
        assert!(inputs(&[], [0, 3, 1, 2], &preprocess).is_err());
        // Where a network takes pixels in 0..1, those are its inputs.
        let plain = Preprocess { mean: vec![0.0; 3], std: vec![1.0; 3], ..preprocess.clone() };
        inputs(&[0.0, 0.1, 0.5, 1.0, 0.9, 0.0], shape, &plain).unwrap();
        // Where it takes 0..255, normalised ones are not: 2.6 + 2.1 is less than a fiftieth of 255.
        let bytes = Preprocess::bytes(graph::ChannelOrder::Rgb);
        for wrong in [[-2.0, 2.2, -2.1, 2.4, -1.8, 2.6], [0.0, 0.1, 0.5, 1.0, 0.9, 0.0]] {
            let error = inputs(&wrong, shape, &bytes).unwrap_err().to_string();
            assert!(error.contains("those of pictures spread over 0.000 to 255.000"), "{error}");
        }
        inputs(&[0.0, 5.2, 1.0, 2.0, 3.0, 4.0], shape, &bytes).unwrap();
        assert!(open_pictures(&[], &plain, &OpenOptions::default()).is_err());
    }
}

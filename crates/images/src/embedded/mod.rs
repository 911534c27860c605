//! The embedded data set: coloured shapes on clutter, each image drawn from its split and index alone.
//!
//! It needs no download, so that everything can be tried and tested without a network. A small CNN learns it to about 95% in
//! minutes, and coarse quantization costs accuracy on it.

mod glyph;
mod render;

use std::sync::{Arc, OnceLock};

use graph::Preprocess;
use rayon::prelude::*;

use crate::classes::Labels;
use crate::random::{Random, shuffle};
pub use glyph::CLASSES;
use render::SIDE;

use crate::labelled::Labelled;
use crate::set::{DecodedImages, Split, Unlabelled};

const IMAGE: usize = 3 * SIDE * SIDE;

/// The images and labels of one split, which are drawn once a process.
struct Drawn {
    memory: Arc<DecodedImages>,
    labels: Arc<[usize]>,
}

fn drawn(split: Split) -> &'static Drawn {
    static SPLITS: [OnceLock<Drawn>; 3] = [const { OnceLock::new() }; 3];
    let (slot, seed, count) = match split {
        Split::Train => (0, 0x7261_696e, 8000),
        Split::Adapt => (1, 0x6164_6170, 2000),
        Split::Eval => (2, 0x6576_616c, 2000),
    };
    SPLITS[slot].get_or_init(|| {
        let mut pixels = vec![0; count * IMAGE];
        pixels.par_chunks_exact_mut(IMAGE).enumerate().for_each(|(index, out)| {
            render::render(label(seed, index), &mut Random::new(seed, index as u64), out);
        });
        let labels = (0..count).map(|index| label(seed, index)).collect();
        Drawn { memory: Arc::new(DecodedImages::new(3, [SIDE, SIDE], pixels)), labels }
    })
}

/// Returns the class of an image. Each run of sixteen images holds every class once, in an order that the index alone does not
/// tell.
fn label(seed: u64, index: usize) -> usize {
    let mut order: [usize; CLASSES.len()] = std::array::from_fn(|class| class);
    shuffle(&mut order, &mut Random::new(!seed, (index / CLASSES.len()) as u64));
    order[index % CLASSES.len()]
}

/// Returns the embedded set with labels: 32x32 RGB, 16 classes ([`CLASSES`]), 8000 images to train and 2000 to evaluate, with
/// the same bytes on every machine. It is drawn at the first call (about a second) and normalised by
/// [`embedded_preprocess`].
///
/// # Panics
/// Panics for [`Split::Adapt`], which has no labels: see [`embedded_unlabelled`].
pub fn embedded(split: Split) -> Labelled {
    embedded_as(split, &embedded_preprocess())
}

/// Returns the 2000 images of the embedded set without labels, to which a student is adapted.
pub fn embedded_unlabelled() -> Unlabelled {
    embedded_unlabelled_as(Split::Adapt, &embedded_preprocess())
}

/// Returns the preprocessing of the embedded set: ImageNet's mean and deviation, without resize or crop.
pub fn embedded_preprocess() -> Preprocess {
    Preprocess::imagenet_statistics()
}

pub(crate) fn embedded_as(split: Split, preprocess: &Preprocess) -> Labelled {
    assert!(split != Split::Adapt, "the adapt split has no labels: use embedded_unlabelled()");
    let classes = CLASSES.iter().map(|&class| class.to_owned()).collect();
    Labelled::new(embedded_unlabelled_as(split, preprocess), drawn(split).labels.clone(), classes, Labels::Known)
}

pub(crate) fn embedded_unlabelled_as(split: Split, preprocess: &Preprocess) -> Unlabelled {
    Unlabelled::from_memory(format!("embedded/{split}"), drawn(split).memory.clone(), preprocess)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn is_the_same_to_the_bit_everywhere() {
        let mut hasher = Sha256::new();
        for split in [Split::Train, Split::Adapt, Split::Eval] {
            let drawn = drawn(split);
            hasher.update(drawn.memory.bytes());
            hasher.update(drawn.labels.iter().map(|&label| label as u8).collect::<Vec<u8>>());
        }
        let digest = format!("{:x}", hasher.finalize());
        assert_eq!(digest, "d2d1755b6a9e4f1ebd3149e76923e2a5e75ffb4a75d2ad71bb3c37074dc1e874");
    }

    #[test]
    fn classes_are_balanced_and_their_order_irregular() {
        let eval = embedded(Split::Eval);
        for class in 0..CLASSES.len() {
            assert_eq!(eval.labels().iter().filter(|&&label| label == class).count(), 125);
        }
        let mut orders: Vec<&[usize]> = eval.labels().chunks_exact(CLASSES.len()).collect();
        orders.sort_unstable();
        orders.dedup();
        assert_eq!(orders.len(), 125);
    }

    #[test]
    fn splits_share_no_image() {
        let mut seen = std::collections::HashSet::new();
        for split in [Split::Train, Split::Adapt, Split::Eval] {
            assert!(drawn(split).memory.bytes().chunks_exact(IMAGE).all(|image| seen.insert(image)));
        }
        assert_eq!(seen.len(), 12_000);
    }

    #[test]
    #[should_panic(expected = "the adapt split has no labels")]
    fn labels_of_the_adapt_split_are_refused() {
        embedded(Split::Adapt);
    }
}

//! The data set that needs no download: coloured shapes on clutter, drawn from `(split, index)` alone.
//!
//! It exists so that everything can be tried, tested and demonstrated on a machine without a network: a small CNN learns
//! it to about 95% in minutes, and coarse quantization visibly hurts.

mod glyph;
mod render;

use std::sync::{Arc, OnceLock};

use graph::Preprocess;
use rayon::prelude::*;

use crate::classes::Labels;
use crate::random::{Random, shuffle};
pub use glyph::CLASSES;
use render::SIDE;

use crate::set::{Labelled, Memory, Split, Unlabelled};

const IMAGE: usize = 3 * SIDE * SIDE;

/// Images and labels of one split, drawn once a process.
struct Drawn {
    memory: Arc<Memory>,
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
        Drawn { memory: Arc::new(Memory::new(3, [SIDE, SIDE], pixels)), labels }
    })
}

/// Each run of sixteen images holds every class once, in an order that `index` alone does not tell.
fn label(seed: u64, index: usize) -> usize {
    let mut order: [usize; CLASSES.len()] = std::array::from_fn(|class| class);
    shuffle(&mut order, &mut Random::new(!seed, (index / CLASSES.len()) as u64));
    order[index % CLASSES.len()]
}

/// The embedded set: 32x32 RGB, 16 classes ([`CLASSES`]), 8000 images to train and 2000 to evaluate, the same to the bit
/// on every machine. Drawn at the first call (about a second), kept as bytes, normalised by [`embedded_preprocess`].
///
/// # Panics
/// For [`Split::Adapt`], whose labels nobody gets: see [`embedded_unlabelled`].
pub fn embedded(split: Split) -> Labelled {
    embedded_as(split, &embedded_preprocess())
}

/// The 2000 images of the embedded set that are there to adapt to: unlabelled.
pub fn embedded_unlabelled() -> Unlabelled {
    embedded_unlabelled_as(Split::Adapt, &embedded_preprocess())
}

/// How the embedded set is normalised: ImageNet statistics, size kept.
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
        let digest: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
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

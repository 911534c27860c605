use images::Batch;
use serde::{Deserialize, Serialize};

use crate::random::Random;

/// Random changes to training images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Images are shifted by up to this many pixels both ways; what comes in from outside is mirrored at the border.
    pub shift: usize,
    /// Every other image is mirrored, left to right. That suits images whose objects keep their class when mirrored.
    pub flip: bool,
}

impl Augment {
    /// Whether images stay as they are.
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Changes every image of a batch, each by its own generator.
    pub(crate) fn apply(&self, batch: &mut Batch, mut random: impl FnMut(usize) -> Random) {
        if self.is_none() {
            return;
        }
        let [_, channels, height, width] = batch.shape;
        let mut old = vec![0.0; height * width];
        let reach = self.shift as isize;
        for (index, image) in batch.pixels.chunks_exact_mut(channels * height * width).enumerate() {
            let mut random = random(index);
            let mut offset = || random.below(2 * self.shift + 1) as isize - reach;
            let (dy, dx) = (offset(), offset());
            let flip = self.flip && random.below(2) == 1;
            let rows: Vec<usize> = (0..height).map(|y| mirrored(y as isize + dy, height)).collect();
            let mut columns: Vec<usize> = (0..width).map(|x| mirrored(x as isize + dx, width)).collect();
            if flip {
                columns.reverse();
            }
            for plane in image.chunks_exact_mut(height * width) {
                old.copy_from_slice(plane);
                for (new, &y) in plane.chunks_exact_mut(width).zip(&rows) {
                    let from = &old[y * width..][..width];
                    for (value, &x) in new.iter_mut().zip(&columns) {
                        *value = from[x];
                    }
                }
            }
        }
    }
}

/// Mirrors a position outside of `0..side` at the border pixels, into it.
fn mirrored(at: isize, side: usize) -> usize {
    let last = side as isize - 1;
    if last == 0 {
        return 0;
    }
    let at = at.rem_euclid(2 * last);
    (if at > last { 2 * last - at } else { at }) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_are_mirrored_without_repeating_the_edge() {
        let row: Vec<usize> = (-2..6).map(|at| mirrored(at, 4)).collect();
        assert_eq!(row, [2, 1, 0, 1, 2, 3, 2, 1]);
        assert_eq!(mirrored(5, 1), 0);
    }

    #[test]
    fn augmentation_depends_on_the_generator_alone() {
        let pixels: Vec<f32> = (0..2 * 3 * 5 * 5).map(|v| v as f32).collect();
        let batch = Batch { shape: [2, 3, 5, 5], pixels, indices: vec![0, 1] };
        let augment = Augment { shift: 2, flip: true };
        let run = |seed: u64| {
            let mut batch = batch.clone();
            augment.apply(&mut batch, |i| Random::new(seed, &[i as u64]));
            batch.pixels
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        assert_ne!(run(1), batch.pixels);
        let mut same = batch.clone();
        Augment::default().apply(&mut same, |_| unreachable!("nothing is random"));
        assert_eq!(same, batch);
    }
}

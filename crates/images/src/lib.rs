//! Image sets: decode, resize, normalise; labelled and unlabelled; the embedded default.
//!
//! Training a student and adapting to a new place see only [`Unlabelled`] images, and there is no way from an
//! [`Unlabelled`] to a label: it does not hold any. [`Labelled`] images are for evaluation and supervised training.
//!
//! ```
//! use images::Split;
//!
//! let eval = images::embedded(Split::Eval);
//! let batch = eval.batch(&[0, 1, 2])?;
//! assert_eq!(batch.images.shape, [3, 3, 32, 32]);
//! assert_eq!(batch.labels.len(), 3);
//!
//! let adapt = images::embedded_unlabelled();
//! assert_eq!(adapt.batch(&[7])?.pixels.len(), 3 * 32 * 32);
//! # Ok::<(), images::ImageError>(())
//! ```
#![forbid(unsafe_code)]

mod embedded;
mod error;
mod random;
mod set;

pub use embedded::{CLASSES as EMBEDDED_CLASSES, embedded, embedded_preprocess, embedded_unlabelled};
pub use error::ImageError;
pub use set::{Batch, Labelled, LabelledBatch, Skipped, Split, Unlabelled};

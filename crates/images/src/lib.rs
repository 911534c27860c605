//! Image sets: decode, resize, normalise; labelled and unlabelled; the embedded default.
//!
//! Training a student and adapting to a new place see only [`Unlabelled`] images, and there is no way from an
//! [`Unlabelled`] to a label: it does not hold any. [`Labelled`] images are for evaluation and supervised training.
//!
//! Images become what PyTorch users feed their networks: decoding, resizing and cropping follow PIL and torchvision, and
//! the tests compare with them.
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
//!
//! Folders, CIFAR files and the data sets of `datasets/*.toml` are opened by [`open_labelled`] and [`open_unlabelled`]:
//!
//! ```no_run
//! use graph::Preprocess;
//! use images::{OpenOptions, open_unlabelled};
//!
//! let street = open_unlabelled("photos/street", &Preprocess::imagenet(), &OpenOptions::default())?;
//! for skipped in street.skipped() {
//!     eprintln!("{}: {}", skipped.path.display(), skipped.reason);
//! }
//! # Ok::<(), images::ImageError>(())
//! ```
#![forbid(unsafe_code)]

mod cifar;
mod classes;
mod decode;
mod embedded;
mod error;
mod fetch;
mod fingerprint;
mod folder;
mod manifest;
mod names;
mod open;
mod random;
mod resize;
mod set;
mod walk;

pub use classes::{Classes, Matched};
pub use embedded::{CLASSES as EMBEDDED_CLASSES, embedded, embedded_preprocess, embedded_unlabelled};
pub use error::ImageError;
pub use fetch::{Expected, FetchError, Progress, fetch};
pub use fingerprint::Fingerprint;
pub use manifest::{Archive, Kind, Manifest, dataset_names};
pub use names::ClassNames;
pub use open::{OpenOptions, open_files, open_labelled, open_unlabelled};
pub use set::{Batch, Labelled, LabelledBatch, Skipped, Split, Unlabelled};

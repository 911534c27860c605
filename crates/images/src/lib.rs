//! Image sets with and without labels: they are decoded, resized and normalised to the input of a network. [`embedded`] and
//! [`generated`] sets are drawn by this crate and need no files.
//!
//! Distilling a student and adapting it take [`Unlabelled`] images, which hold no labels. [`Labelled`] images are for
//! evaluation and supervised training.
//!
//! Decoding, resizing and cropping give the results of PIL and torchvision, with which the tests compare them.
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
//!
//! A [`Picture`] is decoded from bytes in memory. That works on WebAssembly too, where there are no files.
//!
//! The feature `download` fetches the data sets' files: `Manifest::fetch` and `fetch`.
#![forbid(unsafe_code)]

mod cifar;
mod classes;
mod decode;
mod embedded;
mod error;
#[cfg(feature = "download")]
mod fetch;
mod fingerprint;
mod folder;
mod generated;
mod given;
mod labelled;
mod labels;
mod manifest;
mod names;
mod open;
mod random;
mod resize;
mod set;
#[cfg(feature = "download")]
mod unpack;
mod walk;

pub use classes::{Classes, Matched};
pub use decode::Picture;
pub use embedded::{CLASSES as EMBEDDED_CLASSES, embedded, embedded_preprocess, embedded_unlabelled};
pub use error::ImageError;
#[cfg(feature = "download")]
pub use fetch::{Access, Expected, FetchError, Progress, fetch};
pub use fingerprint::Fingerprint;
pub use generated::{DRAWN, generated, of_input_size};
pub use given::{open_inputs, open_pictures};
pub use labelled::{Labelled, LabelledBatch};
pub use manifest::{Archive, DatasetFormat, Manifest, dataset_names};
pub use names::ClassNames;
pub use open::{
    OpenOptions, check_unlabelled, open_files, open_labelled, open_readable_files, open_unlabelled, pictures_in,
};
pub use set::{Batch, Skipped, Split, Unlabelled};

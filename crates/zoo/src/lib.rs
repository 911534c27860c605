//! AlexNet, VGG, GoogLeNet, ResNet and DenseNet as graphs, with checkpoints.
//!
//! ```
//! use zoo::Config;
//!
//! // The paper's network: torchvision's geometry and torchvision's parameter names.
//! let resnet = zoo::build(&Config::new("resnet50"))?;
//! assert_eq!(resnet.output().channels, 1000);
//!
//! // The same 50 layers, a quarter as wide, for 64x64 images of 10 classes.
//! let small = zoo::build(&Config {
//!     classes: Some(10),
//!     width: Some(0.25),
//!     stem: Some(zoo::Stem::Small),
//!     input: Some(64),
//!     ..Config::new("resnet50")
//! })?;
//! assert_eq!(small.output().channels, 10);
//! # Ok::<(), zoo::ZooError>(())
//! ```
//!
//! [`variants`] is the table of all networks. The file of a family names its paper and lists its variants.
#![forbid(unsafe_code)]

mod alexnet;
pub mod checkpoint;
mod config;
mod densenet;
mod googlenet;
mod resnet;
mod resnet_cifar;
mod teachers;
#[doc(hidden)]
pub mod testing;
mod variants;
mod vgg;

pub use config::{Config, ZooError, build, variant};
pub use googlenet::TRANSFORM_INPUT;
pub use teachers::{teacher, teachers};
pub use variants::{Family, Pretrained, Stem, Variant, variants};

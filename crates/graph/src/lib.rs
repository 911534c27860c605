//! A convolutional network as a value: nodes, edges, weights, and passes over them.
//!
//! A [`Graph`] consists of named nodes in topological order, each with an [`Op`] and its inputs. A [`Builder`] makes it;
//! simulation, integer engine and exporters only read it. Names are torchvision's module paths (`layer1.0.conv1`), so a
//! node's parameters are `<node>.weight`, `<node>.bias` and so on, as in a PyTorch state dict.
//!
//! Every value between nodes has the shape `[N, C, H, W]`; after [`Op::Flatten`] it is `[N, C*H*W, 1, 1]`.
//!
//! ```
//! use graph::{Builder, Conv2d, Folded, Shape, Weights};
//!
//! let mut b = Builder::new("small", Shape::new(3, 8, 8));
//! let x = b.conv("conv", Conv2d::new(3, 16, 3).padding(1), b.input());
//! let x = b.batch_norm("bn", 1e-5, x);
//! b.relu("relu", x);
//! let graph = b.finish()?;
//! let weights = Weights::init(&graph, 1);
//!
//! let folded = Folded::new(&graph, weights)?;
//! assert!(folded.graph().find("bn").is_none(), "the normalisation is part of the convolution");
//! assert_eq!(folded.weights().of("conv").weight().shape(), [16, 3, 3, 3]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod build;
mod cost;
mod fold;
mod head;
mod image_config;
mod infer;
mod normalising;
mod op;
mod preprocess;
mod values;
mod weights;

pub use build::{Builder, Graph, GraphError, MAX_NODES, Node, NodeId, Param, Role};
pub use cost::{Budget, Cost};
pub use fold::{Folded, FoldedGraph};
pub use head::{Head, Outputs};
pub use image_config::{ImageConfig, Not, Said};
pub use normalising::normalised_pixels;
pub use op::{Activation, Conv2d, Op, Pool2d, Shape};
pub use preprocess::{ChannelOrder, Normaliser, Preprocess, Resize};
pub use weights::{NodeWeights, Tensor, Weights, WeightsError};

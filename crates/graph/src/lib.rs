//! A convolutional network as data: nodes, edges, weights, passes and files.
//!
//! A [`Graph`] is a value: named nodes in topological order, each with an [`Op`] and its inputs. Builders make it,
//! everything else (simulation, integer runtime, exporters) only reads it. Names are torchvision's module paths
//! (`layer1.0.conv1`), so a node's parameters are `<node>.weight`, `<node>.bias` and so on, as in a PyTorch state dict.
//!
//! Every value between nodes has the shape `[N, C, H, W]`; after [`Op::Flatten`] it is `[N, C*H*W, 1, 1]`.
#![forbid(unsafe_code)]

mod build;
mod op;
mod preprocess;
mod weights;

pub use build::{Builder, Graph, GraphError, Node, NodeId, Param, Role};
pub use op::{Conv2d, Op, Pool2d, Shape};
pub use preprocess::{ChannelOrder, Preprocess};
pub use weights::{Tensor, Weights, WeightsError};

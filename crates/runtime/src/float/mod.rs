//! Operations in floats: plain loops over the channels of a pixel in a stated order. The compiler makes vectors of them,
//! and the bits are the same on every CPU.
mod compute;
mod conv;
mod finish;
mod memory;
mod op;
mod window;

pub(crate) use self::compute::Compute;
pub(crate) use self::conv::FloatConv;
pub(crate) use self::finish::Finish;
pub(crate) use self::memory::{Memory, Pixels, finite};
pub(crate) use self::op::{FloatOp, Lrn, PostOp, Source, View};

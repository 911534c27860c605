//! The errors of this crate.
use std::path::PathBuf;

/// The reason why a model cannot be loaded or run. The message holds that of the cause, so that there is no `source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read.
    #[error("`{}`: {error}", path.display())]
    Io {
        /// The path of the file.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// The content of a file is not a model that runs.
    #[error("`{}`: {error}", path.display())]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The error that its content gave.
        error: Box<Error>,
    },
    /// The parts of a model do not fit each other.
    #[error(transparent)]
    Model(#[from] model::ModelError),
    /// A `.dsc` file is damaged, or not one.
    #[error(transparent)]
    Dsc(#[from] model::dsc::DscError),
    /// A layer cannot be run.
    #[error("layer `{layer}`: {why}")]
    Layer {
        /// The name of the layer's node.
        layer: String,
        /// What is wrong with the layer.
        why: String,
    },
    /// Buffers would take more than the network may ask for, which is twice [`graph::Budget::bytes`].
    #[error("{} at a time would take {takes} bytes of buffers, more than the {most} that this network may take", images_of(*images))]
    Memory {
        /// The number of images of a run.
        images: usize,
        /// The number of bytes that their buffers would take.
        takes: u64,
        /// The number of bytes that they may take.
        most: u64,
    },
    /// The system does not have the memory for buffers.
    #[error("there is no memory for buffers of {bytes} bytes")]
    Allocation {
        /// The number of bytes that were asked for.
        bytes: u64,
    },
    /// The system does not start as many threads, or a session cannot have them.
    #[error("{threads} threads cannot be had: {why}")]
    Threads {
        /// The number of threads that were asked for.
        threads: usize,
        /// The reason why they cannot be had.
        why: String,
    },
    /// A kernel is not known, or this CPU cannot run it.
    #[error("kernel `{name}` {why}; available here: {}", available.join(", "))]
    Kernel {
        /// The name that was asked for.
        name: String,
        /// What is wrong with the name.
        why: &'static str,
        /// The names of the kernels that this CPU runs.
        available: Vec<&'static str>,
    },
    /// The input is not a whole number of images, or it is empty.
    #[error("the input has {found} elements: expected a multiple of {image}, the elements of an image {shape}")]
    Input {
        /// The number of elements that were given.
        found: usize,
        /// The number of elements of one image.
        image: usize,
        /// The shape of one image.
        shape: graph::Shape,
    },
    /// The input has a NaN or an infinity.
    #[error("element {index} of the input is NaN or infinite")]
    NonFiniteInput {
        /// The position of the first such element.
        index: usize,
    },
    /// A value inside the network is NaN or infinite. Every kernel gives the same error, with any number of threads.
    #[error("`{step}` gives a value that is NaN or infinite: its input, its scales or those before it are too large")]
    NonFinite {
        /// The name of the node that the failing step begins with; see [`StepReport::name`](crate::StepReport::name).
        step: String,
    },
}

fn images_of(count: usize) -> String {
    if count == 1 { "1 image".into() } else { format!("{count} images") }
}

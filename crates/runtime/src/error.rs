use std::path::PathBuf;

/// Why a model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// A file whose content is not a model that runs.
    #[error("`{}`: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// A model file, or a model in memory.
    #[error(transparent)]
    Model(#[from] model::ModelError),
    /// A `.dsc` file.
    #[error(transparent)]
    Dsc(#[from] model::dsc::DscError),
    /// A layer that cannot be run.
    #[error("layer `{layer}`: {why}")]
    Layer {
        /// The layer.
        layer: String,
        /// What is wrong with it.
        why: String,
    },
    /// Buffers beyond what the network may ask for: twice [`graph::Budget::bytes`].
    #[error("{} at a time would take {takes} bytes of buffers, more than the {most} that this network may take", images_of(*images))]
    Memory {
        /// Images of a run.
        images: usize,
        /// What they take.
        takes: u64,
        /// What they may take.
        most: u64,
    },
    /// Memory that the system does not have.
    #[error("there is no memory for buffers of {bytes} bytes")]
    Allocation {
        /// What was asked for.
        bytes: u64,
    },
    /// Threads that cannot be had.
    #[error("{threads} threads cannot be had: {why}")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What is wrong with them.
        why: String,
    },
    /// A kernel that is not known, or that this CPU cannot run.
    #[error("kernel `{name}` {why}; available here: {}", available.join(", "))]
    Kernel {
        /// As asked for.
        name: String,
        /// What is wrong with it.
        why: &'static str,
        /// Kernels that can be asked for.
        available: Vec<&'static str>,
    },
    /// An input that is not a whole number of images, or none.
    #[error("the input has {found} elements: expected a multiple of {image}, the elements of an image {shape}")]
    Input {
        /// Elements given.
        found: usize,
        /// Elements of one image.
        image: usize,
        /// Its shape.
        shape: graph::Shape,
    },
    /// An input with a NaN or an infinity.
    #[error("element {index} of the input is NaN or infinite")]
    NonFiniteInput {
        /// Its position.
        index: usize,
    },
    /// A value inside the network that is NaN or infinite: the same error from every kernel, with any number of threads.
    #[error("`{step}` gives a value that is NaN or infinite: its input, its scales or those before it are too large")]
    NonFinite {
        /// The node that the step begins with; see [`StepReport::name`](crate::StepReport::name).
        step: String,
    },
}

fn images_of(count: usize) -> String {
    if count == 1 { "1 image".into() } else { format!("{count} images") }
}

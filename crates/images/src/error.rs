/// What can go wrong with images.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// An index past the end of a set.
    #[error("{set}: image {index} asked for, the set has {len}")]
    Index {
        /// The set's name.
        set: String,
        /// The index asked for.
        index: usize,
        /// Images in the set.
        len: usize,
    },
}

use std::path::PathBuf;

use crate::{FetchError, Skipped};

/// What can go wrong with images. [`ImageError::hint`] says what to do about it, where something can be done.
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

    /// Neither a data set's name nor a path that exists.
    #[error("no images at `{spec}`: it is no file or folder, and no data set has that name")]
    NotFound {
        /// What was asked for.
        spec: String,
        /// The names there are.
        known: String,
    },

    /// A file or folder that cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },

    /// A folder without any image.
    #[error("{}: no images there", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
        /// What would be read.
        hint: &'static str,
    },

    /// Labels were asked for and there are none.
    #[error("{name}: the images have no labels")]
    NoLabels {
        /// The set or folder.
        name: String,
        /// How labels are given.
        hint: String,
    },

    /// Labels that cannot be matched with a network's classes.
    #[error("{set}: {reason}")]
    Classes {
        /// The set or folder.
        set: String,
        /// What does not fit.
        reason: String,
        /// What would.
        hint: String,
    },

    /// A file that is no list of class names.
    #[error("{}: {reason}", path.display())]
    ClassNames {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// A line of a labels file that is not `name index`.
    #[error("{}:{line}: {reason}", path.display())]
    LabelsFile {
        /// The labels file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },

    /// A file that is no CIFAR batch, or a damaged one.
    #[error("{}: {reason}", path.display())]
    Cifar {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// More files were bad than the options allow.
    #[error("{set}: {} of {total} images cannot be used, {allowed} may{}", bad.len(), first_of(bad))]
    TooManyBad {
        /// The set's name.
        set: String,
        /// The files and why.
        bad: Vec<Skipped>,
        /// Images in the set.
        total: usize,
        /// How many bad files the options allow.
        allowed: usize,
    },

    /// An image without which nothing is left to go on with.
    #[error("{}: {reason}", path.display())]
    Unreadable {
        /// The file, or the set.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// Images of several sizes and no crop that would make them alike.
    #[error(
        "{}: {}x{} after resizing, other images are {}x{}",
        path.display(), got[1], got[0], expected[1], expected[0]
    )]
    SizesDiffer {
        /// The first image that differs.
        path: PathBuf,
        /// Its height and width.
        got: [usize; 2],
        /// The other images' height and width.
        expected: [usize; 2],
    },

    /// A zero size, or a divisor that is zero or not finite.
    #[error("preprocessing: {0}")]
    Preprocess(String),

    /// A manifest that cannot be understood.
    #[error("{}: {reason}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// A data set whose files are not there.
    #[error("{name}: {} is not there", path.display())]
    NotFetched {
        /// The data set.
        name: String,
        /// The first missing file.
        path: PathBuf,
        /// How to get it.
        hint: String,
    },

    /// A download that failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

impl ImageError {
    /// What the user can do about the error; `None` where there is nothing to say beyond the message.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { known, .. } => Some(format!("data sets are {known}")),
            Self::Empty { hint, .. } => Some((*hint).to_owned()),
            Self::NoLabels { hint, .. } | Self::Classes { hint, .. } | Self::NotFetched { hint, .. } => {
                Some(hint.clone())
            }
            Self::SizesDiffer { .. } => Some("give them one size, `--crop 224` for example".to_owned()),
            Self::Fetch(error) => error.hint().map(str::to_owned),
            _ => None,
        }
    }
}

/// The first three, one a line.
fn first_of(bad: &[Skipped]) -> String {
    let mut text: String =
        bad.iter().take(3).map(|skipped| format!("\n  {}: {}", skipped.path.display(), skipped.reason)).collect();
    if bad.len() > 3 {
        text.push_str(&format!("\n  and {} more", bad.len() - 3));
    }
    text
}

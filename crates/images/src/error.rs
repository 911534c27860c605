//! The errors of image sets.
use std::path::PathBuf;

#[cfg(feature = "download")]
use crate::FetchError;
use crate::Skipped;

/// The reason why images cannot be opened or read. [`ImageError::hint`] gives advice, where there is any.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// An index lies past the end of the set.
    #[error("{set}: image {index} asked for, the set has {len}")]
    Index {
        /// The name of the set.
        set: String,
        /// The index that was asked for.
        index: usize,
        /// The number of images in the set.
        len: usize,
    },

    /// The text is neither the name of a data set nor a path that exists.
    #[error("no images at `{spec}`: it is no file or folder, and no data set has that name")]
    NotFound {
        /// The text that was given.
        spec: String,
        /// The names of the data sets, for a message.
        known: String,
    },

    /// A file or folder cannot be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The reason that the system gives.
        error: std::io::Error,
    },

    /// A file is no set of images.
    #[error("{} is {what}, no set of images", path.display())]
    NoSet {
        /// The file.
        path: PathBuf,
        /// The kind of file that it is by its content.
        what: &'static str,
        /// The advice for the user.
        hint: &'static str,
    },

    /// A folder has no images.
    #[error("{}: no images there", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
        /// The kinds of files that are read.
        hint: &'static str,
    },

    /// Labels were asked for and there are none.
    #[error("{name}: the images have no labels")]
    NoLabels {
        /// The set or folder.
        name: String,
        /// The ways in which labels are given.
        hint: String,
    },

    /// Labels cannot be matched with the classes of a network.
    #[error("{set}: {reason}")]
    Classes {
        /// The set or folder.
        set: String,
        /// The mismatch.
        reason: String,
        /// The advice for the user.
        hint: String,
    },

    /// A file is no list of class names.
    #[error("{}: {reason}", path.display())]
    ClassNames {
        /// The file.
        path: PathBuf,
        /// The mistake in it.
        reason: String,
    },

    /// A line of a labels file is not `name index`.
    #[error("{}:{line}: {reason}", path.display())]
    LabelsFile {
        /// The labels file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
        /// The mistake in it.
        reason: String,
    },

    /// A file is no CIFAR batch, or a damaged one.
    #[error("{}: {reason}", path.display())]
    Cifar {
        /// The file.
        path: PathBuf,
        /// The mistake in it.
        reason: String,
    },

    /// More files cannot be used than the options allow.
    #[error("{set}: {}{}", too_many(bad.len(), *total, *allowed), first_of(bad))]
    TooManyBad {
        /// The name of the set.
        set: String,
        /// The files that cannot be used, each with the reason.
        bad: Vec<Skipped>,
        /// The number of images in the set.
        total: usize,
        /// The number of bad files that the options allow.
        allowed: usize,
    },

    /// An image cannot be read, and no other can take its place.
    #[error("{}: {reason}", path.display())]
    Unreadable {
        /// The file, or the name of the set.
        path: PathBuf,
        /// The reason.
        reason: String,
    },

    /// Bytes are no picture.
    #[error("{0}")]
    Undecodable(String),

    /// Images in memory cannot be those of the network.
    #[error("{reason}")]
    Inputs {
        /// The reason.
        reason: String,
        /// The advice for the user; empty where there is none.
        hint: String,
    },

    /// Images have several sizes, and no crop makes them alike.
    #[error(
        "{}: {}x{} after resizing, other images are {}x{}",
        path.display(), got[1], got[0], expected[1], expected[0]
    )]
    SizesDiffer {
        /// The first image that differs.
        path: PathBuf,
        /// The height and width of that image.
        got: [usize; 2],
        /// The height and width of the other images.
        expected: [usize; 2],
    },

    /// A size is zero, or a divisor is zero or not finite.
    #[error("preprocessing: {0}")]
    Preprocess(String),

    /// The manifest of a data set has a mistake.
    #[error("{}: {reason}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// The mistake in it.
        reason: String,
    },

    /// The files of a data set are not there.
    #[error("{name}: {} is not there", path.display())]
    NotFetched {
        /// The name of the data set.
        name: String,
        /// The first missing file.
        path: PathBuf,
        /// The way to get it.
        hint: String,
    },

    /// A download failed.
    #[cfg(feature = "download")]
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

impl ImageError {
    /// Returns advice for the user, if there is any.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { known, .. } => Some(format!("data sets are {known}")),
            Self::Empty { hint, .. } | Self::NoSet { hint, .. } => Some((*hint).to_owned()),
            Self::NoLabels { hint, .. } | Self::Classes { hint, .. } | Self::NotFetched { hint, .. } => {
                Some(hint.clone())
            }
            Self::Inputs { hint, .. } => (!hint.is_empty()).then(|| hint.clone()),
            Self::SizesDiffer { .. } => Some("give them one size, `--crop 224` for example".to_owned()),
            #[cfg(feature = "download")]
            Self::Fetch(error) => error.hint().map(str::to_owned),
            _ => None,
        }
    }
}

/// Says how many images cannot be used.
fn too_many(bad: usize, total: usize, allowed: usize) -> String {
    match (bad, total) {
        (1, 1) => "its one image cannot be used".to_owned(),
        _ if bad >= total => format!("none of its {total} images can be used"),
        _ => format!("{bad} of {total} images cannot be used, {allowed} may"),
    }
}

/// Lists the first three files, one a line.
fn first_of(bad: &[Skipped]) -> String {
    let mut text: String =
        bad.iter().take(3).map(|skipped| format!("\n  {}: {}", skipped.path.display(), skipped.reason)).collect();
    if bad.len() > 3 {
        text.push_str(&format!("\n  and {} more", bad.len() - 3));
    }
    text
}

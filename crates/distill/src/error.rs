use std::path::{Path, PathBuf};

/// The errors of training, adaptation and evaluation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("`{}`: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What went wrong.
        error: std::io::Error,
    },
    /// A file of a run folder does not hold what it must.
    #[error("`{}`: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Images cannot be opened or read.
    #[error(transparent)]
    Images(#[from] images::ImageError),
    /// A model cannot be made.
    #[error(transparent)]
    Model(#[from] model::ModelError),
    /// A model's file cannot be read or written.
    #[error(transparent)]
    ModelFile(#[from] files::FileError),
    /// Weights do not fit their graph.
    #[error(transparent)]
    Weights(#[from] graph::WeightsError),
    /// A policy does not fit the graph.
    #[error(transparent)]
    Policy(#[from] model::PolicyError),
    /// The value of a setting makes no sense.
    #[error("`{setting}` {why}")]
    Config {
        /// The setting's name, with the tables it is in.
        setting: String,
        /// What is wrong with its value.
        why: String,
    },
    /// Images or labels do not fit the network.
    #[error("{set}: {why}")]
    Data {
        /// The image set.
        set: String,
        /// What does not fit.
        why: String,
    },
    /// The folder holds a run already, and was not opened to resume it.
    #[error("`{}` holds a run already: resume it, or choose another folder", path.display())]
    RunExists {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds files that are no run's, which a run could overwrite.
    #[error("`{}` is not empty and holds no run that could go on", path.display())]
    NoRun {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds a run that was begun with other settings, images or weights.
    #[error("`{}` holds another run: {what}", path.display())]
    OtherRun {
        /// The folder.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// Another process works in the folder.
    #[error("`{}` is in use by another process", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// An output is NaN or infinite, which says nothing about an image.
    #[error("`{network}` gives {value} for {image} of {set}")]
    NotFinite {
        /// The network.
        network: String,
        /// The output.
        value: f32,
        /// The image.
        image: String,
        /// The image set.
        set: String,
    },
    /// The loss is NaN, infinite or a thousand times what it was at first.
    #[error(
        "training diverged: the loss became {loss:e} at step {step}: try a lower learning rate, or gradient clipping"
    )]
    Diverged {
        /// The optimizer step, counted from 1.
        step: usize,
        /// The loss.
        loss: f32,
    },
    /// The caller stopped the run through [`crate::Interrupter::stop`].
    #[error("stopped{}", reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default())]
    Interrupted {
        /// The reason that was given.
        reason: Option<String>,
    },
    /// The training loop failed, by an error of burn or of what it called, or for the reason that is given.
    #[error("training failed: {0}")]
    Training(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// What the user can do about the error; `None` where there is nothing to say beyond the message.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Images(error) => error.hint(),
            Self::Training(error) => {
                let first: &(dyn std::error::Error + 'static) = error.as_ref();
                let mut sources = std::iter::successors(Some(first), |error| error.source());
                sources.find_map(|error| error.downcast_ref::<images::ImageError>()?.hint())
            }
            _ => None,
        }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { path, error }
    }

    pub(crate) fn file(path: &Path, why: impl ToString) -> Self {
        Self::File { path: path.to_owned(), why: why.to_string() }
    }

    pub(crate) fn training(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Training(why.into())
    }

    pub(crate) fn config(setting: &str, why: impl Into<String>) -> Self {
        Self::Config { setting: setting.into(), why: why.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_went_through_burn_keeps_its_hint() {
        use burn::data::dataset::DatasetError;
        use burn::train::TrainingError;
        let image =
            || images::open_unlabelled("embedded/no", &images::embedded_preprocess(), &Default::default()).unwrap_err();
        let hint = image().hint();
        assert!(hint.is_some());
        let through: TrainingError = DatasetError::new(image()).into();
        assert_eq!(Error::training(std::sync::Arc::new(through)).hint(), hint);
        assert_eq!(Error::training("a reason").hint(), None);
    }
}

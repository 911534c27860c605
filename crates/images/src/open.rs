use std::path::{Path, PathBuf};
use std::sync::Arc;

use graph::Preprocess;

use crate::classes::Labels;
use crate::embedded::{embedded_as, embedded_unlabelled_as};
use crate::manifest::{Kind, Manifest, dataset_names};
use crate::{ImageError, Labelled, Split, Unlabelled, cifar, folder};

/// How a set is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// The part of a data set that has parts (`embedded`, `cifar10`). Default: [`Split::Eval`] with labels,
    /// [`Split::Adapt`] without.
    pub split: Option<Split>,
    /// At most this many images, spread evenly over the sorted set. Default: all.
    pub limit: Option<usize>,
    /// The fraction of files that may be bad before it is an error; three may always be. Default: 0.01.
    pub max_bad: f64,
    /// Sets of up to this many bytes at the network's input size are decoded once, when they are opened, and kept; larger
    /// ones are decoded as they are used. Default: 512 MiB.
    pub memory: usize,
    /// Where manifests and downloaded data lie. Default: `datasets`.
    pub datasets: PathBuf,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { split: None, limit: None, max_bad: 0.01, memory: 512 << 20, datasets: PathBuf::from("datasets") }
    }
}

impl OpenOptions {
    pub(crate) fn allowed_bad(&self, total: usize) -> usize {
        ((total as f64 * self.max_bad) as usize).max(3)
    }
}

/// Opens a set with labels. `spec` is
/// - `embedded`: see [`embedded`](crate::embedded);
/// - the name of a manifest in [`OpenOptions::datasets`], such as `cifar10`, whose files have been fetched;
/// - a folder with one subfolder a class, or with a labels file of lines `name.jpg index`: `labels.txt` inside it or
///   `<folder>_labels.txt` beside it;
/// - a CIFAR-10 or CIFAR-100 binary file (`.bin`).
///
/// Labels count the classes of the set; [`Labelled::for_network`] makes outputs of a network of them. An orientation in EXIF is
/// not applied, as in torchvision.
///
/// # Errors
/// Nothing at `spec`, no labels there, more bad files than allowed: see [`ImageError`].
pub fn open_labelled(spec: &str, preprocess: &Preprocess, options: &OpenOptions) -> Result<Labelled, ImageError> {
    preprocess.check().map_err(ImageError::Preprocess)?;
    let set = match resolve(spec, options, options.split.unwrap_or(Split::Eval))? {
        Place::Embedded(Split::Adapt) => {
            return Err(ImageError::NoLabels {
                name: "embedded/adapt".to_owned(),
                hint: "the splits `train` and `eval` have labels".to_owned(),
            });
        }
        Place::Embedded(split) => embedded_as(split, preprocess),
        Place::Folder(path) => return folder::labelled(&path, preprocess, options),
        Place::Cifar { name, paths } => {
            let (memory, labels, classes) = cifar::labelled(&paths)?;
            let images = Unlabelled::from_memory(name, Arc::new(memory), preprocess);
            Labelled::new(images, labels.into(), classes.into(), Labels::Known)
        }
    };
    Ok(match options.limit {
        Some(limit) => set.take(limit),
        None => set,
    })
}

/// Opens a set without labels: `spec` as for [`open_labelled`], and a folder may hold its images in any way. Labels that
/// are there are dropped at reading.
///
/// # Errors
/// Nothing at `spec`, more bad files than allowed: see [`ImageError`].
pub fn open_unlabelled(spec: &str, preprocess: &Preprocess, options: &OpenOptions) -> Result<Unlabelled, ImageError> {
    preprocess.check().map_err(ImageError::Preprocess)?;
    let set = match resolve(spec, options, options.split.unwrap_or(Split::Adapt))? {
        Place::Embedded(split) => embedded_unlabelled_as(split, preprocess),
        Place::Folder(path) => return folder::unlabelled(&path, preprocess, options),
        Place::Cifar { name, paths } => Unlabelled::from_memory(name, Arc::new(cifar::images(&paths)?), preprocess),
    };
    Ok(match options.limit {
        Some(limit) => set.take(limit),
        None => set,
    })
}

/// Opens these files, in this order, whatever they are called: their content decides.
///
/// # Errors
/// [`ImageError::Unreadable`] for the first file that is not there or is no image.
pub fn open_files(paths: &[PathBuf], preprocess: &Preprocess, options: &OpenOptions) -> Result<Unlabelled, ImageError> {
    preprocess.check().map_err(ImageError::Preprocess)?;
    folder::files(paths, preprocess, options)
}

/// Where a spec leads.
enum Place {
    Embedded(Split),
    Folder(PathBuf),
    Cifar { name: String, paths: Vec<PathBuf> },
}

/// A bare word is a data set's name first: `./cifar10` is the folder.
fn resolve(spec: &str, options: &OpenOptions, split: Split) -> Result<Place, ImageError> {
    if let Some(manifest) = Manifest::find(spec, &options.datasets)? {
        let name = manifest.name.clone();
        return Ok(match manifest.kind {
            Kind::Embedded => Place::Embedded(split),
            Kind::Cifar => {
                Place::Cifar { paths: manifest.files_of(split, &options.datasets)?, name: format!("{name}/{split}") }
            }
            Kind::Folder => {
                let mut paths = manifest.files_of(split, &options.datasets)?;
                Place::Folder(paths.swap_remove(0))
            }
        });
    }
    let path = Path::new(spec);
    if path.is_dir() {
        return Ok(Place::Folder(path.to_owned()));
    }
    if path.is_file() {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        return Ok(Place::Cifar { name, paths: vec![path.to_owned()] });
    }
    Err(ImageError::NotFound { spec: spec.to_owned(), known: dataset_names(&options.datasets).join(", ") })
}

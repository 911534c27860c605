//! Opens image sets by a name or a path.
use std::path::{Path, PathBuf};
use std::sync::Arc;

use graph::Preprocess;

use crate::classes::Labels;
use crate::embedded::{embedded_as, embedded_unlabelled_as};
use crate::manifest::{DatasetFormat, Manifest, dataset_names};
use crate::walk::walk;
use crate::{ImageError, Labelled, Split, Unlabelled, cifar, folder};

/// The options of opening a set.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// The split that is opened, for a data set that has splits (`embedded`, `cifar10`). The default is [`Split::Eval`]
    /// with labels and [`Split::Adapt`] without.
    pub split: Option<Split>,
    /// The limit of images, which are spread evenly over the sorted set. There is none by default.
    pub limit: Option<usize>,
    /// The fraction of files that may be bad, 0.01 by default. Three bad files are always allowed.
    pub max_bad: f64,
    /// The limit of bytes of images that are kept in memory, at the network's input size, 512 MiB by default. A larger set
    /// is decoded anew each time it is used.
    pub memory: usize,
    /// The folder of manifests and downloaded data, `datasets` by default.
    pub datasets: PathBuf,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { split: None, limit: None, max_bad: 0.01, memory: 512 << 20, datasets: PathBuf::from("datasets") }
    }
}

impl OpenOptions {
    /// Returns the number of files of `total` that may be bad.
    pub(crate) fn allowed_bad(&self, total: usize) -> usize {
        ((total as f64 * self.max_bad) as usize).max(3)
    }
}

/// Opens a set with labels. `spec` is
/// - `embedded`: see [`embedded`](crate::embedded);
/// - the name of a manifest in [`OpenOptions::datasets`], such as `cifar10`, whose files have been fetched;
/// - a folder with one subfolder a class, or with a labels file of lines `name.jpg index`: `labels.txt` inside it or
///   `<folder>_labels.txt` beside it; or with a table that has a column of files and one of classes, by number or name:
///   `labels.csv` inside it, `<folder>_labels.csv` or `<folder>.csv` beside it;
/// - such a table itself, a file `.csv` in the folder of the images;
/// - a CIFAR-10 or CIFAR-100 binary file (`.bin`).
///
/// Labels count the classes of the set; [`Labelled::for_network`] matches them with the outputs of a network. An orientation
/// in EXIF is not applied, as in torchvision.
///
/// # Errors
/// [`ImageError`] where there is nothing at `spec`, where there are no labels, or where more files are bad than allowed.
pub fn open_labelled(spec: &str, preprocess: &Preprocess, options: &OpenOptions) -> Result<Labelled, ImageError> {
    preprocess.check().map_err(ImageError::Preprocess)?;
    let set = match resolve(spec, options, options.split.unwrap_or(Split::Eval))? {
        ImageSource::Embedded(Split::Adapt) => {
            return Err(ImageError::NoLabels {
                name: "embedded/adapt".to_owned(),
                hint: "the splits `train` and `eval` have labels".to_owned(),
            });
        }
        ImageSource::Embedded(split) => embedded_as(split, preprocess),
        ImageSource::Folder(path) => return folder::labelled(&path, None, preprocess, options),
        ImageSource::Table(file) => {
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            return folder::labelled(folder, Some(&file), preprocess, options);
        }
        ImageSource::Cifar { name, paths } => {
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

/// Opens a set without labels. `spec` is that of [`open_labelled`], and a folder may hold its images in any way. Labels are
/// dropped when they are read.
///
/// # Errors
/// [`ImageError`] where there is nothing at `spec`, or where more files are bad than allowed.
pub fn open_unlabelled(spec: &str, preprocess: &Preprocess, options: &OpenOptions) -> Result<Unlabelled, ImageError> {
    preprocess.check().map_err(ImageError::Preprocess)?;
    let set = match resolve(spec, options, options.split.unwrap_or(Split::Adapt))? {
        ImageSource::Embedded(split) => embedded_unlabelled_as(split, preprocess),
        ImageSource::Folder(path) => return folder::unlabelled(&path, preprocess, options),
        ImageSource::Table(_) => return Ok(open_labelled(spec, preprocess, options)?.without_labels()),
        ImageSource::Cifar { name, paths } => {
            Unlabelled::from_memory(name, Arc::new(cifar::images(&paths)?), preprocess)
        }
    };
    Ok(match options.limit {
        Some(limit) => set.take(limit),
        None => set,
    })
}

/// Checks that there are images at `spec`, which is that of [`open_unlabelled`], and decodes none.
///
/// # Errors
/// [`ImageError`] where there is nothing at `spec`, or no file that can be an image.
pub fn check_unlabelled(spec: &str, options: &OpenOptions) -> Result<(), ImageError> {
    match resolve(spec, options, options.split.unwrap_or(Split::Adapt))? {
        ImageSource::Folder(path) => pictures_in(&path).map(|_| ()),
        ImageSource::Embedded(_) | ImageSource::Table(_) | ImageSource::Cifar { .. } => Ok(()),
    }
}

/// Opens files, in the order given; of more than [`OpenOptions::limit`], those that are spread over them. Their content decides the format, not their names.
///
/// # Errors
/// [`ImageError::Unreadable`] for the first file that is not there or is no image.
pub fn open_files(paths: &[PathBuf], preprocess: &Preprocess, options: &OpenOptions) -> Result<Unlabelled, ImageError> {
    preprocess.check().map_err(ImageError::Preprocess)?;
    folder::files(paths, preprocess, options, true)
}

/// Opens files as [`open_files`] does, but for those that cannot be read, which [`Unlabelled::skipped`] names.
///
/// # Errors
/// [`ImageError::Unreadable`] for the first file where none can be read.
pub fn open_readable_files(
    paths: &[PathBuf],
    preprocess: &Preprocess,
    options: &OpenOptions,
) -> Result<Unlabelled, ImageError> {
    preprocess.check().map_err(ImageError::Preprocess)?;
    folder::files(paths, preprocess, options, false)
}

/// Returns the paths of all pictures in a folder and in the folders of it, sorted. Their names tell that they are pictures.
///
/// # Errors
/// [`ImageError::Empty`] where there are none; [`ImageError::Io`].
pub fn pictures_in(folder: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let pictures = walk(folder)?.images;
    match pictures.is_empty() {
        true => Err(ImageError::Empty { path: folder.to_owned(), hint: folder::READ }),
        false => Ok(pictures),
    }
}

/// The images that a spec names.
enum ImageSource {
    Embedded(Split),
    Folder(PathBuf),
    /// A table of labels.
    Table(PathBuf),
    Cifar {
        name: String,
        paths: Vec<PathBuf>,
    },
}

/// Finds the images of a spec. The name of a data set comes before a path: the folder is `./cifar10`.
fn resolve(spec: &str, options: &OpenOptions, split: Split) -> Result<ImageSource, ImageError> {
    if let Some(manifest) = Manifest::find(spec, &options.datasets)? {
        let name = manifest.name.clone();
        return Ok(match manifest.kind {
            DatasetFormat::Embedded => ImageSource::Embedded(split),
            DatasetFormat::Cifar => ImageSource::Cifar {
                paths: manifest.files_of(split, &options.datasets)?,
                name: format!("{name}/{split}"),
            },
            DatasetFormat::Folder => {
                let mut paths = manifest.files_of(split, &options.datasets)?;
                ImageSource::Folder(paths.swap_remove(0))
            }
        });
    }
    let path = Path::new(spec);
    if path.is_dir() {
        return Ok(ImageSource::Folder(path.to_owned()));
    }
    if path.is_file() && path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv")) {
        return Ok(ImageSource::Table(path.to_owned()));
    }
    if path.is_file() {
        if let Some((what, hint)) = cifar::is_other(path)? {
            return Err(ImageError::NoSet { path: path.to_owned(), what, hint });
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        return Ok(ImageSource::Cifar { name, paths: vec![path.to_owned()] });
    }
    Err(ImageError::NotFound { spec: spec.to_owned(), known: dataset_names(&options.datasets).join(", ") })
}

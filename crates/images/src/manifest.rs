//! Manifests of data sets, which say how to download and to open them.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use graph::Preprocess;
use serde::{Deserialize, Serialize};

#[cfg(feature = "download")]
use crate::fetch::{Access, Expected, FetchError, Progress, fetch};
#[cfg(feature = "download")]
use crate::unpack::unpack_tar_gz;
use crate::{ImageError, Split};

/// The manifests that come with this crate, so that their names work without a folder `datasets`. They are links to the
/// files of the repository's `datasets`, and files in the published package.
const BUILT_IN: [(&str, &str); 3] = [
    ("cifar10", include_str!("../datasets/cifar10.toml")),
    ("embedded", include_str!("../datasets/embedded.toml")),
    ("imagenet", include_str!("../datasets/imagenet.toml")),
];

/// The description of a data set, from a file `datasets/<name>.toml`. Its data lies in `datasets/<name>/`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The name of the data set, which is the file's name without `.toml`.
    pub name: String,
    /// A title of one line.
    pub title: String,
    /// The format of the data.
    pub kind: DatasetFormat,
    /// The licence of the data.
    pub licence: String,
    /// The address of its publisher.
    #[serde(default)]
    pub homepage: Option<String>,
    /// The number of classes.
    pub classes: usize,
    /// The names of the classes, where they are few.
    #[serde(default)]
    pub class_names: Vec<String>,
    /// The way to get data that cannot be downloaded.
    #[serde(default)]
    pub obtain: Option<String>,
    /// The archives that are downloaded and unpacked.
    #[serde(default)]
    pub archives: Vec<Archive>,
    /// The number of images in each split.
    #[serde(default)]
    pub images: BTreeMap<Split, usize>,
    /// The files (CIFAR) or the one folder of each split, inside the folder of the data set.
    #[serde(default)]
    pub splits: BTreeMap<Split, Vec<PathBuf>>,
    /// The preprocessing of networks for this set.
    pub preprocess: Preprocess,
}

/// The format of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DatasetFormat {
    /// The images are drawn by this crate.
    Embedded,
    /// The images are in CIFAR's binary files.
    Cifar,
    /// The images are files in folders.
    Folder,
}

/// An archive (`.tar.gz`) that is downloaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// The address.
    pub url: String,
    /// The whole SHA-256, in hexadecimal.
    pub sha256: String,
    /// The size in bytes.
    pub bytes: u64,
}

impl Archive {
    /// Returns the last part of the address, if it is the name of a file.
    fn file_name(&self) -> Option<&str> {
        let name = self.url.rsplit('/').next()?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        (name.bytes().all(plain) && !name.trim_matches('.').is_empty()).then_some(name)
    }

    /// Returns the limit of bytes to which it may unpack. Photographs hardly grow, and CIFAR's bytes by a tenth.
    #[cfg(feature = "download")]
    fn most_unpacked(&self) -> u64 {
        self.bytes.saturating_mul(4).saturating_add(64 << 20)
    }
}

impl Manifest {
    /// Finds the manifest called `name` in the folder `datasets`, or else the one that comes with this crate, if there is one.
    ///
    /// # Errors
    /// [`ImageError::Io`] or [`ImageError::Manifest`] where the manifest cannot be read or has a mistake.
    pub fn find(name: &str, datasets: &Path) -> Result<Option<Self>, ImageError> {
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
            return Ok(None);
        }
        let path = datasets.join(format!("{name}.toml"));
        if path.is_file() {
            let text = std::fs::read_to_string(&path).map_err(|error| ImageError::Io { path: path.clone(), error })?;
            return Self::parse(name, &text, &path).map(Some);
        }
        match BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
            Some((_, text)) => Self::parse(name, text, &path).map(Some),
            None => Ok(None),
        }
    }

    fn parse(name: &str, text: &str, path: &Path) -> Result<Self, ImageError> {
        let fail = |reason: String| ImageError::Manifest { path: path.to_owned(), reason };
        let manifest: Self = toml::from_str(text).map_err(|e| fail(e.to_string()))?;
        if manifest.name != name {
            return Err(fail(format!("the name inside is `{}`", manifest.name)));
        }
        if !manifest.class_names.is_empty() && manifest.class_names.len() != manifest.classes {
            return Err(fail(format!("{} classes, {} class names", manifest.classes, manifest.class_names.len())));
        }
        for archive in &manifest.archives {
            if archive.sha256.len() != 64 || !archive.sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(fail(format!("`{}` is no SHA-256: 64 hexadecimal digits", archive.sha256)));
            }
            if archive.file_name().is_none() {
                return Err(fail(format!("`{}` does not end in a file's name", archive.url)));
            }
        }
        for (split, paths) in &manifest.splits {
            if paths.is_empty() || (manifest.kind == DatasetFormat::Folder && paths.len() != 1) {
                return Err(fail(format!("splits.{split} names {} files", paths.len())));
            }
        }
        Ok(manifest)
    }

    /// Returns the paths of the files of `split`.
    ///
    /// # Errors
    /// [`ImageError::Manifest`] where there is no such split; [`ImageError::NotFetched`] where a file is not there.
    pub fn files_of(&self, split: Split, datasets: &Path) -> Result<Vec<PathBuf>, ImageError> {
        let folder = datasets.join(&self.name);
        let paths = self.splits.get(&split).ok_or_else(|| ImageError::Manifest {
            path: datasets.join(format!("{}.toml", self.name)),
            reason: format!("there is no split `{split}`"),
        })?;
        let paths: Vec<PathBuf> = paths.iter().map(|path| folder.join(path)).collect();
        match paths.iter().find(|path| !path.exists()) {
            None => Ok(paths),
            Some(missing) => Err(ImageError::NotFetched {
                name: self.name.clone(),
                path: missing.clone(),
                hint: self.obtain.clone().unwrap_or_else(|| "fetch the data set first".to_owned()),
            }),
        }
    }

    /// Returns whether every file of every split is there.
    pub fn is_fetched(&self, datasets: &Path) -> bool {
        self.splits.keys().all(|&split| self.files_of(split, datasets).is_ok())
    }

    /// Downloads the archives and unpacks them into `datasets/<name>/`, unless every file is there. An interrupted download
    /// is continued.
    ///
    /// # Errors
    /// [`ImageError::Fetch`] where a download fails or an archive is damaged; [`ImageError::NotFetched`] where the data set
    /// cannot be downloaded; [`ImageError::Manifest`] where an address does not end in the name of a file.
    #[cfg(feature = "download")]
    pub fn fetch(
        &self,
        datasets: &Path,
        access: &Access,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), ImageError> {
        if self.is_fetched(datasets) {
            return Ok(());
        }
        let folder = datasets.join(&self.name);
        std::fs::create_dir_all(&folder).map_err(|error| FetchError::Io { path: folder.clone(), error })?;
        for archive in &self.archives {
            let file = folder.join(archive.file_name().ok_or_else(|| ImageError::Manifest {
                path: datasets.join(format!("{}.toml", self.name)),
                reason: format!("`{}` does not end in a file's name", archive.url),
            })?);
            let what = Expected { sha256: Some(&archive.sha256), bytes: Some(archive.bytes) };
            fetch(&archive.url, &what, &file, access, progress)?;
            unpack_tar_gz(&file, &folder, archive.most_unpacked())?;
            std::fs::remove_file(&file).map_err(|error| FetchError::Io { path: file.clone(), error })?;
        }
        for &split in self.splits.keys() {
            self.files_of(split, datasets)?;
        }
        Ok(())
    }
}

/// Returns the names of the data sets that [`Manifest::find`] finds, sorted.
pub fn dataset_names(datasets: &Path) -> Vec<String> {
    let mut names: Vec<String> = BUILT_IN.iter().map(|(name, _)| (*name).to_owned()).collect();
    for entry in std::fs::read_dir(datasets).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cifar::CIFAR10;
    use crate::{EMBEDDED_CLASSES, OpenOptions, embedded, embedded_preprocess, embedded_unlabelled, open_labelled};

    fn built_in(name: &str) -> Manifest {
        Manifest::find(name, Path::new("/nowhere")).unwrap().unwrap()
    }

    #[test]
    fn built_in_manifests_agree_with_the_code() {
        let manifest = built_in("embedded");
        assert_eq!(manifest.class_names, EMBEDDED_CLASSES);
        assert_eq!(manifest.preprocess, embedded_preprocess());
        assert_eq!(manifest.images[&Split::Train], embedded(Split::Train).len());
        assert_eq!(manifest.images[&Split::Adapt], embedded_unlabelled().len());
        assert_eq!(manifest.images[&Split::Eval], embedded(Split::Eval).len());
        assert_eq!(built_in("cifar10").class_names, CIFAR10);
        assert_eq!(built_in("imagenet").preprocess, Preprocess::imagenet());
    }

    #[test]
    fn every_manifest_of_the_repository_is_valid() {
        let datasets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets");
        for name in dataset_names(&datasets) {
            let manifest = Manifest::find(&name, &datasets).unwrap().unwrap();
            assert!(manifest.archives.iter().all(|archive| archive.sha256.len() == 64), "{name}");
        }
    }

    #[test]
    fn data_that_is_not_there_says_how_to_get_it() {
        let folder = tempfile::tempdir().unwrap();
        let options = OpenOptions { datasets: folder.path().to_owned(), ..OpenOptions::default() };
        let error = open_labelled("cifar10", &Preprocess::imagenet_statistics(), &options).unwrap_err().to_string();
        assert!(error.contains("test_batch.bin is not there"), "{error}");
        let error = open_labelled("cifar11", &Preprocess::imagenet_statistics(), &options).unwrap_err();
        assert_eq!(error.hint().unwrap(), "data sets are cifar10, embedded, imagenet");
    }

    #[test]
    fn an_archive_is_named_and_its_whole_checksum_given() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        let whole = "0".repeat(64);
        for (url, sha256, expected) in [
            ("https://x.org/a.tar.gz", "c4a38c50", "`c4a38c50` is no SHA-256: 64 hexadecimal digits"),
            ("https://x.org/..", &whole, "`https://x.org/..` does not end in a file's name"),
            ("https://x.org/a?b", &whole, "`https://x.org/a?b` does not end in a file's name"),
        ] {
            let text = format!(
                "name = \"mine\"\ntitle = \"\"\nkind = \"folder\"\nlicence = \"\"\nclasses = 1\n\
                 [[archives]]\nurl = \"{url}\"\nsha256 = \"{sha256}\"\nbytes = 1\n\
                 [preprocess]\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n"
            );
            std::fs::write(&path, text).unwrap();
            let error = Manifest::find("mine", folder.path()).unwrap_err().to_string();
            assert!(error.ends_with(expected), "{error}");
        }
    }

    #[test]
    fn manifest_errors_point_at_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        std::fs::write(&path, "name = \"mine\"\nkind = \"carrots\"\n").unwrap();
        let error = Manifest::find("mine", folder.path()).unwrap_err().to_string();
        assert!(error.contains("mine.toml: TOML parse error at line 2"), "{error}");
    }
}

//! The origin of a run is what it was made from: a folder is resumed only from the same.
use std::collections::BTreeMap;
use std::path::Path;

use graph::{Graph, Weights};
use images::Fingerprint;
use model::Model;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::folder::RunFolder;
use crate::{Error, write};

/// The origin of a run: what it is made from, beside its settings.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// The SHA-256 of networks and weights, by what they are for.
    networks: BTreeMap<String, String>,
    /// The SHA-256 of how models take images and what they call classes, by what they are for.
    infos: BTreeMap<String, String>,
    /// The sets of images, by what they are for.
    images: BTreeMap<String, Fingerprint>,
}

impl Origin {
    /// Takes in a model: its graph and float weights, how it takes images and what it calls classes.
    pub(crate) fn model(mut self, what: &str, model: &Model) -> Self {
        let info = serde_json::to_vec(&(&model.info().preprocess, &model.info().classes)).expect("numbers and names");
        self.infos.insert(what.to_owned(), hex(Sha256::new().chain_update(info)));
        self.weights(what, model.graph(), model.weights())
    }

    /// Takes in a network that begins with these weights.
    pub(crate) fn weights(mut self, what: &str, graph: &Graph, weights: &Weights) -> Self {
        self.networks.insert(what.to_owned(), hex(of_network(graph, weights)));
        self
    }

    /// Takes in a set of images.
    pub(crate) fn images(mut self, what: &str, images: Fingerprint) -> Self {
        self.images.insert(what.to_owned(), images);
        self
    }

    /// Says what differs in a run that should go on from this one; `None` where nothing does.
    fn difference(&self, now: &Self) -> Option<String> {
        for (what, digest) in &now.networks {
            if self.networks.get(what) != Some(digest) {
                return Some(format!("{what}: the network or its weights changed"));
            }
        }
        for (what, images) in &now.images {
            let Some(before) = self.images.get(what) else { return Some(format!("{what}: not there before")) };
            if let Some(difference) = before.difference(images) {
                return Some(format!("{what}: {difference}"));
            }
        }
        // After the images: a class may be named after their folder.
        if let Some((what, _)) = now.infos.iter().find(|(what, digest)| self.infos.get(*what) != Some(*digest)) {
            return Some(format!("{what}: the names of its classes, or how it takes images, changed"));
        }
        (self != now).then(|| "it was made from more".to_owned())
    }
}

/// The digest of a hash in hexadecimal digits.
pub(crate) fn hex(hash: Sha256) -> String {
    format!("{:x}", hash.finalize())
}

fn of_network(graph: &Graph, weights: &Weights) -> Sha256 {
    let mut hash = Sha256::new();
    hash.update(serde_json::to_vec(graph).expect("a graph is data"));
    for (name, tensor) in weights.iter() {
        hash.update(name.as_bytes());
        for chunk in tensor.data().chunks(4096) {
            hash.update(chunk.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
        }
    }
    hash
}

/// Begins a run as [`claim_text`] does, with settings that are written as TOML.
pub(crate) fn claim<T: Serialize>(folder: &RunFolder, file: &str, settings: &T, origin: &Origin) -> Result<(), Error> {
    let text = toml::to_string(settings).map_err(|e| Error::file(&folder.file(file), e))?;
    claim_text(folder, file, &text, origin)
}

/// Begins a run in its folder: leaves the text of its settings in `file`, and what it is made from in
/// [`RunFolder::ORIGIN`]. Where a run goes on, both must be what they were.
///
/// # Errors
/// [`Error::RunExists`], [`Error::OtherRun`], [`Error::NoRun`] where the folder holds other files, [`Error::Io`],
/// [`Error::File`].
pub(crate) fn claim_text(folder: &RunFolder, file: &str, settings: &str, origin: &Origin) -> Result<(), Error> {
    let (path, made_from) = (folder.file(file), folder.file(RunFolder::ORIGIN));
    let old = match std::fs::read_to_string(&path) {
        Ok(old) => old,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            // What a run writes first is its origin, after what its caller may have written.
            if !folder.holds_only(&[RunFolder::ORIGIN, RunFolder::CONFIG])? {
                return Err(Error::NoRun { path: folder.path().to_owned() });
            }
            // One line: there may be a million images.
            let json = serde_json::to_vec(origin).map_err(|e| Error::file(&made_from, e))?;
            write::write(&made_from, &json)?;
            return write::write(&path, settings.as_bytes());
        }
        Err(e) => return Err(Error::io(&path)(e)),
    };
    if !folder.resumes() {
        return Err(Error::RunExists { path: folder.path().to_owned() });
    }
    if let Some(what) = other_settings(&old, settings, &path).or(other_origin(&made_from, origin)?) {
        return Err(Error::OtherRun { path: folder.path().to_owned(), what });
    }
    folder.tidy()
}

fn other_settings(old: &str, new: &str, file: &Path) -> Option<String> {
    if let Some((old, new)) = old.lines().zip(new.lines()).find(|(old, new)| old != new) {
        // Both: an earlier version may have had another name for the key.
        return Some(format!("its settings: `{new}` differs from its `{old}`"));
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    (old.lines().count() != new.lines().count()).then(|| format!("its settings: `{name}` differs"))
}

fn other_origin(file: &Path, origin: &Origin) -> Result<Option<String>, Error> {
    Ok(match write::read_json::<Origin>(file)? {
        Some(before) => before.difference(origin),
        None => Some(format!("there is no `{}` that says which images it was begun with", RunFolder::ORIGIN)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_told() {
        let of = |count| {
            Origin::default().images("images to adapt to", images::embedded_unlabelled().take(count).fingerprint())
        };
        assert_eq!(of(4).difference(&of(4)), None);
        let difference = of(4).difference(&of(8)).unwrap();
        assert_eq!(difference, "images to adapt to: 4 new, first image 250");
        assert_eq!(of(4).difference(&Origin::default()).unwrap(), "it was made from more");
    }

    #[test]
    fn settings_that_differ_are_told_in_both_versions() {
        let differ =
            |old: &str| other_settings(old, "steps = 2\nscale_update = \"fixed\"\n", Path::new("runs/adapt.toml"));
        assert_eq!(differ("steps = 2\nscale_update = \"fixed\"\n"), None);
        let renamed = differ("steps = 2\nscales = \"fixed\"\n").unwrap();
        assert_eq!(renamed, "its settings: `scale_update = \"fixed\"` differs from its `scales = \"fixed\"`");
        assert_eq!(differ("steps = 2\n").unwrap(), "its settings: `adapt.toml` differs");
    }

    #[test]
    fn a_run_of_unknown_images_is_not_resumed() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("a.toml"), "").unwrap();
        let folder = RunFolder::open(root.path(), true).unwrap();
        let error = claim_text(&folder, "a.toml", "", &Origin::default()).unwrap_err();
        assert!(error.to_string().contains("no `origin.json`"), "{error}");
    }

    #[test]
    fn files_of_others_are_not_taken_for_a_run() {
        let root = tempfile::tempdir().unwrap();
        let begin = || {
            let folder = RunFolder::open(root.path(), true).unwrap();
            claim_text(&folder, "a.toml", "", &Origin::default())
        };
        std::fs::write(root.path().join("model.safetensors"), "mine").unwrap();
        assert!(matches!(begin(), Err(Error::NoRun { .. })));
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
        // What a run leaves that is killed before its settings are written.
        std::fs::remove_file(root.path().join("model.safetensors")).unwrap();
        std::fs::write(root.path().join(RunFolder::ORIGIN), "{").unwrap();
        std::fs::write(root.path().join(".dsconv-a1.tmp"), "").unwrap();
        begin().unwrap();
    }
}

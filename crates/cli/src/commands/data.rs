//! `dsconv data`: image sets are listed, made and downloaded, and weights too.
use std::path::{Path, PathBuf};
use std::time::Instant;

use graph::{ChannelOrder, Preprocess};
use images::{Manifest, OpenOptions, Progress, Split, Unlabelled};
use indicatif::ProgressBar;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::output::check_folder;
use crate::printer::{Printer, lossy};
use crate::table::{Table, bytes, count, duration};
use crate::{names, places};

/// A data set, as a row of the list.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    manifest: Manifest,
    /// Whether the files of the set are here.
    here: bool,
}

/// Lists the image sets that can be named.
///
/// # Errors
/// A manifest cannot be read.
pub fn list(printer: &Printer) -> Result<()> {
    let folder = places::datasets();
    let mut rows = Vec::new();
    for name in images::dataset_names(&folder) {
        if let Some(manifest) = Manifest::find(&name, &folder)? {
            let here = manifest.is_fetched(&folder);
            rows.push(Row { manifest, here });
        }
    }
    printer.result(&rows, |printer| {
        let mut table = Table::new(["name", "classes", "train", "adapt", "eval", "state", "what"]).left([5, 6]);
        for Row { manifest, here } in &rows {
            let images = |split| manifest.images.get(&split).map_or(String::new(), |&n| count(n as u64));
            let download: u64 = manifest.archives.iter().map(|archive| archive.bytes).sum();
            let state = match (here, download) {
                (true, _) => "here".to_owned(),
                (false, 0) => "to be obtained".to_owned(),
                (false, download) => format!("{} to get", bytes(download)),
            };
            table.row([
                manifest.name.clone(),
                manifest.classes.to_string(),
                images(Split::Train),
                images(Split::Adapt),
                images(Split::Eval),
                state,
                manifest.title.clone(),
            ]);
        }
        printer.table(&table);
    });
    printer.talk("a folder of images needs no manifest: give its path wherever a name is taken");
    Ok(())
}

/// The result of `dsconv data get`.
#[derive(Debug, Serialize)]
struct Got {
    name: String,
    /// The folder or file; `None` for what comes with the program.
    path: Option<PathBuf>,
    seconds: f64,
}

/// Downloads an image set, or the published weights of a network.
///
/// # Errors
/// There is nothing of that name; the download fails.
pub fn get(name: &str, printer: &Printer) -> Result<()> {
    let start = Instant::now();
    let folder = places::datasets();
    let path = match (Manifest::find(name, &folder)?, zoo::variant(name)) {
        (Some(manifest), _) if manifest.kind == images::DatasetFormat::Embedded => None,
        (Some(manifest), _) => Some(images_of(&manifest, &folder, printer)?),
        (None, Ok(variant)) if zoo::teachers().any(|teacher| teacher == variant.name) => None,
        (None, Ok(variant)) => Some(weights_of(variant, printer)?),
        (None, Err(_)) => return Err(unknown(name, &folder)),
    };
    let got = Got { name: name.to_owned(), path, seconds: start.elapsed().as_secs_f64() };
    printer.result(&got, |printer| {
        printer.line(match &got.path {
            Some(path) => format!("{} is here: {}, in {}", got.name, path.display(), duration(start.elapsed())),
            None => format!("{} comes with dsconv: there is nothing to download", got.name),
        });
    });
    Ok(())
}

/// Downloads an image set.
fn images_of(manifest: &Manifest, folder: &Path, printer: &Printer) -> Result<PathBuf> {
    if manifest.archives.is_empty() && !manifest.is_fetched(folder) {
        let error = Error::failed(format!("`{}` cannot be downloaded", manifest.name));
        return Err(match &manifest.obtain {
            Some(obtain) => error.hint(obtain.replace("datasets/", &format!("{}/", folder.display()))),
            None => error,
        });
    }
    printer.talk(format!("{}; licence: {}", manifest.title, manifest.licence));
    let bar = printer.bar(&manifest.name, 0, "bytes");
    manifest.fetch(folder, &places::access(), &mut |progress| show(&bar, progress))?;
    bar.finish_and_clear();
    Ok(folder.join(&manifest.name))
}

/// Downloads the published weights of a network.
fn weights_of(variant: &zoo::Variant, printer: &Printer) -> Result<PathBuf> {
    let (Some(source), Some(path)) = (&variant.source, places::fetched(variant)) else {
        return Err(Error::failed(format!("nobody published weights of `{}`", variant.name)).hint(format!(
            "a file of your own: `dsconv quantize {} --weights FILE`; `dsconv train CONFIG` trains some",
            variant.name
        )));
    };
    printer.talk(format!("weights of {}; licence: {}", variant.name, source.licence));
    let bar = printer.bar(variant.name, 0, "bytes");
    if source.sha256.is_none() {
        printer.talk(format!(
            "its publisher gives the first digits of its SHA-256, {}, and no more: they tell damage, not forgery",
            source.sha256_prefix
        ));
    }
    let sha256 = source.sha256.unwrap_or(&source.sha256_prefix);
    let what = images::Expected { sha256: Some(sha256), bytes: None };
    images::fetch(&source.url, &what, &path, &places::access(), &mut |progress| show(&bar, progress))?;
    bar.finish_and_clear();
    Ok(path)
}

fn show(bar: &ProgressBar, Progress { done, total }: Progress) {
    if let Some(total) = total {
        bar.set_length(total);
    }
    bar.set_position(done);
}

fn unknown(name: &str, folder: &Path) -> Error {
    let sets = images::dataset_names(folder);
    let error = Error::usage(format!("no image set and no network is named `{name}`"));
    let known = sets.iter().map(String::as_str).chain(zoo::variants().iter().map(|variant| variant.name));
    let lists = "`dsconv data list` lists image sets, `dsconv models` networks";
    error.hint(names::did_you_mean(names::nearest(name, known), lists))
}

/// The result of `dsconv data make`: the numbers of images.
#[derive(Debug, Serialize)]
struct Made {
    #[serde(serialize_with = "lossy")]
    path: PathBuf,
    train: usize,
    eval: usize,
    adapt: usize,
}

/// Where the embedded images go.
#[derive(Debug, Clone)]
pub struct MakeOptions {
    /// The folder.
    pub folder: PathBuf,
    /// The most images of each split.
    pub limit: Option<usize>,
    /// Whether a folder that is not empty is written into.
    pub force: bool,
}

/// Writes the embedded images as folders of PNG files.
///
/// # Errors
/// The folder is not empty, or cannot be written.
pub fn make(options: &MakeOptions, printer: &Printer) -> Result<()> {
    let start = Instant::now();
    check_folder(&options.folder, "an image set")?;
    let filled = std::fs::read_dir(&options.folder).is_ok_and(|mut entries| entries.next().is_some());
    if filled && !options.force {
        let error = Error::failed(format!("`{}` is not empty", options.folder.display()));
        return Err(error.hint("`--force` writes into it all the same"));
    }
    // A PNG file is to hold what the set holds.
    let raw = Preprocess::bytes(ChannelOrder::Rgb);
    let labelled = |split| -> Result<usize> {
        let of_split = OpenOptions { split: Some(split), ..OpenOptions::default() };
        let set = images::open_labelled("embedded", &raw, &of_split)?;
        let (labels, classes) = (set.labels().to_vec(), set.class_names().to_vec());
        // The number keeps the order of the classes, which readers take from the folders' names, with or without images.
        let folder = |class: usize| format!("{split}/{class:02}_{}", classes[class]);
        for class in 0..classes.len() {
            std::fs::create_dir_all(options.folder.join(folder(class)))?;
        }
        let place = |i: usize| format!("{}/{i:05}.png", folder(labels[i]));
        write(&set.without_labels(), place, options, printer)
    };
    let (train, eval) = (labelled(Split::Train)?, labelled(Split::Eval)?);
    let set = images::open_unlabelled("embedded", &raw, &OpenOptions::default())?;
    let adapt = write(&set, |i| format!("adapt/{i:05}.png"), options, printer)?;

    let made = Made { path: options.folder.clone(), train, eval, adapt };
    printer.result(&made, |printer| {
        let time = duration(start.elapsed());
        printer.line(format!(
            "wrote {}: {train} train, {eval} eval, {adapt} adapt images, in {time}",
            options.folder.display()
        ));
    });
    Ok(())
}

/// Writes images of a set, and returns how many.
fn write(set: &Unlabelled, place: impl Fn(usize) -> String, options: &MakeOptions, printer: &Printer) -> Result<usize> {
    let [_, height, width] = set.shape();
    let count = options.limit.map_or(set.len(), |limit| set.len().min(limit));
    let bar = printer.bar(set.name(), count as u64, "images");
    for i in 0..count {
        let planes = set.batch(&[i])?.pixels;
        let pixel = |x: u32, y: u32| {
            let at = |c: usize| planes[(c * height + y as usize) * width + x as usize] as u8;
            image::Rgb([at(0), at(1), at(2)])
        };
        let path = options.folder.join(place(i));
        std::fs::create_dir_all(path.parent().expect("a file in a folder"))?;
        let picture = image::RgbImage::from_fn(width as u32, height as u32, pixel);
        picture.save(&path).map_err(|e| Error::failed(format!("`{}`: {e}", path.display())))?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(count)
}

//! Reads files that label the images of a folder.
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use csv::{ReaderBuilder, StringRecord, Trim};

use crate::ImageError;
use crate::classes::{Labels, Named, Source};
use crate::folder::{LabelledFiles, by_subfolder};
use crate::names::{ClassNames, Found, from_lines, read_text};
use crate::walk::Tree;

/// A file that labels the images of a folder.
pub(crate) enum LabelsFile {
    /// Its lines are `name index`, or the names of classes.
    Lines(PathBuf),
    /// It is a table with a column of files and one of labels.
    Table(PathBuf),
}

/// Finds `labels.txt` or `labels.csv` inside the folder, or `<folder>_labels.txt`, `<folder>_labels.csv` or `<folder>.csv` beside it.
pub(crate) fn labels_file(root: &Path) -> Option<LabelsFile> {
    let inside = ["labels.txt", "labels.csv"].map(|name| root.join(name));
    // The paths `val/..` and `.` end in no name.
    let full = root.canonicalize().ok();
    let beside = full.iter().flat_map(|full| {
        let named = |ending: &str| {
            let mut name = full.file_name()?.to_owned();
            name.push(ending);
            Some(full.with_file_name(name))
        };
        ["_labels.txt", "_labels.csv", ".csv"].into_iter().filter_map(named)
    });
    let file = inside.into_iter().chain(beside).find(|path| path.is_file())?;
    let is_table = file.extension().is_some_and(|ending| ending == "csv");
    Some(if is_table { LabelsFile::Table(file) } else { LabelsFile::Lines(file) })
}

/// Labels the images that a labels file of lines `name index` lists. A list of class names beside class folders, as Teachable
/// Machine writes it, gives the order of the folders instead.
pub(crate) fn listed(root: &Path, file: &Path, tree: &mut Tree) -> Result<LabelledFiles, ImageError> {
    let text = read_text(file)?;
    let lines = || {
        let lines = text.lines().map(str::trim).enumerate();
        lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
    };
    let named = |line: &str| {
        line.rsplit_once(char::is_whitespace).map_or(PathBuf::new(), |(name, _)| root.join(name.trim_end()))
    };
    let lists_images = lines().any(|(_, line)| named(line).is_file());
    if !lists_images && !tree.folders.is_empty() {
        let names = ClassNames::from(from_lines(&text));
        let used = by_subfolder(root, tree, Some(names.clone()))?;
        if let Some(&unlisted) = used.labels.iter().find(|&&label| names.find(&used.classes[label]) == Found::None) {
            return Err(ImageError::LabelsFile {
                path: file.to_owned(),
                line: 1,
                reason: format!(
                    "it lists neither images as lines `name.jpg index`, nor all class folders by name: `{}` is missing",
                    used.classes[unlisted]
                ),
            });
        }
        return Ok(used);
    }
    if tree.folders.len() > 1 {
        tree.notes
            .push(format!("{} gives the labels; what its images' folders are called does not count", file.display()));
    }
    let fail = |line: usize, reason: String| ImageError::LabelsFile { path: file.to_owned(), line, reason };
    let mut labels = HashMap::new();
    for (i, line) in lines() {
        let (name, label) = line
            .rsplit_once(char::is_whitespace)
            .ok_or_else(|| fail(i + 1, format!("`{line}` is not `name index`")))?;
        let label: usize = label.parse().map_err(|_| fail(i + 1, format!("`{label}` is no class index")))?;
        if labels.insert(root.join(name.trim_end()), label).is_some_and(|before| before != label) {
            return Err(fail(i + 1, format!("`{}` is listed before with another index", name.trim_end())));
        }
    }
    assign(labels, root, file, tree, Vec::new(), Labels::Outputs)
}

/// The headings of columns of files, and of labels; letters are small, and `-` and blanks are `_`.
const FILES: [&str; 12] = [
    "file",
    "filename",
    "file_name",
    "image",
    "image_id",
    "image_name",
    "img",
    "img_name",
    "id",
    "path",
    "filepath",
    "name",
];
const LABELS: [&str; 10] =
    ["label", "labels", "class", "class_name", "class_id", "classname", "target", "category", "breed", "species"];

/// Labels the images that a table lists. Labels that are all whole numbers are outputs of a network; others are names of
/// classes.
pub(crate) fn table(root: &Path, file: &Path, tree: &mut Tree) -> Result<LabelledFiles, ImageError> {
    let fail =
        |line: u64, reason: String| ImageError::LabelsFile { path: file.to_owned(), line: line as usize, reason };
    let text = read_text(file)?;
    let first = text.lines().next().unwrap_or_default();
    let delimiter = [b',', b';', b'\t'].into_iter().find(|&mark| first.contains(char::from(mark))).unwrap_or(b',');
    let mut reader =
        ReaderBuilder::new().has_headers(false).delimiter(delimiter).trim(Trim::All).from_reader(text.as_bytes());
    let mut records = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| {
            let line = error.position().map_or(1, csv::Position::line);
            fail(line, "it has another number of columns than the first line".to_owned())
        })?;
        records.push(record);
    }
    let found = Files::new(root, tree);
    let is_file = |field: &str| found.get(field).is_some();
    let (columns, has_head) = match records.first() {
        Some(head) => columns(head, records.get(1), is_file).map_err(|reason| fail(1, reason))?,
        None => return Err(fail(1, "it is empty".to_owned())),
    };
    let mut named: HashMap<PathBuf, &str> = HashMap::new();
    for record in &records[usize::from(has_head)..] {
        let (name, label) = (&record[columns.file], &record[columns.label]);
        let line = record.position().map_or(1, csv::Position::line);
        if name.is_empty() || label.is_empty() {
            return Err(fail(line, "a file or its label is missing".to_owned()));
        }
        let path = found.get(name).unwrap_or_else(|| root.join(name));
        if named.insert(path, label).is_some_and(|before| before != label) {
            return Err(fail(line, format!("`{name}` is listed before with another label")));
        }
    }
    let numbers: Option<HashMap<PathBuf, usize>> =
        named.iter().map(|(path, label)| Some((path.clone(), label.parse().ok()?))).collect();
    if let Some(numbers) = numbers {
        return assign(numbers, root, file, tree, Vec::new(), Labels::Outputs);
    }
    if let Some((line, label)) = no_index(&records[usize::from(has_head)..], columns.label) {
        return Err(fail(line, format!("`{label}` is no class index, as the other labels are: those are from 0 up")));
    }
    let classes: Vec<&str> = named.values().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let class = |label: &str| classes.binary_search(&label).expect("one of them");
    let labels = named.iter().map(|(path, label)| (path.clone(), class(label))).collect();
    let from = Source::Table { file: file.display().to_string() };
    let kind = Labels::Named(Named { from, listed: None, empty: Vec::new() });
    assign(labels, root, file, tree, classes.into_iter().map(str::to_owned).collect(), kind)
}

/// Returns the line of the first label that is no class index, with the label, where nearly all others are or all are whole numbers.
fn no_index(records: &[StringRecord], column: usize) -> Option<(u64, &str)> {
    let labels = || records.iter().map(|record| &record[column]);
    let others = labels().filter(|label| label.parse::<usize>().is_err()).count();
    let whole = labels().all(|label| label.parse::<i64>().is_ok());
    let at = records.iter().find(|record| record[column].parse::<usize>().is_err())?;
    let meant = whole || others * FEW <= records.len();
    meant.then(|| (at.position().map_or(1, csv::Position::line), &at[column]))
}

/// One label in so many may be something else where the others are class indices.
const FEW: usize = 5;

/// The columns of a table.
struct Columns {
    file: usize,
    label: usize,
}

/// Finds the columns of files and of labels, by the headings or by what is in them, and tells whether there are headings.
fn columns(
    head: &StringRecord,
    next: Option<&StringRecord>,
    is_file: impl Fn(&str) -> bool,
) -> Result<(Columns, bool), String> {
    let plain = |field: &str| field.to_lowercase().replace(['-', ' '], "_");
    let by = |names: &[&str]| head.iter().position(|field| names.contains(&&*plain(field)));
    let has_head = !head.iter().any(&is_file);
    let filled = if has_head { next.unwrap_or(head) } else { head };
    let file = filled.iter().position(&is_file).or_else(|| if has_head { by(&FILES) } else { None });
    let label = if has_head { by(&LABELS) } else { None };
    match (file, label, head.len()) {
        (Some(file), Some(label), _) if file != label => Ok((Columns { file, label }, has_head)),
        (Some(file), _, 2) => Ok((Columns { file, label: 1 - file }, has_head)),
        (None, _, _) => Err(format!("no column holds files; its heading would be one of `{}`", FILES.join("`, `"))),
        _ => Err(format!("no column holds labels; its heading is one of `{}`", LABELS.join("`, `"))),
    }
}

/// The images of a folder, by what a table may call them: their path inside it, with or without its ending.
struct Files(HashMap<PathBuf, Option<PathBuf>>);

impl Files {
    fn new(root: &Path, tree: &Tree) -> Self {
        let mut found: HashMap<PathBuf, Option<PathBuf>> = HashMap::new();
        for path in &tree.images {
            let inside = path.strip_prefix(root).unwrap_or(path);
            // Of two that differ in their ending alone, neither is meant without it.
            found
                .entry(inside.with_extension(""))
                .and_modify(|other| *other = None)
                .or_insert_with(|| Some(path.clone()));
        }
        for path in &tree.images {
            found.insert(path.strip_prefix(root).unwrap_or(path).to_owned(), Some(path.clone()));
        }
        Self(found)
    }

    fn get(&self, name: &str) -> Option<PathBuf> {
        let name = name.trim_start_matches("./");
        self.0.get(Path::new(name)).cloned().flatten()
    }
}

/// Gives the images of a folder the labels that a file has for them. What only one of the two has is left out, with a note.
///
/// # Errors
/// [`ImageError::NoLabels`] where the file lists none of the images.
fn assign(
    mut labels: HashMap<PathBuf, usize>,
    root: &Path,
    file: &Path,
    tree: &mut Tree,
    classes: Vec<String>,
    kind: Labels,
) -> Result<LabelledFiles, ImageError> {
    let mut files = LabelledFiles { paths: Vec::new(), labels: Vec::new(), classes, kind };
    let mut unlisted = Vec::new();
    for path in std::mem::take(&mut tree.images) {
        match labels.remove(&path) {
            Some(label) => {
                files.paths.push(path);
                files.labels.push(label);
            }
            None => unlisted.push(path),
        }
    }
    let mut missing: Vec<PathBuf> = labels.into_keys().collect();
    missing.sort();
    let inside = |paths: &[PathBuf]| {
        let first = paths.first().map_or(Path::new(""), |path| path.strip_prefix(root).unwrap_or(path));
        format!("`{}`{}", first.display(), if paths.len() > 1 { ", ..." } else { "" })
    };
    let (root, file) = (root.display(), file.display());
    if let (true, [_, ..], [_, ..]) = (files.paths.is_empty(), unlisted.as_slice(), missing.as_slice()) {
        let hint = format!("{file} lists {}, the images are {}", inside(&missing), inside(&unlisted));
        return Err(ImageError::NoLabels { name: root.to_string(), hint });
    }
    match unlisted.len() {
        0 => {}
        1 => tree.notes.push(format!("{root}: {} is not listed in {file}: left out", inside(&unlisted))),
        count => tree.notes.push(format!(
            "{root}: {count} of {} images are not listed in {file}, {}: left out",
            count + files.paths.len(),
            inside(&unlisted)
        )),
    }
    match missing.len() {
        0 => {}
        1 => tree.notes.push(format!("{file} lists {}, which is not in {root}", inside(&missing))),
        count => tree.notes.push(format!("{file} lists {count} files that are not in {root}: {}", inside(&missing))),
    }
    Ok(files)
}

//! Reads CIFAR's binary files, records of label bytes and 32x32 planar RGB.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::set::DecodedImages;
use crate::{ImageError, walk};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

/// The classes of CIFAR-10.
pub(crate) const CIFAR10: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// The layout of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RecordLayout {
    /// A record of CIFAR-10 has one label byte.
    Ten,
    /// A record of CIFAR-100 has a coarse and a fine label byte.
    Hundred,
}

impl RecordLayout {
    fn label_bytes(self) -> usize {
        match self {
            Self::Ten => 1,
            Self::Hundred => 2,
        }
    }

    fn classes(self) -> usize {
        match self {
            Self::Ten => 10,
            Self::Hundred => 100,
        }
    }

    /// Tells the layout by the size of the file, or where both fit by CIFAR-100's file names `train.bin` and `test.bin`.
    fn of(path: &Path, bytes: usize) -> Option<Self> {
        let fits = |layout: Self| bytes > 0 && bytes.is_multiple_of(layout.label_bytes() + 3 * PLANE);
        match (fits(Self::Ten), fits(Self::Hundred)) {
            (true, false) => Some(Self::Ten),
            (false, true) => Some(Self::Hundred),
            (false, false) => None,
            (true, true) => {
                let hundred = path.file_name().is_some_and(|name| name == "train.bin" || name == "test.bin");
                Some(if hundred { Self::Hundred } else { Self::Ten })
            }
        }
    }
}

/// Says what a file is by its content, and what is wanted, where it is surely no CIFAR file.
///
/// # Errors
/// [`ImageError::Io`].
pub(crate) fn is_other(path: &Path) -> Result<Option<(&'static str, &'static str)>, ImageError> {
    const BEGINNING: u64 = 4096;
    if walk::detect(path).is_some() {
        return Ok(Some((
            "one picture",
            "name the folder that holds the pictures; `dsconv predict MODEL PICTURE` classifies a single one",
        )));
    }
    let fail = |error| ImageError::Io { path: path.to_owned(), error };
    let file = File::open(path).map_err(fail)?;
    let length = file.metadata().map_err(fail)?.len();
    let mut start = Vec::new();
    file.take(BEGINNING).read_to_end(&mut start).map_err(fail)?;
    if length > 0 && RecordLayout::of(path, usize::try_from(length).unwrap_or(usize::MAX)).is_some() {
        return Ok(None);
    }
    let is_archive =
        start.starts_with(b"PK") || start.starts_with(&[0x1f, 0x8b]) || start.get(257..262) == Some(b"ustar");
    // The last letter may be cut.
    let is_text = match std::str::from_utf8(&start) {
        Ok(text) => !text.is_empty() && text.chars().all(|c| !c.is_control() || c.is_whitespace()),
        Err(error) => error.error_len().is_none() && error.valid_up_to() > 0,
    };
    Ok(match (is_archive, is_text) {
        (true, _) => Some(("an archive", "unpack it, and name the folder")),
        (_, true) => Some((
            "a text",
            "name the folder of the images; their labels lie in it as labels.txt or labels.csv, or a table .csv is named itself",
        )),
        _ => None,
    })
}

/// Reads the images of one or more files, in order, without their labels.
pub(crate) fn images(paths: &[PathBuf]) -> Result<DecodedImages, ImageError> {
    Ok(read(paths, |_, _, _| Ok(()))?.0)
}

/// Reads the images and the (fine) labels of one or more files, and the names of the classes where they are known.
pub(crate) fn labelled(paths: &[PathBuf]) -> Result<(DecodedImages, Vec<usize>, Vec<String>), ImageError> {
    let mut labels = Vec::new();
    let (memory, layout) = read(paths, |layout, record, label_bytes| {
        let label = usize::from(label_bytes[label_bytes.len() - 1]);
        if label >= layout.classes() {
            return Err(format!("record {record}: label {label}, CIFAR-{0} has {0} classes", layout.classes()));
        }
        labels.push(label);
        Ok(())
    })?;
    let names: &[&str] = if layout == RecordLayout::Ten { &CIFAR10 } else { &[] };
    Ok((memory, labels, names.iter().map(|&name| name.to_owned()).collect()))
}

fn read(
    paths: &[PathBuf],
    mut label: impl FnMut(RecordLayout, usize, &[u8]) -> Result<(), String>,
) -> Result<(DecodedImages, RecordLayout), ImageError> {
    let mut pixels = Vec::new();
    let mut found = None;
    for path in paths {
        let bytes = std::fs::read(path).map_err(|error| ImageError::Io { path: path.clone(), error })?;
        let fail = |reason: String| ImageError::Cifar { path: path.clone(), reason };
        let layout = RecordLayout::of(path, bytes.len()).ok_or_else(|| {
            fail(format!(
                "{} bytes are no whole number of CIFAR records (CIFAR-10: {}, CIFAR-100: {} bytes each)",
                bytes.len(),
                1 + 3 * PLANE,
                2 + 3 * PLANE
            ))
        })?;
        if *found.get_or_insert(layout) != layout {
            return Err(fail("CIFAR-10 and CIFAR-100 in one set".to_owned()));
        }
        pixels.reserve(bytes.len());
        for (index, record) in bytes.chunks_exact(layout.label_bytes() + 3 * PLANE).enumerate() {
            let (labels, planes) = record.split_at(layout.label_bytes());
            label(layout, index, labels).map_err(fail)?;
            pixels.extend((0..PLANE).flat_map(|p| [planes[p], planes[PLANE + p], planes[2 * PLANE + p]]));
        }
    }
    Ok((DecodedImages::new(3, [SIDE, SIDE], pixels), found.expect("at least one file")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{OpenOptions, open_labelled, open_unlabelled};
    use graph::{ChannelOrder, Preprocess};

    fn bytes_as_they_are() -> Preprocess {
        Preprocess::bytes(ChannelOrder::Rgb)
    }

    fn record(labels: &[u8], [r, g, b]: [u8; 3]) -> Vec<u8> {
        [labels, &[r; PLANE], &[g; PLANE], &[b; PLANE]].concat()
    }

    fn file(folder: &tempfile::TempDir, name: &str, records: &[Vec<u8>]) -> String {
        let path = folder.path().join(name);
        std::fs::write(&path, records.concat()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[test]
    fn cifar10_planes_become_channels() {
        let folder = tempfile::tempdir().unwrap();
        let spec = file(&folder, "batch.BIN", &[record(&[3], [1, 2, 3]), record(&[9], [4, 5, 6])]);
        let set = open_labelled(&spec, &bytes_as_they_are(), &OpenOptions::default()).unwrap();
        assert_eq!(set.labels(), [3, 9]);
        assert_eq!(set.class_names()[3], "cat");
        let batch = set.batch(&[1]).unwrap();
        assert_eq!(batch.labels, [9]);
        let firsts: Vec<f32> = batch.images.pixels.iter().step_by(PLANE).copied().collect();
        assert_eq!(firsts, [4.0, 5.0, 6.0]);

        let bgr = Preprocess { order: ChannelOrder::Bgr, ..bytes_as_they_are() };
        let batch = open_unlabelled(&spec, &bgr, &OpenOptions::default()).unwrap().batch(&[0]).unwrap();
        let firsts: Vec<f32> = batch.pixels.iter().step_by(PLANE).copied().collect();
        assert_eq!(firsts, [3.0, 2.0, 1.0]);
    }

    #[test]
    fn cifar100_uses_the_fine_label() {
        let folder = tempfile::tempdir().unwrap();
        let spec = file(&folder, "test.bin", &[record(&[7, 71], [1, 2, 3])]);
        let set = open_labelled(&spec, &bytes_as_they_are(), &OpenOptions::default()).unwrap();
        assert_eq!(set.labels(), [71]);
        assert!(set.class_names().is_empty());
    }

    #[test]
    fn other_files_are_told_by_their_content() {
        let folder = tempfile::tempdir().unwrap();
        let cases: [(&str, &[u8], &str); 6] = [
            ("a.bin", b"\x89PNG\r\n\x1a\nxxxxxxxxxxxxxxxx", "a.bin is one picture, no set of images"),
            ("b.png", b"GIF89a", "b.png is one picture, no set of images"),
            ("labels.txt", "tür.png 3\n".as_bytes(), "labels.txt is a text, no set of images"),
            ("c", b"PK\x03\x04", "c is an archive, no set of images"),
            ("d.tgz", b"\x1f\x8b\x08", "d.tgz is an archive, no set of images"),
            ("e", b"\x00\x01\x02", "e: 3 bytes are no whole number of CIFAR records"),
        ];
        for (name, bytes, expected) in cases {
            let spec = file(&folder, name, &[bytes.to_vec()]);
            let labelled = open_labelled(&spec, &bytes_as_they_are(), &OpenOptions::default()).unwrap_err();
            let unlabelled = open_unlabelled(&spec, &bytes_as_they_are(), &OpenOptions::default()).unwrap_err();
            assert_eq!(labelled.to_string(), unlabelled.to_string());
            assert!(labelled.to_string().contains(expected), "{labelled}");
        }
        // A record of letters is a text by its content, and CIFAR by its length.
        let spec = file(&folder, "letters.bin", &[vec![b'\n'; 3073]]);
        assert!(open_unlabelled(&spec, &bytes_as_they_are(), &OpenOptions::default()).is_ok());
    }

    #[test]
    fn damaged_files_name_the_file_and_the_record() {
        let folder = tempfile::tempdir().unwrap();
        let open =
            |spec: &str| open_labelled(spec, &bytes_as_they_are(), &OpenOptions::default()).unwrap_err().to_string();
        let spec = file(&folder, "label.bin", &[record(&[0], [0; 3]), record(&[10], [0; 3])]);
        assert!(open(&spec).ends_with("label.bin: record 1: label 10, CIFAR-10 has 10 classes"));
        let spec = file(&folder, "cut.bin", &[vec![0; 5000]]);
        assert!(open(&spec).contains("cut.bin: 5000 bytes are no whole number of CIFAR records"));
        let spec = file(&folder, "empty.bin", &[]);
        assert!(open(&spec).contains("empty.bin: 0 bytes"));
    }
}

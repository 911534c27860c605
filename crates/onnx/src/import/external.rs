//! Reads the data of tensors from files beside the model's.
use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use super::ImportError;
use super::constant::{Constant, dims, raw_bytes, refuse};
use super::error::{Refusal, Result};
use crate::proto::{StringStringEntryProto, TensorProto};

/// The limit of bytes that are read from other files.
const MAX_BYTES: u64 = 2 << 30;

/// The folder of the model's file, and the files that were read from it.
pub(super) struct External<'a> {
    folder: Option<&'a Path>,
    /// The files that were opened.
    files: HashSet<PathBuf>,
    /// The number of bytes that were read.
    read: u64,
    /// The size of all files that were opened.
    pub size: u64,
}

impl<'a> External<'a> {
    pub fn new(folder: Option<&'a Path>) -> Self {
        Self { folder, files: HashSet::new(), read: 0, size: 0 }
    }

    /// Reads a tensor, whose data may be in a file of its own.
    ///
    /// # Errors
    /// The tensor cannot be read, or its file is not there, is too short, or lies outside the folder.
    pub fn read(&mut self, tensor: &TensorProto) -> std::result::Result<Constant, ImportError> {
        if tensor.data_location == 0 && tensor.external_data.is_empty() {
            return Constant::read(tensor, &tensor.raw_data);
        }
        let bytes = self.bytes(tensor).map_err(|refusal| refuse(tensor, refusal))?;
        Constant::read(tensor, &bytes)
    }

    fn bytes(&mut self, tensor: &TensorProto) -> Result<Vec<u8>> {
        let entry = |key: &str| tensor.external_data.iter().find(|entry| entry.key == key);
        let number = |entry: &StringStringEntryProto| {
            entry.value.parse::<u64>().map_err(|_| format!("`{}` of its data is no number of bytes", entry.key))
        };
        let location = entry("location").ok_or("its data lies in another file, which is not named")?;
        let folder = self.folder.ok_or_else(|| {
            Refusal::hint(
                format!("its data lies in '{}', another file", location.value),
                "save the model in one file: `onnx.save(onnx.load(\"x.onnx\"), \"one.onnx\", save_as_external_data=False)`",
            )
        })?;
        let path = inside(folder, &location.value)?;
        let failed = |error: std::io::Error| Refusal::from(format!("its data in '{}': {error}", location.value));
        // This is checked before the file is opened, since opening a pipe waits for a writer.
        if !path.metadata().map_err(failed)?.is_file() {
            return Err(format!("its data lies in '{}', which is no file", location.value).into());
        }
        let mut file = File::open(&path).map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        let (_, count) = dims(tensor)?;
        let needed =
            raw_bytes(tensor.data_type, count).ok_or("elements of a type that is not read from other files")?;
        let needed = needed as u64;
        let offset = entry("offset").map(number).transpose()?.unwrap_or(0);
        let length = entry("length").map(number).transpose()?.unwrap_or(needed);
        if length != needed {
            return Err(format!("{length} bytes of data for {count} elements, which take {needed}").into());
        }
        if offset.checked_add(length).is_none_or(|end| end > about.len()) {
            return Err(format!(
                "its data are bytes {offset} to {offset} + {length} of '{}', which has {}",
                location.value,
                about.len()
            )
            .into());
        }
        self.read = self.read.saturating_add(length);
        if self.read > MAX_BYTES {
            return Err("more than 2 GiB of data in other files".into());
        }
        if self.files.insert(path) {
            self.size = self.size.saturating_add(about.len());
        }
        let mut bytes = vec![0; length as usize];
        file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(&mut bytes)).map_err(failed)?;
        Ok(bytes)
    }
}

/// Returns the path of a file in the folder.
///
/// # Errors
/// The name or a link leads out of the folder, or there is no such file.
fn inside(folder: &Path, location: &str) -> Result<PathBuf> {
    let relative = Path::new(location);
    let stays = relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    let outside = || Refusal::from(format!("its data lies in '{location}', outside the folder of the model"));
    if location.is_empty() || location.contains('\\') || !stays {
        return Err(outside());
    }
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let missing = |_| {
        Refusal::hint(
            format!("its data lies in '{location}', which is not in the folder of the model"),
            "copy that file too, next to the model and under the name it had",
        )
    };
    let path = folder.join(relative).canonicalize().map_err(missing)?;
    let folder = folder.canonicalize().map_err(missing)?;
    if path.starts_with(&folder) { Ok(path) } else { Err(outside()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::DataType;

    fn tensor(entries: &[(&str, &str)]) -> TensorProto {
        let external_data = entries
            .iter()
            .map(|(key, value)| StringStringEntryProto { key: key.to_string(), value: value.to_string() })
            .collect();
        TensorProto {
            name: "w".into(),
            dims: vec![2],
            data_type: DataType::Float as i32,
            data_location: 1,
            external_data,
            ..TensorProto::default()
        }
    }

    #[test]
    fn data_is_read_from_the_folder_alone() {
        let root = std::env::temp_dir().join(format!("dsconv-external-{}", std::process::id()));
        let folder = root.join("model");
        std::fs::create_dir_all(folder.join("deep")).unwrap();
        let values: Vec<u8> = [0.0f32, 1.5, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        for path in [root.join("out.bin"), folder.join("w.bin"), folder.join("deep/w.bin")] {
            std::fs::write(path, &values).unwrap();
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink("../out.bin", folder.join("link.bin")).unwrap();
        let read = |entries: &[(&str, &str)]| {
            let found = External::new(Some(&folder)).read(&tensor(entries));
            found.map(|constant| constant.as_floats().unwrap().to_vec()).map_err(|error| error.to_string())
        };
        for location in ["w.bin", "./w.bin", "deep/w.bin"] {
            assert_eq!(read(&[("location", location), ("offset", "4"), ("length", "8")]), Ok(vec![1.5, -2.0]));
        }
        assert_eq!(read(&[("location", "w.bin")]), Ok(vec![0.0, 1.5]));
        let absolute = root.join("out.bin");
        for location in ["../out.bin", "deep/../../out.bin", absolute.to_str().unwrap(), "", "..\\out.bin"] {
            let error = read(&[("location", location)]).unwrap_err();
            assert_eq!(error, format!("tensor 'w': its data lies in '{location}', outside the folder of the model"));
        }
        if cfg!(unix) {
            assert!(read(&[("location", "link.bin")]).unwrap_err().contains("outside the folder"));
        }
        for (entries, expected) in [
            (&[("location", "x.bin")][..], "its data lies in 'x.bin', which is not in the folder of the model"),
            (&[("location", "deep")][..], "its data lies in 'deep', which is no file"),
            (&[("offset", "0")][..], "its data lies in another file, which is not named"),
            (&[("location", "w.bin"), ("length", "9")][..], "9 bytes of data for 2 elements, which take 8"),
            (&[("location", "w.bin"), ("offset", "8")][..], "its data are bytes 8 to 8 + 8 of 'w.bin', which has 12"),
            (&[("location", "w.bin"), ("offset", "-1")][..], "`offset` of its data is no number of bytes"),
        ] {
            assert_eq!(read(entries), Err(format!("tensor 'w': {expected}")));
        }
        let alone = External::new(None).read(&tensor(&[("location", "w.bin")])).unwrap_err();
        assert!(alone.hint().unwrap().starts_with("save the model in one file"));
        std::fs::remove_dir_all(&root).unwrap();
    }
}

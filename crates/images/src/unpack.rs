//! Unpacks archives.
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path};

use crate::fetch::{FetchError, io_error};

/// The limit of files and folders of an archive.
const MOST_ENTRIES: usize = 2_000_000;
/// The beginning of the name of the folder into which an archive is unpacked first.
const STAGING: &str = ".unpack";

/// Unpacks the files and folders of an archive into `folder`, at most `most` bytes. They appear there only when all of them
/// are unpacked. The remains of a killed process are removed.
///
/// # Errors
/// [`FetchError::Archive`] where the archive is damaged, unpacks to more, or holds links, devices, absolute paths or paths
/// that lead out of the folder; [`FetchError::Io`] where a file cannot be written or is there already.
pub(crate) fn unpack_tar_gz(archive: &Path, folder: &Path, most: u64) -> Result<(), FetchError> {
    for left in fs::read_dir(folder).map_err(io_error(folder))?.flatten() {
        if left.file_name().as_encoded_bytes().starts_with(STAGING.as_bytes()) {
            fs::remove_dir_all(left.path()).map_err(io_error(&left.path()))?;
        }
    }
    let fail = |reason: String| FetchError::Archive { path: archive.to_owned(), reason };
    let damaged = |error: io::Error| fail(format!("cannot be unpacked: {error}"));
    let staging = tempfile::Builder::new().prefix(STAGING).tempdir_in(folder).map_err(io_error(folder))?;

    let file = File::open(archive).map_err(io_error(archive))?;
    let too_much = || fail(format!("unpacks to more than {most} bytes"));
    // The headers of files count too.
    let content = flate2::read::GzDecoder::new(io::BufReader::new(file)).take(most.saturating_mul(2));
    let mut tar = tar::Archive::new(content);
    let mut left = most;
    for (entry, number) in tar.entries().map_err(damaged)?.zip(1..) {
        let mut entry = entry.map_err(damaged)?;
        left = left.checked_sub(entry.size()).ok_or_else(too_much)?;
        if number > MOST_ENTRIES {
            return Err(fail(format!("has more than {MOST_ENTRIES} files")));
        }
        let path = entry.path().map_err(damaged)?.into_owned();
        let kind = entry.header().entry_type();
        if !(kind.is_file() || kind.is_dir()) {
            return Err(fail(format!("`{}` is neither a file nor a folder", path.display())));
        }
        let stays = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !stays || !entry.unpack_in(staging.path()).map_err(damaged)? {
            return Err(fail(format!("`{}` leads out of the folder", path.display())));
        }
    }
    for entry in fs::read_dir(staging.path()).map_err(io_error(staging.path()))? {
        let entry = entry.map_err(io_error(staging.path()))?;
        let to = folder.join(entry.file_name());
        if to.exists() {
            return Err(io_error(&to)(io::ErrorKind::AlreadyExists.into()));
        }
        fs::rename(entry.path(), &to).map_err(io_error(&to))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a `.tar.gz` of entries `(path, kind, content or link target)`, without the checks of the writer.
    fn tar_gz(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        for &(path, kind, content) in entries {
            let mut header = tar::Header::new_ustar();
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_mode(0o644);
            header.set_entry_type(kind);
            let body = if kind.is_file() { content } else { "" };
            if !kind.is_file() {
                header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
            }
            header.set_size(body.len() as u64);
            header.set_cksum();
            tar.append(&header, body.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    }

    fn unpack(archive: &[u8]) -> (tempfile::TempDir, Result<(), FetchError>) {
        let outer = tempfile::tempdir().unwrap();
        let file = outer.path().join("data.tar.gz");
        let folder = outer.path().join("data");
        fs::create_dir(&folder).unwrap();
        fs::write(&file, archive).unwrap();
        let result = unpack_tar_gz(&file, &folder, 1 << 20);
        (outer, result)
    }

    #[test]
    fn archive_is_unpacked() {
        let archive = tar_gz(&[("a/b.bin", tar::EntryType::Regular, "hello")]);
        let (outer, result) = unpack(&archive);
        result.unwrap();
        assert_eq!(fs::read(outer.path().join("data/a/b.bin")).unwrap(), b"hello");
    }

    #[test]
    fn hostile_archives_write_nothing() {
        use tar::EntryType;
        let archive = tar_gz(&[("a/b.bin", EntryType::Regular, "hello")]);
        let zeros = "\0".repeat(800_000);
        let cases: [(Vec<u8>, &str); 6] = [
            (
                tar_gz(&[("a", EntryType::Regular, &zeros), ("b", EntryType::Regular, &zeros)]),
                "more than 1048576 bytes",
            ),
            (tar_gz(&[("ok", EntryType::Regular, ""), ("../up", EntryType::Regular, "x")]), "leads out"),
            (tar_gz(&[("/abs", EntryType::Regular, "x")]), "leads out"),
            (tar_gz(&[("link", EntryType::Symlink, "/etc")]), "neither a file"),
            (archive[..archive.len() / 2].to_vec(), "cannot be unpacked"),
            (b"not gzip".to_vec(), "cannot be unpacked"),
        ];
        for (archive, reason) in cases {
            let (outer, result) = unpack(&archive);
            let error = result.unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
            assert_eq!(fs::read_dir(outer.path().join("data")).unwrap().count(), 0);
            assert!(!outer.path().join("up").exists());
        }
    }
}

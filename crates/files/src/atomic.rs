//! Writes files whole or not at all.
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The beginning and the end of the names of unfinished files.
const UNFINISHED: [&str; 2] = [".dsconv-", ".tmp"];

/// The temporary names of the files that this process is writing.
static WRITING: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn writing() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    WRITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes a file whole or not at all: it is written under a temporary name in the same folder, forced to the disk, then
/// renamed. A reader finds the old file or the new one, whatever happens in between. The file has the permissions of any new
/// file, by the umask.
///
/// # Errors
/// Any error of the file system.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let [prefix, suffix] = UNFINISHED;
    let mut builder = tempfile::Builder::new();
    // Temporary files are private by default; this one becomes an ordinary file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut others = writing();
    let mut file = builder.prefix(prefix).suffix(suffix).tempfile_in(folder)?;
    let temporary = file.path().to_owned();
    others.insert(temporary.clone());
    drop(others);
    let written = file.write_all(bytes).and_then(|()| file.as_file().sync_all());
    let mut others = writing();
    others.remove(&temporary);
    written?;
    file.persist(path)?;
    drop(others);
    // The folder is forced to the disk for the new name; not every system can do that.
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

/// Removes the files that this process is writing, and keeps it from writing any more: for a process that is about to end at once.
/// Who writes a file after this waits for that end.
pub fn abandon_writes() {
    let unfinished = writing();
    for path in unfinished.iter() {
        // Nobody is left to tell.
        let _ = fs::remove_file(path);
    }
    std::mem::forget(unfinished);
}

/// Removes the unfinished files that processes killed during [`write_atomic`] left in `folder`. No process may be writing
/// there meanwhile.
///
/// # Errors
/// Any error of the file system.
pub fn remove_unfinished(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if is_unfinished(&path) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Tells whether a file's name is one that [`write_atomic`] gives a file until it is whole.
pub fn is_unfinished(path: &Path) -> bool {
    let [prefix, suffix] = UNFINISHED;
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with(prefix) && name.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_replaces_another_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        for text in ["one", "another"] {
            write_atomic(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write_atomic(&folder.path().join("no/such/folder"), b"").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn its_mode_is_that_of_any_new_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        write_atomic(&folder.path().join("ours"), b"").unwrap();
        fs::write(folder.path().join("plain"), b"").unwrap();
        assert_eq!(mode("ours"), mode("plain"));
    }

    #[test]
    fn only_unfinished_files_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".dsconv-Ab12.tmp", ".dsconv-Ab12", "model.tmp", ".hidden"] {
            fs::write(folder.path().join(name), b"").unwrap();
        }
        remove_unfinished(folder.path()).unwrap();
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".dsconv-Ab12", ".hidden", "model.tmp"]);
    }
}

//! Downloads files, and continues interrupted downloads.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

/// The number of times that one call tries.
const ATTEMPTS: usize = 3;

/// The reason why a download or the unpacking of an archive failed. [`FetchError::hint`] gives advice, where there is any.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The server answered with an error, such as 404.
    #[error("{url}: the server answered {status}")]
    Status {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
    },

    /// The file is not here, and nothing is to be downloaded.
    #[error("{} is not here, and nothing is downloaded offline: it comes from {url}", path.display())]
    Offline {
        /// The address.
        url: String,
        /// The file.
        path: PathBuf,
    },

    /// The address is not https, so that anybody on the way could change the file.
    #[error("{url}: only https is used")]
    Insecure {
        /// The address.
        url: String,
    },

    /// The file has another size than expected. The download is deleted.
    #[error("{url}: {got} bytes, expected {expected}: the file is not the one that was described")]
    Size {
        /// The address.
        url: String,
        /// The bytes that were expected, or the limit.
        expected: u64,
        /// The bytes that the server offers, or sent before it was stopped.
        got: u64,
    },

    /// There was no answer.
    #[error("{url}: {error}")]
    Connect {
        /// The address.
        url: String,
        /// The reason.
        error: Box<ureq::Error>,
    },

    /// The answer ended early.
    #[error("{url}: interrupted after {done} bytes{}", of_total(*total))]
    Interrupted {
        /// The address.
        url: String,
        /// The bytes that arrived, those of earlier calls included.
        done: u64,
        /// The bytes of the whole file, if the server said so.
        total: Option<u64>,
    },

    /// The file arrived and has another checksum than expected. The download is deleted.
    #[error(
        "{url}: SHA-256 is {got}, expected {}{expected}: the download was damaged, or the file has changed",
        if expected.len() < 64 { "one that begins with " } else { "" }
    )]
    Checksum {
        /// The address.
        url: String,
        /// The checksum that was expected, or its first digits.
        expected: String,
        /// The checksum of the file.
        got: String,
    },

    /// The expected checksum is not one.
    #[error("`{0}` is no SHA-256 and no beginning of one (8 to 64 hexadecimal digits)")]
    NotAChecksum(String),

    /// A file cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason that the system gives.
        error: io::Error,
    },

    /// An archive is damaged, or holds something other than files and folders that stay inside it.
    #[error("{}: {reason}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// The mistake in it.
        reason: String,
    },
}

impl FetchError {
    /// Returns advice for the user, if there is any.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Insecure { .. } => Some("plain http is for 127.0.0.1 and localhost"),
            Self::Interrupted { .. } => Some("run it again to go on from there"),
            _ => None,
        }
    }
}

fn of_total(total: Option<u64>) -> String {
    total.map(|total| format!(" of {total}")).unwrap_or_default()
}

/// The progress of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The bytes on disk.
    pub done: u64,
    /// The bytes of the whole file, if the server said so.
    pub total: Option<u64>,
}

/// The properties of a file that are known before it is downloaded.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expected<'a> {
    /// The SHA-256 in hexadecimal, or its first digits (at least 8, as in PyTorch's file names). A few digits detect damage
    /// but not forgery.
    pub sha256: Option<&'a str>,
    /// The size in bytes.
    pub bytes: Option<u64>,
}

/// Where files may come from. By default they come from their own addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Whether nothing is downloaded.
    pub offline: bool,
    /// The address of a folder from which all files are downloaded, by their names, in place of their own addresses. Checksums
    /// are compared all the same.
    pub mirror: Option<String>,
}

impl Access {
    /// Returns the address that a file is downloaded from.
    fn address(&self, url: &str) -> String {
        match (&self.mirror, url.rsplit('/').next()) {
            (Some(mirror), Some(name)) => format!("{}/{name}", mirror.trim_end_matches('/')),
            _ => url.to_owned(),
        }
    }
}

/// The limit of bytes of a download whose size is not known.
const MOST_BYTES: u64 = 16 << 30;

/// Downloads `url` to the file `to`. The data is written to `<to>.part`, which is renamed when it is complete and verified.
/// Addresses and redirections must be https. Plain http is allowed for a server on this machine, whose redirections are not
/// followed.
///
/// With a checksum, an interrupted download is continued if the server supports it, and a file that has the checksum is not
/// downloaded again. Without one, an existing file is taken as it is, and an interrupted download starts over, since nothing
/// would tell whether two halves belong together.
///
/// # Errors
/// [`FetchError`] says what failed.
pub fn fetch(
    url: &str,
    what: &Expected,
    to: &Path,
    access: &Access,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), FetchError> {
    let url = &*access.address(url);
    if !is_secure(url) && !is_local(url) {
        return Err(FetchError::Insecure { url: url.to_owned() });
    }
    let expected = what.sha256.map(parse_checksum).transpose()?;
    let right = |path: &Path| -> Result<bool, FetchError> {
        Ok(match &expected {
            Some(expected) => checksum(path)?.starts_with(expected),
            None => true,
        })
    };
    if to.is_file() && right(to)? {
        return Ok(());
    }
    if access.offline {
        return Err(FetchError::Offline { url: url.to_owned(), path: to.to_owned() });
    }
    let mut part = to.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(io_error(folder))?;
    }

    let mut attempt = 1;
    loop {
        if expected.is_none() {
            remove(&part)?;
        }
        if what.bytes.is_some_and(|bytes| fs::metadata(&part).is_ok_and(|part| part.len() > bytes)) {
            remove(&part)?;
        }
        let resumed = match download(url, what.bytes, &part, progress) {
            Ok(resumed) => resumed,
            Err(FetchError::Interrupted { .. }) if attempt < ATTEMPTS => {
                attempt += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        if right(&part)? {
            return fs::rename(&part, to).map_err(io_error(to));
        }
        let got = checksum(&part)?;
        remove(&part)?;
        // A download that was continued may have begun as another file, and is tried once more.
        if !resumed || attempt == ATTEMPTS {
            let expected = expected.unwrap_or_default();
            return Err(FetchError::Checksum { url: url.to_owned(), expected, got });
        }
        attempt += 1;
    }
}

fn is_secure(url: &str) -> bool {
    url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"))
}

/// Returns whether a plain http address is on this machine.
fn is_local(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    ["127.0.0.1", "localhost", "[::1]"].iter().any(|host| {
        let port = authority.strip_prefix(host);
        port.is_some_and(|port| port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok()))
    })
}

/// Appends the missing bytes to `part`. Returns whether there was something to continue.
fn download(
    url: &str,
    bytes: Option<u64>,
    part: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<bool, FetchError> {
    let have = match fs::metadata(part) {
        Ok(data) => data.len(),
        Err(_) => 0,
    };
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .https_only(is_secure(url))
        .max_redirects(if is_secure(url) { 10 } else { 0 })
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_per_read(Some(Duration::from_secs(60)))
        .user_agent(concat!("dsconv/", env!("CARGO_PKG_VERSION")))
        .build()
        .into();
    let mut request = agent.get(url);
    if have > 0 {
        request = request.header("Range", format!("bytes={have}-"));
    }
    let response =
        request.call().map_err(|error| FetchError::Connect { url: url.to_owned(), error: Box::new(error) })?;
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());

    let mut open = OpenOptions::new();
    open.create(true);
    let (mut done, total) = match response.status().as_u16() {
        200 => {
            // The file is new, or the server does not support ranges.
            open.write(true).truncate(true);
            (0, header("content-length").and_then(|length| length.parse().ok()))
        }
        206 => match header("content-range").and_then(content_range) {
            Some((start, total)) if start == have => {
                open.append(true);
                (have, total)
            }
            _ => {
                remove(part)?;
                return Err(FetchError::Interrupted { url: url.to_owned(), done: 0, total: None });
            }
        },
        // There is nothing after `have`, so that the file should be complete; the checksum decides.
        416 if have > 0 => return Ok(true),
        status => return Err(FetchError::Status { url: url.to_owned(), status }),
    };
    let resumed = done > 0;
    let refuse = |got| {
        remove(part)?;
        Err(FetchError::Size { url: url.to_owned(), expected: bytes.unwrap_or(MOST_BYTES), got })
    };
    match (bytes, total) {
        (Some(bytes), Some(total)) if total != bytes => return refuse(total),
        (None, Some(total)) if total > MOST_BYTES => return refuse(total),
        _ => {}
    }
    let total = total.or(bytes);

    let mut file = open.open(part).map_err(io_error(part))?;
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; 1 << 16];
    progress(Progress { done, total });
    let complete = loop {
        match body.read(&mut buffer) {
            Ok(0) => break total.is_none_or(|total| done == total),
            Ok(count) => {
                done += count as u64;
                if done > bytes.unwrap_or(MOST_BYTES) {
                    return refuse(done);
                }
                file.write_all(&buffer[..count]).map_err(io_error(part))?;
                progress(Progress { done, total });
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break false,
        }
    };
    if complete { Ok(resumed) } else { Err(FetchError::Interrupted { url: url.to_owned(), done, total }) }
}

/// Reads the start and the total of a header such as `bytes 100-199/1000`.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.parse().ok()?, total.parse().ok()))
}

fn parse_checksum(text: &str) -> Result<String, FetchError> {
    let digits = text.trim().to_ascii_lowercase();
    if (8..=64).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(digits)
    } else {
        Err(FetchError::NotAChecksum(text.to_owned()))
    }
}

/// Computes the SHA-256 of a file, in hexadecimal.
fn checksum(path: &Path) -> Result<String, FetchError> {
    let mut file = File::open(path).map_err(io_error(path))?;
    let mut hasher = Sha256::new();
    io::copy(&mut file, &mut hasher).map_err(io_error(path))?;
    Ok(format!("{:x}", hasher.finalize()))
}

fn remove(path: &Path) -> Result<(), FetchError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(path)(error)),
        _ => Ok(()),
    }
}

/// Makes the error of a file that cannot be read or written.
pub(crate) fn io_error(path: &Path) -> impl Fn(io::Error) -> FetchError {
    move |error| FetchError::Io { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};

    /// The behaviour of the server for one request.
    #[derive(Clone, Copy)]
    enum Answer {
        /// The server honours a range and hangs up after this many bytes of the body.
        Ranges {
            bytes: usize,
        },
        /// The server ignores a range.
        Whole,
        Status(u16),
    }

    struct Server {
        url: String,
        /// The start of each request's range.
        ranges: Arc<Mutex<Vec<Option<usize>>>>,
    }

    /// Serves `content`, one answer a request, on 127.0.0.1.
    fn serve(content: Vec<u8>, answers: Vec<Answer>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/file.bin", listener.local_addr().unwrap());
        let ranges: Arc<Mutex<Vec<Option<usize>>>> = Arc::default();
        let seen = ranges.clone();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut start = None;
                for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                    let line = line.unwrap().to_ascii_lowercase();
                    if let Some(range) = line.strip_prefix("range: bytes=") {
                        start = range.trim_end_matches('-').parse().ok();
                    }
                    if line.is_empty() {
                        break;
                    }
                }
                seen.lock().unwrap().push(start);
                let total = content.len();
                let (head, from, to) = match (answer, start) {
                    (Answer::Status(status), _) => (format!("{status} No\r\nContent-Length: 0"), 0, 0),
                    (Answer::Ranges { .. }, Some(start)) if start >= total => {
                        ("416 Range Not Satisfiable\r\nContent-Length: 0".to_owned(), 0, 0)
                    }
                    (Answer::Ranges { bytes }, Some(start)) => (
                        format!(
                            "206 Partial Content\r\nContent-Range: bytes {start}-{}/{total}\r\nContent-Length: {}",
                            total - 1,
                            total - start
                        ),
                        start,
                        total.min(start.saturating_add(bytes)),
                    ),
                    (Answer::Ranges { bytes }, None) => {
                        (format!("200 OK\r\nContent-Length: {total}"), 0, total.min(bytes))
                    }
                    (Answer::Whole, _) => (format!("200 OK\r\nContent-Length: {total}"), 0, total),
                };
                // The client may have hung up.
                let _ = write!(stream, "HTTP/1.1 {head}\r\nConnection: close\r\n\r\n");
                let _ = stream.write_all(&content[from..to]);
            }
        });
        Server { url, ranges }
    }

    fn content() -> Vec<u8> {
        (0..200_000u32).map(|i| ((i.wrapping_mul(i)) >> 7) as u8).collect()
    }

    fn sha256(bytes: &[u8]) -> String {
        format!("{:x}", Sha256::digest(bytes))
    }

    struct Download {
        folder: tempfile::TempDir,
        result: Result<(), FetchError>,
        steps: Vec<Progress>,
    }

    impl Download {
        fn to(folder: tempfile::TempDir, url: &str, sha256: Option<&str>) -> Self {
            let mut steps = Vec::new();
            let what = Expected { sha256, bytes: None };
            let access = Access::default();
            let result = fetch(url, &what, &folder.path().join("file.bin"), &access, &mut |step| steps.push(step));
            Self { folder, result, steps }
        }

        fn new(url: &str, sha256: Option<&str>) -> Self {
            Self::to(tempfile::tempdir().unwrap(), url, sha256)
        }

        fn file(&self) -> Option<Vec<u8>> {
            fs::read(self.folder.path().join("file.bin")).ok()
        }

        fn part(&self) -> Option<Vec<u8>> {
            fs::read(self.folder.path().join("file.bin.part")).ok()
        }
    }

    #[test]
    fn whole_file_arrives_with_progress() {
        let server = serve(content(), vec![Answer::Whole]);
        let download = Download::new(&server.url, Some(&sha256(&content())[..12]));
        download.result.as_ref().unwrap();
        assert_eq!(download.file().unwrap(), content());
        assert_eq!(download.part(), None);
        assert_eq!(download.steps[0], Progress { done: 0, total: Some(200_000) });
        assert_eq!(*download.steps.last().unwrap(), Progress { done: 200_000, total: Some(200_000) });
    }

    #[test]
    fn a_mirror_gives_what_the_address_would_and_offline_nothing_is_asked() {
        let server = serve(content(), vec![Answer::Whole]);
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("file.bin");
        let (mirror, name) = server.url.rsplit_once('/').unwrap();
        let (url, sha256) = (format!("https://nowhere.invalid/deep/{name}"), sha256(&content()));
        let what = Expected { sha256: Some(&sha256), bytes: None };
        let mirrored = Access { mirror: Some(format!("{mirror}/")), ..Access::default() };
        let offline = Access { offline: true, ..mirrored.clone() };
        let error = fetch(&url, &what, &to, &offline, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("file.bin is not here") && !to.exists(), "{error}");
        fetch(&url, &what, &to, &mirrored, &mut |_| {}).unwrap();
        assert_eq!(fs::read(&to).unwrap(), content());
        fetch(&url, &what, &to, &offline, &mut |_| {}).unwrap();
    }

    #[test]
    fn interruption_is_continued_where_it_stopped() {
        let answers = vec![Answer::Ranges { bytes: 70_000 }, Answer::Ranges { bytes: usize::MAX }];
        let server = serve(content(), answers);
        let download = Download::new(&server.url, Some(&sha256(&content())));
        download.result.as_ref().unwrap();
        assert_eq!(download.file().unwrap(), content());
        assert_eq!(*server.ranges.lock().unwrap(), [None, Some(70_000)]);
    }

    #[test]
    fn a_later_call_continues_what_an_earlier_one_left() {
        let server = serve(content(), vec![Answer::Ranges { bytes: 20_000 }; 3]);
        let download = Download::new(&server.url, Some(&sha256(&content())));
        let error = download.result.as_ref().unwrap_err().to_string();
        assert!(error.contains("interrupted after 60000 bytes of 200000"), "{error}");
        assert_eq!(download.file(), None);
        assert_eq!(download.part().unwrap(), content()[..60_000]);

        let server = serve(content(), vec![Answer::Ranges { bytes: usize::MAX }]);
        let download = Download::to(download.folder, &server.url, Some(&sha256(&content())));
        download.result.as_ref().unwrap();
        assert_eq!(download.file().unwrap(), content());
        assert_eq!(*server.ranges.lock().unwrap(), [Some(60_000)]);
    }

    #[test]
    fn server_without_ranges_starts_over() {
        let server = serve(content(), vec![Answer::Ranges { bytes: 70_000 }, Answer::Whole]);
        let download = Download::new(&server.url, Some(&sha256(&content())));
        download.result.as_ref().unwrap();
        assert_eq!(download.file().unwrap(), content());
    }

    #[test]
    fn without_a_checksum_nothing_is_continued() {
        let answers = vec![Answer::Ranges { bytes: 70_000 }, Answer::Ranges { bytes: usize::MAX }];
        let server = serve(content(), answers);
        let download = Download::new(&server.url, None);
        download.result.as_ref().unwrap();
        assert_eq!(download.file().unwrap(), content());
        assert_eq!(*server.ranges.lock().unwrap(), [None, None]);
    }

    #[test]
    fn part_of_another_file_is_thrown_away() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file.bin.part"), [1; 300]).unwrap();
        let server = serve(content(), vec![Answer::Ranges { bytes: usize::MAX }; 2]);
        let download = Download::to(folder, &server.url, Some(&sha256(&content())));
        download.result.as_ref().unwrap();
        assert_eq!(download.file().unwrap(), content());
        assert_eq!(*server.ranges.lock().unwrap(), [Some(300), None]);
    }

    #[test]
    fn complete_part_needs_only_its_checksum() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file.bin.part"), content()).unwrap();
        let server = serve(content(), vec![Answer::Ranges { bytes: usize::MAX }]);
        let download = Download::to(folder, &server.url, Some(&sha256(&content())));
        download.result.as_ref().unwrap();
        assert_eq!(download.file().unwrap(), content());
    }

    #[test]
    fn wrong_checksum_leaves_nothing_behind() {
        let server = serve(content(), vec![Answer::Whole]);
        let download = Download::new(&server.url, Some("00000000ff"));
        let error = download.result.as_ref().unwrap_err().to_string();
        assert!(error.contains("expected one that begins with 00000000ff"), "{error}");
        assert_eq!((download.file(), download.part()), (None, None));
    }

    #[test]
    fn a_file_of_another_size_is_refused() {
        for (answer, bytes, got) in [(Answer::Whole, 100, 200_000), (Answer::Whole, 300_000, 200_000)] {
            let server = serve(content(), vec![answer]);
            let folder = tempfile::tempdir().unwrap();
            let what = Expected { sha256: Some(&sha256(&content())), bytes: Some(bytes) };
            let error = fetch(&server.url, &what, &folder.path().join("file.bin"), &Access::default(), &mut |_| ())
                .unwrap_err();
            assert!(error.to_string().contains(&format!("{got} bytes, expected {bytes}")), "{error}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        }
        // A part that is longer than the file is not continued.
        let server = serve(content(), vec![Answer::Whole]);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file.bin.part"), vec![0; 200_001]).unwrap();
        let what = Expected { sha256: Some(&sha256(&content())), bytes: Some(200_000) };
        fetch(&server.url, &what, &folder.path().join("file.bin"), &Access::default(), &mut |_| ()).unwrap();
        assert_eq!(*server.ranges.lock().unwrap(), [None]);
    }

    #[test]
    fn only_this_machine_is_asked_in_plain_text() {
        for url in [
            "http://example.org/x",
            "http://127.0.0.1@example.org/x",
            "http://127.0.0.1.example.org/x",
            "http://localhost:80@example.org/",
            "http://localhost\\@example.org/",
            "ftp://127.0.0.1/x",
            "file:///etc/passwd",
            "x",
        ] {
            assert!(matches!(Download::new(url, None).result, Err(FetchError::Insecure { .. })), "{url}");
        }
        for url in ["http://127.0.0.1:8000/x", "http://localhost/x", "http://[::1]:1/x"] {
            assert!(is_local(url), "{url}");
        }
        // A redirection is not followed.
        let server = serve(content(), vec![Answer::Status(302)]);
        let error = Download::new(&server.url, None).result.unwrap_err();
        assert!(error.to_string().ends_with("the server answered 302"), "{error}");
    }

    #[test]
    fn status_and_refusal_name_the_address() {
        let server = serve(content(), vec![Answer::Status(404)]);
        let error = Download::new(&server.url, None).result.unwrap_err().to_string();
        assert_eq!(error, format!("{}: the server answered 404", server.url));

        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let url = format!("http://{free}/file.bin");
        let error = Download::new(&url, None).result.unwrap_err();
        assert!(matches!(&error, FetchError::Connect { .. }) && error.to_string().starts_with(&url), "{error}");
    }

    #[test]
    fn file_that_is_right_is_not_downloaded_again() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file.bin"), content()).unwrap();
        let download = Download::to(folder, "http://127.0.0.1:9/never", Some(&sha256(&content())));
        download.result.as_ref().unwrap();
        assert!(download.steps.is_empty());
    }

    #[test]
    fn checksum_must_be_one() {
        assert!(matches!(Download::new("http://127.0.0.1:9/", Some("1234")).result, Err(FetchError::NotAChecksum(_))));
    }
}

//! The integer engine for C and for every language that calls C. `include/dsconv.h` is its documentation.
//!
//! Every function checks its pointers for null, turns errors and panics into a message for [`dsconv_last_error`], and never
//! unwinds into its caller.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::slice;

use files::FileError;
use graph::Normaliser;
use runtime::{Model, Session};

/// A model, which is `dsconv_model` in C.
#[derive(Debug)]
pub struct CModel {
    model: Model,
    classes: Vec<CString>,
}

/// A session, which is `dsconv_session` in C.
#[derive(Debug)]
pub struct CSession {
    session: Session,
    normaliser: Normaliser,
    /// The normalised images of [`dsconv_session_run_rgb`].
    images: Vec<f32>,
}

/// What a call makes, and returns null in place of if it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    Model,
    Session,
}

impl Made {
    fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Session => "session",
        }
    }
}

/// Why the last call that failed did so.
#[derive(Debug, Default)]
struct Failure {
    why: CString,
    /// What the call did not make, until a later call makes one.
    missing: Option<Made>,
}

thread_local! {
    static LAST: RefCell<Failure> = RefCell::default();
}

fn c_string(text: impl Into<String>) -> CString {
    let mut text: String = text.into();
    text.retain(|c| c != '\0');
    CString::new(text).unwrap_or_default()
}

/// Runs a call, which makes something or not. If it fails or panics, the reason becomes the last error, and the caller gets
/// `failed`.
fn call<T>(made: Option<Made>, failed: T, body: impl FnOnce() -> Result<T, String>) -> T {
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
        Err(format!("a defect in dsconv: {text}"))
    });
    LAST.with_borrow_mut(|last| match result {
        Ok(value) => {
            if last.missing == made {
                last.missing = None;
            }
            value
        }
        Err(why) => {
            *last = Failure { why: c_string(why), missing: made };
            failed
        }
    })
}

/// Returns the pointer, or an error for null. If the last call that failed should have made what is missing, its reason is
/// repeated, since the null is its result.
fn given<T>(pointer: Option<T>, what: Made) -> Result<T, String> {
    pointer.ok_or_else(|| {
        let name = what.name();
        LAST.with_borrow(|last| match last.missing {
            Some(missing) if missing == what => format!("{name} is null: {}", last.why.to_string_lossy()),
            _ => format!("{name} is null"),
        })
    })
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Loads a model's bytes into the engine, `.dsc` or packed safetensors, quantized or in floats. A `.dsc` file is packed layer by layer.
fn load(bytes: &[u8]) -> Result<Model, String> {
    if bytes.starts_with(&model::dsc::MAGIC) {
        return Model::from_bytes(bytes).map_err(text);
    }
    let model = files::from_bytes(bytes).map_err(|error| match error {
        FileError::Container(why) => format!("neither a .dsc file nor a safetensors file of dsconv: {why}"),
        other => text(other),
    })?;
    Model::new(model).map_err(text)
}

fn boxed(model: Result<Model, String>) -> Result<*mut CModel, String> {
    let model = model?;
    let classes = model.info().classes.iter().map(c_string).collect();
    Ok(Box::into_raw(Box::new(CModel { model, classes })))
}

/// See `include/dsconv.h`.
#[unsafe(no_mangle)]
pub extern "C" fn dsconv_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// See `include/dsconv.h`.
#[unsafe(no_mangle)]
pub extern "C" fn dsconv_last_error() -> *const c_char {
    LAST.with_borrow(|last| last.why.as_ptr())
}

/// See `include/dsconv.h`.
///
/// # Safety
/// `path` is null or a string that ends in a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dsconv_model_load(path: *const c_char) -> *mut CModel {
    call(Some(Made::Model), ptr::null_mut(), || {
        if path.is_null() {
            return Err("path is null".into());
        }
        // SAFETY: not null, and a C string by this function's contract.
        let path = unsafe { CStr::from_ptr(path) };
        let path = path.to_str().map_err(|_| "path is not UTF-8")?;
        let bytes = std::fs::read(path).map_err(|error| format!("`{path}`: {error}"))?;
        boxed(load(&bytes).map_err(|error| format!("`{path}`: {error}")))
    })
}

/// See `include/dsconv.h`.
///
/// # Safety
/// `data` is null or points to `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dsconv_model_from_bytes(data: *const c_void, size: usize) -> *mut CModel {
    call(Some(Made::Model), ptr::null_mut(), || {
        if data.is_null() {
            return Err("data is null".into());
        }
        // SAFETY: not null, and `size` bytes by this function's contract.
        let bytes = unsafe { slice::from_raw_parts(data.cast::<u8>(), size) };
        boxed(load(bytes))
    })
}

/// See `include/dsconv.h`.
///
/// # Safety
/// `model` is null or came from this library, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dsconv_model_free(model: *mut CModel) {
    if !model.is_null() {
        // SAFETY: it came from `Box::into_raw` in `boxed` and is given up.
        drop(unsafe { Box::from_raw(model) });
    }
}

/// See `include/dsconv.h`.
///
/// # Safety
/// `model` is null or alive; `shape` is null or points to three values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dsconv_model_input(model: *const CModel, shape: *mut usize) {
    if shape.is_null() {
        return;
    }
    // SAFETY: `model` is null or alive by this function's contract.
    let input = unsafe { model.as_ref() }.map(|model| model.model.input());
    let values = input.map_or([0; 3], |s| [s.channels, s.height, s.width]);
    // SAFETY: three values by this function's contract.
    unsafe { slice::from_raw_parts_mut(shape, 3) }.copy_from_slice(&values);
}

/// See `include/dsconv.h`.
///
/// # Safety
/// `model` is null or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dsconv_model_outputs(model: *const CModel) -> usize {
    // SAFETY: null or alive by this function's contract.
    unsafe { model.as_ref() }.map_or(0, |model| model.model.outputs())
}

/// See `include/dsconv.h`.
///
/// # Safety
/// `model` is null or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dsconv_model_class(model: *const CModel, index: usize) -> *const c_char {
    // SAFETY: null or alive by this function's contract.
    let name = unsafe { model.as_ref() }.and_then(|model| model.classes.get(index));
    name.map_or(ptr::null(), |name| name.as_ptr())
}

/// See `include/dsconv.h`.
///
/// # Safety
/// `model` is null or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dsconv_session_new(model: *const CModel, threads: usize) -> *mut CSession {
    call(Some(Made::Session), ptr::null_mut(), || {
        // SAFETY: null or alive by this function's contract.
        let model = given(unsafe { model.as_ref() }, Made::Model)?;
        let normaliser = model.model.info().preprocess.normaliser();
        let session = model.model.session(threads).map_err(|error| error.to_string())?;
        Ok(Box::into_raw(Box::new(CSession { session, normaliser, images: Vec::new() })))
    })
}

/// See `include/dsconv.h`.
///
/// # Safety
/// `session` is null or came from this library, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dsconv_session_free(session: *mut CSession) {
    if !session.is_null() {
        // SAFETY: it came from `Box::into_raw` in `dsconv_session_new` and is given up.
        drop(unsafe { Box::from_raw(session) });
    }
}

/// See `include/dsconv.h`.
///
/// # Safety
/// `session` is null or alive and used by no other thread; `images` and `logits` are null or as long as `count` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dsconv_session_run(
    session: *mut CSession,
    images: *const f32,
    count: usize,
    logits: *mut f32,
) -> c_int {
    call(None, 1, || {
        // SAFETY: null or alive, and this thread's alone, by this function's contract.
        let session = &mut given(unsafe { session.as_mut() }, Made::Session)?.session;
        let size = size_of_images(session, count, images.is_null() || logits.is_null())?;
        // SAFETY: not null, and `count` images by this function's contract.
        let images = unsafe { slice::from_raw_parts(images, size) };
        // SAFETY: as this function's contract says.
        unsafe { run(session, images, logits) }
    })
}

/// See `include/dsconv.h`.
///
/// # Safety
/// The conditions are those of [`dsconv_session_run`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dsconv_session_run_rgb(
    session: *mut CSession,
    images: *const u8,
    count: usize,
    logits: *mut f32,
) -> c_int {
    call(None, 1, || {
        // SAFETY: null or alive, and this thread's alone, by this function's contract.
        let CSession { session, normaliser, images: normalised } = given(unsafe { session.as_mut() }, Made::Session)?;
        let size = size_of_images(session, count, images.is_null() || logits.is_null())?;
        let input = session.model().input();
        if input.channels != normaliser.channels() {
            let (made, taken) = (normaliser.channels(), input.channels);
            return Err(format!("images have {made} channels as the file says, the network takes {taken}"));
        }
        // SAFETY: not null, and `count` images of one byte a value by this function's contract.
        let images = unsafe { slice::from_raw_parts(images, size) };
        normalised.resize(size, 0.0);
        let one = input.elements();
        for (image, normalised) in images.chunks_exact(one).zip(normalised.chunks_exact_mut(one)) {
            normaliser.apply(image, normalised);
        }
        // SAFETY: as this function's contract says.
        unsafe { run(session, normalised, logits) }
    })
}

/// Returns the number of values of `count` images.
fn size_of_images(session: &Session, count: usize, null: bool) -> Result<usize, String> {
    if null {
        return Err("images or logits are null".into());
    }
    let size = count.checked_mul(session.model().input().elements()).filter(|size| *size <= isize::MAX as usize / 4);
    size.filter(|size| *size > 0).ok_or_else(|| format!("{count} images cannot be run"))
}

/// Runs images and copies their logits.
///
/// # Safety
/// `logits` points to the outputs of all images.
unsafe fn run(session: &mut Session, images: &[f32], logits: *mut f32) -> Result<c_int, String> {
    let found = session.run(images).map_err(|error| error.to_string())?;
    // SAFETY: `logits` has as many values by this function's contract, and they are not the session's.
    unsafe { slice::from_raw_parts_mut(logits, found.len()) }.copy_from_slice(found);
    Ok(0)
}

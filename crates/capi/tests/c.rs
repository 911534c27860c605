//! The C example, compiled and run; the functions as C would call them.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::ptr::{null, null_mut};

use dsconv_c::*;
use graph::{Builder, Conv2d, Op, Preprocess, Shape, Weights};
use model::{Info, Model, Policy, SaveOptions};

fn network() -> Model {
    let mut b = Builder::new("small", Shape::new(3, 8, 6));
    let x = b.conv("conv", Conv2d::new(3, 16, 3).padding(1), b.input());
    let x = b.relu("relu", x);
    let x = b.push("pool", Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![x]);
    b.linear("fc", 3, x);
    let graph = b.finish().unwrap();
    let weights = Weights::init(&graph, 1);
    let classes = ["cat", "dog", "caf\u{e9}"].map(String::from).to_vec();
    let info = Info { preprocess: Preprocess::imagenet_statistics(), classes, source: "a test".into() };
    Model::float(graph, weights, info).unwrap().quantize(&Policy::default()).unwrap()
}

#[test]
fn a_network_of_one_channel_takes_grey_bytes() {
    let mut b = Builder::new("grey", Shape::new(1, 4, 3));
    let x = b.conv("conv", Conv2d::new(1, 4, 3).padding(1), b.input());
    let x = b.push("flatten", Op::Flatten, vec![x]);
    b.linear("fc", 2, x);
    let graph = b.finish().unwrap();
    let weights = Weights::init(&graph, 1);
    let info = Info { preprocess: Preprocess::grey(), classes: vec![], source: "a test".into() };
    let model = Model::float(graph, weights, info).unwrap().quantize(&Policy::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("grey.safetensors");
    files::save(&model, &path, &SaveOptions::EXACT).unwrap();

    let bytes: Vec<u8> = (0..12).map(|i| i * 20).collect();
    let input: Vec<f32> = bytes.iter().map(|&byte| (f32::from(byte) / 255.0 - 0.5) / 0.5).collect();
    let expected = runtime::Model::new(model).unwrap().session(1).unwrap().run(&input).unwrap().to_vec();
    let mut logits = [0.0; 2];
    // SAFETY: pointers of this library, and slices as long as the functions are told.
    unsafe {
        let model = load(&path);
        let session = dsconv_session_new(model, 1);
        assert_eq!(dsconv_session_run_rgb(session, bytes.as_ptr(), 1, logits.as_mut_ptr()), 0, "{}", last_error());
        dsconv_session_free(session);
        dsconv_model_free(model);
    }
    assert_eq!(logits.as_slice(), expected);
}

fn picture() -> Vec<u8> {
    (0..8 * 6 * 3).map(|i| (i * 37 % 256) as u8).collect()
}

/// What the engine says of the picture in Rust.
fn expected(model: &Model) -> Vec<f32> {
    let mut input = vec![0.0; 8 * 6 * 3];
    model.info().preprocess.normaliser().apply(&picture(), &mut input);
    runtime::Model::new(model.clone()).unwrap().session(1).unwrap().run(&input).unwrap().to_vec()
}

fn save(folder: &Path) -> PathBuf {
    let path = folder.join("small.safetensors");
    files::save(&network(), &path, &SaveOptions::EXACT).unwrap();
    path
}

fn load(path: &Path) -> *mut CModel {
    let path = CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: a C string.
    unsafe { dsconv_model_load(path.as_ptr()) }
}

fn last_error() -> String {
    // SAFETY: always a C string.
    unsafe { CStr::from_ptr(dsconv_last_error()) }.to_str().unwrap().to_owned()
}

fn stdout(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Installs the library that cargo has put beside this test, and compiles the example with what pkg-config says of it.
fn compile(folder: &Path) -> Option<PathBuf> {
    let has = |tool: &&str| Command::new(tool).arg("--version").output().is_ok();
    if !cfg!(target_os = "linux") || !["bash", "cc", "pkg-config"].iter().all(has) {
        eprintln!("skipped: this needs Linux with bash, cc and pkg-config");
        return None;
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (prefix, built) = (folder.join("installed"), std::env::current_exe().unwrap());
    stdout(Command::new("bash").arg(here.join("install")).args([&prefix, built.parent().unwrap()]));
    let libraries = prefix.join("lib");
    let pkg_config = |asked: &[&str]| {
        let mut command = Command::new("pkg-config");
        stdout(command.args(asked).arg("dsconv").env("PKG_CONFIG_PATH", libraries.join("pkgconfig")))
    };
    assert_eq!(pkg_config(&["--modversion"]).trim(), env!("CARGO_PKG_VERSION"));
    let program = folder.join("classify");
    let mut cc = Command::new("cc");
    cc.args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]).arg(here.join("examples/classify.c"));
    cc.args(pkg_config(&["--cflags", "--libs"]).split_whitespace());
    stdout(cc.arg(format!("-Wl,-rpath,{}", libraries.display())).arg("-o").arg(&program));
    Some(program)
}

#[test]
fn the_example_says_what_rust_says() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = compile(folder.path()) else { return };
    let (network, picture_file) = (save(folder.path()), folder.path().join("picture.rgb"));
    std::fs::write(&picture_file, picture()).unwrap();
    let run = |network: &Path| -> Output { Command::new(&program).arg(network).arg(&picture_file).output().unwrap() };

    let output = run(&network);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    let logits = expected(&self::network());
    let best = (0..3).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
    assert_eq!(words[..2], [&best.to_string(), ["cat", "dog", "caf\u{e9}"][best]]);
    // %.9g is enough digits to give the same bits back.
    assert_eq!(words[2].parse::<f32>().unwrap(), logits[best]);

    // A program asks for the library by the name that has its version.
    let [major, minor] = [env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR")];
    let name = format!("\0libdsconv_c.so.{major}.{minor}\0");
    assert!(std::fs::read(&program).unwrap().windows(name.len()).any(|bytes| bytes == name.as_bytes()));
    let usage = Command::new(&program).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
    let version = concat!("(dsconv ", env!("CARGO_PKG_VERSION"), ")\n");
    assert!(String::from_utf8_lossy(&usage.stderr).ends_with(version));

    let output = run(&folder.path().join("missing.dsc"));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("missing.dsc"), "the failed load is what is reported");
}

#[test]
fn floats_and_bytes_give_the_same_logits_for_every_count() {
    let folder = tempfile::tempdir().unwrap();
    let model = load(&save(folder.path()));
    assert!(!model.is_null(), "{}", last_error());
    let mut shape = [0; 3];
    // SAFETY: the model is alive until freed below; slices are as long as counts say.
    unsafe {
        dsconv_model_input(model, shape.as_mut_ptr());
        assert_eq!((shape, dsconv_model_outputs(model)), ([3, 8, 6], 3));
        assert_eq!(CStr::from_ptr(dsconv_model_class(model, 1)).to_str().unwrap(), "dog");
        assert!(dsconv_model_class(model, 3).is_null());
        let session = dsconv_session_new(model, 2);
        // A session outlives its model.
        dsconv_model_free(model);
        let expected = expected(&network());
        for count in [1, 3] {
            let pictures = picture().repeat(count);
            let mut normalised = vec![0.0; 144];
            network().info().preprocess.normaliser().apply(&picture(), &mut normalised);
            let images = normalised.repeat(count);
            let (mut a, mut b) = (vec![0.0; 3 * count], vec![0.0; 3 * count]);
            assert_eq!(dsconv_session_run(session, images.as_ptr(), count, a.as_mut_ptr()), 0);
            assert_eq!(dsconv_session_run_rgb(session, pictures.as_ptr(), count, b.as_mut_ptr()), 0);
            assert_eq!((&a, &b), (&expected.repeat(count), &expected.repeat(count)));
        }
        dsconv_session_free(session);
    }
}

#[cfg(unix)]
unsafe extern "C" {
    fn fork() -> i32;
    fn waitpid(process: i32, status: *mut i32, options: i32) -> i32;
    fn alarm(seconds: u32) -> u32;
    fn _exit(status: i32) -> !;
}

#[cfg(unix)]
#[test]
fn a_forked_process_goes_on_with_a_session() {
    let folder = tempfile::tempdir().unwrap();
    let model = load(&save(folder.path()));
    let (pictures, expected) = (picture().repeat(3), expected(&network()).repeat(3));
    // SAFETY: as above. The child does what a C program would do, which the alarm ends if it hangs.
    unsafe {
        let session = dsconv_session_new(model, 2);
        dsconv_model_free(model);
        let runs = || {
            let mut logits = vec![0.0; 9];
            dsconv_session_run_rgb(session, pictures.as_ptr(), 3, logits.as_mut_ptr()) == 0 && logits == expected
        };
        assert!(runs(), "{}", last_error());
        let child = fork();
        if child == 0 {
            alarm(20);
            let same = runs() && runs();
            dsconv_session_free(session);
            _exit(i32::from(!same));
        }
        let mut status = -1;
        assert_eq!(waitpid(child, &raw mut status, 0), child);
        assert_eq!(status, 0, "it exits with 0");
        assert!(runs(), "the parent goes on, too");
        dsconv_session_free(session);
    }
}

#[test]
fn misuse_is_an_error_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    // SAFETY: null is allowed everywhere; the rest as in the test above.
    unsafe {
        assert!(dsconv_model_load(null()).is_null());
        assert_eq!(last_error(), "path is null");
        assert!(dsconv_model_from_bytes(b"not a model".as_ptr().cast(), 11).is_null());
        let neither = "neither a .dsc file nor a safetensors file of dsconv: ";
        assert!(last_error().starts_with(neither), "{}", last_error());
        assert!(dsconv_session_new(null(), 1).is_null());
        assert_eq!(dsconv_session_run(null_mut(), null(), 1, null_mut()), 1);
        assert_eq!(dsconv_model_outputs(null()), 0);
        dsconv_model_free(null_mut());
        dsconv_session_free(null_mut());

        let model = load(&save(folder.path()));
        let session = dsconv_session_new(model, 1);
        let mut logits = [0.0; 3];
        assert_eq!(dsconv_session_run(session, null(), 1, logits.as_mut_ptr()), 1);
        assert_eq!(last_error(), "images or logits are null");
        assert_eq!(dsconv_session_run(session, logits.as_ptr(), usize::MAX / 8, logits.as_mut_ptr()), 1);
        let nan = [f32::NAN; 144];
        assert_eq!(dsconv_session_run(session, nan.as_ptr(), 1, logits.as_mut_ptr()), 1);
        assert!(last_error().contains("NaN"), "{}", last_error());
        let huge = [3e38f32; 144];
        assert_eq!(dsconv_session_run(session, huge.as_ptr(), 1, logits.as_mut_ptr()), 1);
        assert!(last_error().contains("gives a value that is NaN or infinite"), "{}", last_error());
        assert!(dsconv_session_new(model, 100_000).is_null());
        assert_eq!(last_error(), "100000 threads cannot be had: a session has at most 1024");
        dsconv_session_free(session);
        dsconv_model_free(model);
    }
}

#[test]
fn a_network_in_floats_runs() {
    let quantized = network();
    let info = Info { preprocess: Preprocess::imagenet_statistics(), classes: vec![], source: "a test".into() };
    let graph = quantized.graph().clone();
    let weights = Weights::init(&graph, 1);
    let model = Model::float(graph, weights, info).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("floats.safetensors");
    files::save(&model, &path, &SaveOptions::EXACT).unwrap();
    let mut logits = [0.0; 3];
    // SAFETY: pointers of this library, and slices as long as the functions are told.
    unsafe {
        let loaded = load(&path);
        let session = dsconv_session_new(loaded, 1);
        let run = dsconv_session_run_rgb(session, picture().as_ptr(), 1, logits.as_mut_ptr());
        assert_eq!(run, 0, "{}", last_error());
        dsconv_session_free(session);
        dsconv_model_free(loaded);
    }
    assert_eq!(logits.as_slice(), expected(&model));
}

#[test]
fn a_null_is_explained_by_the_call_that_returned_it_and_by_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.dsc");
    let mut logits = [0.0; 3];
    // SAFETY: null is allowed everywhere; the rest are pointers of this library.
    unsafe {
        let mut run_null = || {
            assert_eq!(dsconv_session_run(null_mut(), null(), 1, logits.as_mut_ptr()), 1);
            last_error()
        };
        assert_eq!(run_null(), "session is null");
        assert_eq!(run_null(), "session is null", "the message is replaced, not repeated");

        assert!(load(&missing).is_null());
        let why = last_error();
        assert!(why.contains("missing.dsc"), "{why}");
        assert!(dsconv_session_new(null(), 1).is_null());
        assert_eq!(last_error(), format!("model is null: {why}"));
        assert_eq!(run_null(), format!("session is null: model is null: {why}"));
        assert_eq!(run_null(), "session is null", "the call before returned no session");

        assert!(load(&missing).is_null());
        assert_eq!(run_null(), "session is null", "the call before returned no session");

        assert!(load(&missing).is_null());
        let model = load(&save(folder.path()));
        assert!(last_error().contains("missing.dsc"), "the last failed call is still that one");
        assert!(dsconv_session_new(null(), 1).is_null());
        assert_eq!(last_error(), "model is null", "a model was loaded since");

        assert!(dsconv_session_new(model, 100_000).is_null());
        let why = last_error();
        let session = dsconv_session_new(model, 1);
        assert_eq!(last_error(), why);
        assert_eq!(run_null(), "session is null", "a session was made since");
        dsconv_session_free(session);
        dsconv_model_free(model);
    }
}

/// A file of a kilobyte that asks for an image of 2^32 pixels, in the C program and here.
#[test]
fn a_small_file_that_asks_for_much_memory_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(save(folder.path())).unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (from, to) = (r#"\"height\":8,\"width\":6}"#, r#"\"height\":65536,\"width\":65536}"#);
    assert!(text.contains(from), "{text}");
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let changed = String::from_utf8(bytes[8..8 + header].to_vec()).unwrap().replacen(from, to, 1);
    let forged = [&(changed.len() as u64).to_le_bytes()[..], changed.as_bytes(), &bytes[8 + header..]].concat();
    let path = folder.path().join("huge.safetensors");
    std::fs::write(&path, forged).unwrap();
    assert!(load(&path).is_null());
    assert!(last_error().contains("bytes of values for an image"), "{}", last_error());
    let Some(program) = compile(folder.path()) else { return };
    let output = Command::new(&program).arg(&path).arg(&path).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "an error, no abort");
    assert!(String::from_utf8_lossy(&output.stderr).contains("bytes of values for an image"));
}

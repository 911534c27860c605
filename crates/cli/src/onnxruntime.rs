//! ONNX Runtime, by way of a Python that has it: exported networks are measured where others run them.
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use distill::{Context, Logits};
use graph::{Graph, Head};
use images::Unlabelled;
use tempfile::NamedTempFile;

use crate::engine;
use crate::error::{Error, Result};
use crate::printer::Printer;

/// The variable that names a Python.
const PYTHON: &str = "DSCONV_PYTHON";

/// What Python runs: it answers images with milliseconds and outputs, one request after the other, until there are no more.
const SERVE: &str = include_str!("onnxruntime.py");

/// A Python that has ONNX Runtime.
#[derive(Debug, Clone)]
pub struct OnnxRuntime {
    python: String,
    version: String,
}

impl OnnxRuntime {
    /// Finds one: `DSCONV_PYTHON`, or `python3`. It is `None` where that Python, which need not be there, has no ONNX Runtime.
    ///
    /// # Errors
    /// `DSCONV_PYTHON` names a Python without ONNX Runtime.
    pub fn find() -> Result<Option<Self>> {
        let named = std::env::var(PYTHON).ok();
        let python = named.clone().unwrap_or_else(|| "python3".to_owned());
        let tried = Command::new(&python)
            .args(["-c", "import onnxruntime, numpy; print(onnxruntime.__version__)"])
            .stdin(Stdio::null())
            .output();
        match tried {
            Ok(output) if output.status.success() => {
                let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                Ok(Some(Self { python, version }))
            }
            _ if named.is_some() => Err(Error::usage(format!("{PYTHON}: `{python}` has no ONNX Runtime"))
                .hint("`pip install onnxruntime` adds it to a Python")),
            _ => Ok(None),
        }
    }

    /// The version, as `1.32.0`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Opens an ONNX file with one image input of `graph`'s shape and one output, on one thread.
    ///
    /// # Errors
    /// The file cannot be written for Python to read, or Python does not start.
    pub fn open(&self, bytes: &[u8], graph: &Graph) -> Result<Session> {
        let input = graph.input();
        let mut model = tempfile::Builder::new().prefix("dsconv-").suffix(".onnx").tempfile()?;
        model.write_all(bytes)?;
        let complaints = tempfile::tempfile()?;
        let mut child = Command::new(&self.python)
            .args(["-c", SERVE])
            .arg(model.path())
            .args([input.channels, input.height, input.width].map(|size| size.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(complaints.try_clone()?)
            .spawn()?;
        let pipes = (child.stdin.take().expect("it is piped"), child.stdout.take().expect("it is piped"));
        Ok(Session { child, pipes, complaints, elements: input.elements(), head: graph.head(), _model: model })
    }
}

/// An ONNX file that Python runs.
pub struct Session {
    child: Child,
    pipes: (ChildStdin, ChildStdout),
    complaints: File,
    elements: usize,
    head: Head,
    _model: NamedTempFile,
}

impl Session {
    /// Computes the outputs for some images, and the milliseconds that ONNX Runtime took.
    ///
    /// # Errors
    /// ONNX Runtime does not run the file.
    fn run(&mut self, images: &[f32]) -> Result<(Vec<f32>, f64)> {
        self.ask(images).map_err(|error| {
            let (mut complaints, mut text) = (&self.complaints, String::new());
            let read = complaints.rewind().and_then(|()| complaints.read_to_string(&mut text));
            let last = text.trim_end().lines().last().filter(|_| read.is_ok());
            Error::failed(format!("ONNX Runtime: {}", last.map_or_else(|| error.to_string(), str::to_owned)))
        })
    }

    fn ask(&mut self, images: &[f32]) -> std::io::Result<(Vec<f32>, f64)> {
        let count = images.len() / self.elements;
        let (to, from) = &mut self.pipes;
        to.write_all(&(count as u32).to_le_bytes())?;
        let pixels: Vec<u8> = images.iter().flat_map(|value| value.to_le_bytes()).collect();
        to.write_all(&pixels)?;
        to.flush()?;
        let mut ms = [0; 8];
        from.read_exact(&mut ms)?;
        let mut outputs = vec![0; 4 * count * self.head.count];
        from.read_exact(&mut outputs)?;
        let (outputs, _) = outputs.as_chunks::<4>();
        Ok((outputs.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(), f64::from_le_bytes(ms)))
    }

    /// Computes the logits for a set of images.
    ///
    /// # Errors
    /// ONNX Runtime does not run the file; images cannot be read; the user interrupts it.
    pub fn predict(&mut self, phase: &str, images: &Unlabelled, most: usize, context: &Context) -> Result<Logits> {
        let head = self.head;
        engine::predict_by(phase, images, most, head, context, |pixels| Ok(self.run(pixels)?.0))
    }

    /// The median time of one image over some runs, in milliseconds, after one that does not count.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn median_ms(&mut self, one: &[f32], runs: usize, printer: &Printer) -> Result<f64> {
        let bar = printer.bar("ONNX Runtime", runs as u64, "");
        let mut times = Vec::with_capacity(runs);
        self.run(one)?;
        for _ in 0..runs {
            times.push(self.run(one)?.1);
            bar.inc(1);
        }
        bar.finish_and_clear();
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It may be in the middle of a run.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
